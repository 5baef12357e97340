"""A policy of real size on a GPU: loading, agreement of quantised weights, fine-tuning steps, generation.

    python benchmarks/gpu_policy.py --base BASE --trajectories TRAJECTORIES --schemes nf4 int8 none

BASE and TRAJECTORIES are artifacts of a run with a `gpu-*` profile (base_model, trajectories). Speed and memory depend
on shapes, not on what the weights know, so a base with random weights of the real shapes will do. For each scheme:

    load        seconds, and bytes on the device
    agreement   mean |log p - log p of the unquantised policy| over the learned tokens of four conversations
    step        seconds and peak bytes of sft's own train_step (micro batch 1), beside the estimate told beforehand and
                a bare PyTorch loop over prepared embeddings; with and without recomputed activations
    generation  new tokens a second of our batches, greedy and sampled, beside transformers' `generate` on the same
                embeddings
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from components.sft.config import SftConfig
from components.sft.material import batch_of, read_lessons
from components.sft.memory import estimate
from components.sft.trainer import Trainer, micro_batches
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.generation import continue_rows
from components.shared.policy.layout import Encoded
from components.shared.policy.load import load_policy

NEW_TOKENS = 48


def timed(run: Callable[[], Any], times: int) -> list[float]:
    """Seconds of each of `times` runs after one that is not timed."""
    seconds = []
    for _ in range(times + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def prompts(policy: DecoderPolicy, rows: Sequence[Encoded], count: int) -> list[Encoded]:
    """`count` conversations cut before their first learned token: what is answered."""
    cut = []
    for row in rows[:count]:
        stop, shown, tokens = int(row.learn.argmax()), 0, 0
        while tokens < row.is_image[:stop].sum():
            tokens += policy.patching.num_tokens(*row.images[shown].shape[:2])
            shown += 1
        part = (row.ids[:stop], row.is_image[:stop], row.learn[:stop], row.positions[:, :stop])
        cut.append(Encoded(*part, row.images[:shown], row.image_keys[:shown]))
    return cut


class BareLoop:
    """Forward and backward over embeddings prepared beforehand, on the trainer's own policy."""

    def __init__(self, policy: DecoderPolicy, batch: Sequence[Encoded], config: SftConfig) -> None:
        self.policy, self.parameters = policy, policy.trainable_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)
        self.parts = []
        for part in micro_batches(batch, config.micro_batch):
            embeds, _, positions = policy.embed(part, left=False)
            self.parts.append((embeds.detach(), positions, *policy.learned(part, embeds.shape[1])))

    def step(self) -> None:
        """One optimiser step."""
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(targets) for *_, targets in self.parts)
        for embeds, positions, where, targets in self.parts:
            states = self.policy.language(
                inputs_embeds=embeds, position_ids=positions, use_cache=False
            ).last_hidden_state
            logits = self.policy.model.lm_head(states[:, :-1][where]).float()
            (functional.cross_entropy(logits, targets, reduction="sum") / tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def steps(policy: DecoderPolicy, lessons: Any, config: SftConfig, rounds: int) -> dict[str, Any]:
    """Our step, the estimate of its memory and the bare loop; batches of one step are used over and over."""
    policy.set_gradient_checkpointing(config.gradient_checkpointing)
    trainer = Trainer(policy, config, lessons, [], Path(tempfile.mkdtemp()), "key")
    batch = batch_of(lessons.upto(2), config.seed, 0, config.batch)
    told = estimate(policy, max(([row] for row in batch), key=lambda part: part[0].ids.size),
                    gradient_checkpointing=config.gradient_checkpointing)  # fmt: skip
    trainer.train_step()
    torch.cuda.reset_peak_memory_stats()
    ours, bare = [], []
    loop = BareLoop(policy, batch, config)
    for _ in range(rounds):
        ours += timed(trainer.train_step, 1)
        bare += timed(loop.step, 1)
    return {
        "seconds": statistics.median(ours),
        "ours / bare": statistics.median(a / b for a, b in zip(ours, bare)),
        "tokens a second": sum(row.ids.size for row in batch) / statistics.median(ours),
        "peak_GiB": torch.cuda.max_memory_allocated() / 2**30,
        "estimate_GiB": sum(told.values()) / 2**30,
    }


def generation(policy: DecoderPolicy, rows: Sequence[Encoded]) -> dict[str, float]:
    """New tokens a second: ours greedy and sampled, transformers' greedy."""
    policy.language.eval()

    def ours(temperature: float) -> int:
        with torch.no_grad():
            said = continue_rows(policy, rows, temperature=temperature, max_new_tokens=NEW_TOKENS, seed=0)
        return sum(len(one.token_ids) for one in said)

    def theirs() -> None:
        embeds, mask, _ = policy.embed(rows, left=True)
        policy.model.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=False, use_cache=True,
                              max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)  # fmt: skip

    return {
        "ours, greedy": ours(0.0) / statistics.median(timed(lambda: ours(0.0), 3)),
        "ours, sampled": ours(1.0) / statistics.median(timed(lambda: ours(1.0), 3)),
        "transformers, greedy": NEW_TOKENS * len(rows) / statistics.median(timed(theirs, 3)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--trajectories", type=Path, required=True)
    parser.add_argument("--schemes", nargs="+", default=["nf4", "int8", "none"])
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    given = parser.parse_args()
    config = SftConfig.model_validate(
        {
            "curriculum": {"enabled": False},
            "device": "cuda",
            "micro_batch": 1,
            "batch": given.batch,
            "learning_rate": 1e-4,
        }
    )
    exact: list[torch.Tensor] = []
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    for scheme in ["none", *(name for name in given.schemes if name != "none")]:
        began = time.perf_counter()
        policy = load_policy(given.base, device="cuda", dtype=given.dtype, quantisation=scheme)
        torch.cuda.synchronize()
        found: dict[str, Any] = {"scheme": scheme, "dtype": str(policy.language.norm.weight.dtype)}
        found["load_seconds"] = time.perf_counter() - began
        found["loaded_GiB"] = torch.cuda.memory_allocated() / 2**30
        lessons = read_lessons(given.trajectories, "train", 200, policy.layout.encode)
        rows = batch_of(lessons.upto(2), 0, 0, max(given.rows))
        found["tokens a conversation"] = statistics.median(row.ids.size for row in rows)
        with torch.no_grad():
            for number, row in enumerate(rows[:4]):
                logits, _, targets = policy.forward_rows([row])
                picked = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).cpu()
                if scheme == "none":
                    exact.append(picked)
                found.setdefault("agreement", []).append(float((picked - exact[number]).abs().mean()))
        if scheme in given.schemes:
            for count in given.rows:
                found[f"tokens/s, {count} rows"] = generation(policy, prompts(policy, rows, count))
            policy.add_adapter(rank=16)
            for recomputed in (True, False):
                own = config.model_copy(update={"gradient_checkpointing": recomputed})
                try:
                    found[f"step, recomputed {recomputed}"] = steps(policy, lessons, own, given.rounds)
                except torch.OutOfMemoryError as error:
                    found[f"step, recomputed {recomputed}"] = str(error).partition(".")[0]
        print(json.dumps(found), flush=True)
        del policy, lessons, rows
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
