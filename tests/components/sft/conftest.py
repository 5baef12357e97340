import numpy as np
import pytest
import torch

from components.shared.policy.tiny import TinySize, build_tiny
from components.shared.samples.index import ShardIndex, write_index
from components.shared.samples.jpeg import encode_jpeg
from components.shared.samples.shards import ShardWriter
from components.shared.samples.trajectory import Call, Question, ToolResult, Trajectory, Turn
from components.shared.samples.trajectory_shards import write_questions, write_trajectory

LABELS = ("Picking", "Close Box", "Scan Label")
TIMES = (0.0, 1.0, 2.0, 3.0)
SMALL = TinySize(
    hidden=64, layers=2, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=1, vision_heads=2
)


def view_of(label, rng):
    """Frames whose brightness tells the label."""
    base = 40 + 80 * LABELS.index(label)
    return np.clip(base + rng.integers(-10, 10, (len(TIMES), 56, 56, 3)), 0, 255).astype(np.uint8)


def clip_json(clip_id, split, label):
    from components.shared.samples.clip import ClipMeta

    return ClipMeta(
        clip_id=clip_id, recording_id="r", subject=split, session="s", split=split, window="sliding", start_s=0,
        duration_s=5, frame_times_s=TIMES, frame_labels=(label,) * 4, frame_phases=(0.1, 0.4, 0.6, 0.9),
        operation=label, segment_s=(0.0, 3.0), next_operation=None, has_boundary=True, sampler="uniform",
        provenance="synthetic",
    )  # fmt: skip


def write_material(root, counts):
    """A clips and a trajectories artifact with `counts` clips by split; every fourth trajectory zooms first."""
    from components.shared.samples.clip import Clip
    from components.shared.samples.clip_shards import write_clip

    rng = np.random.default_rng(0)
    for kind in ("clips", "trajectories"):
        (root / kind).mkdir(parents=True)
    clip_shards, shards, files = {}, {}, {}
    for split, number in counts.items():
        clip_writer = ShardWriter(root / "clips", split)
        writer, questions = ShardWriter(root / "trajectories", split), []
        for index in range(number):
            label, clip_id = LABELS[index % 3], f"{split}-{index}"
            view = view_of(label, rng)
            strip = encode_jpeg(view.reshape(-1, 56, 3), quality=95)
            source = tuple(encode_jpeg(frame, quality=95) for frame in view)
            write_clip(clip_writer, Clip(clip_json(clip_id, split, label), strip, source))
            answer = {"operation": label, "start_s": 0.0, "end_s": 3.0, "next_operation": None}
            asked = Question(
                question_id=f"{clip_id}-op", clip_id=clip_id, split=split, kind="operation", text="Which?", truth=answer
            )
            questions.append(asked)
            turns, tools = [], {}
            if index % 4 == 3:
                call = Call(name="ZOOM_IN", arguments={"frame": 1, "box": [0, 0, 250, 250]})
                turns.append(
                    Turn(call=call, result=ToolResult(ok=True, text="seen", image="tool0"), learn=index % 8 == 3)
                )
                tools = {"tool0": rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)}
            turns.append(Turn(answer=answer))
            stage = ("simple", "intermediate", "complex")[index % 3]
            trajectory = Trajectory(
                trajectory_id=f"{clip_id}-t", question=asked, kind="evidence" if tools else "direct", stage=stage,
                turns=tuple(turns), frame_times_s=TIMES, provenance="synthetic",
            )  # fmt: skip
            write_trajectory(writer, trajectory, strip, tools)
        clip_shards[split], shards[split] = clip_writer.close(), writer.close()
        files[f"questions-{split}"] = write_questions(root / "trajectories", split, questions)
    write_index(root / "clips", ShardIndex(kind="clips", provenance="synthetic", shards=clip_shards))
    facts = {"labels": list(LABELS)}
    index = ShardIndex(kind="trajectories", provenance="synthetic", shards=shards, files=files, facts=facts)
    write_index(root / "trajectories", index)


def make_base(folder):
    """A tiny policy with random weights."""
    policy = build_tiny(LABELS, phrases=("Which?",), num_frames=4, size=SMALL, vocabulary=300)
    with torch.no_grad():  # random embeddings this small give flat logits that no adapter could sharpen in a few steps
        policy.language.embed_tokens.weight.mul_(10)
    policy.save_base(folder)


def allocated(work):
    """The largest sum of live bytes that torch allocated on the CPU during `work`."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = seen.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(0, *np.cumsum([change for _, change in changes]).tolist())


@pytest.fixture
def peak_allocation():
    """`allocated`."""
    return allocated


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Folders `clips`, `trajectories`, `base` of a small, learnable task."""
    root = tmp_path_factory.mktemp("material")
    write_material(root, {"train": 24, "validation": 9})
    make_base(root / "base")
    return root


@pytest.fixture(scope="session")
def policy(material):
    """The base of `material`, without an adapter; not to be trained."""
    from components.shared.policy.load import load_policy

    return load_policy(material / "base")


@pytest.fixture
def make_material():
    """`write_material`."""
    return write_material
