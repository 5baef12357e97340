"""The report of the alignment step: figures on unseen people, a picture, and the lines shown in the UI."""

from __future__ import annotations

import math
from pathlib import Path

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import read_corpus
from components.alignment.features import frame_features
from components.alignment.measure import KS, Interval, Intervals, Recall, plot, recall, ways_of, zero_shot
from components.shared.encoders.model import AlignmentModel
from components.shared.runtime.artifacts import write_json
from components.shared.runtime.report import Report
from components.shared.work.manifest import Manifest


def measured(
    config: AlignmentConfig,
    model: AlignmentModel,
    clips: Path,
    target: Path,
    manifest: Manifest,
    curve: list[tuple[float, float]],
    metrics: dict[str, float],
) -> Report:
    """Figures on the test people (the validation people where there is no test split)."""
    report = Report(provenance=manifest.provenance, metrics=dict(metrics), curves={"loss": curve})
    report.metrics["temperature"] = math.exp(-float(model.log_scale.detach()))
    for split in ("test", "validation"):
        corpus = read_corpus(clips, split, manifest, style=config.captions, audio=config.encoder.audio)
        if len(corpus):
            break
    else:
        report.markdown = "# Alignment\n\nNo test and no validation clips: trained, but nothing could be measured.\n"
        return report
    features = frame_features(model, corpus.frames)
    found, gallery = recall(model, corpus, features)
    frames = zero_shot(model, corpus, features, manifest)
    picture = target / "recall.png"
    clips_at = 0 if config.encoder.vision_tower.frozen else config.frame_steps
    sounds_at = clips_at + config.clip_steps
    heard = len(curve) > sounds_at
    plot(found, gallery, curve, [clips_at, sounds_at] if heard else [clips_at], picture)
    report.pictures["Recall of unseen people's clips by embedding width"] = picture
    report.metrics |= scalars(found, gallery, frames)
    report.confusion = (list(manifest.labels), frames["confusion"].tolist())  # type: ignore[attr-defined]
    figures = {"split": split, "recall": found, "gallery": gallery, "frame_accuracy": frames["accuracy"]}
    write_json(target / "figures.json", figures)
    report.facts = {"split": split, "widths": list(config.encoder.widths), "num_captions": gallery["num_captions"]}
    report.markdown = summary(split, found, gallery, frames, metrics)
    if config.encoder.audio and not heard:
        report.markdown += "\nThe sound tower is not trained (no sound in the training clips, or no `sound_steps`).\n"
    if config.encoder.audio and "audio-text" not in found:
        report.markdown += f"\nThe {split} clips have no sound: nothing is measured of it.\n"
    return report


def scalars(found: Recall, gallery: dict[str, object], frames: dict[str, object]) -> dict[str, float]:
    """Figures by flat name for KFP and MLflow."""
    chance: dict[str, dict[str, dict[int, float]]] = gallery["chance"]  # type: ignore[assignment]
    flat = {
        f"{way}_r{k}_{width}": share
        for widths in found.values()
        for width, ways in widths.items()
        for way, shares in ways.items()
        for k, share in shares.items()
    }
    flat |= {
        f"{way}_chance_r{k}": share
        for ways in chance.values()
        for way, shares in ways.items()
        for k, share in shares.items()
    }
    flat["frame_zero_shot_accuracy"] = frames["accuracy"]  # type: ignore[assignment]
    flat["frame_majority_share"] = frames["majority"]  # type: ignore[assignment]
    flat["num_test_clips"], flat["num_captions"] = float(gallery["num_items"]), float(gallery["num_captions"])  # type: ignore[arg-type]
    return flat


def summary(
    split: str, found: Recall, gallery: dict[str, object], frames: dict[str, object], metrics: dict[str, float]
) -> str:
    """The step in a few lines."""
    chance: dict[str, dict[str, dict[int, float]]] = gallery["chance"]  # type: ignore[assignment]
    intervals: Intervals = gallery["intervals"]  # type: ignore[assignment]
    head = " | ".join(f"→ R@{k}" for k in KS) + " | " + " | ".join(f"← R@{k}" for k in KS)
    lines = [
        "# Alignment",
        "",
        f"Trained on {metrics['num_train_clips']:.0f} clips in {metrics['seconds']:.0f} s. Measured on "
        f"{gallery['num_items']} clips of {split} people never seen, against {gallery['num_captions']} distinct"
        " captions (with few captions this is class recall). In brackets: 95 %, over people where clips ask and over"
        " captions where captions ask; × chance is that of the full width.",
        "",
        "R@k: share of queries whose partner is among the k nearest; → the pair's first asks for its second, ← the"
        " other way round; width: how many of the embedding's numbers are used.",
        "",
        f"| pair | width | {head} |",
        "|---|---|" + "---|" * (2 * len(KS)),
    ]
    for pair, widths in found.items():
        cells = [(way, k) for way in ways_of(pair) for k in KS]
        for width, ways in widths.items():
            ends = intervals[pair][width]
            shown = [cell(ways[way][k], ends[way][k]) for way, k in cells]
            lines.append(f"| {pair} | {width} | {' | '.join(shown)} |")
        by_chance = [f"{chance[pair][way][k]:.4f}" for way, k in cells]
        lines.append(f"| {pair} | chance | {' | '.join(by_chance)} |")
        times = [f"{ways[way][k] / chance[pair][way][k]:.1f}" for way, k in cells]  # of the last, the full width
        lines.append(f"| {pair} | × chance | {' | '.join(times)} |")
    lines.append("")
    lines.append(
        f"Single frames named by the nearest phrase: accuracy {frames['accuracy']:.3f} "
        f"(majority label {frames['majority']:.3f})."
    )
    return "\n".join(lines) + "\n"


def cell(share: float, ends: Interval) -> str:
    """A recall with its interval, where there is one."""
    return f"{share:.3f}" if ends is None else f"{share:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
