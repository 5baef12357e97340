"""Fine-tuning's memory estimate beside what a step really takes, for several kinds, sizes and number types of policy.

    OMP_NUM_THREADS=1 python benchmarks/sft_memory.py

Every case is a process of its own: a policy with random weights and an adapter, 16 conversations with 16 pictures
each. Compared is what training adds to what is there when it begins (gradients, moments, activations, logits):

    allocator   the largest sum of live bytes that torch's CPU allocator handed out during a step (its profiler)
    process     growth of the process's resident size over three steps; pages that were free before are not seen in it
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "components" / "sft"))

import numpy as np
import peft  # noqa: F401 - imported once, before the forks
import torch
from conftest import allocated
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: F401

from components.sft.memory import estimate, resident_bytes, still_to_come
from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.model import build_model
from components.shared.policy.interface import Message
from components.shared.policy.shapes import RecursionShape
from components.shared.policy.tiny import TinySize, build_tiny, build_tiny_prefix
from components.shared.runtime.memory import PeakMemory

LABELS = ("Picking", "Close Box", "Scan Label")
ENCODER = {"num_latents": 2, "vision_tower": {"hidden": 64, "heads": 2, "layers": 1},
           "text_tower": {"hidden": 32, "heads": 2, "layers": 1, "vocabulary": 300}}  # fmt: skip
WIDE = TinySize(hidden=512, layers=6, heads=8, kv_heads=2, intermediate=1408, vision_hidden=64, vision_depth=1,
                vision_heads=2)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One policy."""

    name: str
    kind: str = "native"
    size: TinySize = field(default_factory=TinySize)
    dtype: torch.dtype = torch.float32
    gradient_checkpointing: bool = False
    rank: int = 16


CASES = (
    Case("native, twin's size"),
    Case("the same, checkpointing", gradient_checkpointing=True),
    Case("prefix, twin's size", "prefix"),
    Case("prefix_trm, twin's size", "prefix_trm"),
    Case("trm_decoder, twin's size", "trm_decoder"),
    Case("native, 512 wide, 6 layers", size=WIDE),
    Case("the same, rank 64", size=WIDE, rank=64),
    Case("the same, checkpointing", size=WIDE, gradient_checkpointing=True),
    Case("the same, bfloat16", size=WIDE, dtype=torch.bfloat16),
    Case("bfloat16, checkpointing", size=WIDE, dtype=torch.bfloat16, gradient_checkpointing=True),
)


def build(case: Case) -> Any:
    """The policy with its adapter."""
    given: dict[str, Any] = {"phrases": ("Which?",), "num_frames": 16, "size": case.size, "vocabulary": 600}
    if case.kind == "native":
        policy: Any = build_tiny(LABELS, **given)
    else:
        aligned = build_model(EncoderConfig.model_validate(ENCODER), ["picking", "closing"]).eval()
        policy = build_tiny_prefix(LABELS, aligned, "d" * 64, kind=case.kind, recursion=RecursionShape(), **given)
    policy.model.to(case.dtype)
    policy.add_adapter(rank=case.rank, seed=0)
    policy.set_gradient_checkpointing(case.gradient_checkpointing)
    return policy


def conversations(policy: Any, count: int = 16) -> list[Any]:
    """Encoded conversations of slightly different lengths, one picture in all their frames."""
    picture = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    times = tuple(0.3 * index for index in range(16))
    return [
        policy.layout.encode(
            (
                Message("user", "Which?", images=(picture,) * 16, image_times_s=times),
                Message("assistant", "Picking, and then the next thing happens" + "!" * (index % 7)),
            )
        )
        for index in range(count)
    ]


def run(case: Case) -> dict[str, Any]:
    """The estimate and both measurements, in MiB."""
    policy = build(case)
    rows = conversations(policy)
    parameters = policy.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits, _, targets = policy.forward_rows(rows)
        functional.cross_entropy(logits, targets, reduction="sum").backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    policy.features.encode(rows[0].images[:1])
    parts = estimate(policy, rows, gradient_checkpointing=case.gradient_checkpointing)
    begin = resident_bytes()
    with PeakMemory(0.002, children=False) as memory:
        for _ in range(3):
            step()
    optimizer.zero_grad(set_to_none=True)
    moments = 8 * sum(parameter.numel() for parameter in parameters)
    expected, taken = still_to_come(parts), allocated(step) + moments
    mib = lambda number: round(number / 2**20, 1)
    return {
        "case": case.name, "parts": {name: mib(value) for name, value in parts.items()}, "expected": mib(expected),
        "allocator": mib(taken), "expected / allocator": round(expected / taken, 3),
        "process": mib(memory.peak_bytes - begin),
    }  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for case in CASES:
        child = os.fork()
        if not child:
            status = 1
            try:
                print(json.dumps(run(case)), flush=True)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"{case.name} failed")


if __name__ == "__main__":
    main()
