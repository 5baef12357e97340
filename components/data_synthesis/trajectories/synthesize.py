"""Trajectory synthesis: clips in; questions for every split and trajectories to learn from out.

Role: per clip shard, workers write questions, build trajectories whose operations are executed on source frames, and
judge them; here duplicates are dropped over all clips, thoughts are given to a teacher where one is configured, shards,
questions, index and examples are written.
Guarantees: the output depends on clips, truth and section only, not on the number of workers (a teacher's answers are
cached by digest for the same reason); every rejection is counted by reason; test and canary splits get questions only.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.examples import choose, write_examples
from components.data_synthesis.trajectories.quality import DuplicateFilter
from components.data_synthesis.trajectories.questions import CLOSEUP_TEXT, OPERATION_TEXT
from components.data_synthesis.trajectories.shard_work import Made, ShardJob, ShardOutcome, work_on
from components.shared.runtime.errors import InputError
from components.shared.runtime.progress import Progress
from components.shared.runtime.report import Report
from components.shared.runtime.reproducibility import cpu_threads
from components.shared.samples.index import ShardIndex, read_index, write_index
from components.shared.samples.shards import ShardRecord, ShardWriter
from components.shared.samples.trajectory import Question
from components.shared.samples.trajectory_shards import encode_json, write_questions
from components.shared.work.manifest import load_manifest

if TYPE_CHECKING:
    from components.data_synthesis.trajectories.teacher import Teacher

SPLITS = ("train", "validation", "test", "canary")
TAUGHT = ("train", "validation")
SHEET_CAPTION = (
    "Examples: the source frame with the boxes looked at, what each look showed, and what is said; a turn marked "
    "“not imitated” is shown to the policy and not learned"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrajectoriesInputs:
    """What the step reads."""

    clips: Path
    recordings: Path
    truth: Path


@dataclass(frozen=True)
class TrajectoriesOutputs:
    """What the step writes."""

    trajectories: Path


@dataclass
class Tally:
    """Counts that the report and the index show."""

    clips: Counter[str]
    kept: Counter[str]
    rejected: Counter[str]
    no_question: Counter[str]
    questions: Counter[str]
    values: Counter[str]
    teacher: Counter[str]


def synthesize_trajectories(
    config: TrajectoriesConfig, inputs: TrajectoriesInputs, outputs: TrajectoriesOutputs
) -> Report:
    """Write questions and trajectories; see the module's docstring.

    Raises:
        InputError: no clip of the train split gave a trajectory, so nothing could be learned.
    """
    manifest, index = load_manifest(inputs.recordings), read_index(inputs.clips)
    jobs = [
        ShardJob(inputs.clips / shard.name, split, inputs.truth, config, manifest.labels)
        for split in SPLITS
        for shard in index.shards.get(split, ())
    ]
    tally = Tally(*(Counter() for _ in fields(Tally)))
    writers = {split: ShardWriter(outputs.trajectories, split) for split in TAUGHT}
    questions: dict[str, list[Question]] = {split: [] for split in SPLITS}
    duplicates = {split: DuplicateFilter(config.duplicate_bits) for split in TAUGHT}
    shown: list[Made] = []
    progress = Progress(len(jobs), "writing trajectories", unit="shards")
    with teacher_of(config) as teacher:
        for outcome in outcomes(jobs, config.workers or cpu_threads()):
            count(tally, outcome)
            questions[outcome.split] += outcome.questions
            kept = [made for made in outcome.made if not is_duplicate(made, duplicates[outcome.split], tally)]
            kept = taught(kept, teacher)
            for made in kept:
                write(writers[outcome.split], made)
                tally.kept[f"{outcome.split} {made.trajectory.question.kind} {made.trajectory.kind}"] += 1
                tally.kept[f"{outcome.split} stage {made.trajectory.stage}"] += 1
            if outcome.split == "train":
                shown += choose(kept, config.num_examples)
            progress.advance()
        tally.teacher.update(teacher.counts if teacher else {})
    shards = {split: writer.close() for split, writer in writers.items()}
    if not sum(record.count for record in shards["train"]):
        raise InputError(
            f"none of {tally.clips['train']} training clips gave a trajectory ({reasons(tally)}): no policy can learn.",
            remedy="Look at the rejection reasons; give more or longer recordings.",
        )
    files = {f"questions-{split}": write_questions(outputs.trajectories, split, questions[split]) for split in SPLITS}
    sheet = write_examples(choose(shown, config.num_examples), outputs.trajectories / "examples")
    tags = (q.choices for split in SPLITS for q in questions[split] if q.question_id.endswith("-cu"))
    choices = next(tags, ())
    write_the_index(outputs.trajectories, config, index, shards, files, tally, manifest.labels, choices)
    return make_report(tally, shards, sheet, index.provenance)


def outcomes(jobs: list[ShardJob], workers: int) -> Iterator[ShardOutcome]:
    """Work on shards in parallel, results in order, a bounded number under way."""
    if workers == 1 or len(jobs) == 1:
        yield from map(work_on, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs) or 1), mp_context=context) as pool:
        waiting: deque[Future[ShardOutcome]] = deque()
        for job in jobs:
            waiting.append(pool.submit(work_on, job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def count(tally: Tally, outcome: ShardOutcome) -> None:
    """Add a shard's counts."""
    tally.clips[outcome.split] += outcome.num_clips
    tally.rejected.update(outcome.rejected)
    tally.no_question.update({f"{outcome.split} {reason}": n for reason, n in outcome.no_question.items()})
    for question in outcome.questions:
        tally.questions[f"{outcome.split} {question.kind}"] += 1
        if question.kind == "closeup":
            tally.values[question.truth["value"]] += 1


