"""The run's summary as Markdown, with the steps' pictures."""

from __future__ import annotations

from typing import Any

MARKS = {"SUCCEEDED": "✓", "CACHED": "↺", "FAILED": "✗", "STOPPED": "■", "SKIPPED": "–"}


def render_summary(summary: dict[str, Any]) -> str:
    """Markdown text of a summary."""
    parts = [f"# Run {summary['run_id']}: {summary['status']}", ""]
    parts += [f"Profile `{summary['profile']}`, seed {summary['seed']}, commit `{summary['git_sha'][:12]}`.", ""]
    parts += ["| step | status | seconds | peak MiB | figures |", "|---|---|---:|---:|---|"]
    for row in summary["steps"]:
        figures = ", ".join(f"{name} {short(value)}" for name, value in list(row["metrics"].items())[:4])
        peak = row["peak_rss_bytes"] / 2**20
        mark = MARKS.get(row["status"], "")
        parts.append(f"| {row['name']} | {mark} {row['status']} | {row['seconds']:.1f} | {peak:.0f} | {figures} |")
    if summary["gate"]:
        gate = summary["gate"]
        parts += ["", f"## Gate: {gate['decision']}", *(f"- {reason}" for reason in gate["reasons"])]
    if summary["service"]:
        parts += ["", f"## Service\n{summary['service']['url']} (model `{summary['service']['model_digest'][:16]}`)"]
    for row in summary["steps"]:
        if row["status"] == "FAILED":
            parts += ["", f"## Failed: {row['name']}", row["error"], "", row["remedy"]]
    for row in summary["steps"]:
        if row.get("markdown") or row.get("pictures"):
            parts += ["", f"## {row['name']}", demote(row.get("markdown", ""))]
            parts += [f"\n![{caption}]({path})" for caption, path in row.get("pictures", {}).items()]
    mlflow = summary["mlflow"]
    parts += ["", f"Tracking: `{mlflow['tracking_uri']}`, run `{mlflow['run_id']}`.", ""]
    return "\n".join(parts)


def demote(text: str) -> str:
    """Markdown whose headings stand two levels deeper; `#` lines inside are headings of a step's own text."""
    return "\n".join(f"##{line}" if line.startswith("#") else line for line in text.splitlines())


def short(value: float) -> str:
    """A figure in at most four significant digits."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
