import numpy as np
import pytest
import torch

from components.base_model.config import BaseModelConfig
from components.base_model.prepare import BaseInputs, BaseOutputs, prepare_base, work_key
from components.shared.encoders.encoder import load_encoder
from components.shared.encoders.model import WEIGHTS
from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.policy.tiny import TinySize, build_tiny
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import ConfigError, InputError
from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.clip_shards import write_clip
from components.shared.samples.index import ShardIndex, write_index
from components.shared.samples.jpeg import encode_jpeg
from components.shared.samples.shards import ShardWriter
from components.shared.samples.trajectory import Question
from components.shared.samples.trajectory_shards import write_questions
from components.shared.work.manifest import Manifest, load_manifest, save_manifest

LABELS = ("dark", "bright")
SIZE = {"hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 64, "vision_hidden": 32,
        "vision_depth": 1, "vision_heads": 2}  # fmt: skip
CONFIG = {
    "size": SIZE, "vocabulary": 300, "num_validation": 16, "seed": 3,
    "vision": {"steps": 40, "batch": 32, "crops": 8, "learning_rate": 3e-3},
    "language": {"steps": 60, "batch": 16, "learning_rate": 5e-3},
}  # fmt: skip


def clip_of(split, index, rng):
    label = LABELS[index % 2]
    level = 60 if label == "dark" else 190
    view = np.clip(level + rng.integers(-20, 20, (4, 56, 56, 3)), 0, 255).astype(np.uint8)
    source = np.clip(level + rng.integers(-20, 20, (4, 336, 448, 3)), 0, 255).astype(np.uint8)
    meta = ClipMeta(
        clip_id=f"{split}-{index}", recording_id="r", subject=split, session="s", split=split, window="sliding",
        start_s=0, duration_s=5, frame_times_s=(0.0, 1.0, 2.0, 3.0), frame_labels=(label,) * 4,
        frame_phases=(0.1, 0.4, 0.6, 0.9), operation=label, segment_s=(0.0, 3.0), next_operation=None,
        has_boundary=True, sampler="uniform", provenance="synthetic",
    )  # fmt: skip
    jpegs = tuple(encode_jpeg(frame, quality=90) for frame in source)
    return label, Clip(meta, encode_jpeg(view.reshape(-1, 56, 3), quality=95), jpegs)


def questions_of(split, index, label, *, closeups):
    truth = {"operation": label, "start_s": 0.0, "end_s": 3.0, "next_operation": None}
    common = {"clip_id": f"{split}-{index}", "split": split}
    yield Question(question_id=f"{index}-op", kind="operation", text="What?", truth=truth, **common)
    if closeups:
        yield Question(
            question_id=f"{index}-cu", kind="closeup", text="Which tag?", truth={"value": label}, choices=LABELS,
            evidence_box=(300, 100, 400, 200), **common,
        )  # fmt: skip


def write_material(root, *, closeups=True, counts=None):
    rng = np.random.default_rng(0)
    for name in ("clips", "trajectories", "recordings"):
        (root / name).mkdir(parents=True)
    shards, files = {}, {}
    for split, number in (counts or {"train": 24, "validation": 8}).items():
        writer, questions = ShardWriter(root / "clips", split), []
        for index in range(number):
            label, clip = clip_of(split, index, rng)
            write_clip(writer, clip)
            questions += questions_of(split, index, label, closeups=closeups)
        shards[split] = writer.close()
        files[f"questions-{split}"] = write_questions(root / "trajectories", split, questions)
    write_index(root / "clips", ShardIndex(kind="clips", provenance="synthetic", shards=shards))
    write_index(root / "trajectories", ShardIndex(kind="trajectories", provenance="synthetic", files=files))
    manifest = Manifest(source="segments", provenance="synthetic", split_by="video", labels=LABELS, recordings=())
    save_manifest(manifest, root / "recordings")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    root = tmp_path_factory.mktemp("material")
    write_material(root)
    return root


def run(root, out, **changes):
    for name in ("model", "work"):
        (out / name).mkdir(parents=True, exist_ok=True)
    config = BaseModelConfig.model_validate(CONFIG | changes)
    encoder = root / "encoder" if (root / "encoder").is_dir() else None
    inputs = BaseInputs(root / "clips", root / "trajectories", root / "recordings", encoder)
    return prepare_base(config, inputs, BaseOutputs(out / "model", out / "work"))


