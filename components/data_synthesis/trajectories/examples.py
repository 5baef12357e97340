"""Examples that a person can read: examples/index.html with pictures, and one PNG for the report."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np

from components.data_synthesis.trajectories.shard_work import Made
from components.shared.runtime.artifacts import sha256_bytes
from components.shared.samples.jpeg import decode_jpeg, encode_jpeg

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#1c1e21}
article{border-top:1px solid #d0d4da;padding:1em 0}img{max-width:100%;image-rendering:pixelated}
code{background:#f5f6f8;padding:.1em .3em}.skip{color:#a33}h2{font-size:1.1em;margin:0}"""
RED = (230, 40, 40)
SHEET_WIDTH, ROW_HEIGHT, PICTURE_WIDTH, TEXT_WIDTH, GAP, LINE = 1180, 224, 320, 400, 8, 22
"""Pixels of the sheet: its width, a row's least height, a picture's most and the text's least width, gaps, lines."""
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def choose(made: Sequence[Made], count: int) -> list[Made]:
    """Up to `count` examples, the kinds in turn, those whose source frame was kept first, scattered over recordings."""
    groups: dict[str, list[Made]] = {}
    for item in sorted(made, key=lambda m: (not m.scene_jpeg, sha256_bytes(m.trajectory.trajectory_id.encode()))):
        groups.setdefault(f"{item.trajectory.question.kind} {item.trajectory.kind}", []).append(item)
    chosen: list[Made] = []
    while len(chosen) < count and any(groups.values()):
        for name in sorted(groups):
            if groups[name] and len(chosen) < count:
                chosen.append(groups[name].pop(0))
    return chosen


def write_examples(chosen: Sequence[Made], folder: Path) -> Path | None:
    """Write index.html with its pictures and sheet.png; returns the sheet, None without examples."""
    folder.mkdir(parents=True, exist_ok=True)
    articles = []
    sheets: list[np.ndarray] = []
    for number, item in enumerate(chosen):
        pictures = {"view": view_strip(item), **({"scene": scene(item)} if item.scene_jpeg else {})}
        pictures |= {name: decode_jpeg(data) for name, data in item.images.items()}
        for name, picture in pictures.items():
            (folder / f"{number:02d}-{name}.jpg").write_bytes(encode_jpeg(picture, quality=90))
        articles.append(article(number, item, pictures))
        if item.scene_jpeg and len(sheets) < 6:
            sheets.append(row(item, pictures))
    meta = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head = f"{meta}<title>Trajectories</title><style>{STYLE}</style>"
    body = f"<h1>{len(chosen)} trajectories</h1>" + "".join(articles)
    (folder / "index.html").write_text(f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n")
    if not sheets:
        return None
    path = folder / "sheet.png"
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(sheets), cv2.COLOR_RGB2BGR))
    return path


def view_strip(item: Made) -> np.ndarray:
    """The policy's frames side by side, uint8 RGB."""
    strip = decode_jpeg(item.view_jpeg)
    frames = strip.reshape(len(item.trajectory.frame_times_s), -1, strip.shape[1], 3)
    return np.concatenate(list(frames), axis=1)


