"""How the commands print: colours and moving bars on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import sys

from rich.console import Console


def console(*, error: bool = False) -> Console:
    """A console that colours only on a terminal; as wide as the terminal, 120 columns in a pipe."""
    live = on_terminal()
    stream = sys.stderr if error else sys.stdout  # fixed now: a run redirects what the runner prints
    return Console(file=stream, force_terminal=None if live else False, width=None if live else 120)


def on_terminal() -> bool:
    """Whether standard output is a terminal that shows colours and moving bars."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb" and "NO_COLOR" not in os.environ
