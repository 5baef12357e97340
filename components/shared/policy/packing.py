"""Scoring many continuations of one prompt while computing the prompt once.

Role: a group of rollouts shares its prompt (16 frames and the question: most of its tokens). Conversations that agree
up to their first learned token are put into one sequence, the prompt followed by every continuation; a mask lets each
continuation see the prompt and itself only, and positions are those of the conversation it came from.
Log-probabilities and gradients are those of scoring the conversations one by one, up to floating-point rounding
(tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.shared.policy.layout import Encoded

if TYPE_CHECKING:
    from components.shared.policy.decoder import DecoderPolicy

LONGEST = 2048
WORTH = 0.75
"""Packing is used where it leaves at most this share of the tokens."""


@dataclass(frozen=True)
class Pack:
    """Conversations in one sequence of T tokens.

    Attributes:
        encoded: The sequence.
        segment: int64 (T,), 0 for the prompt, 1, 2, … for the continuations.
        rows: Which conversation each learned token belongs to, (N,).
        columns: Its column in that conversation's log-probabilities (token k is in column k - 1), (N,).
        sources: Where in the sequence its logits are, (N,).
        targets: Its token id, (N,).
    """

    encoded: Encoded
    segment: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)
    columns: np.ndarray = field(repr=False)
    sources: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)


def pack(rows: Sequence[Encoded], tokens_of: Sequence[Sequence[int]]) -> list[Pack] | None:
    """Packs of rows with a common prompt, None where packing would not save enough.

    Args:
        rows: Conversations.
        tokens_of: For each row, how many tokens each of its images takes.
    """
    groups: dict[tuple[bytes, ...], list[int]] = {}
    starts = []
    for index, row in enumerate(rows):
        learned = np.flatnonzero(row.learn)
        start = int(learned[0]) if len(learned) else row.ids.size
        starts.append(start)
        shown = _images_before(row, start, tokens_of[index])
        key = (row.ids[:start].tobytes(), *row.image_keys[:shown])
        groups.setdefault(key, []).append(index)
    packs = []
    for members in groups.values():
        start = starts[members[0]]
        chosen: list[int] = []
        length = start
        for index in members:
            tail = rows[index].ids.size - start
            if chosen and length + tail > LONGEST:
                packs.append(_join(rows, chosen, start, tokens_of))
                chosen, length = [], start
            chosen.append(index)
            length += tail
        packs.append(_join(rows, chosen, start, tokens_of))
    saved = sum(item.segment.size for item in packs) <= WORTH * sum(row.ids.size for row in rows)
    return packs if saved else None


def _images_before(row: Encoded, start: int, tokens: Sequence[int]) -> int:
    return int(np.searchsorted(np.cumsum(tokens), int(row.is_image[:start].sum()), side="right")) if tokens else 0


def _join(rows: Sequence[Encoded], members: Sequence[int], start: int, tokens_of: Sequence[Sequence[int]]) -> Pack:
    first = rows[members[0]]
    shown = _images_before(first, start, tokens_of[members[0]])
    ids, is_image, positions = [first.ids[:start]], [first.is_image[:start]], [first.positions[:, :start]]
    images, keys = list(first.images[:shown]), list(first.image_keys[:shown])
    segment = [np.zeros(start, np.int64)]
    owner, columns, sources, targets = [], [], [], []
    offset = start
    for number, index in enumerate(members, 1):
        row = rows[index]
        ids.append(row.ids[start:])
        is_image.append(row.is_image[start:])
        positions.append(row.positions[:, start:])
        images.extend(row.images[shown:])
        keys.extend(row.image_keys[shown:])
        segment.append(np.full(row.ids.size - start, number, np.int64))
        learned = np.flatnonzero(row.learn)
        learned = learned[learned > 0]
        before = learned - 1
        owner.append(np.full(len(learned), index, np.int64))
        columns.append(before)
        sources.append(np.where(before < start, before, before - start + offset))
        targets.append(row.ids[learned])
        offset += row.ids.size - start
    joined = Encoded(
        np.concatenate(ids),
        np.concatenate(is_image),
        np.zeros(offset, bool),
        np.concatenate(positions, axis=1),
        tuple(images),
        tuple(keys),
    )
    return Pack(joined, *(np.concatenate(part) for part in (segment, owner, columns, sources, targets)))


def packed_logprobs(
    policy: DecoderPolicy, rows: Sequence[Encoded], packs: Sequence[Pack]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logprobs, mask) of `rows`, both (B, L - 1), as `Policy.token_logprobs` gives them."""
    embeds, _, positions = policy.embed([item.encoded for item in packs], left=False)
    mask = attention_mask(packs, embeds.shape[1]).to(policy.device)
    states = policy.run(embeds, {"full_attention": mask}, positions).last_hidden_state
    here = np.concatenate([np.full(len(item.sources), number) for number, item in enumerate(packs)])
    sources, targets, owner, columns = (
        torch.from_numpy(np.concatenate([getattr(item, name) for item in packs])).to(policy.device)
        for name in ("sources", "targets", "rows", "columns")
    )
    logits = policy.logits(states[torch.from_numpy(here).to(policy.device), sources])
    chosen = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    shape = (len(rows), max(row.ids.size for row in rows) - 1)
    empty = torch.zeros(shape, device=policy.device)
    learned = empty.index_put((owner, columns), torch.ones_like(chosen))
    return empty.index_put((owner, columns), chosen), learned


def attention_mask(packs: Sequence[Pack], length: int) -> torch.Tensor:
    """bool (P, 1, length, length): each token sees earlier tokens of the prompt and of its own continuation."""
    allowed = np.zeros((len(packs), length, length), bool)
    for number, item in enumerate(packs):
        size = item.segment.size
        causal = np.tri(size, dtype=bool)
        same = (item.segment[None, :] == 0) | (item.segment[None, :] == item.segment[:, None])
        allowed[number, :size, :size] = causal & same
        allowed[number, range(length), range(length)] = True  # padding sees itself: a row of nothing would be NaN
    return torch.from_numpy(allowed[:, None])
