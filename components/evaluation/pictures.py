"""The pictures of the report: figures beside baselines, confusion, timelines, close-ups, calibration, failures.

One palette throughout: base grey, SFT blue, RFT green, baselines sand; the candidate's bars have an outline.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from components.evaluation.gate import BASELINES
from components.evaluation.scores import Timelines
from components.evaluation.windows import Said, Window
from components.shared.learning.metrics import temporal_iou
from components.shared.learning.timeline import NO_LABEL

COLOURS = {"base": "#9aa0a6", "sft": "#3b78b5", "rft": "#2f8f5b"}
SAND = ("#efe0c2", "#e3cda4", "#d3b783", "#bf9f66", "#a88850")
TITLES = {"base": "base", "sft": "SFT", "rft": "RFT"}
FIGURES = (
    ("oca", "OCA"),
    ("aa1", "AA@1"),
    ("tiou50", "tIoU@0.5\n(boundary windows)"),
    ("timeline_f1", "timeline F1\n(1 Hz)"),
)
NOTHING = "#f4f4f2"
DPI = 110


def label_colours(count: int) -> list[tuple[float, float, float]]:
    """One distinct colour a label."""
    if count <= 10:
        return [mpl.colormaps["tab10"](i)[:3] for i in range(count)]
    return [mpl.colormaps["hsv"](i / count)[:3] for i in range(count)]


def bare(axis: Axes) -> None:
    """Without the box's upper and right line."""
    axis.spines[["top", "right"]].set_visible(False)


def value_of(measured: Mapping[str, Any], kind: str, name: str, key: str) -> Mapping[str, Any] | None:
    """A figure of a policy or baseline, None where it has none."""
    found = measured[kind][name]
    item = (found if kind == "baselines" else found["figures"]).get(key)
    return item if item is not None and item["value"] is not None else None


def bars(measured: Mapping[str, Any], path: Path) -> None:
    """Every figure of every policy beside every baseline, with intervals."""
    shown = [(key, title) for key, title in FIGURES if measured["figures"][key]["value"] is not None]
    columns = [("baselines", name, BASELINES[name]) for name in BASELINES]
    columns += [("policies", name, TITLES[name]) for name in measured["policies"]]
    figure = Figure(figsize=(2.9 * len(shown) + 1.6, 4.3), layout="constrained")
    axis = figure.subplots()
    width = 0.88 / len(columns)
    used: dict[str, Patch] = {}
    for position, (key, _) in enumerate(shown):
        there = [column for column in columns if value_of(measured, *column[:2], key) is not None]
        for slot, (kind, name, title) in enumerate(there):
            item = value_of(measured, kind, name, key)
            assert item is not None
            colour = COLOURS[name] if kind == "policies" else SAND[list(BASELINES).index(name)]
            x = position + (slot - (len(there) - 1) / 2) * width
            edge = "#202020" if kind == "policies" and name == measured["candidate"] else "white"
            hatch = "///" if name == "bigram_from_truth" else None
            axis.bar(x, item["value"], width, color=colour, edgecolor=edge, linewidth=1.3, hatch=hatch, zorder=2)
            used[title] = Patch(facecolor=colour, edgecolor=edge, hatch=hatch, label=title)
            top = item["value"]
            if item["low"] is not None:
                axis.vlines(x, item["low"], item["high"], color="#303030", linewidth=1.2, zorder=3)
                top = item["high"]
            axis.text(x, top + 0.012, f"{item['value']:.2f}".lstrip("0"), ha="center", fontsize=7.5, color="#303030")
    axis.set_xticks(range(len(shown)), [title for _, title in shown])
    axis.set_ylim(0, 1.08)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.grid(axis="y", alpha=0.25, zorder=0)
    bare(axis)
    axis.legend(
        handles=list(used.values()),
        frameon=False,
        fontsize=8.5,
        ncols=3,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
    )
    axis.set_title(
        f"{measured['num_windows']} windows of {measured['num_sessions']} sessions never seen in training; "
        f"lines: {measured['level']:.0%} intervals; outlined: candidate",
        fontsize=10, loc="left",
    )  # fmt: skip
    figure.savefig(path, dpi=DPI)


