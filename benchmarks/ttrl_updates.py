"""What the service's updates do to accuracy, measured over HTTP on clips of people never seen in training.

    python benchmarks/ttrl_updates.py --model MODEL --clips CLIPS --questions TRAJECTORIES [--stream 200]
        [--held-out 200] [--set learning_rate=3e-4] [--rounds 1] [--out result.json]

A service of its own is started on the promoted model with a fresh state. Test clips are split by person into a stream
(asked with `store`, so that votes become experiences and experiences updates) and a held-out set (asked without, before
and after). The same clip gets the same sampling seed each time, so before and after differ by the adapter alone, and
differences are paired.

Prints, whatever the sign: each update's verdict and canary figures; accuracy before and after on both sets, with a 95 %
bootstrap interval of the paired difference clustered by recording; changed answers; how often a pseudo-label was right.
A labels file is never shown to the service.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from components.shared.learning.rewards.task import is_correct
from components.shared.runtime.config import canonical_json
from components.shared.samples import read_clips, read_questions
from components.ttrl.client import ask_clip
from components.ttrl.config import TtrlConfig
from components.ttrl.control import status
from components.ttrl.deploy import wait_ready
from components.ttrl.launcher import LocalLauncher


@dataclass(frozen=True)
class Asked:
    """One question with its answer."""

    question_id: str
    recording: str
    right: bool
    vote_right: float
    """Part of the rollouts that named the truth: sampled accuracy."""
    answer: str
    labelled: bool
    seconds: float


def main() -> int:
    """Run the measurement."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service is stopped as well
    settings = dict(text.split("=", 1) for text in options.set)
    with tempfile.TemporaryDirectory() as folder:
        base = {"port": 0, "state_dir": str(Path(folder) / "state"), "max_source_share": 1.0, "concurrency": 4}
        config = TtrlConfig.parse(json.dumps(base | settings), name="ttrl")
        stream, held_out = split(options)
        running = LocalLauncher().replace(config, options.model, Path(config.state_dir))
        try:
            url = wait_ready(running, config.ready_timeout_s)["url"]
            result = measure(url, stream, held_out, rounds=options.rounds)
        finally:
            running.kill()
    result["settings"] = settings
    if options.out:
        options.out.write_text(json.dumps(result, indent=2))
    print(report(result))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--model", type=Path, required=True, help="promoted model folder")
    made.add_argument("--clips", type=Path, required=True, help="clips artifact with the test split")
    made.add_argument("--questions", type=Path, required=True, help="trajectories artifact (questions)")
    made.add_argument("--split", default="test")
    made.add_argument("--kind", default="operation", choices=("operation", "closeup"))
    made.add_argument("--stream", type=int, default=200, help="clips the service may learn from")
    made.add_argument("--held-out", type=int, default=200, help="clips it may not learn from")
    made.add_argument("--rounds", type=int, default=1, help="how often the stream is sent")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the service")
    made.add_argument("--out", type=Path)
    return made


def split(options: argparse.Namespace) -> tuple[list, list]:
    """(stream, held out) as (question, clip) pairs, of different people where there are at least two."""
    questions = [q for q in read_questions(options.questions, options.split) if q.kind == options.kind]
    wanted = {question.clip_id for question in questions}
    clips = {c.meta.clip_id: c for c in read_clips(options.clips, options.split) if c.meta.clip_id in wanted}
    pairs = [(q, clips[q.clip_id]) for q in questions if q.clip_id in clips and not clips[q.clip_id].meta.ambiguous]
    order = np.random.default_rng(0).permutation(len(pairs))
    people = sorted({clip.meta.subject for _, clip in pairs})
    learned = set(people[::2]) if len(people) > 1 else set()
    mixed = [pairs[index] for index in order]
    if not learned:
        return mixed[: options.stream], mixed[options.stream : options.stream + options.held_out]
    stream = [pair for pair in mixed if pair[1].meta.subject in learned][: options.stream]
    return stream, [pair for pair in mixed if pair[1].meta.subject not in learned][: options.held_out]


