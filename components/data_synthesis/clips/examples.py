"""Pictures for people: examples of clips, and a sampler's signal over time with what it chose."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.data_synthesis.clips.config import ClipsConfig
from components.shared.runtime.artifacts import atomic_write
from components.shared.samples.clip import Clip
from components.shared.samples.clip_shards import read_clips
from components.shared.samples.jpeg import encode_jpeg
from components.shared.video.labelling import Timeline
from components.shared.video.samplers import SAMPLERS, make_sampler
from components.shared.work.manifest import Manifest

EXAMPLES = "examples"
SHOWN_FRAMES = 4
SHEET_CLIPS = 6
FONT, FONT_SCALE, BAND = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 26
"""Letters on the sheet, and the height in pixels of the band that they stand in."""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Example clips</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2em auto;padding:0 1em;max-width:1000px}}
figure{{margin:0 0 2em}}img{{max-width:100%}}</style>
<h1>Example clips</h1><p>Four of each clip's chosen frames as the source has them, and below all of them as the
policy sees them. A training window is cut before, across or after a boundary, or at random; the others slide.</p>{body}
"""


def pick_examples(artifact: Path, count: int) -> list[Clip]:
    """Clips of different splits and labels: the first of each in reading order, then further ones."""
    picked: list[Clip] = []
    per_split = -(-count // 4)
    for split in ("train", "test", "validation", "canary"):
        seen: Counter[str] = Counter()
        quota = per_split if split != "canary" else count - len(picked)
        for clip in read_clips(artifact, split):
            if quota == 0:
                break
            if seen[clip.meta.operation] == 0 or sum(seen.values()) > 200:
                picked.append(clip)
                quota -= 1
            seen[clip.meta.operation] += 1
    return picked[:count]


def draw_clip(clip: Clip) -> np.ndarray:
    """A clip as one picture, uint8 RGB: some source frames in a row, all views in a row below."""
    total = len(clip.meta.frame_times_s)
    shown = sorted({round(i * (total - 1) / (SHOWN_FRAMES - 1)) for i in range(SHOWN_FRAMES)})
    frames = [clip.source_frame(index) for index in shown]
    height = 168
    row = np.concatenate([cv2.resize(f, (round(f.shape[1] * height / f.shape[0]), height)) for f in frames], axis=1)
    views = np.concatenate(list(clip.view_frames), axis=1)
    views = cv2.resize(views, (row.shape[1], max(1, round(views.shape[0] * row.shape[1] / views.shape[1]))))
    return np.concatenate([row, views])


def write_examples(artifact: Path, config: ClipsConfig) -> Path:
    """Write examples/index.html with its pictures; returns a contact sheet (PNG)."""
    folder = artifact / EXAMPLES
    folder.mkdir(exist_ok=True)
    body, drawings = [], []
    clips = pick_examples(artifact, config.num_examples)
    for clip in clips:
        meta = clip.meta
        drawing = draw_clip(clip)
        drawings.append(drawing)
        name = f"{meta.split}-{meta.clip_id}.jpg"
        (folder / name).write_bytes(encode_jpeg(drawing, quality=85))
        text = (
            f"<b>{html.escape(meta.operation)}</b> from {meta.segment_s[0]:.2f} to {meta.segment_s[1]:.2f} s, then "
            f"<b>{html.escape(meta.next_operation or 'nothing')}</b>{' (ambiguous)' if meta.ambiguous else ''}"
            f"<br>{meta.split}, {meta.window} window of {html.escape(meta.recording_id)} at {meta.start_s:.2f} s"
            f"{f', {meta.padded_s:.2f} s padded' if meta.padded_s else ''}; labels of the frames: "
            f"{html.escape(' · '.join(label or '–' for label in meta.frame_labels))}"
        )
        alt = f"frames of {html.escape(meta.clip_id)}"
        body.append(f'<figure><img alt="{alt}" src="{name}"><figcaption>{text}</figcaption></figure>')
    atomic_write(folder / "index.html", PAGE.format(body="".join(body)))
    width = max((drawing.shape[1] for drawing in drawings), default=1)
    rows = [labelled(drawing, label_of(clip), width) for drawing, clip in zip(drawings[:SHEET_CLIPS], clips)]
    path = folder / "sheet.png"
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows or [np.zeros((1, 1, 3), np.uint8)]), cv2.COLOR_RGB2BGR))
    return path


def label_of(clip: Clip) -> str:
    """What a clip shows, in one line: its answer, then where it is from."""
    meta = clip.meta
    return (
        f"{meta.operation} from {meta.segment_s[0]:.2f} to {meta.segment_s[1]:.2f} s, then "
        f"{meta.next_operation or 'nothing'} ({meta.split}, {meta.recording_id} at {meta.start_s:.2f} s)"
    )


def labelled(drawing: np.ndarray, text: str, width: int) -> np.ndarray:
    """The picture under a white band with its label, as wide as the sheet, uint8 RGB (height, width, 3)."""
    band = np.full((BAND, width, 3), 255, np.uint8)
    needed = cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]
    scale = FONT_SCALE * min(1.0, (width - 8) / max(1, needed))
    cv2.putText(band, text, (4, BAND - 8), FONT, scale, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([band, np.pad(drawing, ((0, 0), (0, width - drawing.shape[1]), (0, 0)), constant_values=255)])


def draw_sampler_plot(manifest: Manifest, plotted: dict[str, Any], config: ClipsConfig, path: Path) -> None:
    """Entropy over a recording's first seconds, frames chosen by entropy and uniform, and annotated boundaries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    recording = next(r for r in manifest.recordings if r.recording_id == plotted["recording_id"])
    timeline = Timeline(recording.segments, manifest.null_label, recording.duration_s)
    raw = np.asarray(plotted["values"])[: 4 * config.window_frames]
    smoothed = make_sampler("entropy").signal(raw)
    times = np.arange(len(raw)) / config.fps
    figure, axes = pyplot.subplots(figsize=(11, 3.6))
    axes.plot(times, raw, color="0.75", linewidth=0.8, label="entropy")
    axes.plot(times, smoothed, color="tab:blue", linewidth=1.2, label="entropy, smoothed")
    low, high = float(smoothed.min()), float(smoothed.max())
    marks = {"entropy": ("tab:red", 1.06), "uniform": ("tab:green", 1.14)}
    for name, (colour, level) in marks.items():
        sampler = SAMPLERS[name](config.min_gap)
        chosen = [
            (start + index) / config.fps
            for start in range(0, len(raw) - config.window_frames + 1, config.window_frames)
            for index in sampler.select(raw[start : start + config.window_frames], config.num_frames).indices
        ]
        y = low + level * (high - low + 1e-6)
        axes.plot(chosen, [y] * len(chosen), "|", color=colour, markersize=9, label=f"chosen by {name}")
    for boundary in timeline.boundaries():
        if boundary <= times[-1]:
            axes.axvspan(boundary - 0.5, boundary + 0.5, color="orange", alpha=0.15)
            axes.axvline(boundary, color="tab:orange", linewidth=0.8)
    axes.set(
        xlabel="seconds",
        ylabel="entropy of a frame, bits",
        title=f"{recording.recording_id}: entropy and boundaries (±0.5 s)",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
