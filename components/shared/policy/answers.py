"""Reading what a policy wrote: an answer, a call, or explicitly neither.

Steps, the first that works: strict JSON, a fenced block, the first balanced object, patterns of single fields. An
answer is then validated: the operation must be one of the labels, times numbers in order within the clip, a close-up
value one of the choices. Guarantee: any input, of any length, gives a `Reply` and never an exception; nothing is
invented (a field that cannot be read makes the reply `unparsed` with the reason).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.shared.samples.trajectory import Call, QuestionKind

How = Literal["strict", "fenced", "object", "fields", "unparsed"]
LONGEST = 20_000
FENCE = re.compile(r"```(?:json)?\s*(\{.*?\})\s*```", re.DOTALL)
NUMBER = r"(-?\d+(?:\.\d+)?)"
FIELDS = {
    "operation": re.compile(r"\"?\boperation\"?\s*[:=]\s*\"?([^\",}\n]+)"),
    "start_s": re.compile(rf"\"?\bstart(?:_s)?\"?\s*[:=]\s*\"?{NUMBER}"),
    "end_s": re.compile(rf"\"?\bend(?:_s)?\"?\s*[:=]\s*\"?{NUMBER}"),
    "next_operation": re.compile(r"\"?\bnext(?:_operation)?\"?\s*[:=]\s*\"?([^\",}\n]+)"),
    "value": re.compile(r"\"?\bvalue\"?\s*[:=]\s*\"?([^\",}\n]+)"),
}
THOUGHT = re.compile(r"^\s*<think>(.*?)</think>", re.DOTALL)
NOTHING = {"null", "none", ""}


@dataclass(frozen=True)
class Reply:
    """What a text says: exactly one of `call` and `answer`, or neither where `kind` is `unparsed`."""

    kind: Literal["call", "answer", "unparsed"]
    how: How
    thought: str = ""
    call: Call | None = None
    answer: dict[str, Any] | None = None
    reason: str = ""


def parse_reply(
    text: str,
    *,
    labels: Sequence[str] = (),
    choices: Sequence[str] = (),
    kind: QuestionKind | None = None,
    duration_s: float | None = None,
) -> Reply:
    """Read a policy's message.

    Args:
        text: Any text.
        labels: Allowed operations; empty accepts any.
        choices: Allowed close-up values; empty accepts any.
        kind: What was asked; None takes what the text offers.
        duration_s: Times must lie within 0 .. duration_s where given.
    """
    if not isinstance(text, str):
        return Reply("unparsed", "unparsed", reason="not a text")
    match = THOUGHT.match(text[:LONGEST])
    thought = match.group(1).strip() if match else ""
    body = text[:LONGEST][match.end() if match else 0 :].strip()
    reason = "no JSON object and no known field"
    for how, value in _candidates(body):
        if "name" in value and "arguments" in value:
            call = _call(value)
            if call is not None:
                return Reply("call", how, thought, call=call)
            reason = "a call without a name or with arguments that are no object"
            continue
        answer, problem = validate(value, labels=labels, choices=choices, kind=kind, duration_s=duration_s)
        if answer is not None:
            return Reply("answer", how, thought, answer=answer)
        reason = problem
    return Reply("unparsed", "unparsed", thought, reason=reason)


def validate(
    value: dict[str, Any],
    *,
    labels: Sequence[str] = (),
    choices: Sequence[str] = (),
    kind: QuestionKind | None = None,
    duration_s: float | None = None,
) -> tuple[dict[str, Any] | None, str]:
    """(a clean answer, "") or (None, what is wrong with it)."""
    if kind == "closeup" or (kind is None and "value" in value and "operation" not in value):
        found = _named(value.get("value"), choices)
        return ({"value": found}, "") if found else (None, f"value {value.get('value')!r:.60} is not a choice")
    operation = _named(value.get("operation"), labels)
    if not operation:
        return None, f"operation {value.get('operation')!r:.60} is not a label"
    start, end = _time(value.get("start_s")), _time(value.get("end_s"))
    if start is None or end is None:
        return None, "start_s or end_s is not a number"
    if not 0 <= start < end or (duration_s is not None and end > duration_s + 1e-6):
        return None, f"segment {start:g}..{end:g} s is empty, reversed or outside the clip"
    raw = value.get("next_operation")
    nothing = raw is None or (isinstance(raw, str) and raw.strip().lower() in NOTHING)
    following = None if nothing else _named(raw, labels)
    if not nothing and not following:
        return None, f"next_operation {raw!r:.60} is not a label"
    return {"operation": operation, "start_s": start, "end_s": end, "next_operation": following}, ""


def _named(value: Any, allowed: Sequence[str]) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()
    if not allowed or text in allowed:
        return text
    folded = {name.casefold(): name for name in allowed}
    return folded.get(text.casefold())


def _time(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _call(value: dict[str, Any]) -> Call | None:
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    return Call(name=name.strip(), arguments=arguments)


def _candidates(body: str) -> list[tuple[How, dict[str, Any]]]:
    """Objects found in a text, the most trustworthy reading first."""
    found: list[tuple[How, dict[str, Any]]] = []

    def add(how: How, text: str) -> None:
        value = _load(text)
        if value is not None:
            found.append((how, value))

    add("strict", body)
    if not found:
        fence = FENCE.search(body)
        if fence:
            add("fenced", fence.group(1))
    if not found:
        add("object", _balanced(body))
    if not found:
        fields = {
            key: match.group(1).strip() for key, match in ((k, p.search(body)) for k, p in FIELDS.items()) if match
        }
        if fields:
            found.append(("fields", fields))
    return found


def _load(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _balanced(text: str) -> str:
    """The first `{...}` with balanced braces outside strings, '' where there is none; one pass."""
    start = text.find("{")
    if start < 0:
        return ""
    depth, quoted, escaped = 0, False, False
    for index in range(start, len(text)):
        character = text[index]
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start : index + 1]
    return ""
