"""A policy small enough to be solved in seconds, and artifacts with real pixels for the whole step.

The toy world: each clip is a grey frame with one dark or bright cell in its top row; the question names the cell, but
only ZOOM_IN (the real one, on real pixels) shows whether it is dark or bright. The toy policy has one token a message
and a table of logits by situation, so that what GRPO does to it can be read off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.shared.learning.episode import SourceFrames, Task
from components.shared.policy.interface import Conversation, Forward, Generation, Message, Policy
from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.clip_shards import write_clip
from components.shared.samples.index import ShardIndex, write_index
from components.shared.samples.jpeg import encode_jpeg
from components.shared.samples.shards import ShardWriter
from components.shared.samples.trajectory import Question
from components.shared.samples.trajectory_shards import write_questions

CHOICES = ("dark", "bright")
LABELS = ("Picking", "Scan Label")
LOOKS = [
    json.dumps({"name": "ZOOM_IN", "arguments": {"frame": 0, "box": [c * 250, 0, c * 250 + 250, 250]}})
    for c in range(4)
]
SAYINGS = [*LOOKS, *(json.dumps({"value": value}) for value in CHOICES), "well"]


class TablePolicy(Policy):
    """log p(message | situation) from a table: 4 named cells before looking, then a grey, dark or bright crop."""

    def __init__(self, *, look: float = -1.0) -> None:
        table = torch.zeros(7, len(SAYINGS))
        table[:4, :4] = look
        table[4:, :4] = -2.0
        self.table = torch.nn.Parameter(table)

    @property
    def digest(self) -> str:
        return str(hash(tuple(self.table.flatten().tolist())))

    @staticmethod
    def situation(conversation: Conversation) -> int:
        if conversation[-1].role != "tool" or not conversation[-1].images:
            return int(conversation[0].text[-1])
        level = conversation[-1].images[0].mean()
        return 4 if 90 < level < 170 else 5 if level <= 90 else 6

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 48,
        seed: int = 0,
        beginnings: Sequence[str] = (),
    ) -> list[Generation]:
        generator = torch.Generator().manual_seed(seed)
        if beginnings:
            return [self.look(c, generator) for c in conversations]
        with torch.no_grad():
            logprobs = self.table.log_softmax(-1)[[self.situation(c) for c in conversations]]
        scaled = (logprobs / max(temperature, 1e-6)).softmax(-1)
        picked = logprobs.argmax(-1) if temperature == 0 else torch.multinomial(scaled, 1, generator=generator)[:, 0]
        return [
            Generation(SAYINGS[int(token)], (int(token),), (float(row[token]),), True)
            for token, row in zip(picked, logprobs)
        ]

    def look(self, conversation: Conversation, generator: torch.Generator) -> Generation:
        """A look that was asked for: the token "look" is forced, the cell is sampled."""
        with torch.no_grad():
            logprobs = self.table[self.situation(conversation), :4].log_softmax(-1)
        cell = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
        return Generation(LOOKS[cell], (-1, cell), (float(logprobs[cell]),), True, forced=1)

    def forward(self, conversations: Sequence[Conversation]) -> Forward:
        raise NotImplementedError

    def token_logprobs(self, conversations: Sequence[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(len(conversation) for conversation in conversations)
        rows, masks = [], []
        for conversation in conversations:
            row, mask = [torch.zeros(())] * length, [0.0] * length
            for index, message in enumerate(conversation):
                if message.role == "assistant" and message.learn:
                    token = SAYINGS.index(message.text)
                    logits = self.table[self.situation(conversation[:index])]
                    row[index] = (logits[:4] if message.forced else logits).log_softmax(-1)[token]
                    mask[index] = 1.0
            rows.append(torch.stack(row))
            masks.append(mask)
        return torch.stack(rows), torch.tensor(masks)

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        return [self.table]

    def save_adapter(self, directory: Path) -> str:
        raise NotImplementedError

    def load_adapter(self, directory: Path) -> str:
        raise NotImplementedError


def make_clip(number: int, split: str, *, cell: int, bright: bool, subject: str = "P1") -> Clip:
    """A clip of two equal frames, grey but for one cell of the top row."""
    image = np.full((336, 448, 3), 128, np.uint8)
    image[:84, cell * 112 : cell * 112 + 112] = 230 if bright else 20
    view = np.full((2 * 56, 56, 3), 128, np.uint8)
    meta = ClipMeta(
        clip_id=f"{split}-{number}", recording_id="r", subject=subject, session="s", split=split,  # type: ignore[arg-type]
        window="sliding", start_s=0, duration_s=5, frame_times_s=(0.5, 3.0), frame_labels=("Picking",) * 2,
        frame_phases=(0.1, 0.6), operation="Picking", segment_s=(0.5, 3.0), next_operation=None, has_boundary=False,
        sampler="uniform", provenance="synthetic",
    )  # fmt: skip
    jpeg = encode_jpeg(image)
    return Clip(meta, encode_jpeg(view), (jpeg, jpeg))


def make_questions(number: int, split: str, *, cell: int, bright: bool) -> dict[str, Question]:
    """The two questions about a clip, by kind."""
    common: dict[str, Any] = {"clip_id": f"{split}-{number}", "split": split}
    truth = {"operation": "Picking", "start_s": 0.5, "end_s": 3.0, "next_operation": None}
    return {
        "closeup": Question(
            question_id=f"{split}-{number}-c", kind="closeup", text=f"dark or bright: {cell}", choices=CHOICES,
            truth={"value": CHOICES[bright]}, evidence_box=(cell * 250, 0, cell * 250 + 250, 250), **common,
        ),
        "operation": Question(
            question_id=f"{split}-{number}-o", kind="operation", text="Which operation is under way?", truth=truth,
            **common,
        ),
    }  # fmt: skip


def make_tasks() -> list[Task]:
    """Close-up tasks of the toy world, every cell and colour twice."""
    tasks = []
    for number in range(16):
        cell, bright = number % 4, bool(number // 4 % 2)
        clip = make_clip(number, "train", cell=cell, bright=bright)
        question = make_questions(number, "train", cell=cell, bright=bright)["closeup"]
        tasks.append(Task(question, (Message("user", question.text),), SourceFrames(clip), LABELS))
    return tasks


@pytest.fixture(scope="session")
def toy_tasks() -> list[Task]:
    """`make_tasks`."""
    return make_tasks()


def write_artifacts(
    root: Path, *, kinds: Sequence[str] = ("closeup", "operation"), num_clips: int = 12
) -> dict[str, Path]:
    """Clips and questions of train and validation people as the steps before leave them."""
    clips, trajectories = root / "clips", root / "trajectories"
    clips.mkdir(parents=True)
    trajectories.mkdir()
    shards, files = {}, {}
    for split, subject in (("train", "P1"), ("validation", "P2")):
        with ShardWriter(clips, split) as writer:
            asked = []
            for number in range(num_clips):
                look = {"cell": number % 4, "bright": bool(number // 4 % 2)}
                write_clip(writer, make_clip(number, split, subject=subject, **look))
                asked += [make_questions(number, split, **look)[kind] for kind in kinds]
            shards[split] = writer.close()
        files[f"questions-{split}.jsonl"] = write_questions(trajectories, split, asked)
    write_index(clips, ShardIndex(kind="clips", provenance="synthetic", shards=shards))
    write_index(trajectories, ShardIndex(kind="trajectories", provenance="synthetic", files=files))
    return {"clips": clips, "trajectories": trajectories}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real Qwen2.5-VL with random weights at the smallest size, and an adapter for it."""
    from components.shared.policy.tiny import TinySize, build_tiny

    root = tmp_path_factory.mktemp("tiny")
    size = TinySize(hidden=48, layers=1, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=1,
                    vision_heads=2)  # fmt: skip
    policy = build_tiny(LABELS, choices=CHOICES, num_frames=2, size=size, seed=1)
    (root / "base").mkdir()
    policy.save_base(root / "base")
    policy.add_adapter(rank=4, seed=3)
    (root / "adapter").mkdir()
    policy.save_adapter(root / "adapter")
    return {"base": root / "base", "adapter": root / "adapter"}


@pytest.fixture
def toy() -> Any:
    """The builders above by name."""

    class Toy:
        policy = TablePolicy
        sayings = SAYINGS
        write_artifacts = staticmethod(write_artifacts)
        questions = staticmethod(make_questions)

    return Toy
