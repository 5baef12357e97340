"""Two runs of the same pipeline side by side: seconds of every step, seconds before it, and the whole.

    pixelis run --run-root runs-processes … ; pixelis run --runner docker --run-root runs-containers …
    python benchmarks/run_overhead.py runs-processes runs-containers

Each argument is a run's directory, or a run root, whose newest run is taken. `before` is the time since the last step
ended: its figures' way to MLflow, starting a process or a container, imports. Both runs must have run every step anew
(nothing cached); page cache, other load and the order of the two are the caller's business.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def timeline(place: Path) -> dict[str, dict[str, float]]:
    """Start and end of every step of a run, in the order they began, and of the run itself under `whole run`."""
    runs = [place] if (place / "request.json").is_file() else [path.parent for path in place.glob("*/request.json")]
    if not runs:
        raise SystemExit(f"{place} holds no run.")
    run = max(runs, key=lambda path: path.name)
    records = [json.loads(path.read_text()) for path in (run / "steps").glob("*.json")]
    cached = [row["name"] for row in summary(run)["steps"] if row["status"] == "CACHED"]
    if cached:
        raise SystemExit(f"{run}: {', '.join(cached)} came from the cache; nothing can be compared.")
    found = {
        record["step"]: {"start": record["started"], "end": record["started"] + record["seconds"]}
        for record in sorted(records, key=lambda record: record["started"])
    }
    # The summary is the exit step's last act; the request is kept before anything else happens.
    begun, ended = (run / "request.json").stat().st_mtime, (run / "summary.json").stat().st_mtime
    return found | {"whole run": {"start": begun, "end": ended}}


def summary(run: Path) -> dict[str, Any]:
    """A run's summary."""
    return json.loads((run / "summary.json").read_text())


def waits(steps: dict[str, dict[str, float]]) -> dict[str, float]:
    """Seconds between a step's start and the end of the last one before it; those of a fan-out start together."""
    last, found = steps["whole run"]["start"], {}
    for name, times in steps.items():
        if name != "whole run":
            done = [other["end"] for other in steps.values() if other["end"] <= times["start"]]
            found[name] = times["start"] - max([last, *done])
    return found


def main(first: Path, second: Path) -> None:
    """Print the table."""
    runs = [timeline(first), timeline(second)]
    before = [waits(run) for run in runs]
    print(f"{'step':14} {'first s':>9} {'second s':>9} {'ratio':>6}   {'before first':>12} {'before second':>13}")
    for name in runs[0]:
        times = [run[name]["end"] - run[name]["start"] for run in runs if name in run]
        gaps = [f"{gap[name]:.1f}" for gap in before if name in gap] or ["", ""]
        if len(times) == 2 and len(gaps) == 2:
            ratio = f"{times[1] / times[0]:.2f}" if times[0] >= 1 else "-"
            print(f"{name:14} {times[0]:9.1f} {times[1]:9.1f} {ratio:>6}   {gaps[0]:>12} {gaps[1]:>13}")
    whole = [run["whole run"]["end"] - run["whole run"]["start"] for run in runs]
    print(f"The second run took {whole[1] / whole[0] - 1:+.1%} of the first one's time.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
