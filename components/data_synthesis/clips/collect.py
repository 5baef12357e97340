"""Join the groups of recordings into one clips artifact, with its sampler report and readable examples.

Shards are hard-linked where the file system allows, copied otherwise, and numbered through; their digests are those
measured while they were written, and `pixelis shards verify` (or `verify_artifact`) checks them against the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.cut import GROUP
from components.data_synthesis.clips.examples import draw_sampler_plot, write_examples
from components.data_synthesis.clips.sampler_report import SamplerCounts, compare_samplers, verdict
from components.shared.runtime.artifacts import read_json, sha256_file, write_json
from components.shared.runtime.errors import ArtifactError, InputError
from components.shared.runtime.report import Report
from components.shared.samples.index import ShardIndex, read_index, write_index
from components.shared.samples.shards import ShardRecord
from components.shared.work.manifest import MANIFEST, load_manifest

SAMPLER_REPORT = "sampler-report.json"
SPLITS = ("train", "validation", "test", "canary")


@dataclass(frozen=True)
class CollectInputs:
    """What joining needs."""

    recordings: Path
    """Recordings artifact."""
    groups: tuple[Path, ...]
    """Outputs of `cut_clips`, one a group, in any order."""


@dataclass(frozen=True)
class CollectOutputs:
    """What joining leaves."""

    clips: Path
    """index.json, shards, examples/, sampler-report.json."""


def collect_clips(config: ClipsConfig, inputs: CollectInputs, outputs: CollectOutputs) -> Report:
    """Join all groups of a run.

    Raises:
        ArtifactError: a group is missing, twice there, or of another run's configuration or recordings.
        InputError: more recordings failed than `max_failed_share` allows, or no training clip came out.
    """
    manifest = load_manifest(inputs.recordings)
    groups = load_groups(config, inputs.groups, sha256_file(inputs.recordings / MANIFEST))
    records = [record for _, record in groups]
    failed = [item for record in records for item in record["failed"]]
    total = sum(record["num_recordings"] for record in records)
    if len(failed) > config.max_failed_share * total:
        reasons = "; ".join(item["reason"] for item in failed[:5])
        raise InputError(
            f"{len(failed)} of {total} recordings failed, more than max_failed_share = {config.max_failed_share:g}: "
            f"{reasons}",
            remedy="Repair or remove them, or raise clips.max_failed_share.",
        )
    shards = link_shards([folder for folder, _ in groups], outputs.clips)
    if not any(shard.count for shard in shards.get("train", ())):
        raise InputError(
            "no training clip came out: no training recording has a window with a leading label.",
            remedy="Check the annotation, or lower clips.lead_share.",
        )
    facts = merge_facts(config, records, failed, total)
    samplers = {name: counts for record in records for name, counts in record["samplers"].items()}
    compared = compare_samplers(
        [{n: SamplerCounts.model_validate(c) for n, c in samplers[r].items()} for r in sorted(samplers)], config.seed
    )
    facts["samplers"] = compared
    write_json(outputs.clips / SAMPLER_REPORT, {"num_recordings": len(samplers), "samplers": compared})
    write_index(outputs.clips, ShardIndex(kind="clips", provenance=manifest.provenance, shards=shards, facts=facts))
    pictures = {}
    plotted = next((record["entropy"] for record in records if record["entropy"]), None)
    if plotted:
        picture = outputs.clips / "examples" / "sampler.png"
        draw_sampler_plot(manifest, plotted, config, picture)
        pictures["Entropy over time, chosen frames and boundaries"] = picture
    if config.num_examples:
        sheet = write_examples(outputs.clips, config)
        pictures["Example clips: four frames as the source has them, below all frames as the policy sees them"] = sheet
    counts = {split: sum(shard.count for shard in shards.get(split, ())) for split in SPLITS}
    report = Report(
        metrics=report_metrics(counts, facts, len(failed)),
        provenance=manifest.provenance,
        markdown=report_text(config, counts, facts, len(samplers)),
        pictures=pictures,
        facts={key: facts[key] for key in ("classes", "ambiguous", "canary_source", "samplers", "skipped")},
    )
    return report


def load_groups(config: ClipsConfig, folders: tuple[Path, ...], manifest: str) -> list[tuple[Path, dict[str, Any]]]:
    """Group folders with their records, by group number; all cut from recordings with this manifest (its sha256)."""
    groups = sorted(((folder, read_json(folder / GROUP)) for folder in folders), key=lambda item: item[1]["group"])
    if not groups:
        raise ArtifactError("no group of clips was given, so there is nothing to join.")
    expected = list(range(groups[0][1]["num_groups"]))
    found = [record["group"] for _, record in groups]
    if found != expected:
        raise ArtifactError(f"groups {found} were given, but the recordings were cut in groups {expected}.")
    for folder, record in groups:
        if record["config"] != config.digest() or record["manifest"] != manifest:
            raise ArtifactError(
                f"{folder}: was cut with another configuration or from other recordings; joining would mix runs.",
                remedy="Run the clips step again.",
            )
    return groups


def link_shards(folders: list[Path], target: Path) -> dict[str, tuple[ShardRecord, ...]]:
    """Give every group's shards a place and a running number in the joined artifact."""
    joined: dict[str, tuple[ShardRecord, ...]] = {}
    indices = [read_index(folder) for folder in folders]
    for split in SPLITS:
        placed: list[ShardRecord] = []
        for folder, index in zip(folders, indices):
            for shard in index.shards.get(split, ()):
                name = f"{split}-{len(placed):06d}.tar"
                link_file(folder / shard.name, target / name)
                placed.append(shard.model_copy(update={"name": name}))
        joined[split] = tuple(placed)
    return joined


