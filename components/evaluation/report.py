"""The evaluation as text: Markdown for the UI, one self-contained HTML page with its pictures inline."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.gate import BASELINES, describe
from components.evaluation.pictures import TITLES
from components.shared.runtime.page import READABLE_PX, inline_png, unbroken

ROWS = (
    ("oca", "operation right (OCA)"),
    ("aa1", "next operation right (AA@1)"),
    ("tiou", "mean tIoU (boundary windows)"),
    ("tiou50", "tIoU@0.5 (boundary windows)"),
    ("timeline_f1", "timeline macro-F1 (1 Hz)"),
    ("valid", "readable answers"),
)
PLAIN = (
    ("num_distinct_segments", "distinct segments", ".0f"),
    ("edit", "edit score", ".1f"),
    ("f1_at_10", "F1@10", ".3f"),
    ("f1_at_25", "F1@25", ".3f"),
    ("f1_at_50", "F1@50", ".3f"),
)
Table = tuple[list[str], list[list[str]]]


def number(item: Mapping[str, Any] | None) -> str:
    """`0.812 (0.77–0.85)`, or a dash."""
    if not item or item["value"] is None:
        return "–"
    return f"{item['value']:.3f}" + (f" ({item['low']:.2f}–{item['high']:.2f})" if item["low"] is not None else "")


def stage_table(measured: Mapping[str, Any]) -> Table:
    """Every figure of every policy, and what each stage gained."""
    policies, gains = measured["policies"], measured["gains"]
    head = ["figure", *(TITLES[name] for name in policies), *(f"{TITLES[a]} → {TITLES[b]}" for a, b in steps(gains))]
    rows = []
    for key, title in ROWS:
        cells = [number(item["figures"].get(key)) for item in policies.values()]
        rows.append([title, *cells, *(describe_gain(gains, pair, key) for pair in steps(gains))])
    for key, title, form in PLAIN:
        cells = [format(item["plain"][key], form) if key in item["plain"] else "–" for item in policies.values()]
        rows.append([title, *cells, *("" for _ in steps(gains))])
    for key, title in (("oca", "operation right, sampled"), ("aa1", "next operation right, sampled")):
        if any("sampled" in item for item in policies.values()):
            cells = [number(item.get("sampled", {}).get(key)) for item in policies.values()]
            rows.append([title, *cells, *("" for _ in steps(gains))])
    for mode, title in (("closeup_greedy", "close-ups, greedy"), ("closeup_sampled", "close-ups, sampled")):
        if any(item[mode] for item in policies.values()):
            cells = [f"{item[mode]['accuracy']:.3f}" if item[mode] else "–" for item in policies.values()]
            rows.append([title, *cells, *(describe_gain(gains, pair, mode) for pair in steps(gains))])
            cells = [f"{item[mode]['right_look']:.3f}" if item[mode] else "–" for item in policies.values()]
            rows.append([f"{title}: looked at the evidence", *cells, *("" for _ in steps(gains))])
    return head, rows


def steps(gains: Mapping[str, Any]) -> list[tuple[str, str]]:
    """("base", "sft") from "base->sft"."""
    return [(key.split("->")[0], key.split("->")[1]) for key in gains]


def describe_gain(gains: Mapping[str, Any], pair: tuple[str, str], key: str) -> str:
    """A stage's paired gain, empty where there is none."""
    item = gains[f"{pair[0]}->{pair[1]}"].get(key)
    return describe(item) if item else ""


def baseline_table(measured: Mapping[str, Any]) -> Table:
    """Every baseline's figures, and the candidate's lead over each."""
    candidate = measured["candidate"]
    keys = [key for key in ("oca", "aa1", "tiou50", "timeline_f1") if measured["figures"][key]["value"] is not None]
    titles = dict(ROWS)
    head = ["", *(titles[key] for key in keys)]
    rows = [[f"**{TITLES[candidate]} (candidate)**", *(number(measured["figures"][key]) for key in keys)]]
    for name, title in BASELINES.items():
        row = [title]
        for key in keys:
            item, gap = measured["baselines"][name].get(key), measured["differences"][key].get(name)
            row.append("–" if item is None else f"{item['value']:.3f}; lead {describe(gap)}" if gap else number(item))
        rows.append(row)
    return head, rows