def measure(url: str, stream: list, held_out: list, *, rounds: int) -> dict:
    """Ask, learn, ask again."""
    if status(url)["update_queue"] is None:
        raise SystemExit(f"the service stores nothing, so it cannot learn: {status(url)['buffer']}")
    with httpx.Client(trust_env=False) as client:
        first = client.post(f"{url}/admin/pause", timeout=30)
        assert first.status_code == 200, first.text
        before = {"held_out": ask(client, url, held_out), "stream": ask(client, url, stream)}
        client.post(f"{url}/admin/resume", timeout=30)
        started = time.monotonic()
        labelled = [asked for _ in range(rounds) for asked in ask(client, url, stream, store=True)]
        settle(url)
        seconds = time.monotonic() - started
        client.post(f"{url}/admin/pause", timeout=30)
        after = {"held_out": ask(client, url, held_out), "stream": ask(client, url, stream)}
    found = status(url)
    taught = [asked for asked in labelled if asked.labelled]
    return {
        "model_digest": found["model_digest"],
        "anchor_digest": found["anchor_digest"],
        "adapter_digest": found["adapter_digest"],
        "updates": found["updates"],
        "seconds": seconds,
        "latency_p50_s": float(np.median([asked.seconds for asked in before["held_out"]])),
        "num_streamed": len(labelled),
        "num_pseudo_labels": len(taught),
        "pseudo_label_accuracy": float(np.mean([asked.right for asked in taught])) if taught else None,
        "sets": {name: compare(before[name], after[name]) for name in before},
    }


def ask(client: httpx.Client, url: str, pairs: list, *, store: bool = False) -> list[Asked]:
    """Ask every question once."""
    asked = []
    for number, (question, clip) in enumerate(pairs):
        if number % 20 == 0:
            print(f"{number} of {len(pairs)} asked", file=sys.stderr, flush=True)
        started = time.monotonic()
        reply = ask_clip(client, url, clip, question.text, store=store)
        total = sum(vote["count"] for vote in reply["votes"]) + reply["abstentions"]
        right = sum(vote["count"] for vote in reply["votes"] if is_correct(question, vote["answer"]))
        asked.append(
            Asked(
                question.question_id,
                clip.meta.recording_id,
                is_correct(question, reply["answer"]),
                right / total,
                canonical_json(reply["answer"]),
                reply["pseudo_label"],
                time.monotonic() - started,
            )
        )
    return asked


def settle(url: str) -> None:
    """Wait until no update waits or works."""
    while True:
        queue = status(url)["update_queue"]
        if not queue["waiting"] and not queue["working"]:
            return
        time.sleep(0.5)


def compare(before: list[Asked], after: list[Asked]) -> dict:
    """Paired figures of one set."""
    old, new = (np.array([asked.right for asked in asked_list], float) for asked_list in (before, after))
    old_votes, new_votes = (np.array([asked.vote_right for asked in asked_list]) for asked_list in (before, after))
    recordings = [asked.recording for asked in before]
    return {
        "num": len(before),
        "accuracy_before": float(old.mean()),
        "accuracy_after": float(new.mean()),
        "difference": interval(new - old, recordings),
        "sampled_before": float(old_votes.mean()),
        "sampled_after": float(new_votes.mean()),
        "sampled_difference": interval(new_votes - old_votes, recordings),
        "changed_answers": sum(one.answer != other.answer for one, other in zip(before, after, strict=True)),
    }


def interval(difference: np.ndarray, recordings: list[str], draws: int = 2000) -> list[float]:
    """[mean, low, high]: 95 % bootstrap interval over recordings."""
    groups = [np.flatnonzero(np.array(recordings) == name) for name in sorted(set(recordings))]
    rng = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        chosen = np.concatenate([groups[index] for index in rng.integers(len(groups), size=len(groups))])
        means.append(difference[chosen].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(difference.mean()), float(low), float(high)]


def report(result: dict) -> str:
    """The figures as text."""
    lines = [
        f"{result['num_streamed']} questions streamed in {result['seconds']:.0f} s, {result['num_pseudo_labels']} "
        f"pseudo-labels, right: {result['pseudo_label_accuracy']}",
        f"median latency {result['latency_p50_s']:.2f} s; adapter {result['anchor_digest'][:12]} -> "
        f"{result['adapter_digest'][:12]}",
        "",
        "| update | canary before | after | changed | learned from | rate | |",
        "|---|---|---|---|---|---|---|",
    ]
    for update in result["updates"]:
        before, after = update["canary_before"], update["canary_after"]
        lines.append(
            f"| {update['status']} | {before['accuracy'] if before else '-':.4} | "
            f"{after['accuracy'] if after else '-':.4} | {update['changed_answers']} | {update['num_experiences']} | "
            f"{update['learning_rate']:.1e} | {update['reason']} |"
        )
    lines += [
        "",
        "| set | n | accuracy before | after | difference [95 %] | sampled before | after | difference | changed |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name, one in result["sets"].items():
        shown = ["{:+.4f} [{:+.4f}, {:+.4f}]".format(*one[key]) for key in ("difference", "sampled_difference")]
        lines.append(
            f"| {name} | {one['num']} | {one['accuracy_before']:.4f} | {one['accuracy_after']:.4f} | {shown[0]} | "
            f"{one['sampled_before']:.4f} | {one['sampled_after']:.4f} | {shown[1]} | {one['changed_answers']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
