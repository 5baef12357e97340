"""What the service remembers: answered questions in the experience buffer, as the rest of `ttrl` speaks of them.

Role: translates between votes and lessons here and records there. The only file of `ttrl` besides `buffer/` that knows
the record's fields.

    label        the pseudo-label's operation or value; `NEGATIVES` where only negatives may be learned; else ''
    attributes   answer, lesson {label, negatives, weight}, visits, flips, times_s, window key, encoder, model, adapter

Guarantee: whatever goes wrong in the buffer (not ready, disk full, damaged, locked) is a `MemoryFault` with a short
reason that names no user data; the service then answers from the model alone and says so.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, ExperienceBufferError, Where
from components.ttrl.config import TtrlConfig
from components.ttrl.gating import Lesson
from components.ttrl.redaction import redact, redact_text
from components.ttrl.voting import Answer

log = logging.getLogger(__name__)
NEGATIVES = "~negatives"


class MemoryFault(Exception):
    """The buffer cannot be used now; the text is the reason shown to callers."""


@dataclass(frozen=True)
class Stored:
    """A stored experience ready to be learned from."""

    id: str
    source: str
    question: str
    times_s: tuple[float, ...]
    label: Answer | None
    negatives: tuple[Answer, ...]
    neutral: tuple[Answer, ...]
    weight: float
    visits: int
    flips: int
    jpegs: tuple[bytes, ...]


class Memory:
    """The experience buffer of one state directory.

    Args:
        directory: State directory.
        config: The section.
        width: Width of the embeddings.
        encoder: Digest of the encoder that makes them.
    """

    def __init__(self, directory: Path, config: TtrlConfig, *, width: int, encoder: str) -> None:
        self._encoder = encoder
        self._changing = threading.Lock()
        """Held from reading a record's attributes to writing them: requests and the update thread both do."""
        settings = BufferConfig(dimension=width, capacity_records=config.capacity, retention_days=config.retention_days)
        with faults():
            self._buffer = ExperienceBuffer.open(directory / f"experiences-{width}", settings, redact=redact)

    def remember(
        self,
        *,
        question: str,
        visual: np.ndarray,
        text: np.ndarray | None,
        source: str,
        trace_id: str,
        jpegs: Sequence[bytes],
        answer: Answer | None,
        votes: Sequence[tuple[Answer, float]],
        confidence: float,
        lesson: Lesson,
        trajectory: Sequence[dict[str, Any]],
        facts: dict[str, Any],
    ) -> str:
        """Store an experience; durable on return.

        Returns:
            Its id.
        """
        label = name_of(lesson.label) if lesson.label else (NEGATIVES if lesson.negatives else "")
        experience = Experience(
            question=question,
            visual=visual,
            text=text,
            source=source,
            trace_id=trace_id,
            label=label,
            trajectory=tuple(trajectory),
            votes={f"{number}:{name_of(one)}": share for number, (one, share) in enumerate(votes)},
            confidence=min(max(confidence, 0.0), 1.0),
            attributes={
                "answer": answer,
                "lesson": {
                    "label": lesson.label,
                    "negatives": list(lesson.negatives),
                    "neutral": list(lesson.neutral),
                    "weight": lesson.weight,
                },
                "visits": 0,
                "flips": 0,
                "encoder": self._encoder,
                **facts,
            },
        )
        with faults():
            self._buffer.append(experience, frames=list(jpegs))
        return experience.id

    def neighbours(
        self, visual: np.ndarray, text: np.ndarray | None, *, k: int, least: float
    ) -> list[tuple[float, Answer | None, str]]:
        """(similarity, answer, question) of the k nearest experiences at least that similar, nearest first."""
        with faults():
            found = self._buffer.search_knn(self._buffer.hybrid(visual, text), k)
            near = [(item.similarity, self._buffer.get(item.id)) for item in found if item.similarity >= least]
        return [
            (similarity, item.attributes.get("answer"), item.question)
            for similarity, item in near
            if item.attributes.get("encoder") == self._encoder
        ]

    def same_question(self, stored: str, asked: str) -> bool:
        """Whether a stored question is the asked one (what is stored was redacted)."""
        return stored == redact_text(asked)

    def erase(self, *, ids: Sequence[str], sources: Sequence[str], subjects: Sequence[str]) -> int:
        """Remove experiences and every byte of them; returns how many."""
        with faults():
            return self._buffer.erase(ids=ids, sources=sources, subjects=subjects)

    def lessons(self, num: int, labels: Sequence[str]) -> list[Stored]:
        """Up to `num` experiences that may be learned from, drawn by priority, with their frames."""
        with faults():
            batch = self._buffer.sample(num, where=Where(labels=(*labels, NEGATIVES)))
            return [self._stored(item) for item in batch.experiences]

    def visited(self, identity: str, *, visits: int, flips: int, reward: float) -> None:
        """Note that an update has learned from an experience."""
        with self._changing, faults():
            attributes = {**self._buffer.get(identity).attributes, "visits": visits, "flips": flips}
            self._buffer.update(identity, attributes=attributes, reward=reward)

    def feedback(self, identity: str, said: dict[str, Any]) -> None:
        """Keep what a person said about an answer, for review."""
        with self._changing, faults():
            attributes = dict(self._buffer.get(identity).attributes)
            attributes["feedback"] = [*attributes.get("feedback", []), said]
            self._buffer.update(identity, attributes=attributes)

    def has(self, identity: str) -> bool:
        """Whether such an experience is stored."""
        try:
            with faults():
                return identity in self._buffer
        except (ValueError, KeyError):  # not even an id
            return False

    def outdated(self) -> list[str]:
        """Ids of experiences whose embedding another encoder made."""
        found = []
        with faults():
            for identity in self._buffer.ids():
                with contextlib.suppress(KeyError):
                    if self._buffer.get(identity).attributes.get("encoder") != self._encoder:
                        found.append(identity)
        return found

    def stored(self, identity: str) -> Stored:
        """One experience with its frames."""
        with faults():
            return self._stored(self._buffer.get(identity))

    def re_embed(self, identity: str, visual: np.ndarray, text: np.ndarray) -> None:
        """Replace an experience's embeddings by the present encoder's."""
        with self._changing, faults():
            attributes = {**self._buffer.get(identity).attributes, "encoder": self._encoder}
            self._buffer.update(identity, visual=visual, text=text, attributes=attributes)

    def num_lessons(self, labels: Sequence[str]) -> int:
        """Stored experiences that hold a pseudo-label, of any age; counted once, when the service starts."""
        wanted = set(labels)
        count = 0
        with faults():
            for identity in self._buffer.ids():
                with contextlib.suppress(KeyError):
                    count += self._buffer.get(identity).label in wanted
        return count

    def num_experiences(self) -> int:
        """How many there are."""
        return len(self._buffer)

    def stats(self) -> dict[str, Any]:
        """Counts, bytes and state of the buffer."""
        with faults():
            return self._buffer.stats()

    def close(self) -> None:
        """Give the directory back."""
        self._buffer.close()

    def _stored(self, item: Experience) -> Stored:
        attributes = item.attributes
        lesson = attributes.get("lesson") or {}
        return Stored(
            id=item.id,
            source=item.source,
            question=item.question,
            times_s=tuple(attributes.get("times_s", ())),
            label=lesson.get("label"),
            negatives=tuple(lesson.get("negatives", ())),
            neutral=tuple(lesson.get("neutral", ())),
            weight=float(lesson.get("weight", 0.0)),
            visits=int(attributes.get("visits", 0)),
            flips=int(attributes.get("flips", 0)),
            jpegs=tuple(self._buffer.frame(digest) for digest in item.frames),
        )


def name_of(answer: Answer) -> str:
    """An answer's operation or value."""
    return str(answer.get("operation", answer.get("value", "")))


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Any failure of the buffer as a `MemoryFault`; a record that is gone stays a `KeyError`."""
    try:
        yield
    except KeyError:
        raise
    except ExperienceBufferError as error:
        log.warning("experience buffer: %s", error)
        raise MemoryFault(f"buffer: {type(error).__name__}") from error
    except OSError as error:
        log.warning("experience buffer: %s", error.strerror)
        raise MemoryFault(f"buffer: {error.strerror or type(error).__name__}") from error
