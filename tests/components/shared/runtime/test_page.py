"""A step's page: text, tables and pictures as a person reads them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from components.shared.runtime.page import draw_curves, in_words, render_page
from components.shared.runtime.report import Report


def test_the_text_is_rendered_and_stays_text() -> None:
    report = Report(
        markdown="# All clips\n\n| split | clips |\n|---|---:|\n| train | 2400 |\n\n- <script>alert(1)</script>",
        metrics={"num_clips": 2400.0},
        curves={"stage": [(0, 0.0), (15, 1.0)], "loss": [(0, 1.5)]},
    )
    page = render_page("clips", report)
    assert "<h1>All clips</h1>" in page
    assert '<td style="text-align:right">2400</td>' in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "|---|" not in page
    assert "<td class=n>2,400</td>" in page


def test_curves_are_a_picture_whatever_their_values() -> None:
    assert draw_curves({"loss": [(1, float("nan"))], "stage": [(1, 2.0)]}).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("num_clips_train", 2400, ("clips train", "2,400")),
        ("peak_rss_bytes", 2.9e9, ("peak memory (RSS)", "2.701 GiB")),
        ("model_size_bytes", 512, ("model size", "512 B")),
        ("seconds", 85.259, ("time", "85.26 s")),
        ("ready_s", 6.2, ("ready", "6.2 s")),
        ("latency_ms", 3, ("latency", "3 ms")),
        ("frames_per_s", 2147, ("frames per s", "2,147")),
        ("recall_at_10", 0.25, ("recall at 10", "0.25")),
        ("oca_before", 0.9, ("OCA before", "0.9")),
        ("training_rss_bytes", 2**20, ("training memory (RSS)", "1 MiB")),
        ("vision_text_to_text_r10_32", 0.5, ("vision text to text R@10 32", "0.5")),
        ("samples", 3, ("samples", "3")),
    ],
)
def test_figures_are_told_in_words_with_their_units(name: str, value: float, shown: tuple[str, str]) -> None:
    assert in_words(name, value) == shown


def test_a_narrow_window_scrolls_the_table_and_not_the_page() -> None:
    text = "| a |\n|---|\n| 1 |\n\n| b |\n|---|\n| 2 |"
    page = render_page("sft", Report(metrics={"num_windows": 3.0}, markdown=text))
    assert page.count("<div class=wide><table>") == page.count("<table>") == 3
    assert "<td>windows</td><td class=n>3</td><td><code>num_windows</code></td>" in page
    assert "width=device-width" in page


def test_a_title_is_said_once_and_another_heading_stays() -> None:
    assert render_page("clips (run-1)", Report(markdown="# Clips\n\nTwo.")).count("<h1>") == 1
    assert "<h1>pixelis-twin (rft)</h1>" in render_page("promotion (run-1)", Report(markdown="# pixelis-twin (rft)\n"))


def test_a_table_of_many_figures_is_folded_and_a_short_one_is_open() -> None:
    few, many = ({f"figure_{at}": 1.0 for at in range(count)} for count in (20, 21))
    assert "<details open><summary>Figures (20)</summary>" in render_page("sft", Report(metrics=few))
    assert "<details><summary>Figures (21)</summary>" in render_page("sft", Report(metrics=many))


def test_an_interval_in_a_table_is_not_broken_and_outside_it_may_be() -> None:
    page = render_page("sft", Report(markdown="(0.1 to 0.2) and\n\n| a |\n|---|\n| 0.3 [0.26, 0.35] (1 Hz) (see) |"))
    assert "0.3 <span class=whole>[0.26, 0.35]</span> <span class=whole>(1 Hz)</span> (see)</td>" in page
    assert "<p>(0.1 to 0.2) and</p>" in page


def test_every_curve_is_a_picture_of_its_own_and_no_picture_is_widened(tmp_path: Path) -> None:
    """Curves flow into as many columns as the window has room for; a narrow picture keeps its width."""
    widths = {"narrow": 40, "wide": 1180}
    for name, width in widths.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((8, width, 3), np.uint8))
    pictures = {name: tmp_path / f"{name}.png" for name in widths}
    page = render_page("rft", Report(curves={"kl": [(1, 0.5)], "loss": [(1, 2.0)]}, pictures=pictures))
    assert page.count("<img ") == 4 and 'alt="KL"' in page
    assert 'alt="narrow" style="min-width:40px"' in page
    assert 'alt="wide" style="min-width:760px"' in page
