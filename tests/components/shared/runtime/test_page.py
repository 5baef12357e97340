"""A step's page: text, tables and pictures as a person reads them."""

from __future__ import annotations

from components.shared.runtime.page import draw_curves, render_page
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
