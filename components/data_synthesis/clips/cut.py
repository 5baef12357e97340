"""Cut one group of recordings into clips (the fan-out part of the step).

Recording i of the manifest belongs to group i % num_groups. Within a group, decoding processes work side by side;
finished recordings are written to shards in the manifest's order, so bytes do not depend on the number of workers.
A recording that fails is tried once more, then recorded and left out; `collect_clips` judges the share that failed.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.cutting import CutRequest, CutResult
from components.data_synthesis.clips.plan import Plan, plan_clips
from components.data_synthesis.clips.ranking import rank
from components.data_synthesis.clips.worker import Worker, part_path
from components.shared.runtime.artifacts import sha256_file, write_json
from components.shared.runtime.errors import ConfigError, InputError
from components.shared.runtime.progress import Progress
from components.shared.runtime.report import Report
from components.shared.samples.index import ShardIndex, write_index
from components.shared.samples.shards import ShardWriter
from components.shared.work.manifest import MANIFEST, Manifest, Recording, load_manifest

log = logging.getLogger(__name__)
GROUP = "group.json"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class CutInputs:
    """What a group needs."""

    recordings: Path
    """Recordings artifact."""
    group: int = 0
    num_groups: int = 1


@dataclass(frozen=True)
class CutOutputs:
    """What a group leaves."""

    clips: Path
    """Shards, their index, and group.json with what `collect_clips` merges."""


def cut_clips(config: ClipsConfig, inputs: CutInputs, outputs: CutOutputs) -> Report:
    """Cut every window planned in the recordings of one group.

    Raises:
        ConfigError: a group number that does not exist.
        InputError: the manifest holds no recordings.
    """
    if not 0 <= inputs.group < inputs.num_groups:
        raise ConfigError(f"group = {inputs.group}: there are only groups 0 to {inputs.num_groups - 1}.")
    manifest = load_manifest(inputs.recordings)
    if not manifest.recordings:
        raise InputError(f"{inputs.recordings / MANIFEST} lists no recordings, so no clip can be cut.")
    plan = plan_clips(manifest, config)
    recordings = manifest.recordings[inputs.group :: inputs.num_groups]
    measured = recordings_to_measure(manifest, config)
    results: list[tuple[Recording, CutResult]] = []
    writers: dict[str, ShardWriter] = {}
    bar = Progress(len(recordings), "cutting recordings", unit="recordings")
    with tempfile.TemporaryDirectory(dir=outputs.clips, prefix=".parts-") as folder:
        requests = [
            make_request(
                manifest, plan, recording, config, inputs.recordings, measured, part_path(Path(folder), number)
            )
            for number, recording in enumerate(recordings)
        ]
        for request, result in run_requests(requests, config):
            results.append((request.recording, result))
            if result.clip_ids:
                write_part(outputs.clips, writers, request, result, config)
            Path(request.part).unlink(missing_ok=True)
            bar.advance(note=f"{sum(len(r.clip_ids) for _, r in results)} clips")
    shards = {split: writer.close() for split, writer in writers.items()}
    write_index(outputs.clips, ShardIndex(kind="clips", provenance=manifest.provenance, shards=shards))
    record = group_record(config, inputs, manifest, plan, results)
    write_json(outputs.clips / GROUP, record)
    return group_report(manifest, record)


def recordings_to_measure(manifest: Manifest, config: ClipsConfig) -> set[str]:
    """Recordings on which all samplers are measured: the same in every group, drawn at random."""
    ids = sorted((r.recording_id for r in manifest.recordings if r.segments), key=lambda name: rank(config.seed, name))
    return set(ids[: config.report_recordings])


def make_request(
    manifest: Manifest,
    plan: Plan,
    recording: Recording,
    config: ClipsConfig,
    artifact: Path,
    measured: set[str],
    part: Path,
) -> CutRequest:
    """One recording's work for a decoding process."""
    return CutRequest(
        recording=recording,
        video=str(manifest.resolve(recording, artifact).absolute()),
        clips=tuple(plan.clips[recording.recording_id]),
        null_label=manifest.null_label,
        provenance=manifest.provenance,
        settings=config,
        measure_samplers=recording.recording_id in measured,
        part=str(part),
    )


