"""One self-contained HTML page for a step's report: figures, curves, pictures. No script, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

from components.shared.runtime.report import Report

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#1c1e21}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.6em}table{border-collapse:collapse;margin:.5em 0}
td,th{border:1px solid #d0d4da;padding:.25em .7em;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
th{background:#f5f6f8}code{background:#f5f6f8;padding:0 .25em}
.wide,figure{overflow-x:auto}td code{color:#555}p,li,code{overflow-wrap:anywhere}
td code,.whole{white-space:nowrap}summary{font-size:1.15em;font-weight:bold;margin-top:1.6em;cursor:pointer}
figure{margin:1.4em 0}img{max-width:100%;height:auto}figcaption{color:#555}.curves{display:flex;flex-wrap:wrap}
.curves img{width:calc(100%/3);min-width:270px}"""

NUM_OPEN_FIGURES = 20
"""A table of more figures than this is folded: the text above says what matters of them."""
READABLE_PX = 760
"""A picture is not shown narrower: in a narrow window it scrolls by itself, as a table does."""
WORDS = {
    "aa": "AA@1", "aa1": "AA@1", "closeup": "close-up", "closeups": "close-ups", "ece": "ECE",
    "f1": "F1", "grad": "gradient", "kl": "KL", "oca": "OCA", "p95": "95th percentile", "r1": "R@1",
    "r5": "R@5", "r10": "R@10", "rft": "RFT", "rss": "memory (RSS)", "sft": "SFT", "tiou": "tIoU", "tiou50": "tIoU@0.5",
}  # fmt: skip
"""Parts of figures' names as people write them."""

UNITS = {"seconds": "s", "s": "s", "ms": "ms", "bytes": "bytes", "rate_hz": "Hz"}
"""Endings of figures' names that say a unit."""
BYTES = ("B", "KiB", "MiB", "GiB")


def render_page(title: str, report: Report) -> str:
    """The report as one HTML document."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>Provenance of the data: <b>{report.provenance}</b></p>"]
    if report.markdown:
        parts.append(render_markdown(untitled(report.markdown, title)))
    for caption, path in report.pictures.items():
        figure = inline_png(path.read_bytes(), caption, READABLE_PX)
        parts.append(f"<figure>{figure}<figcaption>{html.escape(caption)}</figcaption></figure>")
    if report.curves:
        drawn = (
            inline_png(draw_curves({name: report.curves[name]}), in_words(name, 0)[0]) for name in sorted(report.curves)
        )
        parts.append(f"<h2>Curves</h2><div class=curves>{''.join(drawn)}</div>")
    if report.metrics:
        rows = "".join(figure_row(name, value) for name, value in sorted(report.metrics.items()))
        heads = "<tr><th>figure</th><th>value</th><th>its name in MLflow</th></tr>"
        opened = "" if len(report.metrics) > NUM_OPEN_FIGURES else " open"
        table = scrolling(f"<table>{heads}{rows}</table>")
        parts.append(f"<details{opened}><summary>Figures ({len(report.metrics)})</summary>{table}</details>")
    meta = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head = f"{meta}<title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def untitled(text: str, title: str) -> str:
    """The text without a first heading that only says the page's title again."""
    first, _, rest = text.partition("\n")
    return rest if first.casefold() == f"# {title.split(' ', maxsplit=1)[0]}".casefold() else text


def render_markdown(text: str) -> str:
    """Markdown with tables as HTML; HTML within it stays text, and an interval in a cell stays on one line."""
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return re.sub(r"<table>.*?</table>", lambda table: scrolling(unbroken(table[0])), made, flags=re.DOTALL)


def unbroken(table: str) -> str:
    """A table whose intervals, `[0.26, 0.35]` and `(+0.1 … +0.2)`, are not broken into lines."""
    return re.sub(r"\[[-+\d][^]<]*]|\([-+\d][^)<]*\)", r"<span class=whole>\g<0></span>", table)


def scrolling(table: str) -> str:
    """A table that scrolls by itself where the window is narrow, so that the page does not."""
    return f"<div class=wide>{table}</div>"


def figure_row(name: str, value: float) -> str:
    """A figure's row: its name in words, its value with the unit that its name ends in, its name as it is."""
    words, shown = in_words(name, value)
    return f"<tr><td>{html.escape(words)}</td><td class=n>{shown}</td><td><code>{html.escape(name)}</code></td></tr>"


def in_words(name: str, value: float) -> tuple[str, str]:
    """(name, value) for people: `peak_rss_bytes` 2.9e9 is "peak rss", "2.701 GiB"."""
    words = name.removeprefix("num_")
    spoken = lambda parts: " ".join(WORDS.get(part, part) for part in parts.split("_"))
    for ending, unit in UNITS.items():
        if words == ending or (words.endswith(f"_{ending}") and not words.endswith(f"_per_{ending}")):
            words = words.removesuffix(ending).rstrip("_") or "time"
            if unit != "bytes":
                return spoken(words), f"{format_figure(value)} {unit}"
            power = next((n for n in (3, 2, 1) if abs(value) >= 1024**n), 0)
            return spoken(words), f"{format_figure(value / 1024**power)} {BYTES[power]}"
    return spoken(words), format_figure(value)


def inline_png(data: bytes, alt: str, readable_px: int = 0) -> str:
    """An <img> element that carries its PNG bytes, shown no narrower than this (or than it is)."""
    least = min(readable_px, int.from_bytes(data[16:20], "big"))  # a PNG's width stands in its first chunk
    style = f' style="min-width:{least}px"' if least else ""
    return f'<img alt="{html.escape(alt)}"{style} src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def format_figure(value: float) -> str:
    """Up to four significant decimals; whole numbers without a point."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def draw_curves(curves: dict[str, list[tuple[float, float]]]) -> bytes:
    """All curves as small multiples, PNG bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    names = sorted(curves)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        points = curves[name]
        axis.plot(
            [x for x, _ in points], [y for _, y in points], linewidth=1.4, marker="." if len(points) < 15 else None
        )
        axis.set_title(in_words(name, 0)[0], fontsize=9)
        axis.set_xlabel("step", fontsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if all(float(y).is_integer() for _, y in points):
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def write_pictures(report: Report, directory: Path) -> dict[str, str]:
    """Copy a report's pictures and curves as PNG files into a directory; returns caption -> file name."""
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    pictures = {caption: path.read_bytes() for caption, path in report.pictures.items()}
    if report.curves:
        pictures["curves"] = draw_curves(report.curves)
    for number, (caption, data) in enumerate(pictures.items()):
        stem = "".join(letter if letter.isalnum() else "-" for letter in caption.lower())[:48].strip("-")
        name = f"{number:02d}-{stem}.png"
        (directory / name).write_bytes(data)
        written[caption] = name
    return written
