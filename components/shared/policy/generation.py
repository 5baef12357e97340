"""Batched sampling with a key-value cache.

Role: prefill each distinct conversation once (a group of rollouts shares it), copy its cache to the rows that asked for
it, then add one token at a time to all rows until every row has ended its turn. On an accelerator rows that would not
fit together run one batch after the other.
Guarantees: the same call gives the same tokens on the same kind of device; rows of one conversation never share noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from components.shared.policy.interface import Generation
from components.shared.policy.layout import Encoded

if TYPE_CHECKING:
    from components.shared.policy.decoder import DecoderPolicy


CACHE_SHARE, PREFILL_SHARE = 1 / 4, 1 / 8
"""Shares of an accelerator's memory for a batch's key-value cache and for the activations of its first pass."""


def continue_rows(
    policy: DecoderPolicy, rows: Sequence[Encoded], *, temperature: float, max_new_tokens: int, seed: int
) -> list[Generation]:
    """Sample the next turn of each row.

    Args:
        policy: The policy; runs under no_grad.
        rows: Encoded conversations ending with the assistant's header.
        temperature: 0 for greedy.
        max_new_tokens: Limit per row.
        seed: Of the sampling noise, which is drawn where the policy is.
    """
    noise = torch.Generator(policy.device).manual_seed(seed)
    said: dict[int, Generation] = {}
    for part in batches(policy, rows, max_new_tokens):
        found = continue_batch(
            policy, [rows[index] for index in part], temperature=temperature, max_new_tokens=max_new_tokens, noise=noise
        )
        said |= zip(part, found, strict=True)
    return [said[index] for index in range(len(rows))]


def batches(policy: DecoderPolicy, rows: Sequence[Encoded], max_new_tokens: int) -> list[list[int]]:
    """The rows' indices in parts that fit the accelerator's memory; one part on the CPU.

    Counted is the device's whole memory, not what happens to be free, so that the parts are the same each time. Rows of
    one conversation stay together where they fit.
    """
    everything = list(range(len(rows)))
    if policy.device.type != "cuda":
        return [everything]
    memory = torch.cuda.get_device_properties(policy.device).total_memory
    cached, passing = token_bytes(policy)
    return split(rows, max_new_tokens, int(memory * CACHE_SHARE / cached), int(memory * PREFILL_SHARE / passing))


def token_bytes(policy: DecoderPolicy) -> tuple[int, int]:
    """(bytes a token takes in the key-value cache, bytes of activations while it passes a layer without gradients)."""
    config, size = policy.text_config, policy.language.norm.weight.element_size()
    width = config.hidden_size
    if getattr(config, "num_key_value_heads", None):  # a recursive decoder has none: its states are its cache
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = config.num_key_value_heads * head
    cached = 2 * config.num_hidden_layers * width * size
    return cached, (4 * config.intermediate_size + 6 * config.hidden_size) * size


def split(rows: Sequence[Encoded], max_new_tokens: int, cached: int, prefilled: int) -> list[list[int]]:
    """The rows' indices in parts of at most `cached` tokens with what is added, and `prefilled` in distinct rows.

    All rows of a part are padded to its longest. A row too long for either limit is a part of its own.
    """
    alike: dict[tuple[bytes, ...], list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault(identity(row), []).append(index)
    parts: list[list[int]] = []
    distinct = longest = 0
    for members in alike.values():
        length = rows[members[0]].ids.size
        room = max(1, cached // (length + max_new_tokens))
        for start in range(0, len(members), room):
            group = members[start : start + room]
            longest = max(longest, length)
            full = bool(parts) and (
                (len(parts[-1]) + len(group)) * (longest + max_new_tokens) > cached
                or (distinct + 1) * longest > prefilled
            )
            if not parts or full:
                parts.append([])
                distinct, longest = 0, length
            parts[-1] += group
            distinct += 1
    return parts


def continue_batch(
    policy: DecoderPolicy, rows: Sequence[Encoded], *, temperature: float, max_new_tokens: int, noise: torch.Generator
) -> list[Generation]:
    """Sample the next turn of each row in one batch; see `continue_rows`."""
    distinct, index = deduplicate(rows)
    embeds, mask, positions = policy.embed(distinct, left=True)
    cache = policy.new_cache()
    logits = policy.logits(policy.run(embeds, mask, positions, cache=cache).last_hidden_state[:, -1])
    picked = torch.tensor(index, device=policy.device)
    if len(distinct) != len(rows) or index != list(range(len(rows))):
        cache.batch_select_indices(picked)
    logits, mask = logits[picked], mask[picked]
    position = torch.tensor([row.next_position for row in rows], device=policy.device)
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
    """One token a row, (B,): the most probable, or sampled by Gumbel noise."""
    if temperature <= 0:
        return logits.argmax(-1)
    uniform = torch.rand(logits.shape, generator=noise, device=noise.device).clamp_(1e-10, 1 - 1e-7).to(logits.device)
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
        key = identity(row)
        if key not in seen:
            seen[key] = len(distinct)
            distinct.append(row)
        index.append(seen[key])
    return distinct, index


def identity(row: Encoded) -> tuple[bytes, ...]:
    """What two rows have in common that are the same conversation."""
    return (row.ids.tobytes(), *row.image_keys)
