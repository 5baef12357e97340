"""A step's page: text, tables and pictures as a person reads them."""

from __future__ import annotations

import pytest

from components.shared.runtime.page import draw_curves, in_words, render_page
from components.shared.runtime.report import Report


def test_the_text_is_rendered_and_stays_text() -> None:
    report = Report(
        markdown="# Clips\n\n| split | clips |\n|---|---:|\n| train | 2400 |\n\n- <script>alert(1)</script>",
        metrics={"num_clips": 2400.0},
        curves={"stage": [(0, 0.0), (15, 1.0)], "loss": [(0, 1.5)]},
    )
    page = render_page("clips", report)
    assert "<h1>Clips</h1>" in page
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
        ("peak_rss_bytes", 2.9e9, ("peak rss", "2.701 GiB")),
        ("model_size_bytes", 512, ("model size", "512 B")),
        ("seconds", 85.259, ("time", "85.26 s")),
        ("ready_s", 6.2, ("ready", "6.2 s")),
        ("latency_ms", 3, ("latency", "3 ms")),
        ("frames_per_s", 2147, ("frames per s", "2,147")),
        ("recall_at_10", 0.25, ("recall at 10", "0.25")),
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
