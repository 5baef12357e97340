"""Batched sampling with a key-value cache.

Role: prefill each distinct conversation once (a group of rollouts shares it), copy its cache to the rows that asked for
it, then add one token at a time to all rows until every row has ended its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from components.shared.policy.interface import Generation
from components.shared.policy.layout import Encoded

if TYPE_CHECKING:
    from components.shared.policy.decoder import DecoderPolicy


def continue_batch(
    policy: DecoderPolicy, rows: Sequence[Encoded], *, temperature: float, max_new_tokens: int, seed: int
) -> list[Generation]:
    """Sample the next turn of each row.

    Args:
        policy: The policy; runs under no_grad.
        rows: Encoded conversations ending with the assistant's header.
        temperature: 0 for greedy.
        max_new_tokens: Limit per row.
        seed: Of the sampling noise; the same call gives the same tokens.
    """
    distinct, index = deduplicate(rows)
    embeds, mask, positions = policy.embed(distinct, left=True)
    cache = policy.new_cache()
    logits = policy.logits(policy.run(embeds, mask, positions, cache=cache).last_hidden_state[:, -1])
    picked = torch.tensor(index, device=policy.device)
    if len(distinct) != len(rows) or index != list(range(len(rows))):
        cache.batch_select_indices(picked)
    logits, mask = logits[picked], mask[picked]
    position = torch.tensor([row.next_position for row in rows], device=policy.device)
    noise = torch.Generator().manual_seed(seed)
    end = policy.codec.turn_end
    done = torch.zeros(len(rows), dtype=torch.bool, device=policy.device)
    tokens, logprobs = [], []
    for step in range(max_new_tokens):
        choice = choose(logits, temperature, noise)
        tokens.append(torch.where(done, end, choice))
        logprobs.append(logits.log_softmax(-1).gather(-1, choice.unsqueeze(-1)).squeeze(-1))
        done = done | (choice == end)
        if bool(done.all()) or step + 1 == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        embeds = policy.language.embed_tokens(tokens[-1].unsqueeze(1))
        states = policy.run(embeds, mask, position.view(1, -1, 1).expand(3, -1, -1), cache=cache).last_hidden_state
        logits = policy.logits(states[:, -1])
        position = position + 1
    return collect(policy, torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist())


def choose(logits: torch.Tensor, temperature: float, noise: torch.Generator) -> torch.Tensor:
    """One token a row, (B,): the most probable, or sampled by Gumbel noise drawn on the CPU."""
    if temperature <= 0:
        return logits.argmax(-1)
    uniform = torch.rand(logits.shape, generator=noise).clamp_(1e-10, 1 - 1e-7).to(logits.device)
    return (logits / temperature - (-uniform.log()).log()).argmax(-1)


def collect(policy: DecoderPolicy, tokens: list[list[int]], logprobs: list[list[float]]) -> list[Generation]:
    """Cut each row after its end of turn and decode it."""
    generations = []
    for row, scores in zip(tokens, logprobs):
        finished = policy.codec.turn_end in row
        length = row.index(policy.codec.turn_end) + 1 if finished else len(row)
        ids = tuple(row[:length])
        generations.append(Generation(policy.codec.decode(ids), ids, tuple(scores[:length]), finished))
    return generations


def deduplicate(rows: Sequence[Encoded]) -> tuple[list[Encoded], list[int]]:
    """The distinct rows, and for each given row the index of its twin among them."""
    seen: dict[tuple[bytes, ...], int] = {}
    distinct: list[Encoded] = []
    index = []
    for row in rows:
        key = (row.ids.tobytes(), *row.image_keys)
        if key not in seen:
            seen[key] = len(distinct)
            distinct.append(row)
        index.append(seen[key])
    return distinct, index