@pytest.fixture(scope="module")
def straight(material, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    return run(material, out), out


def test_an_easy_task_is_learned_on_unseen_people(straight):
    report, _ = straight
    assert report.metrics["frame_accuracy"] > 0.9
    assert report.metrics["oca"] > 0.9
    assert report.metrics["valid_share"] == 1.0
    assert report.metrics["num_windows"] == 8
    assert report.curves["vision_loss"][-1][1] < report.curves["vision_loss"][0][1]


def test_the_folder_loads_and_answers(straight, material):
    from components.shared.learning.asking import ask, read_asked

    report, out = straight
    policy = load_policy(out / "model")
    assert policy.base_digest == report.facts["base_digest"]
    assert policy.description.labels == LABELS
    assert policy.description.choices == ("bright", "dark")
    asked = read_asked(material / "clips", material / "trajectories", "validation", 4)
    answers, _ = ask(policy, asked, LABELS)
    assert sum(a is not None and a["operation"] == i.question.truth["operation"] for a, i in zip(answers, asked)) == 4


def test_killed_in_the_language_stage_it_ends_the_same(straight, material, tmp_path, monkeypatch):
    from components.base_model import language_stage

    monkeypatch.setattr(language_stage, "CHECKPOINT_EVERY", 20)
    real, calls = language_stage.Parts.add_gradients, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 40 + 30:  # after the steps of the vision stage
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(language_stage.Parts, "add_gradients", failing)
    with pytest.raises(KeyboardInterrupt):
        run(material, tmp_path)
    monkeypatch.setattr(language_stage.Parts, "add_gradients", real)
    run(material, tmp_path)
    weights = "model.safetensors"
    assert (tmp_path / "model" / weights).read_bytes() == (straight[1] / "model" / weights).read_bytes()


def test_data_without_closeups_goes_through(tmp_path):
    write_material(tmp_path / "in", closeups=False)
    stages = {"vision": {"steps": 3, "batch": 8}, "language": {"steps": 3, "batch": 4}}
    report = run(tmp_path / "in", tmp_path / "out", **stages)
    assert report.facts["choices"] == []


def test_without_validation_clips_nothing_is_measured_and_the_report_says_so(tmp_path):
    write_material(tmp_path / "in", counts={"train": 4, "validation": 0})
    stages = {"vision": {"steps": 2, "batch": 4, "crops": 0}, "language": {"steps": 2, "batch": 2}}
    report = run(tmp_path / "in", tmp_path / "out", **stages)
    assert "oca" not in report.metrics
    assert "nothing was measured" in report.markdown


def test_no_training_clip_is_an_error(tmp_path):
    write_material(tmp_path / "in", counts={"train": 0, "validation": 2})
    with pytest.raises(InputError, match="no clip in split train"):
        run(tmp_path / "in", tmp_path / "out")


# -- on the aligned encoder --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_encoder(material, tmp_path_factory):
    """The material with an alignment encoder whose tower tells dark from bright as any linear map of pixels does."""
    from components.shared.encoders.config import EncoderConfig
    from components.shared.encoders.model import build_model

    root = tmp_path_factory.mktemp("aligned")
    for name in ("clips", "trajectories", "recordings"):
        (root / name).symlink_to(material / name)
    tower = {"hidden": 32, "heads": 2, "layers": 1}
    config = EncoderConfig.model_validate({"widths": (16, 32), "num_latents": 2, "vision_tower": tower})
    build_model(config, list(LABELS)).save(root / "encoder")
    return root


RECURSION = {"width": 32, "slots": 2, "heads": 2, "layers": 1, "supervised_steps": 2}


@pytest.mark.parametrize("policy, steps", [("prefix", 60), ("prefix_trm", 60), ("trm_decoder", 16)])
def test_a_policy_behind_the_aligned_encoder_learns_the_easy_task(with_encoder, tmp_path, policy, steps):
    language = {"steps": steps, "batch": 16, "learning_rate": 5e-3}
    report = run(with_encoder, tmp_path, policy=policy, recursion=RECURSION, language=language, num_validation=8)
    curve = [loss for _, loss in report.curves["language_loss"]]
    assert curve[-1] < 0.8 * curve[0]
    if policy != "trm_decoder":  # sixty steps of the experiment take too long here
        assert report.metrics["oca"] > 0.9
        assert report.metrics["valid_share"] == 1.0
    assert "frame_accuracy" not in report.metrics
    loaded = load_policy(tmp_path / "model")
    assert loaded.description.kind == policy
    assert loaded.base_digest == report.facts["base_digest"]
    frozen = load_encoder(with_encoder / "encoder").model.vision.tower.state_dict()
    assert all(torch.equal(frozen[name], value) for name, value in loaded.model.vision.tower.state_dict().items())


def test_a_checkpoint_belongs_to_its_encoder_and_to_what_labels_are_called(with_encoder, tmp_path, monkeypatch):
    """The digest of a file tells which encoder it is: none is built for it."""
    monkeypatch.setattr("components.shared.encoders.model.build_model", lambda *_: pytest.fail("a model was built"))
    config = BaseModelConfig.model_validate(CONFIG | {"policy": "prefix"})
    other = tmp_path / "encoder"
    other.mkdir()
    (other / WEIGHTS).write_bytes(b"other weights")
    folders = [with_encoder / name for name in ("clips", "trajectories", "recordings", "encoder")]
    manifest = load_manifest(folders[2])
    renamed = manifest.model_copy(update={"captions": {"dark": "a dark thing"}})
    keys = {
        work_key(config, BaseInputs(*folders), manifest),
        work_key(config, BaseInputs(*folders), renamed),
        work_key(config, BaseInputs(*folders[:3], other), manifest),
    }
    assert len(keys) == 3


def test_without_the_encoder_the_error_says_how_to_get_it(material, tmp_path):
    with pytest.raises(ConfigError, match=r"does not hand to base_model.*base_model\.policy=prefix"):
        run(material, tmp_path, policy="prefix")


# -- hub ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    """A local folder in hub layout: a real Qwen2.5-VL class at tiny size, without policy.json."""
    folder = tmp_path_factory.mktemp("hub")
    build_tiny(LABELS, size=TinySize(**SIZE), vocabulary=300).save_base(folder)
    (folder / "policy.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    return folder


def test_a_local_folder_becomes_a_base_that_answers(material, hub_folder, tmp_path):
    report = run(material, tmp_path, kind="hub", hub={"path": str(hub_folder)})
    assert report.metrics["size_bytes"] > 0
    assert report.facts["files"]["model.safetensors"] == sha256_file(hub_folder / "model.safetensors")
    assert not (tmp_path / "model" / "pytorch_model.bin").exists()
    policy = load_policy(tmp_path / "model")
    assert policy.description.system.startswith("You watch clips")
    made = policy.generate([(Message("user", "hello"),)], max_new_tokens=3)
    assert made[0].token_ids
