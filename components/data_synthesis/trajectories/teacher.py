"""Thoughts written by a teacher model behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`).

The teacher sees question, calls, what they returned and the answer, and writes one thought a call; calls, results and
answers stay as they were executed, so a teacher can never change what is true.
Guarantees: an answer that is late, malformed, refused or too long leaves the template's thought, and is counted with
its reason; no more than `MAX_ANSWER_BYTES` of an answer are taken in; answers are cached by the digest of model and
prompt and each prompt is asked once, so a run can be repeated exactly and a broken-off one goes on; which prompts
`max_calls` leaves out depends on the trajectories' order only; the key is read from the environment and never logged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
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
Prompt = list[dict[str, str]]


class TeacherFault(Exception):
    """Why an answer could not be used; the message is the reason that is counted."""


class Teacher:
    """Writes thoughts for trajectories with calls; `counts` says what came of each trajectory."""

    def __init__(self, section: TeacherSection, transport: httpx.BaseTransport | None = None) -> None:
        self.section = section
        self.counts: Counter[str] = Counter()
        self._asked = 0
        self._known: dict[str, str | TeacherFault] = {}
        key = os.environ.get(section.key_variable, "")
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._client = httpx.Client(timeout=section.timeout_s, headers=headers, transport=transport)

    def write(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The trajectories with the teacher's thoughts where it gave usable ones; order kept."""
        prompts = [conversation(trajectory) if num_calls(trajectory) else None for trajectory in trajectories]
        digests = ["" if prompt is None else self._digest(prompt) for prompt in prompts]
        asked = {}
        for digest, prompt, trajectory in zip(digests, prompts, trajectories, strict=True):
            if prompt is not None and digest not in self._known and digest not in asked and not self._recall(digest):
                asked[digest] = (prompt, num_calls(trajectory))
        allowed = list(asked)[: max(0, self.section.max_calls - self._asked)]
        self._asked += len(allowed)
        self._known |= dict.fromkeys(asked, TeacherFault("over max_calls"))
        with ThreadPoolExecutor(self.section.concurrency) as pool:
            self._known |= zip(allowed, pool.map(lambda digest: self._answer(*asked[digest]), allowed), strict=True)
        for digest in allowed:
            self._remember(digest)
        fresh = set(allowed)
        return [self._one(item, digest, fresh) for item, digest in zip(trajectories, digests, strict=True)]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _digest(self, prompt: Prompt) -> str:
        return hashlib.sha256(canonical_json([self.section.model, prompt]).encode()).hexdigest()

    def _one(self, trajectory: Trajectory, digest: str, fresh: set[str]) -> Trajectory:
        """A trajectory with what is known to its prompt; the first of a prompt just asked is `written`."""
        if not digest:
            return trajectory
        known = self._known[digest]
        try:
            if isinstance(known, TeacherFault):
                raise known
            thoughts = parse_thoughts(known, num_calls(trajectory))
        except TeacherFault as fault:
            self.counts[str(fault)] += 1
            return trajectory
        self.counts["written" if digest in fresh else "cached"] += 1
        fresh.discard(digest)
        return with_thoughts(trajectory, thoughts, self.section.model)

    def _answer(self, prompt: Prompt, calls: int) -> str | TeacherFault:
        """The teacher's usable text, or why there is none."""
        try:
            text = self._ask(prompt)
            parse_thoughts(text, calls)
            return text
        except TeacherFault as fault:
            return fault

    def _ask(self, messages: Prompt) -> str:
        """The teacher's text; raises TeacherFault."""
        body = {"model": self.section.model, "messages": messages, "temperature": 0, "max_tokens": 400}
        reason = ""
        for attempt in range(self.section.retries + 1):
            if attempt:
                time.sleep(min(0.2 * 2**attempt, 5.0))
            try:
                status, answer = self._post(body)
            except httpx.TimeoutException:
                reason = "time-out"
                continue
            except httpx.HTTPError as error:
                reason = f"unreachable: {type(error).__name__}"
                continue
            if status == 429 or status >= 500:
                reason = f"status {status}"
                continue
            if status != 200:
                raise TeacherFault(f"status {status}")
            return content_of(answer)
        raise TeacherFault(reason)

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of one request; stops listening at the size limit, and at the time limit between pieces."""
        late, answer = time.monotonic() + self.section.timeout_s, b""
        with self._client.stream("POST", f"{self.section.url.rstrip('/')}/chat/completions", json=body) as response:
            for piece in response.iter_bytes():
                answer += piece
                if len(answer) > MAX_ANSWER_BYTES:
                    raise TeacherFault(f"malformed: over {MAX_ANSWER_BYTES} bytes")
                if time.monotonic() > late:
                    raise httpx.ReadTimeout("the answer trickles")
            return response.status_code, answer

    def _recall(self, digest: str) -> bool:
        """Take an answer from the cache; whether there was one."""
        if not self.section.cache:
            return False
        path = Path(self.section.cache) / digest[:2] / f"{digest}.json"
        try:
            self._known[digest] = str(json.loads(path.read_text())["text"])
            return True
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError):
            log.warning("cached teacher answer %s is broken and asked for again", path.name)
            return False

    def _remember(self, digest: str) -> None:
        text = self._known[digest]
        if self.section.cache and isinstance(text, str):
            path = Path(self.section.cache) / digest[:2] / f"{digest}.json"
            atomic_write(path, json.dumps({"model": self.section.model, "text": text}))


def num_calls(trajectory: Trajectory) -> int:
    """Turns that call an operation."""
    return sum(turn.call is not None for turn in trajectory.turns)


def content_of(answer: bytes) -> str:
    """The assistant's text in a chat completion; raises TeacherFault."""
    try:
        choice: Any = json.loads(answer)["choices"][0]
        message = choice["message"]
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            raise TeacherFault("refused")
        content = message["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise TeacherFault("malformed: no chat completion") from None
    if not isinstance(content, str):
        raise TeacherFault("malformed: no text")
    return content


def conversation(trajectory: Trajectory) -> Prompt:
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
