"""Ranks of a LoRA adapter chosen from data: EVA (Paischer et al. 2024), by PEFT.

Each layer's inputs on training conversations are decomposed by an incremental SVD. The layer's A starts as the leading
right-singular vectors, and the ranks of the whole adapter, whose sum stays that of equal ranks, go to the directions
that explain most of their layer's variance. B starts at zero: outputs are unchanged until training.
Guarantee: the same conversations in the same order give the same ranks and weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.shared.policy.layout import Encoded
from components.shared.runtime.errors import InputError

if TYPE_CHECKING:
    from components.shared.policy.decoder import DecoderPolicy

MAX_PASSES = 8
Components = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Batch:
    """Conversations as PEFT hands them around; tokens are moved to the device where they are embedded."""

    rows: Sequence[Encoded] = field(repr=False)
    learned_only: bool

    def to(self, device: Any) -> _Batch:
        return self

    def tokens(self) -> torch.Tensor:
        """(row, position) of the tokens that are looked at, (N, 2); a learned token is predicted one place earlier."""
        length = max(row.ids.size for row in self.rows)
        kept = np.zeros((len(self.rows), length), bool)
        for index, row in enumerate(self.rows):
            if self.learned_only:
                kept[index, : row.ids.size - 1] = row.learn[1:]
            else:
                kept[index, : row.ids.size] = True
        return torch.from_numpy(kept).nonzero()


class _Batches:
    """The batches again and again, up to `MAX_PASSES` times: an SVD that has not settled by then never will."""

    def __init__(self, batches: Sequence[_Batch]) -> None:
        self.batches, self.left = batches, MAX_PASSES + 1

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[_Batch]:
        while self.left:
            self.left -= 1
            yield from self.batches
        raise InputError(
            f"EVA: the layers' directions did not settle in {MAX_PASSES} passes over {len(self)} batches, so no ranks "
            "can be chosen.",
            remedy="Lower eva.tau, raise eva.batches, set eva.learned_tokens_only to false, or leave eva off.",
        )


def data_components(
    policy: DecoderPolicy,
    batches: Sequence[Sequence[Encoded]],
    *,
    rho: float = 2.0,
    tau: float = 0.99,
    learned_only: bool = True,
) -> Components:
    """Each layer's directions, (rank, inputs), by PEFT's module name; the number of rows is the rank chosen.

    Args:
        policy: With a fresh adapter, whose rank is what layers get on average.
        batches: Encoded conversations.
        rho: A layer's rank is at most this times the adapter's.
        tau: Cosine similarity at which a direction stands.
        learned_only: Look at the tokens that the loss covers only.

    Raises:
        InputError: the directions do not settle, or a batch has fewer tokens than a layer may get ranks.
    """
    from peft import EvaConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    config = policy.peft.peft_config["default"]
    config.init_lora_weights = "eva"
    config.eva_config = EvaConfig(rho=rho, tau=tau, use_label_mask=learned_only)
    wanted = [_Batch(batch, learned_only) for batch in batches if len(batch)]
    fewest = min((len(batch.tokens()) for batch in wanted), default=0)
    if fewest < round(config.r * rho):
        raise InputError(
            f"EVA: a batch has {fewest} tokens to look at, but a layer may get {round(config.r * rho)} ranks.",
            remedy="Raise micro_batch, lower rank or eva.rho, or set eva.learned_tokens_only to false.",
        )
    found = get_eva_state_dict(
        policy.peft,
        _Batches(wanted),
        forward_fn=lambda _model, batch: policy.hidden_states(batch.rows),
        prepare_model_inputs_fn=lambda batch, _config: batch.tokens().to(policy.device),
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
    return {name: rows.float().cpu().contiguous() for name, rows in found.items()}


def apply_components(policy: DecoderPolicy, components: Components) -> dict[str, int]:
    """Give every layer its rank and first weights; returns the ranks by module name, 0 where a layer got none."""
    from peft import EvaConfig, initialize_lora_eva_weights

    config = policy.peft.peft_config["default"]
    config.init_lora_weights = "eva"
    config.eva_config = config.eva_config or EvaConfig()
    initialize_lora_eva_weights(
        policy.peft, eva_state_dict={name: x.to(policy.device) for name, x in components.items()}
    )
    prefix = "base_model.model."
    return {name.removeprefix(prefix): int(rows.shape[0]) for name, rows in sorted(components.items())}
