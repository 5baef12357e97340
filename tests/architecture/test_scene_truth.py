"""The twin's scene truth reaches synthesis and nothing else: not by the pipeline, not by imports, not by artifacts."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from pipelines.config import compose
from pipelines.training import build

ROOT = Path(__file__).resolve().parents[2]
READERS = {"components.data_synthesis.trajectories.truth"}
"""Modules that open a truth file."""
IMPORTERS = {"components.data_synthesis.trajectories.build", "components.data_synthesis.trajectories.shard_work"}
"""Modules that may import those."""
TWIN = "components.data_synthesis.recordings.twin"


@pytest.mark.parametrize("profile", ["twin", "gpu-3b"])
def test_only_trajectories_is_handed_the_truth(profile: str) -> None:
    """Follows the artifact through the compiled pipeline, nested graphs included."""
    spec = build(compose(profile, ["placement.tag=x"], {})).pipeline_spec
    graphs = [spec.root, *spec.components.values()]
    takers, givers = set(), set()
    for graph in graphs:
        for name, task in graph.dag.tasks.items():
            for key, source in task.inputs.artifacts.items():
                if source.task_output_artifact.output_artifact_key == "truth" or key == "truth":
                    takers.add(name)
                    givers.add(source.task_output_artifact.producer_task)
    assert takers == {"trajectories"}
    assert givers == {"recordings"}


def modules() -> dict[str, ast.Module]:
    files = [*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): ast.parse(p.read_text()) for p in files}


def imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_only_synthesis_imports_what_opens_or_writes_the_truth() -> None:
    for name, tree in modules().items():
        if name in READERS or name.startswith(TWIN):
            continue
        taken = imports(tree)
        assert name in IMPORTERS or not taken & READERS, f"{name} can open the scene truth"
        twin = {module for module in taken if module.startswith(f"{TWIN}.truth")}
        assert not twin, f"{name} imports {twin}"


def test_no_artifact_that_training_reads_holds_the_scene(small_scene: tuple[Path, Path, Path]) -> None:
    """Of the truth, questions carry one detail's box and value, and a policy is shown neither."""
    from components.shared.policy.prompts import conversation_for
    from components.shared.samples import read_clips, read_questions

    recordings, clips, trajectories = small_scene
    for path in (*recordings.rglob("*"), *clips.rglob("*")):
        if path.suffix in (".json", ".csv"):
            text = path.read_text()
            assert not any(word in text for word in ("tag_values", "left_hand", "grid_box")), path
    clip = next(read_clips(clips, "train"))
    asked = [q for q in read_questions(trajectories, "train") if q.kind == "closeup"]
    assert asked
    for question in asked:
        shown = json.dumps([m.text for m in conversation_for(question, clip.view_frames, clip.meta.frame_times_s)])
        assert question.truth["value"] not in shown
        assert question.evidence_box is not None
        assert str(list(question.evidence_box)) not in shown


@pytest.fixture(scope="module")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A tiny twin through synthesis: (recordings, clips, trajectories)."""
    from components.data_synthesis.clips.collect import CollectInputs, CollectOutputs, collect_clips
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips
    from components.data_synthesis.recordings.config import RecordingsConfig
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
    from components.data_synthesis.trajectories.config import TrajectoriesConfig
    from components.data_synthesis.trajectories.synthesize import (
        TrajectoriesInputs,
        TrajectoriesOutputs,
        synthesize_trajectories,
    )

    root = tmp_path_factory.mktemp("scene")
    paths = {name: root / name for name in ("recordings", "truth", "group", "clips", "trajectories")}
    for path in paths.values():
        path.mkdir()
    twin = {"num_train_people": 2, "num_validation_people": 1, "num_test_people": 1, "audio": False}
    lengths = {"train_session_s": 9, "validation_session_s": 6, "test_session_s": 6}
    settings = RecordingsConfig.model_validate({"twin": {**twin, **lengths}})
    read_recordings(settings, RecordingsInputs(), RecordingsOutputs(paths["recordings"], paths["truth"]))
    config = ClipsConfig(report_recordings=0, num_examples=0)
    cut_clips(config, CutInputs(paths["recordings"]), CutOutputs(paths["group"]))
    collect_clips(config, CollectInputs(paths["recordings"], (paths["group"],)), CollectOutputs(paths["clips"]))
    inputs = TrajectoriesInputs(paths["clips"], paths["recordings"], paths["truth"])
    synthesize_trajectories(TrajectoriesConfig(workers=1), inputs, TrajectoriesOutputs(paths["trajectories"]))
    return paths["recordings"], paths["clips"], paths["trajectories"]
