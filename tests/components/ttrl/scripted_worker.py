"""An update worker that does what its first argument says; speaks the worker's protocol, without torch."""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path

from components.ttrl.channel import Channel, ChannelClosed


def figures(right):
    return {"accuracy": right / 10, "num_right": right, "num_questions": 10}


def main(script):
    channel = Channel(io.FileIO(0, "rb"), io.FileIO(1, "wb"))
    channel.receive()
    channel.send({"type": "ready", "num_canary": 10})
    count = 0
    while True:
        task = channel.receive()
        count += 1
        if script == "die":
            sys.exit(3)
        if script == "hang":
            time.sleep(60)
        if script == "nonsense":
            channel.send({"type": "result", "canary_before": "good"})
            continue
        channel.send({"type": "batch?"})
        if script == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        batch = channel.receive()
        if script == "skip":
            channel.send({"type": "skipped", "reason": f"{len(batch['items'])} experiences qualify"})
            continue
        digest = f"digest-{count}"
        candidate = Path(task["candidate"])
        candidate.mkdir(parents=True)
        (candidate / "adapter.json").write_text(json.dumps({"digest": "other" if script == "forge" else digest}))
        channel.send(
            {
                "type": "result",
                "digest_before": "anchor",
                "digest_after": "anchor" if script == "unchanged" else digest,
                "weight_change": 0.1,
                "canary_before": figures(7),
                "canary_after": figures(5 if script == "reject" else 8),
                "canary_anchor": figures(7),
                "changed_answers": 1,
                "num_experiences": len(batch["items"]),
                "num_rollouts": 16,
                "figures": {},
                "visits": [[item["id"], 1, 0, 0.5] for item in batch["items"]],
                "seconds": 0.0,
            }
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except ChannelClosed:
        sys.exit(0)
