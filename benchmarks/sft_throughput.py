"""Seconds a fine-tuning step: ours beside a bare PyTorch loop and TRL's SFTTrainer; same model, adapter, batch, data.

    python benchmarks/sft_throughput.py --base BASE --trajectories TRAJECTORIES --rounds 5 --steps 4

BASE and TRAJECTORIES are artifacts of a run. Contestants take turns, `--steps` timed steps each after one untimed; the
ratios are medians over rounds of the ratios of medians.

    ours            sft.trainer.Trainer.train_step: draws, looks features up, accumulates, clips, steps
    bare            the same forward and backward on batches whose embeddings were put together beforehand
    ours, no cache  ours, the frozen tower's features computed anew each step
    trl             SFTTrainer on the same encoded conversations; its model computes the tower's features each step
                    (needs trl and datasets)

"waiting" is the share of our step that is not forward, backward or optimiser: drawing, sorting, looking up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from components.sft.config import SftConfig
from components.sft.material import batch_of, read_lessons
from components.sft.train import warm
from components.sft.trainer import Trainer, micro_batches
from components.shared.policy.images import patchify
from components.shared.policy.load import load_policy


def fresh(base: Path, config: SftConfig) -> Any:
    """A policy with a new adapter."""
    policy = load_policy(base)
    policy.add_adapter(rank=config.rank, alpha=config.alpha, seed=0)
    return policy


class Ours:
    """Our trainer, as the step runs it."""

    def __init__(self, base: Path, config: SftConfig, lessons: Any, *, cache: bool) -> None:
        self.policy, self.cache = fresh(base, config), cache
        warm(self.policy, lessons.upto(2))
        self.trainer = Trainer(self.policy, config, lessons, [], Path(tempfile.mkdtemp()), "key")

    def step(self) -> float:
        """Seconds of one step."""
        if not self.cache:
            self.policy.features.clear()
        began = time.perf_counter()
        self.trainer.train_step()
        self.trainer.run.step += 1
        return time.perf_counter() - began

    def waiting(self, config: SftConfig, lessons: Any) -> float:
        """Seconds of what a step does before it computes: draw, sort, look up."""
        began = time.perf_counter()
        rows = self.trainer.reading.batch(lessons.upto(2), config.seed, self.trainer.run.step, config.batch)
        for part in micro_batches(rows, config.micro_batch):
            images = [image for row in part for image in row.images]
            self.policy.features.encode(images, keys=[key for row in part for key in row.image_keys])
        return time.perf_counter() - began


class Bare:
    """A plain loop over prepared batches."""

    def __init__(self, base: Path, config: SftConfig, lessons: Any, count: int) -> None:
        self.policy, self.config, self.at = fresh(base, config), config, 0
        self.parameters = self.policy.trainable_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)
        self.batches = []
        for step in range(count):
            parts = []
            for part in micro_batches(batch_of(lessons.upto(2), config.seed, step, config.batch), config.micro_batch):
                embeds, mask, positions = self.policy.embed(part, left=False)
                parts.append((embeds.detach(), mask, positions, *self.policy.learned(part, embeds.shape[1])))
            self.batches.append(parts)

    def step(self) -> float:
        """Seconds of one step."""
        parts = self.batches[self.at % len(self.batches)]
        self.at += 1
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(targets) for *_, targets in parts)
        for embeds, mask, positions, where, targets in parts:
            states = self.policy.language(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            logits = self.policy.model.lm_head(states[:, :-1][where]).float()
            (functional.cross_entropy(logits, targets, reduction="sum") / tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return time.perf_counter() - began


class Trl:
    """TRL's trainer on the same model, adapter and conversations."""

    def __init__(self, base: Path, config: SftConfig, lessons: Any, count: int) -> None:
        from datasets import Dataset

        self.policy, self.config = fresh(base, config), config
        self.rows = [row for step in range(count) for row in batch_of(lessons.upto(2), config.seed, step, config.batch)]
        self.data = Dataset.from_dict({"index": list(range(len(self.rows)))})

    def collate(self, items: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        """A batch as transformers' Qwen2.5-VL takes it."""
        rows = [self.rows[item["index"]] for item in items]
        length = max(row.ids.size for row in rows)
        ids = np.full((len(rows), length), self.policy.codec.end_of_text)
        labels, mask = np.full((len(rows), length), -100), np.zeros((len(rows), length), np.int64)
        kinds = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            size = row.ids.size
            ids[index, :size], mask[index, :size], kinds[index, :size] = row.ids, 1, row.is_image
            labels[index, :size] = np.where(row.learn, row.ids, -100)
        patches, grids = [], []
        for row in rows:
            for image in row.images:
                cut, grid = patchify(image[None], self.policy.patching)
                patches.append(cut[0])
                grids.append((1, *grid))
        named = {"input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": kinds}
        return {name: torch.from_numpy(value) for name, value in named.items()} | {
            "pixel_values": torch.cat(patches),
            "image_grid_thw": torch.tensor(grids),
        }

    def steps(self, count: int) -> list[float]:
        """Seconds of `count` steps after one, from the end of one to the end of the next."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        ends: list[float] = []

        class Clock(TrainerCallback):
            """Notes when steps end."""

            def on_step_end(self, *_args: Any, **_options: Any) -> None:
                ends.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            self.policy.codec.save(Path(folder))
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer.from_file(str(next(Path(folder).glob("tokenizer.json")))),
                eos_token=self.policy.codec.decode([self.policy.codec.turn_end]) or "<|im_end|>",
                pad_token="<|endoftext|>",
            )
            arguments = SFTConfig(
                output_dir=folder, use_cpu=True, per_device_train_batch_size=self.config.batch, max_steps=count + 1,
                learning_rate=self.config.learning_rate, weight_decay=0.0, max_grad_norm=self.config.max_grad_norm,
                gradient_checkpointing=False, bf16=False, report_to=[], save_strategy="no", logging_strategy="no",
                remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True,
                max_length=None,
            )  # fmt: skip
            SFTTrainer(
                model=self.policy.peft, args=arguments, train_dataset=self.data, data_collator=self.collate,
                processing_class=tokenizer, callbacks=[Clock()],
            ).train()  # fmt: skip
        return list(np.diff(ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--trajectories", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--without-trl", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    config = SftConfig.model_validate({"curriculum": {"enabled": False}, "max_trajectories": 600})
    encode = load_policy(given.base).layout.encode
    lessons = read_lessons(given.trajectories, "train", config.max_trajectories, encode)
    count = given.rounds * (given.steps + 1)
    contestants: dict[str, Any] = {
        "ours": Ours(given.base, config, lessons, cache=True),
        "bare": Bare(given.base, config, lessons, count),
        "ours, no cache": Ours(given.base, config, lessons, cache=False),
    }
    if not given.without_trl:
        contestants["trl"] = Trl(given.base, config, lessons, count)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    waits: list[float] = []
    for number in range(given.rounds):
        for name, runner in contestants.items():
            steps = getattr(runner, "steps", None)
            times = steps(given.steps) if steps else [runner.step() for _ in range(given.steps + 1)][1:]
            found[name].append(statistics.median(times))
        waits.append(contestants["ours"].waiting(config, lessons) / found["ours"][-1])
        print(number, {name: round(times[-1], 3) for name, times in found.items()}, flush=True)
    ratio = lambda one, other: round(statistics.median(a / b for a, b in zip(found[one], found[other])), 3)
    result = {
        "seconds": {name: round(statistics.median(times), 3) for name, times in found.items()},
        "ours / bare": ratio("ours", "bare"),
        "waiting": round(statistics.median(waits), 3),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }
    if "trl" in found:
        result |= {"ours / trl": ratio("ours", "trl"), "ours, no cache / trl": ratio("ours, no cache", "trl")}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
