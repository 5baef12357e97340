"""Looks into footage in a child process: files are untrusted, and a crash of a decoder must not be the step's.

Run as `python -m components.data_synthesis.recordings.prober`, it answers requests for a video's facts, or for the size
of a picture; `Prober` is the side that asks.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.data_synthesis.recordings.probe import UnreadableVideo, VideoFacts, probe_video
from components.shared.runtime.errors import InputError
from components.shared.runtime.line_child import ChildDied, ChildLate, LineChild, serve
from components.shared.video.limits import limit_memory
from components.shared.video.picture import read_picture

TIME_LIMIT_S = 600.0
"""Reading every packet of the longest session from a slow disk."""
MEMORY_BYTES = 6 * 2**30


class Prober:
    """Asks a child about files; use it as a context."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.child = LineChild("components.data_synthesis.recordings.prober")
        self._time_limit_s = time_limit_s

    def video(self, path: Path) -> VideoFacts:
        """A video's facts.

        Raises:
            UnreadableVideo: not a video, damaged, or one that killed or outlasted its decoder.
        """
        facts = self._ask("video", path)
        start = datetime.fromisoformat(facts["start"]) if facts["start"] else None
        return VideoFacts(**{**facts, "start": start})

    def picture_size(self, path: Path) -> tuple[int, int]:
        """(width, height) of a picture.

        Raises:
            UnreadableVideo: no whole picture.
        """
        width, height = self._ask("picture", path)["size"]
        return width, height

    def _ask(self, kind: str, path: Path) -> dict[str, Any]:
        try:
            line = self.child.ask(json.dumps({"kind": kind, "path": str(path.absolute())}), self._time_limit_s)
        except ChildLate:
            raise UnreadableVideo(f"reading it took more than {self._time_limit_s:g} s and was stopped") from None
        except ChildDied as death:
            raise UnreadableVideo(f"its decoder died ({death})") from None
        answer: dict[str, Any] = json.loads(line)
        if "unreadable" in answer:
            raise UnreadableVideo(answer["unreadable"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.close()


def answer(line: str) -> str:
    """Carry out one request."""
    request = json.loads(line)
    path = Path(request["path"])
    try:
        if request["kind"] == "picture":
            height, width = read_picture(path).shape[:2]
            return json.dumps({"size": [width, height]})
        facts = probe_video(path)
        return json.dumps({**asdict(facts), "start": facts.start.isoformat() if facts.start else None})
    except (UnreadableVideo, InputError) as error:
        return json.dumps({"unreadable": str(error)})
    except MemoryError:
        return json.dumps({"unreadable": "reading it needs more memory than a decoding process may use"})


if __name__ == "__main__":
    limit_memory(MEMORY_BYTES)
    serve(answer)
