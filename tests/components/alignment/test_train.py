"""The step on a small artifact of real form: it learns colours, resumes bit for bit, and reports against chance."""

import dataclasses
import io
import math
import shutil
import wave

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import caption, read_corpus, usable
from components.alignment.train import AlignmentInputs, AlignmentOutputs, align, refuse_too_little
from components.alignment.trainer import Trainer
from components.shared.encoders.config import AudioShape, EncoderConfig, TextShape, VisionShape
from components.shared.encoders.encoder import load_encoder
from components.shared.encoders.model import WEIGHTS, build_model
from components.shared.learning import checkpoint
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import ConfigError, InputError
from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.clip_shards import read_clips, write_clip
from components.shared.samples.index import ShardIndex, write_index
from components.shared.samples.shards import ShardWriter
from components.shared.work.manifest import Manifest, load_manifest, save_manifest

LABELS = {"Red": (200, 30, 30), "Green": (30, 180, 30), "Blue": (30, 30, 220)}
TIMES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
ENCODER = EncoderConfig(
    widths=(8, 16),
    num_latents=2,
    perceiver_heads=2,
    vision_tower=VisionShape(image_size=28, hidden=32, layers=1, heads=2),
    text_tower=TextShape(vocabulary=300, hidden=32, layers=1, heads=2),
)
CONFIG = AlignmentConfig(
    encoder=ENCODER, frame_steps=30, frames_per_step=32, clip_steps=30, clips_per_step=24, learning_rate=3e-3,
    checkpoint_steps=20, seed=3,
)  # fmt: skip


def meta(key: str, split: str, labels: list[str], **changes) -> ClipMeta:
    common = dict(  # noqa: C408 - reads as a call
        clip_id=key, recording_id=key, subject=f"P-{split}", session="S1", split=split, window="random", start_s=0,
        duration_s=5.0, frame_times_s=TIMES, frame_labels=labels, frame_phases=[0.5] * 6, operation=labels[0],
        segment_s=(0.0, 2.5), next_operation=None, has_boundary=True, sampler="uniform", provenance="synthetic",
    )  # fmt: skip
    return ClipMeta(**common | changes)


def make_clip(key: str, split: str, rng: np.random.Generator) -> Clip:
    first, second = rng.permutation(list(LABELS))[:2]
    labels = [first] * 3 + [second] * 3
    noise = lambda label: np.clip(rng.normal(LABELS[label], 25, (28, 28, 3)), 0, 255).astype(np.uint8)
    strip = np.concatenate([noise(label) for label in labels])
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))[1].tobytes()
    return Clip(meta(key, split, labels), view_jpeg=jpeg, source_jpegs=(jpeg,) * 6)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> AlignmentInputs:
    root = tmp_path_factory.mktemp("inputs")
    rng, shards = np.random.default_rng(0), {}
    (root / "clips").mkdir()
    for split, count in (("train", 60), ("test", 24)):
        with ShardWriter(root / "clips", split) as writer:
            for number in range(count):
                write_clip(writer, make_clip(f"{split}-{number:03d}", split, rng))
        shards[split] = tuple(writer.records)
    write_index(root / "clips", ShardIndex(kind="clips", provenance="synthetic", shards=shards))
    manifest = Manifest(
        source="twin", provenance="synthetic", split_by="person", labels=tuple(LABELS), null_label="Null",
        captions={"Red": "something red"}, recordings=(),
    )  # fmt: skip
    save_manifest(manifest, root)
    return AlignmentInputs(clips=root / "clips", recordings=root)


def outputs(root, work=None) -> AlignmentOutputs:
    made = AlignmentOutputs(root / "encoder", work or root / "work")
    made.encoder.mkdir(parents=True)
    made.work.mkdir(exist_ok=True)
    return made


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    made = outputs(tmp_path_factory.mktemp("trained"))
    return align(CONFIG, inputs, made), made


def test_it_learns_what_frames_show_and_says_how_well(trained):
    report, made = trained
    assert report.metrics["frame_zero_shot_accuracy"] > 0.9 > 0.5 > report.metrics["frame_majority_share"]
    assert report.metrics["vision_to_text_r1_16"] > 2 * report.metrics["vision_to_text_chance_r1"]
    assert report.metrics["num_test_clips"] == 24 and report.provenance == "synthetic"
    assert all(path.is_file() and path.parent == made.encoder for path in report.pictures.values())
    assert (
        "| vision-text | chance |" in report.markdown
        and "| vision-text | × chance |" in report.markdown
        and "24 clips of test people" in report.markdown
    )