def run_requests(requests: list[CutRequest], config: ClipsConfig) -> Iterator[tuple[CutRequest, CutResult]]:
    """Have all requests carried out side by side; results come in the order of the requests."""
    local = threading.local()
    workers: list[Worker] = []

    def start() -> None:
        local.worker = Worker(config.worker_memory_gib)
        workers.append(local.worker)

    def carry_out(request: CutRequest) -> CutResult:
        return cut_with_retry(local.worker, request, config)

    with ThreadPoolExecutor(min(config.workers, max(len(requests), 1)), initializer=start) as pool:
        futures: list[Future[CutResult]] = [pool.submit(carry_out, request) for request in requests]
        try:
            for request, future in zip(requests, futures):
                yield request, future.result()
        finally:
            for future in futures:
                future.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            for worker in workers:
                worker.close()


def cut_with_retry(worker: Worker, request: CutRequest, config: ClipsConfig) -> CutResult:
    """Cut a recording, once more where it fails; a second failure becomes the result's `error`."""
    if not request.clips and not request.measure_samplers:
        return CutResult()
    timeout_s = config.recording_timeout_s + 4 * request.recording.duration_s
    for attempt in (1, 2):
        try:
            return worker.cut(request, timeout_s)
        except InputError as error:
            reason = str(error)
            log.warning("%s, attempt %d of 2: %s", request.recording.recording_id, attempt, reason)
    return CutResult(error=reason)


def write_part(
    root: Path, writers: dict[str, ShardWriter], request: CutRequest, result: CutResult, config: ClipsConfig
) -> None:
    """Append a recording's packed clips to the shards of their splits."""
    with open(request.part, "rb") as part:
        for clip_id, split, size in zip(result.clip_ids, result.splits, result.sizes):
            if split not in writers:
                writers[split] = ShardWriter(root, split, max_bytes=int(config.max_shard_mb * MEGABYTE))
            writers[split].write_packed(clip_id, part.read(size))


def group_record(
    config: ClipsConfig,
    inputs: CutInputs,
    manifest: Manifest,
    plan: Plan,
    results: list[tuple[Recording, CutResult]],
) -> dict[str, Any]:
    """What `collect_clips` needs besides the shards, as plain JSON."""
    good = [result for _, result in results if not result.error]
    classes: dict[str, Counter[str]] = {}
    ambiguous: Counter[str] = Counter()
    for result in good:
        for split, operation, unclear in zip(result.splits, result.operations, result.ambiguous):
            classes.setdefault(split, Counter())[operation] += 1
            ambiguous[split] += unclear
    sums = ("num_padded", "num_unlabelled", "num_cut_short", "lowered_gap", "num_frames")
    return {
        "group": inputs.group,
        "num_groups": inputs.num_groups,
        "config": config.digest(),
        "manifest": sha256_file(inputs.recordings / MANIFEST),
        "labels": list(manifest.labels),
        "null_label": manifest.null_label,
        "captions": manifest.captions,
        "transitions": manifest.transitions,
        "split_by": manifest.split_by,
        "source": manifest.source,
        "provenance": manifest.provenance,
        "canary_subjects": list(plan.canary_subjects),
        "canary_source": plan.canary_source,
        "num_unclear": plan.num_unclear,
        "num_capped": plan.num_capped,
        "num_recordings": len(results),
        "failed": [
            {"recording_id": recording.recording_id, "reason": result.error}
            for recording, result in results
            if result.error
        ],
        "source_sizes": sorted({f"{result.width}x{result.height}" for result in good if result.width}),
        "classes": {split: dict(sorted(counts.items())) for split, counts in sorted(classes.items())},
        "ambiguous": dict(sorted(ambiguous.items())),
        **{name: sum(getattr(result, name) for result in good) for name in sums},
        "samplers": {
            recording.recording_id: {name: counts.model_dump() for name, counts in result.counts.items()}
            for recording, result in results
            if result.counts
        },
        "entropy": next(
            (
                {"recording_id": recording.recording_id, "values": list(result.entropy)}
                for recording, result in results
                if result.entropy and not result.error
            ),
            None,
        ),
    }


def group_report(manifest: Manifest, record: dict[str, Any]) -> Report:
    """The group's figures."""
    clips = {split: sum(counts.values()) for split, counts in record["classes"].items()}
    lines = [
        f"Group {record['group']} of {record['num_groups']}: {record['num_recordings']} recordings; clips: "
        + (", ".join(f"{count} {split}" for split, count in clips.items()) or "none")
        + "."
    ]
    lines += ["", *(f"- skipped {item['recording_id']}: {item['reason']}" for item in record["failed"])]
    metrics = {f"num_clips_{split}": float(count) for split, count in clips.items()}
    metrics |= {"num_frames": float(record["num_frames"]), "num_failed": float(len(record["failed"]))}
    return Report(metrics=metrics, provenance=manifest.provenance, markdown="\n".join(lines) + "\n")