def notes(measured: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the figures rightly."""
    candidate = measured["policies"][measured["candidate"]]
    found = [
        f"{measured['num_windows_asked']} sliding windows asked about, placed without looking at the annotation; "
        f"{measured['num_windows']} scored, {measured['num_ambiguous_windows']} ambiguous, "
        f"{measured['num_boundary_windows']} with a boundary; {measured['num_sessions']} sessions.",
        f"Intervals: {measured['level']:.0%}, bootstrap over whole sessions; differences are paired.",
        f"Best constants are chosen in hindsight: {measured['baseline_details']['constant']}.",
        "tIoU: overlap of the answered and the true segment, intersection over union of times; @0.5: at least half.",
        "Edit score and F1@k are the timeline's: the order of its segments, and its segments that overlap true ones by "
        "at least k %.",
    ]
    if measured["split_by"] == "video":
        found.append("The source names no people: the split is by video, so the same person may be on both sides.")
    if measured["provenance"] == "synthetic":
        found.append("The recordings are synthetic: nothing here says how good the model is on real people.")
    if "latency_median_s" in candidate:
        found.append(
            f"The candidate takes {candidate['latency_median_s'] * 1000:.0f} ms for one answer alone (median; "
            f"95th percentile {candidate['latency_p95_s'] * 1000:.0f} ms), "
            f"{candidate['seconds_an_answer_batched'] * 1000:.0f} ms in batches."
        )
    found.append(f"Operations used on {candidate['operation_rate']:.1%} of the operation questions.")
    calibration = candidate["calibration"]
    line = f"Calibration (ECE, expected calibration error): whole answer {calibration['ece_answer']:.3f}"
    if "ece_vote" in calibration:
        line += (
            f", operation by vote share {calibration['ece_vote']:.3f}; OCA of the vote {calibration['oca_vote']:.3f}"
        )
    return [*found, line + "."]


def markdown(measured: Mapping[str, Any], gate: Mapping[str, Any], *, title: str = "# Evaluation") -> str:
    """The report for the Kubeflow UI and the run's summary."""
    parts = [title, "", f"**Gate: {gate['decision']}** (candidate: {TITLES[gate['candidate']]})", ""]
    parts += [f"- {reason}" for reason in gate["reasons"]]
    for heading, table in (("Stages", stage_table(measured)), ("Beside what needs no model", baseline_table(measured))):
        parts += ["", f"## {heading}", "", *as_markdown(table)]
    return "\n".join([*parts, "", "## Notes", "", *(f"- {note}" for note in notes(measured)), ""])


def as_markdown(table: Table) -> list[str]:
    """A table's lines."""
    head, rows = table
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, "Segoe UI", sans-serif; color: #24292f; background: #fff; max-width: 1120px;
       margin: 2.2rem auto; padding: 0 1.4rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
.verdict { border-left: 6px solid; padding: .7rem 1.1rem; border-radius: 4px; margin: 1.1rem 0; }
.promote { border-color: #2f8f5b; background: #edf7f1; } .hold { border-color: #c07a1a; background: #fdf5e8; }
.verdict strong { font-size: 1.1rem; } ul { padding-left: 1.2rem; margin: .4rem 0; }
table { border-collapse: collapse; font-size: 13px; width: 100%; } th, td { text-align: left; padding: .32rem .6rem;
       border-bottom: 1px solid #e3e6ea; vertical-align: top; } th { background: #f6f8fa; white-space: nowrap; }
td:not(:first-child) { font-variant-numeric: tabular-nums; }
.whole { white-space: nowrap; } .scroll, figure { overflow-x: auto; }
figure { margin: .8rem 0 1.6rem; } img { max-width: 100%; height: auto; }
.pass, .fail { list-style: none; }
.pass::before { content: "✓ "; color: #2f8f5b; } .fail::before { content: "✗ "; color: #b3372b; font-weight: bold; }
"""


def page(measured: Mapping[str, Any], gate: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The whole report as one HTML file; nothing is fetched and no script runs."""
    text = html.escape
    mark = lambda check: "pass" if check["passed"] else "fail"
    checks = "".join(f"<li class='{mark(check)}'>{text(check['text'])}</li>" for check in gate["checks"])
    drawn = lambda name, path: f"<figure>{inline_png(path.read_bytes(), name, READABLE_PX)}</figure>"
    figures = "".join(f"<h2>{text(name)}</h2>{drawn(name, path)}" for name, path in pictures.items())
    tables = "".join(
        f"<h2>{heading}</h2><div class='scroll'>{as_html(table)}</div>"
        for heading, table in (
            ("Stages", stage_table(measured)),
            ("Beside what needs no model", baseline_table(measured)),
        )
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Evaluation</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><h1>Evaluation</h1>"
        f"<div class='verdict {gate['decision']}'><strong>Gate: {gate['decision']}</strong><br>{text(gate['choice'])}."
        f"<ul>{checks}</ul></div>{tables}{figures}"
        f"<h2>Notes</h2><ul>{''.join(f'<li>{text(note)}</li>' for note in notes(measured))}</ul></body></html>\n"
    )


def as_html(table: Table) -> str:
    """A table; **bold** cells become bold."""
    head, rows = table
    cell = lambda value: f"<b>{html.escape(value.strip('*'))}</b>" if value.startswith("**") else html.escape(value)
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return unbroken(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def flat(measured: Mapping[str, Any], gate: Mapping[str, Any]) -> dict[str, float]:
    """Scalars by name for KFP, MLflow and the summary: the candidate's figures plain, each policy's with its name."""
    found: dict[str, float] = {"promoted": float(gate["decision"] == "promote")}
    for key in ("num_windows", "num_boundary_windows", "num_sessions", "num_closeups"):
        found[key] = float(measured[key])
    put = lambda name, item: found.update({name: item["value"]}) if item and item["value"] is not None else None
    for key, item in measured["figures"].items():
        put(key, item)
    for name, policy in measured["policies"].items():
        for key, item in policy["figures"].items():
            put(f"{name}_{key}", item)
        for key, item in policy.get("sampled", {}).items():
            put(f"{name}_sampled_{key}", item)
        found |= {f"{name}_{key}": value for key, value in policy["plain"].items()}
        for mode in ("closeup_greedy", "closeup_sampled"):
            found |= {
                f"{name}_{mode}_{key}": v
                for key, v in policy[mode].items()
                if key in ("accuracy", "right_look", "chance")
            }
    for name, figures in measured["baselines"].items():
        for key, item in figures.items():
            put(f"baseline_{name}_{key}", item)
    candidate = measured["policies"][measured["candidate"]]
    found |= {key: value for key, value in candidate.items() if key.startswith("latency_")}
    found |= {key: value for key, value in candidate["calibration"].items() if isinstance(value, float)}
    return found


def confusion_of(labels: Sequence[str], matrix: Any) -> tuple[list[str], list[list[int]]]:
    """A square matrix for ClassificationMetrics: unreadable answers get a row and a column where there are any."""
    counts = matrix.tolist()
    if not matrix[:, -1].any():
        return list(labels), [row[:-1] for row in counts]
    return [*labels, "(unreadable)"], [*counts, [0] * (len(labels) + 1)]
