"""The model card: what the model is, what it was trained and judged on, and what it must not be used for."""

from __future__ import annotations

from typing import Any

from components.shared.work.manifest import Manifest


def model_card(facts: dict[str, Any], metrics: dict[str, Any], manifest: Manifest) -> str:
    """Markdown text of the card.

    Args:
        facts: What `promote` found out (name, candidate, digests, gate, lineage).
        metrics: The evaluation's `metrics.json`.
        manifest: The recordings the model was made from.
    """
    people = {
        split: len({r.subject for r in manifest.recordings if r.split == split})
        for split in ("train", "validation", "test")
    }
    hours = sum(recording.duration_s for recording in manifest.recordings) / 3600
    figures = "\n".join(figure_rows(metrics, facts["candidate"]))
    reasons = "\n".join(f"- {reason}" for reason in facts["gate"]["reasons"])
    lines = "\n".join(
        f"| {name} | `{item['sha256'][:16]}` | {item['run_id']} |" for name, item in facts["lineage"].items()
    )
    warning = (
        "Trained on **synthetic** recordings only: its figures say nothing about real people at work."
        if facts["provenance"] == "synthetic"
        else "Trained on real recordings of people; erasure requests apply (see lineage)."
    )
    return f"""# {facts["name"]} ({facts["candidate"]})

{warning}

Answers, for a five-second window of a recording: which operation is under way, when it starts and ends, what comes
next; may look closer at the picture before it answers. Labels: {", ".join(facts["labels"])}.

## Data
{len(manifest.recordings)} recordings ({hours:.2f} h), source `{manifest.source}`, split by {manifest.split_by}:
{people["train"]} / {people["validation"]} / {people["test"]} for training / validation / test. Canary clips with the
model: {facts["num_canary_clips"]}.

## Figures on the test split
| figure | this model | its base | best constant |
|---|---:|---:|---:|
{figures}

All {len(headline(metrics))} figures stand in `promotion.json`, with their intervals in the evaluation's report.

## Why it was promoted
{reasons}

## Lineage
| input | sha256 | made in run |
|---|---|---|
{lines}

## Limits
Not for judging people's performance. Outside the label list it cannot answer; times are bounded by the sampled frames.
"""


def figure_rows(metrics: dict[str, Any], candidate: str) -> list[str]:
    """Rows of the card's table, for the figures that were measured: the model, its base, the best constant answer."""
    closeup = "closeup_greedy_accuracy"
    kinds = (
        ("operation right (OCA)", "oca", "base_oca", "baseline_constant_oca"),
        ("next operation right (AA@1)", "aa1", "base_aa1", "baseline_constant_aa1"),
        ("segment right: tIoU@0.5, windows with a boundary", "tiou50", "base_tiou50", "baseline_constant_tiou50"),
        ("timeline macro-F1 at 1 Hz", "timeline_f1", "base_timeline_f1", "baseline_constant_timeline_f1"),
        ("readable answers", "valid", "base_valid", ""),
        ("close-up questions right", f"{candidate}_{closeup}", f"base_{closeup}", ""),
        ("calibration error of the vote (ECE)", "ece_vote", "", ""),
        ("seconds an answer takes (median)", "latency_median_s", "", ""),
        ("windows scored", "num_windows", "", ""),
        ("sessions", "num_sessions", "", ""),
    )
    shown = lambda key: f"{metrics[key]:.3g}" if metrics.get(key) is not None else "–"
    return [
        f"| {title} | {shown(key)} | {shown(base)} | {shown(best)} |"
        for title, key, base, best in kinds
        if key in metrics
    ]


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The scalar figures of the evaluation."""
    return {
        name: value for name, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
