"""An entry point for tests: counts to ten in a group of processes, keeps a checkpoint each time, fails where told.

The options are those of every step's entry point (`python -m components.<step>`), an output of an input's name among
them, as reinforcement has. The total after ten steps depends on
every process of every node and on no restart.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("section", "report", "work", "numbers", "adapter", "out-adapter"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    section = json.loads(Path(given.section.removeprefix("@")).read_text())
    numbers = json.loads((Path(given.numbers) / "numbers.json").read_text())
    dist.init_process_group("gloo")
    rank, work = dist.get_rank(), Path(given.work)
    state = [
        json.loads((work / "state.json").read_text()) if (work / "state.json").is_file() else {"step": 0, "sum": 0}
    ]
    dist.broadcast_object_list(state, src=0)
    step, total = state[0]["step"], state[0]["sum"]
    began = step
    assert json.loads((Path(given.adapter) / "sum.json").read_text()) == "before"
    while step < 10:
        value = torch.tensor([numbers[step] * (rank + 1)])
        dist.all_reduce(value)
        step, total = step + 1, total + int(value)
        if rank == 0:
            (work / ".state").write_text(json.dumps({"step": step, "sum": total}))
            (work / ".state").replace(work / "state.json")
        if step == section.get("fail_at", 0) and began == 0 and rank == dist.get_world_size() - 1:
            raise SystemExit(3)
        time.sleep(section.get("pause_s", 0.0))
    if rank == 0:
        adapter = Path(given.out_adapter)
        adapter.mkdir(parents=True)
        (adapter / "sum.json").write_text(json.dumps(total))
        (adapter / "curve.png").write_bytes(b"picture")
        facts = {"world": dist.get_world_size(), "began": began, "run": os.environ["PIXELIS_RUN_ID"]}
        report = {"metrics": {"sum": total}, "provenance": "real", "curves": {}, "markdown": "", "confusion": None}
        report |= {"pictures": {"curve": str(adapter / "curve.png")}, "facts": facts}
        Path(given.report).write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
