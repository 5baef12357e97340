"""Thoughts written by a teacher model behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`).

The teacher sees question, calls, what they returned and the answer, and writes one thought a call; calls, results and
answers stay as they were executed, so a teacher can never change what is true.
Guarantees: an answer that is late, malformed, refused or too long leaves the template's thought, and is counted with
its reason; answers are cached by the digest of model and prompt, so a run can be repeated exactly and a broken-off one
goes on; the key is read from the environment and never logged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from components.data_synthesis.trajectories.config import TeacherSection
from components.shared.runtime.artifacts import atomic_write
from components.shared.runtime.config import canonical_json
from components.shared.samples.trajectory import Trajectory

MAX_THOUGHT_CHARS = 400
MAX_ANSWER_BYTES = 200_000
INSTRUCTION = (
    "You write the inner thoughts of an agent that looks at video frames of packing work. You are given its question, "
    "the calls it makes and its answer. Write one short thought (at most 25 words) before each call, saying why that "
    "place is worth a closer look. Do not reveal the answer before the call that shows it. Reply with a JSON object "
    '{"thoughts": ["..."]} holding exactly one string a call, and nothing else.'
)
log = logging.getLogger(__name__)


class TeacherFault(Exception):
    """Why an answer could not be used; the message is the reason that is counted."""


class Teacher:
    """Writes thoughts for trajectories with calls; counts what came of each in `counts`."""

    def __init__(self, section: TeacherSection, transport: httpx.BaseTransport | None = None) -> None:
        self.section = section
        self.counts: Counter[str] = Counter()
        self._asked = 0
        self._lock = threading.Lock()
        key = os.environ.get(section.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=section.timeout_s, headers=headers, transport=transport)

    def write(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The trajectories with the teacher's thoughts where it gave usable ones; order kept."""
        with ThreadPoolExecutor(self.section.concurrency) as pool:
            return list(pool.map(self._one, trajectories))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _one(self, trajectory: Trajectory) -> Trajectory:
        calls = sum(turn.call is not None for turn in trajectory.turns)
        if not calls:
            return trajectory
        messages = conversation(trajectory)
        digest = hashlib.sha256(canonical_json([self.section.model, messages]).encode()).hexdigest()
        try:
            text = self._cached(digest)
            if text is None:
                text = self._ask(messages)
                thoughts = parse_thoughts(text, calls)
                self._remember(digest, text)
                self._count("written")
            else:
                thoughts = parse_thoughts(text, calls)
                self._count("cached")
        except TeacherFault as fault:
            self._count(str(fault))
            return trajectory
        return with_thoughts(trajectory, thoughts, self.section.model)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _ask(self, messages: list[dict[str, str]]) -> str:
        """The teacher's text; raises TeacherFault."""
        with self._lock:
            if self._asked >= self.section.max_calls:
                raise TeacherFault("over max_calls")
            self._asked += 1
        body = {"model": self.section.model, "messages": messages, "temperature": 0, "max_tokens": 400}
        reason = ""
        for attempt in range(self.section.retries + 1):
            if attempt:
                time.sleep(min(0.2 * 2**attempt, 5.0))
            try:
                response = self._client.post(f"{self.section.url.rstrip('/')}/chat/completions", json=body)
            except httpx.TimeoutException:
                reason = "time-out"
                continue
            except httpx.HTTPError as error:
                reason = f"unreachable: {type(error).__name__}"
                continue
            if response.status_code == 429 or response.status_code >= 500:
                reason = f"status {response.status_code}"
                continue
            if response.status_code != 200:
                raise TeacherFault(f"status {response.status_code}")
            return content_of(response)
        raise TeacherFault(reason)

    def _cached(self, digest: str) -> str | None:
        if not self.section.cache:
            return None
        path = Path(self.section.cache) / digest[:2] / f"{digest}.json"
        try:
            return str(json.loads(path.read_text())["text"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            log.warning("cached teacher answer %s is broken and asked for again", path.name)
            return None

    def _remember(self, digest: str, text: str) -> None:
        if self.section.cache:
            path = Path(self.section.cache) / digest[:2] / f"{digest}.json"
            atomic_write(path, json.dumps({"model": self.section.model, "text": text}))


def content_of(response: httpx.Response) -> str:
    """The assistant's text in a chat completion; raises TeacherFault."""
    if len(response.content) > MAX_ANSWER_BYTES:
        raise TeacherFault("malformed: too long")
    try:
        choice: Any = response.json()["choices"][0]
        message = choice["message"]
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            raise TeacherFault("refused")
        content = message["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise TeacherFault("malformed: no chat completion") from None
    if not isinstance(content, str):
        raise TeacherFault("malformed: no text")
    return content


def conversation(trajectory: Trajectory) -> list[dict[str, str]]:
    """What the teacher is asked."""
    calls = [
        {
            "call": turn.call.model_dump(mode="json"),
            "returned": turn.result.text if turn.result else "",
            "right": turn.learn,
        }
        for turn in trajectory.turns
        if turn.call
    ]
    asked = {"question": trajectory.question.text, "calls": calls, "answer": trajectory.turns[-1].answer}
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": canonical_json(asked)}]


def parse_thoughts(text: str, count: int) -> list[str]:
    """The thoughts in a teacher's answer (a JSON object, fenced or not); raises TeacherFault."""
    start, end = text.find("{"), text.rfind("}")
    try:
        thoughts = json.loads(text[start : end + 1])["thoughts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TeacherFault("malformed: no JSON object with thoughts") from None
    if not isinstance(thoughts, list) or len(thoughts) != count:
        raise TeacherFault("malformed: wrong number of thoughts")
    cleaned = [" ".join(thought.split()) if isinstance(thought, str) else "" for thought in thoughts]
    if not all(cleaned):
        raise TeacherFault("malformed: an empty thought")
    if any(len(thought) > MAX_THOUGHT_CHARS for thought in cleaned):
        raise TeacherFault("malformed: a thought too long")
    if any("<" in thought or "{" in thought for thought in cleaned):
        raise TeacherFault("malformed: markup in a thought")
    return cleaned


def with_thoughts(trajectory: Trajectory, thoughts: list[str], author: str) -> Trajectory:
    """The trajectory with these thoughts before its calls."""
    remaining = iter(thoughts)
    turns = tuple(
        turn.model_copy(update={"thought": next(remaining)}) if turn.call else turn for turn in trajectory.turns
    )
    return trajectory.model_copy(update={"turns": turns, "author": author})
