"""`pixelis status`: what a run did or is doing, and which runs there are."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.display import headline, print_summary, read_states
from pipelines.local import REQUEST, earlier_request, last_run, load_summary
from pipelines.terminal import console

SHOWN = 10
"""Earlier runs that are named."""


def status(
    run: Annotated[str, typer.Argument(help="Id of a run; the newest one by default.")] = "",
    run_root: Annotated[Path, typer.Option(help="Folder that keeps the runs.")] = Path("runs"),
) -> None:
    """Show what a run did or is doing.

    Its steps with their figures, the gate's reasons, the service; then the ids of the other runs.
    """
    root = run_root.expanduser().absolute()
    if run:
        earlier_request(root, run)  # refuses an id that is none and names those there are
    directory = root / run if run else last_run(root)
    out = console()
    summary = load_summary(directory)
    if summary is not None:
        print_summary(out, summary, directory)
    else:
        print_unfinished(out, directory)
    others = sorted((path.parent for path in root.glob(f"*/{REQUEST}")), reverse=True)
    others = [path for path in others if path != directory]
    for path in others[:SHOWN]:
        out.print(f"{path.name}: {state_of(path)}", highlight=False)
    if len(others) > SHOWN:
        out.print(f"and {len(others) - SHOWN} earlier ones in {root}", highlight=False)


def print_unfinished(out: Console, directory: Path) -> None:
    """A run without a summary: at work, or killed."""
    out.print(f"Run {directory.name}: {state_of(directory)}", highlight=False)
    for name, state in sorted(read_states(directory).items(), key=lambda item: item[1]["started"]):
        if state["status"] != "RUNNING":
            text = f"{state['status'].lower()} in {state['seconds']:.1f} s  {headline(state)}"
        elif is_at_work(directory):
            progress = state.get("progress")
            note = f"{progress['what']} {progress['done']}/{progress['total']}" if progress else ""
            text = f"at work for {state['seconds']:.0f} s  {note}"
        else:
            text = "cut off"
        out.print(f"  {name}: {text}".rstrip(), highlight=False)


def state_of(directory: Path) -> str:
    """In words: how a run ended, or that it goes on."""
    summary = load_summary(directory)
    if summary is not None:
        gate = f", gate: {summary['gate']['decision']}" if summary["gate"] else ""
        return f"{summary['status'].lower()} ({summary['profile']}, seed {summary['seed']}){gate}"
    if is_at_work(directory):
        return "at work"
    return f"cut off; go on with: pixelis run --resume {directory.name}"


def is_at_work(directory: Path) -> bool:
    """Whether a process holds the run's lock."""
    path = directory / "run.lock"
    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
