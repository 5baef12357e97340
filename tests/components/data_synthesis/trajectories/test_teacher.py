"""The teacher against a local server that speaks the protocol, well and badly."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.data_synthesis.trajectories.config import TeacherSection, TrajectoriesConfig
from components.data_synthesis.trajectories.synthesize import synthesize_trajectories
from components.data_synthesis.trajectories.teacher import Teacher
from components.shared.runtime.errors import ConfigError
from components.shared.samples import Call, Question, ToolResult, Trajectory, Turn, read_index, read_trajectories


def completion(text: Any, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]}


GOOD = completion('```json\n{"thoughts": ["The tag is tiny here."]}\n```')


class Server:
    """A chat-completions endpoint whose replies a test decides."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, Any, float]] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                status, reply, delay = outer.replies.pop(0) if outer.replies else (200, GOOD, 0.0)
                time.sleep(delay)
                payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                try:
                    self.send_response(status if self.path == "/v1/chat/completions" else 404)
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    pass  # the client gave up: that is the test

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.server.shutdown()
    found.server.server_close()


def trajectory(calls: int = 1, question: str = "Which pattern?") -> Trajectory:
    asked = Question(
        question_id="c-cu", clip_id="c", split="train", kind="closeup", text=question,
        truth={"value": "checker"}, choices=("checker", "vertical"),
    )  # fmt: skip
    call = Call(name="ZOOM_IN", arguments={"frame": 8, "box": [0, 0, 250, 250]})
    turns = [Turn(thought="look closer", call=call, result=ToolResult(ok=True, text="frame 8")) for _ in range(calls)]
    return Trajectory(
        trajectory_id="c-close", question=asked, kind="evidence" if calls else "direct", stage="simple",
        turns=(*turns, Turn(answer={"value": "checker"})), frame_times_s=(0.0, 1.0), provenance="synthetic",
    )  # fmt: skip


def section(server: Server, **changes: Any) -> TeacherSection:
    return TeacherSection.model_validate({"url": server.url, "model": "big", "timeout_s": 2, "retries": 0, **changes})


def test_a_thought_replaces_the_templates_and_nothing_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELIS_TEACHER_KEY", "secret")
    before = trajectory()
    (after,) = Teacher(section(server)).write([before])
    assert after.turns[0].thought == "The tag is tiny here." and after.author == "big"
    restored = after.model_copy(update={"author": "template", "turns": before.turns})
    assert restored == before and after.turns[1] == before.turns[1] and after.turns[0].call == before.turns[0].call
    assert server.keys == ["Bearer secret"] and server.seen[0]["model"] == "big"


def test_direct_answers_are_not_sent(server: Server) -> None:
    assert Teacher(section(server)).write([trajectory(0)]) == [trajectory(0)] and not server.seen


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((200, b"not json", 0.0), "malformed: no chat completion"),
        ((200, {"choices": []}, 0.0), "malformed: no chat completion"),
        ((200, [], 0.0), "malformed: no chat completion"),
        ((200, completion(None), 0.0), "malformed: no text"),
        ((200, completion("Sure! Here are thoughts."), 0.0), "malformed: no JSON object with thoughts"),
        ((200, completion('{"thoughts": ["a", "b"]}'), 0.0), "malformed: wrong number of thoughts"),
        ((200, completion('{"thoughts": [7]}'), 0.0), "malformed: an empty thought"),
        ((200, completion('{"thoughts": ["' + "x" * 500 + '"]}'), 0.0), "malformed: a thought too long"),
        ((200, completion('{"thoughts": ["</think> {}"]}'), 0.0), "malformed: markup in a thought"),
        ((200, completion("", finish_reason="content_filter"), 0.0), "refused"),
        ((200, b"x" * 300_000, 0.0), "malformed: over 200000 bytes"),
        ((401, {"error": "key"}, 0.0), "status 401"),
        ((503, {}, 0.0), "status 503"),
        ((200, GOOD, 3.0), "time-out"),
    ],
)
def test_a_bad_answer_keeps_the_template_and_is_counted(
    server: Server, reply: tuple[int, Any, float], reason: str
) -> None:
    server.replies = [reply]
    teacher = Teacher(section(server, timeout_s=0.3))
    assert teacher.write([trajectory()]) == [trajectory()]
    assert teacher.counts == {reason: 1}


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.replies = [(429, {}, 0.0), (500, {}, 0.0)]
    teacher = Teacher(section(server, retries=2))
    assert teacher.write([trajectory()])[0].author == "big" and len(server.seen) == 3


def test_nobody_there() -> None:
    teacher = Teacher(TeacherSection(url="http://127.0.0.1:9/v1", model="big", retries=0))
    assert teacher.write([trajectory()]) == [trajectory()] and teacher.counts == {"unreachable: ConnectError": 1}