def scene(item: Made) -> np.ndarray:
    """The source frame with every zoomed box drawn, numbered by turn."""
    picture = decode_jpeg(item.scene_jpeg)
    height, width = picture.shape[:2]
    for number, (_, (x0, y0, x1, y1)) in enumerate(item.boxes):
        left, top = round(x0 * width / 1000), round(y0 * height / 1000)
        right, bottom = round(x1 * width / 1000) - 1, round(y1 * height / 1000) - 1
        cv2.rectangle(picture, (left, top), (right, bottom), RED, 2)
        cv2.putText(picture, str(number + 1), (left + 4, top + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, RED, 1, cv2.LINE_AA)
    return picture


def article(number: int, item: Made, pictures: dict[str, np.ndarray]) -> str:
    """One example as HTML."""
    trajectory = item.trajectory
    parts = [
        f"<h2>{number + 1}. {trajectory.question.kind}, {trajectory.kind}, {trajectory.stage}</h2>",
        f"<p>{html.escape(trajectory.trajectory_id)} ({trajectory.provenance}, thoughts by {trajectory.author})</p>",
        f'<img alt="policy view" src="{number:02d}-view.jpg">',
        f"<p><b>{html.escape(trajectory.question.text)}</b></p><ol>",
    ]
    for turn in trajectory.turns:
        said = [f"<i>{html.escape(turn.thought)}</i>"] if turn.thought else []
        if turn.call:
            said.append(f"<code>{html.escape(json.dumps(turn.call.model_dump(mode='json')))}</code>")
        if turn.result:
            said.append(f"&rarr; {html.escape(turn.result.text)}")
            if turn.result.image:
                said.append(f'<br><img alt="crop" src="{number:02d}-{turn.result.image}.jpg">')
        if turn.answer:
            said.append(f"<code>{html.escape(json.dumps(turn.answer))}</code>")
        said.append("" if turn.learn else '<span class="skip">shown, not imitated</span>')
        parts.append(f"<li>{' '.join(said)}</li>")
    truth = html.escape(json.dumps(trajectory.question.truth))
    parts.append(f"</ol><p>Truth: <code>{truth}</code></p>")
    if "scene" in pictures:
        parts.append(f'<img alt="source frame with the zoomed boxes" src="{number:02d}-scene.jpg">')
    return f"<article>{''.join(parts)}</article>"


def row(item: Made, pictures: dict[str, np.ndarray]) -> np.ndarray:
    """One row of the sheet: source frame, crops, the whole text; uint8 RGB (height, SHEET_WIDTH, 3)."""
    shown = [picture for name, picture in pictures.items() if name != "view"]
    shapes = np.array([picture.shape[:2] for picture in shown], float).reshape(-1, 2)
    shapes *= np.minimum(ROW_HEIGHT / shapes[:, 0], PICTURE_WIDTH / shapes[:, 1])[:, None]
    room = SHEET_WIDTH - TEXT_WIDTH - GAP * len(shown)
    shapes *= min(1.0, room / max(1.0, shapes[:, 1].sum()))
    left = round(shapes[:, 1].sum()) + GAP * (len(shown) + 1)
    lines = [part for text in said(item) for part in wrapped(text, SHEET_WIDTH - left - GAP)]
    canvas = np.full((max(ROW_HEIGHT, LINE * (len(lines) + 1)), SHEET_WIDTH, 3), 255, np.uint8)
    at = 0
    for picture, (height, width) in zip(shown, np.maximum(1, shapes.astype(int)), strict=True):
        canvas[:height, at : at + width] = cv2.resize(picture, (width, height))
        at += width + GAP
    for number, line in enumerate(lines):
        cv2.putText(canvas, line, (left, LINE * (number + 1)), FONT, FONT_SCALE, (30, 30, 30), 1, cv2.LINE_AA)
    return canvas


def said(item: Made) -> list[str]:
    """A trajectory's turns as lines of text."""
    trajectory = item.trajectory
    lines = [f"{trajectory.question.kind} / {trajectory.kind} / {trajectory.stage}"]
    for turn in trajectory.turns:
        lines.append((f"({turn.thought}) " if turn.thought else "") + ("" if turn.learn else "[not imitated] "))
        lines.append(json.dumps(turn.call.arguments if turn.call else turn.answer))
    return [line for line in lines if line.strip()]


def wrapped(text: str, width: int) -> list[str]:
    """A text as lines that are drawn at most `width` pixels wide; what follows the first is set in."""
    for num_chars in range(max(8, width // 4), 4, -1):
        lines = wrap(text, num_chars, subsequent_indent="   ")
        if all(drawn_width(line) <= width for line in lines):
            break
    return lines


def drawn_width(text: str) -> int:
    """Pixels that a text takes on the sheet."""
    return cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]