def is_duplicate(made: Made, seen: DuplicateFilter, tally: Tally) -> bool:
    """Whether an alike trajectory was kept already; counts it."""
    if seen.is_duplicate(made.trajectory, made.frames_hash):
        tally.rejected["duplicate"] += 1
        return True
    return False


@contextlib.contextmanager
def teacher_of(config: TrajectoriesConfig) -> Iterator[Teacher | None]:
    """The teacher where one is configured."""
    if not config.teacher.url:
        yield None
        return
    from components.data_synthesis.trajectories.teacher import Teacher

    teacher = Teacher(config.teacher)
    try:
        yield teacher
    finally:
        teacher.close()


def taught(kept: list[Made], teacher: Teacher | None) -> list[Made]:
    """Let the teacher write the thoughts where there is one."""
    if teacher is None:
        return kept
    written = teacher.write([made.trajectory for made in kept])
    return [replace(made, trajectory=trajectory) for made, trajectory in zip(kept, written, strict=True)]


def write(writer: ShardWriter, made: Made) -> None:
    """Append one trajectory."""
    members = {"json": encode_json(made.trajectory), "view.jpg": made.view_jpeg}
    members |= {f"{name}.jpg": data for name, data in sorted(made.images.items())}
    writer.write(made.trajectory.trajectory_id, members)


def write_the_index(
    root: Path,
    config: TrajectoriesConfig,
    clips: ShardIndex,
    shards: dict[str, tuple[ShardRecord, ...]],
    files: dict[str, ShardRecord],
    tally: Tally,
    labels: tuple[str, ...],
    choices: tuple[str, ...],
) -> None:
    """index.json: shards, question files, and what later steps need to know."""
    facts = {
        "labels": list(labels),
        "closeup_values": list(choices),
        "question_texts": {"operation": OPERATION_TEXT, "closeup": CLOSEUP_TEXT},
        "operations": config.operations.model_dump(mode="json"),
        "grid": config.grid,
        "clips": dict(tally.clips),
        "kept": dict(sorted(tally.kept.items())),
        "rejected": dict(sorted(tally.rejected.items())),
        "questions": dict(sorted(tally.questions.items())),
        "no_question": dict(sorted(tally.no_question.items())),
        "teacher": dict(sorted(tally.teacher.items())),
    }
    write_index(
        root, ShardIndex(kind="trajectories", provenance=clips.provenance, shards=shards, files=files, facts=facts)
    )


def reasons(tally: Tally) -> str:
    """All reasons why there is no trajectory, in one line."""
    found = {**tally.rejected, **{k: n for k, n in tally.no_question.items() if k.startswith("train")}}
    return ", ".join(f"{reason}: {number}" for reason, number in sorted(found.items())) or "there are no clips"


def in_one_line(counts: Counter[str]) -> str:
    """`duplicate 15, length 2`."""
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"


def table_by_split(title: str, counts: Counter[str]) -> list[str]:
    """Counts named `train closeup direct` as a Markdown table: a row for what follows the split, a column a split."""
    splits = [split for split in SPLITS if any(name.startswith(f"{split} ") for name in counts)]
    rows = sorted({name.partition(" ")[2] for name in counts})
    lines = [f"| {title} | {' | '.join(splits)} |", "|---" + "|---:" * len(splits) + "|"]
    return lines + [
        f"| {row} | " + " | ".join(str(counts[f"{split} {row}"]) for split in splits) + " |" for row in rows
    ]


def make_report(
    tally: Tally, shards: dict[str, tuple[ShardRecord, ...]], sheet: Path | None, provenance: str
) -> Report:
    """Figures, tables and the sheet of examples."""
    totals = {split: sum(record.count for record in records) for split, records in shards.items()}
    made = sum(totals.values()) + sum(tally.rejected.values())
    metrics = {f"num_trajectories_{split}": float(total) for split, total in totals.items()}
    metrics |= {f"num_questions_{name.replace(' ', '_')}": float(n) for name, n in sorted(tally.questions.items())}
    metrics["rejected_share"] = sum(tally.rejected.values()) / made if made else 0.0
    if tally.values:
        metrics["closeup_majority_share"] = max(tally.values.values()) / sum(tally.values.values())
    lines = [f"{totals['train']} trajectories to learn from, {totals['validation']} to validate on.", ""]
    staged = Counter({name: n for name, n in tally.kept.items() if name.split(" ")[1] == "stage"})
    lines += table_by_split("kept, by question and kind", tally.kept - staged)
    lines += ["", *table_by_split("the same, by stage of the curriculum", staged)]
    lines += ["", "Rejected by reason: " + in_one_line(tally.rejected), ""]
    lines += table_by_split("clips without a question", tally.no_question) if tally.no_question else []
    if tally.teacher:
        lines += ["", "Teacher's answers: " + in_one_line(tally.teacher)]
    return Report(
        metrics=metrics,
        provenance="real" if provenance == "real" else "synthetic",
        markdown="\n".join(lines),
        pictures={SHEET_CAPTION: sheet} if sheet else {},
        facts={"rejected": dict(tally.rejected), "kept": dict(tally.kept)},
    )
