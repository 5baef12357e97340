"""A rendering process: reads its share of the work as JSON from standard input, reports each recording as a JSON line.

Run by `source.py` as `python -m components.data_synthesis.recordings.twin.worker`; a process of its own so that
rendering needs neither pickling nor the parent's imports.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from components.data_synthesis.recordings.config import TwinSection


def main() -> None:
    """Render the recordings whose indices come on standard input."""
    import cv2

    from components.data_synthesis.recordings.twin.annotate import write_annotation
    from components.data_synthesis.recordings.twin.people import list_jobs
    from components.data_synthesis.recordings.twin.render import render

    cv2.setNumThreads(1)
    order = json.load(sys.stdin)
    config = TwinSection.model_validate(order["config"])
    jobs = list_jobs(config)
    recordings, truth = Path(order["recordings"]), Path(order["truth"])
    for index in order["indices"]:
        rendered = render(jobs[index], config, order["seed"], recordings, truth)
        recording = write_annotation(rendered, config, recordings)
        print(json.dumps({"index": index, "recording": recording.model_dump(mode="json")}), flush=True)


if __name__ == "__main__":
    main()
