"""`stat --html`: one self-contained page; sources, priorities, ages, and what the neighbours of one experience look
like."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.runtime.page import STYLE, inline_png
from components.ttrl.buffer.buffer import ExperienceBuffer
from components.ttrl.buffer.errors import ExperienceBufferError
from components.ttrl.buffer.lock import describe_owner
from components.ttrl.buffer.query import Neighbour
from components.ttrl.buffer.tools.inspect import stat
from components.ttrl.buffer.tools.opening import view

SHOWN = 8
SCATTERED = 2000
COLOURS = [f"C{i}" for i in range(10) if i != 7]
"""Of the most frequent labels in the picture; C7 is grey, as the rest is."""
SHOWN_NUMBERS = {
    "records": "records", "frames": "frames", "live_bytes": "in force", "disk_bytes": "log on disk with its spare room",
    "segments": "segments", "sequence": "last sequence number", "oldest_age_s": "oldest", "dimension": "dimension",
    "adapter": "adapter", "index": "index", "recovery": "recovery", "sources": "sources", "last_owner": "last owner",
}  # fmt: skip
"""What a view knows; queue, latencies and the like are the owner's (see its metrics)."""
MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}


def stat_page(directory: Path, *, identity: str = "") -> str:
    """The page as HTML.

    Args:
        directory: The buffer.
        identity: Whose neighbours to show; by default those of the newest record.
    """
    numbers = stat(directory)
    with view(directory) as buffer:
        ids = buffer.ids()
        parts = [f"<h1>Experience buffer {html.escape(directory.name)}</h1>", _table(numbers)]
        if ids:
            chosen = identity or ids[-1]
            vector = _vector(buffer, chosen)
            near = buffer.search_knn(vector, SHOWN + 1)
            parts += [
                "<h2>Sources, priorities, ages</h2>",
                inline_png(_overview(buffer, numbers), "sources, priorities, ages"),
                f"<h2>Neighbours of {html.escape(chosen)}</h2>",
                inline_png(_scatter(buffer, near), "records in the plane of their two main directions"),
                _neighbours(buffer, near),
            ]  # fmt: skip
    head = f"<meta charset=utf-8><title>Experience buffer</title><style>{STYLE}td img{{max-width:96px}}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _table(numbers: dict[str, Any]) -> str:
    rows = []
    for name, title in SHOWN_NUMBERS.items():
        value = numbers[name]
        if name == "last_owner":
            text = describe_owner(value) if value else "none"
        elif name.endswith("_bytes"):
            text = f"{value / 2**20:,.1f} MiB"
        elif name.endswith("_age_s"):
            text = f"{value / 86_400:.1f} days"
        elif isinstance(value, dict):
            text = ", ".join(f"{key} {_short(item)}" for key, item in list(value.items())[:12])
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        rows.append(f"<tr><td>{title}</td><td>{html.escape(text)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _cut(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _vector(buffer: ExperienceBuffer, identity: str) -> np.ndarray:
    experience = buffer.get(identity)
    return buffer.hybrid(experience.visual, experience.text)


def _overview(buffer: ExperienceBuffer, numbers: dict[str, Any]) -> bytes:
    plt = _pyplot()
    rows = buffer._state.rows
    live = rows.live()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    top = list(numbers["sources"].items())[:12][::-1]
    axes[0].barh([_cut(name) or "(none)" for name, _ in top], [count for _, count in top])
    axes[0].set_title("records by source")
    axes[1].hist(buffer._selection.weights(live), bins=40)
    axes[1].set(title="priority", ylabel="records")
    axes[2].hist((buffer.clock() - rows.created[live]) / 3600, bins=40)
    axes[2].set(title="age, hours", ylabel="records")
    return _png(figure)


def _scatter(buffer: ExperienceBuffer, near: list[Neighbour]) -> bytes:
    plt = _pyplot()
    state = buffer._state
    live = state.rows.live()
    step = max(1, len(live) // SCATTERED)
    shown = live[::step]
    matrix = state.vectors.read(shown)
    centre = matrix.mean(0)
    _, _, directions = np.linalg.svd(matrix - centre, full_matrices=False)
    plane = directions[:2].T
    points = (matrix - centre) @ plane
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    groups = label_groups(state.rows.label[shown], state.rows.names["label"].texts)
    for order, (name, mask) in reversed(list(enumerate(groups))):  # the rest lies below what is named
        axis.scatter(
            points[mask, 0], points[mask, -1], s=8, color=(*COLOURS, "0.8")[order], alpha=0.6, label=legend_text(name)
        )
    for order, neighbour in enumerate(near):
        place = (_vector(buffer, neighbour.id) - centre) @ plane
        axis.plot(
            place[0], place[-1], "ks" if order == 0 else "ko", markersize=9 if order == 0 else 6, fillstyle="none"
        )
    axis.set_title("square: the experience; circles: its neighbours")
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right upper", title="label", fontsize=8, markerscale=2)
    return _png(figure)


def label_groups(labels: np.ndarray, texts: Sequence[str | None]) -> list[tuple[str, np.ndarray]]:
    """The most frequent labels and the rest, each with its name in the legend and the mask of its records.

    Args:
        labels: (n,) number of each record's label.
        texts: Text of each number.
    """
    codes, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    codes, counts = codes[order], counts[order]
    groups = [(f"{_cut(texts[code] or '') or '(none)'} ({count})", labels == code)
              for code, count in zip(codes[: len(COLOURS)], counts)]  # fmt: skip
    if len(codes) > len(COLOURS):
        rest = codes[len(COLOURS) :]
        groups.append((f"{len(rest)} others ({counts[len(COLOURS) :].sum()})", np.isin(labels, rest)))
    return groups


def legend_text(name: str) -> str:
    """A name as matplotlib shows it unchanged: it hides what begins with an underscore, and dollars are formulas."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _neighbours(buffer: ExperienceBuffer, near: list[Neighbour]) -> str:
    rows = ["<tr><th>similarity<th>label<th>confidence<th>reward<th>source<th>question<th>first frame</tr>"]
    for neighbour in near:
        experience = buffer.get(neighbour.id)
        image = _image(buffer, experience.frames[0]) if experience.frames else ""
        cells = [f"{neighbour.similarity:.3f}", html.escape(neighbour.label), f"{neighbour.confidence:.2f}",
                 f"{neighbour.reward:.2f}", html.escape(neighbour.source), html.escape(experience.question[:120]),
                 image]  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _image(buffer: ExperienceBuffer, digest: str) -> str:
    try:
        data = buffer.frame(digest)
    except ExperienceBufferError as error:
        return html.escape(type(error).__name__)
    kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "")
    if not kind:
        return f"{len(data)} bytes"
    return f'<img alt="first frame" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    _pyplot().close(figure)
    return stream.getvalue()
