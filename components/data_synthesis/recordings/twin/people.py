"""Who works in the twin: the official eight first, then generated people, each on one side of the split."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from components.data_synthesis.recordings.config import TwinSection
from components.shared.work.manifest import Split
from components.shared.work.people import DEFAULT_SPLIT

_GENERATED: dict[Split, int] = {"train": 2001, "validation": 8001, "test": 9001}
_FIRST_DAY = datetime(2022, 3, 1, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Job:
    """One recording to render.

    Attributes:
        number: Unique number of the person within the twin, the seed of their look.
    """

    user: str
    session: str
    split: Split
    number: int
    length_s: float
    start: datetime

    @property
    def recording_id(self) -> str:
        """Name of the recording."""
        return f"{self.user}-{self.session}"


def list_jobs(config: TwinSection) -> list[Job]:
    """All recordings of a twin in the order of the split, person and session."""
    sides: tuple[tuple[Split, int, float], ...] = (
        ("train", config.num_train_people, config.train_session_s),
        ("validation", config.num_validation_people, config.validation_session_s),
        ("test", config.num_test_people, config.test_session_s),
    )
    jobs = []
    for split, count, length_s in sides:
        official = DEFAULT_SPLIT[split]
        for index in range(count):
            generated = _GENERATED[split] + index - len(official)
            user = official[index] if index < len(official) else f"U{generated:04d}"
            number = int(user[1:])
            for session in range(config.sessions_per_person):
                start = _FIRST_DAY + timedelta(days=number % 28, hours=session, seconds=7 * (number % 500))
                frames = round(length_s * config.fps)
                jobs.append(Job(user, f"S{(session + 1) * 100:04d}", split, number, frames / config.fps, start))
    return jobs