def confusion(labels: Sequence[str], matrix: np.ndarray, path: Path) -> None:
    """Row-normalised confusion of operations; the last column is unreadable answers where there are any."""
    columns = [*labels, "(unreadable)"] if matrix[:, -1].any() else list(labels)
    shown = matrix[:, : len(columns)]
    share = shown / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.48 * len(labels)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(shown > 0):
        dark = share[row, column] > 0.55
        axis.text(
            column,
            row,
            str(shown[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "#303030",
        )
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8.5)
    axis.set_yticks(
        range(len(labels)), [f"{name} ({n})" for name, n in zip(labels, matrix.sum(axis=1), strict=True)], fontsize=8.5
    )
    axis.set_xlabel("answered")
    axis.set_ylabel("true operation (windows)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.savefig(path, dpi=DPI)


def strips(lines: Mapping[str, Timelines], labels: Sequence[str], count: int, path: Path) -> bool:
    """Timelines of some recordings: truth above, what each policy said below; False where there are none."""
    any_line = next(iter(lines.values()))
    names = any_line.names
    chosen = [int(i) for i in dict.fromkeys(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]
    if not chosen:
        return False
    colours = np.array([*label_colours(len(labels)), mpl.colors.to_rgb(NOTHING)])
    rows = ["truth", *lines]
    figure = Figure(figsize=(11.5, 0.55 + 0.95 * len(chosen)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(chosen), 1))
    for axis, index in zip(axes, chosen, strict=True):
        series = [any_line.truth[index], *(line.given[index] for line in lines.values())]
        seconds = len(series[0]) / any_line.hz
        axis.imshow(
            colours[np.stack(series)], aspect="auto", interpolation="nearest", extent=(0, seconds, len(rows), 0)
        )
        axis.hlines(range(1, len(rows)), 0, seconds, color="white", linewidth=1.6)
        axis.axhline(1, color="white", linewidth=4)
        axis.set_yticks(np.arange(len(rows)) + 0.5, [TITLES.get(row, row) for row in rows], fontsize=7.5)
        kept = series[0] != NO_LABEL
        right = [float((s[kept] == series[0][kept]).sum() / max(1, kept.sum())) for s in series[1:]]
        axis.set_title(
            f"{names[index]}   right: " + ", ".join(f"{TITLES[n]} {r:.0%}" for n, r in zip(lines, right, strict=True)),
            fontsize=8.5, loc="left", pad=3,
        )  # fmt: skip
        axis.tick_params(length=0, labelsize=7.5)
        axis.spines[:].set_visible(False)
    axes[-1].set_xlabel("seconds", fontsize=9)
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, labels, strict=False)]
    handles.append(Patch(facecolor=NOTHING, edgecolor="#c0c0c0", label="not scored / nothing said"))
    figure.legend(handles=handles, frameon=False, fontsize=8, ncols=min(6, len(handles)), loc="outside lower center")
    figure.savefig(path, dpi=DPI)
    return True


def closeups(measured: Mapping[str, Any], path: Path) -> bool:
    """Close-up accuracy and looking, greedy and sampled, per policy; False where there are no such questions."""
    found = {name: item for name, item in measured["policies"].items() if item["closeup_greedy"]}
    if not found:
        return False
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    for axis, (key, title) in zip(
        figure.subplots(1, 2), (("accuracy", "right answer"), ("right_look", "looked at the evidence")), strict=True
    ):
        for slot, (mode, shade) in enumerate((("closeup_greedy", 1.0), ("closeup_sampled", 0.55))):
            for position, (name, item) in enumerate(found.items()):
                if not item[mode]:
                    continue
                x = position + (slot - 0.5) * 0.38
                axis.bar(x, item[mode][key], 0.36, color=COLOURS[name], alpha=shade)
                axis.text(x, item[mode][key] + 0.015, f"{item[mode][key]:.2f}", ha="center", fontsize=8)
        if key == "accuracy":
            chance = next(iter(found.values()))["closeup_greedy"]["chance"]
            axis.axhline(chance, color="#b04030", linestyle="--", linewidth=1.2, label=f"chance {chance:.2f}")
            axis.legend(loc="upper left", frameon=False, fontsize=8, labelcolor="#b04030")
        axis.set_xticks(range(len(found)), [TITLES[name] for name in found])
        axis.set_ylim(0, 1.08)
        axis.set_title(f"{title} (dark: greedy, light: sampled)", fontsize=10, loc="left")
        bare(axis)
    figure.savefig(path, dpi=DPI)
    return True


def reliability(measured: Mapping[str, Any], path: Path) -> None:
    """How sure the candidate is against how right it is."""
    found = measured["policies"][measured["candidate"]]["calibration"]
    panels = [("answer", "whole answer, by its probability")]
    panels += [("vote", "operation, by the samples' vote share")] if "bins_vote" in found else []
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axis, (key, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        bins = np.array(found[f"bins_{key}"]).reshape(-1, 3)
        axis.plot([0, 1], [0, 1], ":", color="#909090")
        axis.scatter(
            bins[:, 0], bins[:, 1], s=12 + 260 * bins[:, 2] / max(1, bins[:, 2].sum()), color=COLOURS["sft"], alpha=0.8
        )
        axis.set_title(f"{title}: ECE {found[f'ece_{key}']:.3f}", fontsize=10, loc="left")
        axis.set(xlabel="confidence", ylabel="share right", xlim=(-0.03, 1.03), ylim=(-0.03, 1.05))
        bare(axis)
    figure.savefig(path, dpi=DPI)


def failures(windows: Sequence[Window], said: Sequence[Said], count: int, path: Path) -> int:
    """Windows whose operation the candidate got wrong, with frames; how many are shown."""
    wrong = [(w, s) for w, s in zip(windows, said, strict=True) if w.scored and s.answer.operation != w.truth.operation]
    if not wrong or count == 0:
        return 0
    chosen = [wrong[i] for i in dict.fromkeys(np.linspace(0, len(wrong) - 1, min(count, len(wrong))).astype(int))]
    figure = Figure(figsize=(12.5, 1.42 * len(chosen)))
    grid = figure.subplots(len(chosen), 2, squeeze=False, width_ratios=[5.6, 2])
    for (left, right), (window, answer) in zip(grid, chosen, strict=True):
        left.imshow(film_strip(window))
        left.set_axis_off()
        right.set_axis_off()
        right.text(
            0, 0.95, failure_text(window, answer), va="top", fontsize=8, linespacing=1.35, transform=right.transAxes
        )
    figure.subplots_adjust(left=0.005, right=0.995, top=0.995, bottom=0.005, wspace=0.01, hspace=0.08)
    figure.savefig(path, dpi=DPI)
    return len(chosen)


def film_strip(window: Window, *, num_frames: int = 6, width: int = 200) -> np.ndarray:
    """Frames of a window side by side, their times written on them: uint8 RGB."""
    import cv2

    times, pieces = window.meta.frame_times_s, []
    for index in np.linspace(0, len(times) - 1, num_frames).astype(int):
        frame = window.clip.source_frame(int(index))
        frame = cv2.resize(frame, (width, round(frame.shape[0] * width / frame.shape[1])), interpolation=cv2.INTER_AREA)
        cv2.rectangle(frame, (0, 0), (52, 20), (20, 20, 20), -1)
        cv2.putText(
            frame, f"{times[index]:.1f} s", (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
        )
        pieces += [frame, np.full((frame.shape[0], 6, 3), 255, np.uint8)]
    return np.concatenate(pieces[:-1], axis=1)


def failure_text(window: Window, said: Said) -> str:
    """Truth and answer of a window in a few short lines."""
    truth, answer = window.truth, said.answer
    lines = [f"{window.meta.recording_id}, from {window.meta.start_s:.1f} s", f"true: {sentence(truth)}"]
    if answer.valid:
        lines.append(f"said: {sentence(answer)}")
        lines.append(f"tIoU {temporal_iou(truth.segment_s, answer.segment_s):.2f}, probability {said.confidence:.2f}")
    else:
        lines.append(f"unreadable: {said.text[:60]!r}")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 42, subsequent_indent="   "))


def sentence(answer: Any) -> str:
    """`Picking 0.3–3.7 s, then Scan Label`."""
    start, end = answer.segment_s
    return f"{answer.operation} {start:.1f}–{end:.1f} s, then {answer.next_operation or 'nothing'}"