def test_the_artifact_serves_others(trained):
    encoder = load_encoder(trained[1].encoder)
    red = np.full((2, 28, 28, 3), LABELS["Red"], np.uint8)
    texts = encoder.embed_text(["something red", "Green", "Blue"])[16]
    assert np.argmax(texts @ encoder.embed_frames(red)[16][0]) == 0


def align_killed_at(death, monkeypatch, config, inputs, made):
    """Train until a step, which never happens."""
    real_step = Trainer.step

    def dying(self, step):
        if step == death:
            raise KeyboardInterrupt
        return real_step(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            align(config, inputs, made)


def test_killed_and_resumed_gives_the_same_bytes(trained, inputs, tmp_path, monkeypatch):
    """Killed in each stage: at step 27 (resumes from 20) and at step 45 (resumes from 40)."""
    work = tmp_path / "work"
    for attempt, death in enumerate((27, 45)):
        align_killed_at(death, monkeypatch, CONFIG, inputs, outputs(tmp_path / str(attempt), work))
    again = outputs(tmp_path / "last", work)
    align(CONFIG, inputs, again)
    assert (again.encoder / WEIGHTS).read_bytes() == (trained[1].encoder / WEIGHTS).read_bytes()


def test_a_damaged_or_foreign_checkpoint_is_refused(inputs, tmp_path, caplog):
    small = CONFIG.model_copy(update={"frame_steps": 2, "clip_steps": 3, "checkpoint_steps": 2})
    first = outputs(tmp_path / "a")
    align(small, inputs, first)
    kept = first.work / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["step-00000002", "step-00000004"]
    newest = kept / "step-00000004" / checkpoint.TENSORS
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    again = outputs(tmp_path / "b", first.work)
    align(small, inputs, again)
    assert "step-00000004 is damaged" in caplog.text and "last good one, step-00000002" in caplog.text
    assert (again.encoder / WEIGHTS).read_bytes() == (first.encoder / WEIGHTS).read_bytes()
    align(small.model_copy(update={"seed": 4}), inputs, outputs(tmp_path / "c", first.work))
    assert "of another configuration" in caplog.text
    assert (tmp_path / "c/encoder" / WEIGHTS).read_bytes() != (first.encoder / WEIGHTS).read_bytes()


def test_a_checkpoint_is_not_gone_on_from_where_the_same_clips_are_called_otherwise(inputs, tmp_path, caplog):
    small = CONFIG.model_copy(update={"frame_steps": 2, "clip_steps": 3, "checkpoint_steps": 2})
    kept, renamed = tmp_path / "work", tmp_path / "renamed"
    align(small, inputs, outputs(tmp_path / "a", kept))
    renamed.mkdir()
    manifest = load_manifest(inputs.recordings)
    save_manifest(manifest.model_copy(update={"captions": {"Red": "a crimson thing"}}), renamed)
    other = AlignmentInputs(inputs.clips, renamed)
    again, fresh = outputs(tmp_path / "b", kept), outputs(tmp_path / "c")
    align(small, other, again)
    assert "other data" in caplog.text and "starts afresh" in caplog.text
    align(small, other, fresh)
    assert (again.encoder / WEIGHTS).read_bytes() == (fresh.encoder / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def unlabelled(inputs, tmp_path_factory) -> AlignmentInputs:
    """Clips whose operation falls between their chosen frames: none of these has a scored label."""
    root = tmp_path_factory.mktemp("unlabelled")
    with ShardWriter(root, "train") as writer:
        for clip in read_clips(inputs.clips, "train"):
            named = clip.meta.model_copy(update={"frame_labels": ("Null",) * len(TIMES)})
            write_clip(writer, dataclasses.replace(clip, meta=named))
    write_index(root, ShardIndex(kind="clips", provenance="synthetic", shards={"train": tuple(writer.records)}))
    return AlignmentInputs(root, inputs.recordings)


def test_frames_without_a_scored_label_are_an_error_where_frames_are_learnt(unlabelled, tmp_path):
    with pytest.raises(InputError, match="none of the chosen frames of 60 training clips"):
        align(CONFIG, unlabelled, outputs(tmp_path / "a"))
    clips_only = CONFIG.model_copy(update={"frame_steps": 0, "clip_steps": 3})
    report = align(clips_only, unlabelled, outputs(tmp_path / "b"))
    assert len(report.curves["loss"]) == 3 and all(math.isfinite(loss) for _, loss in report.curves["loss"])


def test_a_step_smaller_than_the_group_is_an_error(inputs):
    manifest = load_manifest(inputs.recordings)
    train = read_corpus(inputs.clips, "train", manifest, style="timed", audio=False, max_clips=6)
    refuse_too_little(CONFIG.model_copy(update={"clips_per_step": 6}), train, 6)
    with pytest.raises(ConfigError, match="clips_per_step is 5, so 1 of 6 processes"):
        refuse_too_little(CONFIG.model_copy(update={"clips_per_step": 5}), train, 6)
    with pytest.raises(InputError, match="6 usable clips for 7 processes"):
        refuse_too_little(CONFIG, train, 7)


def test_captions_name_what_is_under_way_in_order():
    manifest = Manifest(
        source="segments", provenance="real", split_by="video", labels=("a", "b"), null_label="Null",
        captions={"a": "doing a"}, recordings=(),
    )  # fmt: skip
    say = lambda labels, style="sequence": caption(meta("k", "train", labels, operation="b"), manifest, style)
    assert say(["a", "a", "b", "b", "Null", "Null"]) == "doing a, then b"
    assert say(["a", "a", "b", "a", "a", "a"]) == "doing a", "a single frame is not named, and its neighbours join"
    assert say(["Null"] * 6) == "b"
    assert say(["a"] * 6, "operation") == "b"
    timed = say(["a", "a", "a", "Null", "b", "b"], "timed")
    assert timed == "doing a for a while, then b", "2.5 s and 1.67 s"
    brief = meta("k", "train", ["a", "a", *["b"] * 10], operation="b", frame_times_s=tuple(range(12)))
    assert caption(brief, manifest, "timed") == "briefly doing a, then b for a while"


def test_an_ambiguous_clip_is_named_by_all_its_operations_only():
    manifest = Manifest(
        source="segments", provenance="real", split_by="video", labels=("a", "b"), null_label="Null", captions={},
        recordings=(),
    )  # fmt: skip
    clip = meta("k", "train", ["a"] * 3 + ["b"] * 3, operation="a", ambiguous=True)
    assert [usable(clip, manifest, style) for style in ("operation", "sequence", "timed")] == [False, True, True]
    unscored = meta("k", "train", ["Null"] * 6, operation="Null")
    assert not usable(unscored, manifest, "sequence")


def test_too_few_clips_is_an_error(inputs, tmp_path):
    empty = tmp_path / "clips"
    shutil.copytree(inputs.clips, empty)
    write_index(empty, ShardIndex(kind="clips", provenance="synthetic"))
    with pytest.raises(InputError, match="0 usable clips"):
        align(CONFIG, AlignmentInputs(empty, inputs.recordings), outputs(tmp_path / "out"))


def tone(label: str) -> bytes:
    """A second of a sine, its pitch the label's."""
    pitch = 300 * (1 + list(LABELS).index(label))
    wave_form = (0.5 * 32767 * np.sin(2 * np.pi * pitch * np.arange(16000) / 16000)).astype("<i2")
    encoded = io.BytesIO()
    with wave.open(encoded, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(wave_form.tobytes())
    return encoded.getvalue()


@pytest.fixture(scope="module")
def sounding(inputs, tmp_path_factory) -> AlignmentInputs:
    """Clips of which three in four have a sound that tells the operation."""
    root = tmp_path_factory.mktemp("sounding")
    rng, shards = np.random.default_rng(0), {}
    (root / "clips").mkdir()
    for split, count in (("train", 24), ("test", 12)):
        with ShardWriter(root / "clips", split) as writer:
            for number in range(count):
                clip = make_clip(f"{split}-{number:03d}", split, rng)
                sound = tone(clip.meta.operation) if number % 4 else None
                write_clip(writer, dataclasses.replace(clip, audio_flac=sound))
        shards[split] = tuple(writer.records)
    write_index(root / "clips", ShardIndex(kind="clips", provenance="synthetic", shards=shards))
    return AlignmentInputs(root / "clips", inputs.recordings)


def hearing(**changes) -> AlignmentConfig:
    sound = AudioShape(hidden=16, layers=1, heads=2, num_mel_bins=20, seconds=1.0)
    encoder = ENCODER.model_copy(update={"audio": True, "audio_tower": sound} | changes.pop("encoder", {}))
    small = {"encoder": encoder, "frame_steps": 4, "clip_steps": 6, "clips_per_step": 16, "sound_steps": 8}
    return CONFIG.model_copy(update=small | {"sounds_per_step": 12, "checkpoint_steps": 5} | changes)


@pytest.mark.parametrize("kind", ["concat", "cross", "gated"])
def test_pictures_and_sound_together_are_aligned_with_the_text(kind, sounding, tmp_path):
    made = outputs(tmp_path)
    report = align(hearing(encoder={"fusion": kind}), sounding, made)
    named = {name.removesuffix("_r1_16") for name in report.metrics if name.endswith("_r1_16")}
    assert named == {
        "vision_to_text", "text_to_vision", "audio_to_text", "text_to_audio", "fused_to_text", "text_to_fused",
        "audio_to_vision", "vision_to_audio",
    }  # fmt: skip
    assert {f"{way}_chance_r1" for way in named} <= report.metrics.keys()
    pair = read_json(made.encoder / "figures.json")["recall"]["audio-vision"]["16"]
    assert pair.keys() == {"audio_to_vision", "vision_to_audio"}
    assert report.metrics["audio_to_vision_r5_16"] == pair["audio_to_vision"]["5"]
    model = load_encoder(made.encoder).model
    assert model.config.fusion == kind
    assert any(name.startswith("fusion.") for name in model.state_dict())


def test_sound_learns_and_leaves_pictures_and_texts_as_they_were(sounding, tmp_path):
    deaf, hears = outputs(tmp_path / "deaf"), outputs(tmp_path / "hears")
    seeing = {"frame_steps": 40, "clip_steps": 60}
    untrained = align(hearing(sound_steps=0, **seeing), sounding, deaf)
    report = align(hearing(sound_steps=100, **seeing), sounding, hears)
    assert "not trained" in untrained.markdown and "not trained" not in report.markdown
    before, after = (load_file(made.encoder / WEIGHTS) for made in (deaf, hears))
    changed = {name.partition(".")[0] for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {"audio"}
    assert report.metrics["audio_to_text_r1_16"] > 2 * report.metrics["audio_to_text_chance_r1"]


def test_killed_while_sound_learns_gives_the_same_bytes(sounding, tmp_path, monkeypatch):
    """At step 16 of 18 (resumes from 15), and at step 11, the stage's second (resumes from 10, its first)."""
    whole, work = outputs(tmp_path / "whole"), tmp_path / "work"
    align(hearing(), sounding, whole)
    for attempt, death in enumerate((11, 16)):
        align_killed_at(death, monkeypatch, hearing(), sounding, outputs(tmp_path / str(attempt), work))
    last = outputs(tmp_path / "last", work)
    align(hearing(), sounding, last)
    assert (last.encoder / WEIGHTS).read_bytes() == (whole.encoder / WEIGHTS).read_bytes()


def sound_stage(config, inputs, folder) -> Trainer:
    """A trainer whose next step is the sounds' first."""
    manifest = load_manifest(inputs.recordings)
    train = read_corpus(inputs.clips, "train", manifest, style="timed", audio=True)
    torch.manual_seed(0)
    model = build_model(config.encoder, [*train.captions, *LABELS])
    return Trainer(config, model, train, list(LABELS), folder, "key")


def test_log_mels_are_given_up_for_the_features_of_a_tower_that_stands_still(sounding, tmp_path):
    still = hearing().encoder.audio_tower.model_copy(update={"frozen": True})
    config = hearing(encoder={"audio_tower": still})
    trainer = sound_stage(config, sounding, tmp_path)
    with trainer.parts:
        losses = [trainer.step(config.frame_steps + config.clip_steps + step) for step in range(2)]
    assert all(math.isfinite(loss) for loss in losses)
    assert trainer.hearing.cached is not None and trainer.hearing.mels is None


def test_tokens_that_never_vary_tell_sound_nothing(sounding, tmp_path):
    config = hearing()
    trainer = sound_stage(config, sounding, tmp_path)
    for parameter in trainer.model.vision.projector.parameters():
        parameter.data.zero_()
    with trainer.parts:
        losses = [trainer.step(config.frame_steps + config.clip_steps + step) for step in range(2)]
    assert trainer.hearing.space.spread == 0
    assert all(math.isfinite(loss) for loss in losses)
    assert all(torch.isfinite(weight).all() for weight in trainer.model.state_dict().values())


def test_fusion_without_sound_is_refused():
    with pytest.raises(ValueError, match="audio must be on"):
        EncoderConfig(fusion="gated")
