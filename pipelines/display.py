"""What a person sees while a run goes on: one line a step, with a bar inside the running one; plain lines in a pipe."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.steps import STEPS

MARKS = {
    "SUCCEEDED": ("✓", "green"),
    "CACHED": ("↺", "cyan"),
    "FAILED": ("✗", "red"),
    "STOPPED": ("■", "yellow"),
    "SKIPPED": ("–", "dim"),
    "RUNNING": ("▶", "yellow"),
    "WAITING": ("·", "dim"),
}
HEADLINES = ("oca", "accuracy", "loss", "num_clips", "num_trajectories", "num_recordings", "recall", "updates")


class Monitor:
    """Follows a run's directory and shows it until the block ends."""

    def __init__(self, directory: Path, console: Console, *, until: str = "") -> None:
        names = [step.name for step in STEPS]
        self.names = names[: names.index(until) + 1] if until else names[:-1]
        self.directory, self.console = directory, console
        self.started = time.monotonic()
        self._told: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="monitor")
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None

    def __enter__(self) -> Monitor:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self._live:
            self._live.stop()

    def _follow(self) -> None:
        while not self._stop.wait(0.3):
            self._show()

    def _show(self) -> None:
        states = read_states(self.directory)
        if self._live:
            self._live.update(self._table(states))
        else:
            self._tell(states)

    def _table(self, states: dict[str, dict[str, Any]]) -> Table:
        table = Table(box=None, padding=(0, 1), show_header=False)
        for name in self.names:
            state = merge_members(name, states)
            mark, colour = MARKS[state["status"]]
            progress = state.get("progress")
            if state["status"] == "RUNNING" and progress and progress["total"]:
                done: ProgressBar | Text = ProgressBar(total=progress["total"], completed=progress["done"], width=24)
                note = f"{progress['what']} {progress['done']}/{progress['total']} {progress['note']}"
            else:
                done, note = Text(""), headline(state)
            seconds = f"{state['seconds']:7.1f} s" if state["status"] != "WAITING" else ""
            table.add_row(Text(mark, colour), Text(name, "bold" if colour == "yellow" else ""), seconds, done, note)
        return table

    def _tell(self, states: dict[str, dict[str, Any]]) -> None:
        """Plain lines: a step begins, a step ends."""
        for name, state in sorted(states.items(), key=lambda item: item[1]["started"]):
            if self._told.get(name) == state["status"]:
                continue
            self._told[name] = state["status"]
            if state["status"] == "RUNNING":
                self.console.print(f"{name}: started", highlight=False)
            else:
                text = f"{name}: {state['status'].lower()} in {state['seconds']:.1f} s"
                self.console.print(f"{text}  {headline(state)}".rstrip(), highlight=False)


def read_states(directory: Path) -> dict[str, dict[str, Any]]:
    """Each started step's record, with its progress; files that are being replaced are read at the next look."""
    states = {}
    for path in (directory / "steps").glob("*.json"):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            record = json.loads(path.read_text())
            if record["status"] == "RUNNING":
                record["seconds"] = time.time() - record["started"]
            states[path.stem] = record
    for path in (directory / "progress").glob("*.json"):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            if path.stem in states:
                states[path.stem]["progress"] = json.loads(path.read_text())
    return states


def merge_members(name: str, states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A step's state over its tasks (a fan-out and its join, an evaluation and its gate)."""
    members = [state for key, state in states.items() if key == name or key.startswith(f"{name}.")]
    if not members:
        return {"status": "WAITING", "seconds": 0.0, "metrics": {}}
    rank = {"FAILED": 0, "STOPPED": 1, "RUNNING": 2, "SUCCEEDED": 3}
    chosen = dict(min(members, key=lambda state: (rank[state["status"]], -state["started"])))
    if any(key.startswith(f"{name}.") for key in states) and name not in states and chosen["status"] == "SUCCEEDED":
        chosen["status"] = "RUNNING"
    first = min(state["started"] for state in members)
    last = max(state["started"] + state["seconds"] for state in members)
    chosen["seconds"] = last - first
    return chosen


def headline(state: dict[str, Any]) -> str:
    """Up to three figures worth a glance."""
    metrics = state.get("metrics", {})
    wanted = [name for key in HEADLINES for name in metrics if name.startswith(key)] or list(metrics)
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in wanted[:3])


def print_summary(console: Console, summary: dict[str, Any], directory: Path) -> None:
    """The table of steps with their gains, the gate, and where everything is."""
    table = Table(title=f"Run {summary['run_id']} ({summary['profile']}, seed {summary['seed']})", title_justify="left")
    for column, justify in (("step", "left"), ("status", "left"), ("seconds", "right"), ("MiB", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("figures", overflow="fold")
    for row in summary["steps"]:
        mark, colour = MARKS[row["status"]]
        peak = f"{row['peak_rss_bytes'] / 2**20:.0f}" if row["peak_rss_bytes"] else ""
        seconds = f"{row['seconds']:.1f}" if row["seconds"] else ""
        table.add_row(row["name"], Text(f"{mark} {row['status']}", colour), seconds, peak, headline(row))
    console.print(table)
    for row in summary["steps"]:
        if row["name"] == "evaluation" and row.get("markdown"):
            console.print(row["markdown"], markup=False, highlight=False)
    if summary["gate"]:
        console.print(f"Gate: {summary['gate']['decision']}", style="bold")
        for reason in summary["gate"]["reasons"]:
            console.print(f"  - {reason}", markup=False, highlight=False)
    service = summary["service"]
    if service:
        where = f"container {service['container']}" if service.get("container") else f"process {service['pid']}"
        console.print(f"Service: {service['url']}  (model {service['model_digest'][:16]}, {where})", highlight=False)
    elif summary["gate"] and summary["gate"]["decision"] == "hold":
        console.print("No service was started: the gate holds this model.")
    console.print(f"Summary: {directory / 'summary.md'}", highlight=False)