def test_answers_are_cached_by_digest_and_broken_ones_asked_again(server: Server, tmp_path: Path) -> None:
    for expected in ("written", "cached"):
        teacher = Teacher(section(server, cache=str(tmp_path)))
        assert teacher.write([trajectory()])[0].author == "big" and teacher.counts == {expected: 1}
    assert len(server.seen) == 1
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text("{")
    assert Teacher(section(server, cache=str(tmp_path))).write([trajectory()])[0].author == "big"
    assert len(server.seen) == 2
    Teacher(section(server, cache=str(tmp_path), model="other")).write([trajectory()])
    assert len(server.seen) == 3


def test_max_calls(server: Server) -> None:
    teacher = Teacher(section(server, max_calls=3))
    first = teacher.write([trajectory(question=f"{number}?") for number in range(2)])
    second = teacher.write([trajectory(question=f"{number}?") for number in (5, 0, 3, 4)])
    assert [item.author for item in (*first, *second)] == ["big", "big", "big", "big", "template", "template"]
    assert teacher.counts == {"written": 3, "cached": 1, "over max_calls": 2} and len(server.seen) == 3


def test_the_first_ones_are_asked_however_many_go_at_once(server: Server) -> None:
    """Eight threads, and the limit in the middle: it must not depend on which thread is quicker."""
    for attempt in range(5):
        teacher = Teacher(section(server, max_calls=6, concurrency=8))
        written = teacher.write([trajectory(question=f"{attempt} {number}?") for number in range(12)])
        assert [item.author for item in written] == ["big"] * 6 + ["template"] * 6


def test_a_prompt_is_asked_once_however_many_share_it(server: Server, tmp_path: Path) -> None:
    """Answers differ from time to time; a run must use the one that its repetition finds in the cache."""
    said = [completion(json.dumps({"thoughts": [f"Answer {number}."]})) for number in range(8)]
    server.replies = [(200, reply, 0.05) for reply in said]
    runs = [Teacher(section(server, cache=str(tmp_path), concurrency=8)).write([trajectory()] * 8) for _ in range(2)]
    assert runs[0] == runs[1] and len(server.seen) == 1


def test_a_failed_prompt_is_counted_for_each_that_shares_it(server: Server) -> None:
    server.replies = [(401, {}, 0.0)]
    teacher = Teacher(section(server))
    assert teacher.write([trajectory()] * 3) == [trajectory()] * 3
    assert teacher.counts == {"status 401": 3} and len(server.seen) == 1


def trickling(pieces: int, size: int, pause_s: float) -> tuple[str, list[int]]:
    """The address of a server that sends so many pieces with pauses, and what it got rid of."""
    sent: list[int] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listening.accept()
        client.recv(65536)
        try:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * size))
            for _ in range(pieces):
                client.sendall(b"x" * size)
                sent.append(size)
                time.sleep(pause_s)
        except OSError:
            pass  # the client gave up: that is the test
        client.close()
        listening.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/v1", sent


def test_no_more_of_an_answer_is_taken_in_than_the_limit() -> None:
    url, sent = trickling(pieces=400, size=1_000_000, pause_s=0.0)
    teacher = Teacher(TeacherSection(url=url, model="big", retries=0))
    teacher.write([trajectory()])
    assert teacher.counts == {"malformed: over 200000 bytes": 1}
    assert sum(sent) < 100_000_000, "what the sockets hold, not the whole"


def test_an_answer_that_trickles_is_late() -> None:
    url, _ = trickling(pieces=200, size=1, pause_s=0.05)
    teacher = Teacher(TeacherSection(url=url, model="big", retries=0, timeout_s=0.4))
    started = time.monotonic()
    teacher.write([trajectory()])
    assert teacher.counts == {"time-out": 1} and time.monotonic() - started < 3


def test_the_step_reports_what_the_teacher_did(server: Server, world: Any, kit: SimpleNamespace) -> None:
    outputs = world.outputs("taught")
    teacher = {"url": server.url, "model": "big", "timeout_s": 5, "retries": 0}
    report = synthesize_trajectories(
        TrajectoriesConfig.model_validate({"workers": 1, "teacher": teacher}), world.inputs, outputs
    )
    counts = read_index(outputs.trajectories).facts["teacher"]
    authors = {t.author for t, _, _ in read_trajectories(outputs.trajectories, "train")}
    assert authors == {"template", "big"} and counts["written"] > 3 and "Teacher's answers" in report.markdown
    page = (outputs.trajectories / "examples" / "index.html").read_text()
    assert "thoughts by big" in page and "The tag is tiny here." in page, "the page shows what is in the shards"


def test_a_url_needs_a_model() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.model"):
        TeacherSection.parse('{"url": "http://x"}', name="trajectories.teacher")
