"""The update worker: a process that learns while another one serves.

Role: `python -m components.ttrl.update_worker`, started by `updates.py`, spoken to over its stdin and stdout
(channel.py). It loads the promoted model once, and for each task asks for a batch, trains a candidate adapter, asks
the canary questions before and after, and says what came of it. It decides nothing: the verdict, the publication and
the swap belong to the serving process. Its death, slowness or memory never touch serving.

    ->  {"type": "hello", "model", "config"}
    <-  {"type": "ready", "num_canary"}
    ->  {"type": "task", "task_id", "adapter": folder or "", "candidate": folder, "seed"}
    <-  {"type": "batch?"}
    ->  {"type": "batch", "learning_rate",
         "items": [{id, question, times_s, jpegs, label, negatives, neutral, weight, visits, flips}]}
    <-  {"type": "result", ...} | {"type": "failed", "reason"}

Guarantees: nothing is written outside the candidate folder named in the task; when the serving process is gone the
worker ends (its stdin closes). Not guaranteed: the same update twice across different torch builds.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from components.shared.runtime.errors import PixelisError
from components.shared.runtime.logs import configure_logging
from components.ttrl.channel import Channel, ChannelClosed
from components.ttrl.config import TtrlConfig

log = logging.getLogger(__name__)
NICENESS = 10


def main() -> int:
    """Serve update tasks until the other side closes."""
    channel = _own_channel()
    configure_logging(trace="-", component="ttrl-worker")
    os.nice(NICENESS)
    try:
        hello = channel.receive()
        config = TtrlConfig.model_validate(hello["config"])
        worker = Worker(Path(hello["model"]), config)
        channel.send({"type": "ready", "num_canary": len(worker.canary)})
        while True:
            task = channel.receive()
            try:
                channel.send(worker.work(task, channel))
            except PixelisError as error:
                log.error("update %s failed: %s", task.get("task_id"), error)
                channel.send({"type": "failed", "reason": str(error)[:300]})
    except ChannelClosed:
        return 0
    except PixelisError as error:
        log.error("the update worker cannot start: %s", error)
        return error.exit_code


def _own_channel() -> Channel:
    """The channel on stdin and stdout, which are then given to nobody else: prints go to the log."""
    reader, writer = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sys.stdin = io.StringIO()
    return Channel(io.FileIO(reader, "rb"), io.FileIO(writer, "wb"))


class Worker:
    """The promoted model, its anchor, and what is known of adapters already probed."""

    def __init__(self, folder: Path, config: TtrlConfig) -> None:
        import torch

        from components.ttrl.model import canary_tasks, load_promoted

        torch.set_num_threads(config.worker_threads)
        self.config = config
        self.model = load_promoted(folder, config)
        if not self.model.policy.has_adapter:
            self.model.policy.add_adapter(seed=config.seed)
        if self.model.policy.device.type == "cuda":  # it shares the accelerator's memory with the model that serves
            self.model.policy.set_gradient_checkpointing(True)
        self.anchor = self.model.anchor_state()
        self.canary = canary_tasks(self.model, config.canary_clips)
        self._probed: dict[str, list[Any]] = {}

    def work(self, task: dict[str, Any], channel: Channel) -> dict[str, Any]:
        """One update: its result message."""
        from components.shared.policy.adapters import tensors_digest
        from components.ttrl.update_step import learn, weight_change

        started = time.monotonic()
        policy = self.model.policy
        anchor_answers = self._answers(self.anchor, "anchor")
        if task["adapter"]:
            policy.load_adapter(Path(task["adapter"]))
        else:
            policy.set_adapter_state(self.anchor)
        before_state = policy.adapter_state()
        digest_before = tensors_digest(before_state)
        before = self._answers(before_state, digest_before)
        policy.set_adapter_state(before_state)
        channel.send({"type": "batch?"})
        batch = channel.receive()
        items = [self._item(raw) for raw in batch["items"]]
        if len(items) < self.config.min_update_batch:
            return {
                "type": "skipped",
                "reason": f"{len(items)} experiences qualify, {self.config.min_update_batch} are needed",
            }
        outcome = learn(
            self.model, items, self.anchor, self.config, learning_rate=batch["learning_rate"], seed=task["seed"]
        )
        after_state = policy.adapter_state()
        digest_after = tensors_digest(after_state)
        change = weight_change(before_state, after_state)
        after = self._answers(after_state, digest_after)
        if digest_after != digest_before:
            policy.save_adapter(Path(task["candidate"]))
        return {
            "type": "result",
            "digest_before": digest_before,
            "digest_after": digest_after,
            "weight_change": change,
            "canary_before": self._figures(before),
            "canary_after": self._figures(after),
            "canary_anchor": self._figures(anchor_answers),
            "changed_answers": sum(one != other for one, other in zip(before, after, strict=True)),
            "num_experiences": len(items),
            "num_rollouts": outcome.num_rollouts,
            "figures": outcome.figures,
            "visits": [list(visit) for visit in outcome.visits],
            "seconds": time.monotonic() - started,
        }

    def _answers(self, state: dict[str, Any], name: str) -> list[Any]:
        """Canary answers of an adapter, asked once per adapter (greedy answers do not change)."""
        from components.ttrl.update_step import probe

        if name not in self._probed:
            self.model.policy.set_adapter_state(state)
            answers = probe(self.model, self.canary, self.config)
            keep = {key: value for key, value in self._probed.items() if key == "anchor"}
            self._probed = {**keep, name: answers}
        return self._probed[name]

    def _figures(self, answers: list[Any]) -> dict[str, Any]:
        from components.shared.learning.rewards.task import is_correct

        right = sum(is_correct(task.question, answer) for task, answer in zip(self.canary, answers, strict=True))
        return {"accuracy": right / len(answers), "num_right": right, "num_questions": len(answers)}

    def _item(self, raw: dict[str, Any]) -> Any:
        """An experience as a task: the policy's frames are made from the stored ones as they were when it was asked."""
        from components.shared.learning.episode import Task
        from components.shared.policy.prompts import conversation_for
        from components.shared.samples.trajectory import Question
        from components.ttrl.model import JpegFrames
        from components.ttrl.update_step import Item
        from components.ttrl.watching import view_of

        view = view_of(raw["jpegs"], self.model.view_size)
        question = Question(
            question_id=raw["id"], clip_id=raw["id"], split="test", kind="operation", text=raw["question"], truth={}
        )
        task = Task(question, conversation_for(question, view, raw["times_s"]), JpegFrames(raw["jpegs"]))
        return Item(
            raw["id"],
            task,
            raw["label"],
            tuple(raw["negatives"]),
            tuple(raw["neutral"]),
            raw["weight"],
            raw["visits"],
            raw["flips"],
        )


if __name__ == "__main__":
    sys.exit(main())