def link_file(source: Path, target: Path) -> None:
    """Hard link, or copy where that is not possible."""
    if not source.is_file():
        raise ArtifactError(f"shard {source} is missing.", remedy="Run its group of the clips step again.")
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def merge_facts(
    config: ClipsConfig, records: list[dict[str, Any]], failed: list[dict[str, Any]], total: int
) -> dict[str, Any]:
    """What later steps and people want to know without opening a shard."""
    classes: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    ambiguous: Counter[str] = Counter()
    for record in records:
        for split, counts in record["classes"].items():
            classes[split].update(counts)
        ambiguous.update(record["ambiguous"])
    first = records[0]
    sums = ("num_padded", "num_unlabelled", "num_cut_short", "lowered_gap", "num_frames")
    kept = ("labels", "null_label", "captions", "transitions", "split_by", "source", "canary_subjects")
    return {
        **{key: first[key] for key in (*kept, "canary_source", "num_unclear", "num_capped")},
        "window_s": config.window_s,
        "fps": config.fps,
        "num_frames_per_clip": config.num_frames,
        "view_size": config.view_size,
        "sampler": config.sampler,
        "lead_share": config.lead_share,
        "source_sizes": sorted({size for record in records for size in record["source_sizes"]}),
        "num_recordings": total,
        "skipped": failed,
        "classes": {split: dict(counts) for split, counts in classes.items()},
        "ambiguous": {split: ambiguous[split] for split in SPLITS},
        **{name: sum(record[name] for record in records) for name in sums},
    }


def ambiguous_share(facts: dict[str, Any]) -> float:
    """Share of the sliding windows (validation and test) without a clear answer."""
    total = sum(sum(facts["classes"][split].values()) for split in ("validation", "test"))
    return sum(facts["ambiguous"][split] for split in ("validation", "test")) / total if total else 0.0


def report_metrics(counts: dict[str, int], facts: dict[str, Any], num_failed: int) -> dict[str, float]:
    """The step's figures."""
    metrics = {f"num_clips_{split}": float(count) for split, count in counts.items()}
    metrics |= {"num_frames": float(facts["num_frames"]), "num_failed": float(num_failed)}
    metrics["ambiguous_share"] = round(ambiguous_share(facts), 4)
    metrics["canary_least_per_class"] = float(
        min((facts["classes"]["canary"].get(label, 0) for label in facts["labels"]), default=0)
    )
    for name, figures in facts["samplers"].items():
        metrics[f"sampler_{name}_near_boundary"] = figures["share"]
    return metrics


def report_text(config: ClipsConfig, counts: dict[str, int], facts: dict[str, Any], num_measured: int) -> str:
    """The step's report for people."""
    people = "people" if facts["split_by"] == "person" else "videos (no people are named: the split is by video)"
    lines = [
        "# Clips",
        "",
        "| split | clips | ambiguous |",
        "|---|---|---|",
        *(f"| {split} | {counts[split]} | {facts['ambiguous'][split]} |" for split in SPLITS),
        "",
        f"{facts['num_recordings']} recordings, {facts['num_frames']} frames at {config.fps} a second; "
        f"{len(facts['skipped'])} skipped. {100 * ambiguous_share(facts):.0f} % of the sliding windows are ambiguous "
        f"(their operation leads by less than {config.lead_share:.1%} of the window) and left out of scoring. "
        f"{facts['num_unclear']} such training and canary windows were not cut, {facts['num_capped']} were beyond "
        f"`max_clips`, {facts['num_padded']} are padded, {facts['num_cut_short']} beyond their recording's real end, "
        f"{facts['num_unlabelled']} without any label.",
        "",
        f"Canary: {counts['canary']} clips of {len(facts['canary_subjects'])} {facts['canary_source']} {people}"
        f" kept out of everything else; by label: "
        + (", ".join(f"{label} {count}" for label, count in facts["classes"]["canary"].items()) or "none")
        + ".",
        "",
        *(f"- skipped {item['recording_id']}: {item['reason']}" for item in facts["skipped"]),
        "",
        f"## Do samplers find boundaries? ({num_measured} recordings, intervals clustered by recording)",
        "",
        "| sampler | chosen frames within 0.5 s of a boundary | against uniform | |",
        "|---|---|---|---|",
    ]
    for name, f in facts["samplers"].items():
        chosen = " (in use)" if name == config.sampler else ""
        lines.append(
            f"| {name}{chosen} | {f['share']:.3f} [{f['share_low']:.3f}, {f['share_high']:.3f}] | "
            f"{f['gain']:+.3f} [{f['gain_low']:+.3f}, {f['gain_high']:+.3f}] | {verdict(name, f)} |"
        )
    used = facts["samplers"].get(config.sampler)
    if used and config.sampler != "uniform" and used["gain_low"] <= 0:
        lines += ["", f"**The sampler in use ({config.sampler}) does not help: uniform finds boundaries as well.**"]
    return "\n".join(lines) + "\n"
