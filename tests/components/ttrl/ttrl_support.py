"""A promoted model folder with random tiny weights, and a service in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import httpx
import numpy as np

LABELS = ("Picking", "Scan Label", "Close Box")
CHOICES = ("horizontal", "vertical")
NUM_FRAMES = 4
CLOSEUP = "Which pattern does the tag show?"
TIMES = (0.0, 1.64, 3.32, 4.96)


QUESTION = "Which operation is under way, when does it start and end, and what comes next?"
SETTINGS = {
    "rollouts": 8,
    "max_body_bytes": 1_000_000,
    "max_question_chars": 200,
    "max_duration_s": 8,
    "max_pixels": 100_000,
    "concurrency": 2,
    "upload_timeout_s": 5,
    "cold_start": 4,
    "update_every": 4,
    "update_batch": 8,
    "min_update_batch": 2,
    "max_source_share": 1.0,
    "learning_rate": 0.003,
    "neighbours": 3,
    "freeze_after": 50,
}


def frame(seed: int, *, height: int = 84, width: int = 112) -> np.ndarray:
    """A source frame that depends on the seed."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 255, (height // 14, width // 14, 3)), np.ones((14, 14, 1))).astype(np.uint8)


def teach_format(policy, *, steps: int = 60) -> None:
    """Train the language model until it writes valid answers: mostly Picking, sometimes another operation."""
    import torch

    from components.shared.policy.interface import Message
    from components.shared.policy.prompts import answer_text, conversation_for, operation_question

    policy.train_language()
    optimiser = torch.optim.AdamW(policy.trainable_parameters(), lr=5e-3)
    rng = np.random.default_rng(0)
    view = np.stack([frame(n, height=56, width=56) for n in range(NUM_FRAMES)])
    for _ in range(steps):
        batch = []
        for operation in rng.choice(LABELS, size=16, p=(0.7, 0.2, 0.1)):
            answer = {"operation": str(operation), "start_s": 0.0, "end_s": 5.0, "next_operation": None}
            asked = conversation_for(operation_question(), view, TIMES)
            batch.append((*asked, Message("assistant", answer_text(answer))))
        for value in rng.choice(CHOICES, size=4, p=(0.8, 0.2)):
            asked = conversation_for(CLOSEUP, view, TIMES)
            batch.append((*asked, Message("assistant", answer_text({"value": str(value)}))))
        logprobs, mask = policy.token_logprobs(batch)
        optimiser.zero_grad()
        (-(logprobs * mask).sum() / mask.sum()).backward()
        optimiser.step()
    policy.model.requires_grad_(False)


def write_promoted(folder: Path, *, seed: int = 0, with_adapter: bool = True) -> Path:
    """A folder as promotion leaves it."""
    import torch

    from components.shared.encoders.config import EncoderConfig
    from components.shared.encoders.model import build_model
    from components.shared.policy.prompts import operation_question
    from components.shared.policy.tiny import TinySize, build_tiny
    from components.shared.runtime.artifacts import write_json
    from components.shared.samples import (
        Clip,
        ClipMeta,
        Question,
        ShardIndex,
        ShardWriter,
        write_clip,
        write_index,
        write_questions,
    )
    from components.shared.samples.jpeg import encode_jpeg
    from components.shared.video.letterbox import Letterbox

    torch.manual_seed(seed)
    size = TinySize(hidden=48, layers=2, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=1)
    policy = build_tiny(LABELS, choices=CHOICES, phrases=[CLOSEUP], num_frames=NUM_FRAMES, size=size, seed=seed)
    teach_format(policy)
    policy.save_base(folder / "base")
    if with_adapter:
        policy.add_adapter(rank=4, seed=seed)
        policy.save_adapter(folder / "adapter")
    shape = EncoderConfig.model_validate(
        {"vision_tower": {"hidden": 32, "layers": 1}, "text_tower": {"hidden": 32, "layers": 1, "heads": 2}}
    )
    build_model(shape, [operation_question(), *LABELS]).save(folder / "encoder")
    canary = folder / "canary"
    canary.mkdir()
    questions = []
    with ShardWriter(canary, "canary") as writer:
        for number in range(6):
            frames = [frame(100 * number + index) for index in range(NUM_FRAMES)]
            view = np.concatenate([Letterbox(112, 84, 56).apply(image) for image in frames])
            meta = ClipMeta(
                clip_id=f"clip-{number}", recording_id="r", subject="U0", session="S0", split="canary",
                window="sliding", start_s=0.0, duration_s=5.0, frame_times_s=TIMES, frame_labels=("Picking",) * 4,
                frame_phases=(0.0, 0.3, 0.6, 1.0), operation=LABELS[number % 3], segment_s=(0.0, 4.96),
                next_operation=None, has_boundary=False, sampler="uniform", provenance="synthetic",
            )  # fmt: skip
            write_clip(writer, Clip(meta, encode_jpeg(view, quality=95), tuple(encode_jpeg(i) for i in frames)))
            truth = {"operation": meta.operation, "start_s": 0.0, "end_s": 5.0, "next_operation": None}
            questions.append(
                Question(
                    question_id=f"q-{number}", clip_id=meta.clip_id, split="canary", kind="operation",
                    text=operation_question(), truth=truth,
                )
            )  # fmt: skip
        shards = writer.close()
    files = {"questions-canary.jsonl": write_questions(canary, "canary", questions)}
    write_index(canary, ShardIndex(kind="clips", provenance="synthetic", shards={"canary": shards}, files=files))
    write_json(folder / "promotion.json", {"labels": list(LABELS), "provenance": "synthetic"})
    return folder


class Server:
    """A service process on a free port."""

    def __init__(self, model: Path | None, state: Path, **settings: object) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        arguments = ["--state", str(state), "--port", "0"]
        if model is not None:
            arguments += ["--model", str(model)]
        defaults = {"threads": 1, "rollouts": 4, "batch_wait_ms": 1}
        for key, value in (defaults | settings).items():
            arguments += ["--set", f"{key}={value}"]
        self.log = state / "test.log"
        with open(self.log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "components.ttrl", *arguments],
                stdout=file,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self.client = httpx.Client(base_url=self._url(), timeout=60, trust_env=False)

    def _url(self) -> str:
        from components.ttrl.control import read_record

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            record = read_record(self.state)
            if record is not None and record["pid"] == self.process.pid:
                return record["url"]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the service did not start: {self.log.read_text()}")

    def ready(self) -> Server:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.client.get("/readyz").status_code == 200:
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


def video(path: Path, *, num_frames: int = 60, height: int = 84, width: int = 112, seed: int = 0) -> Path:
    """An mp4 of random blocks at 25 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            picture = frame(seed + number // 10, height=height, width=width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def ask(server, clip, question=QUESTION, **fields):
    return server.client.post(
        "/predict", files={"video": ("a.mp4", clip, "video/mp4")}, data={"question": question} | fields
    )


def jpegs(count, **size):
    return [cv2.imencode(".jpg", frame(n, **size))[1].tobytes() for n in range(count)]
