"""The whole service over HTTP: a process with a tiny model, real uploads, real updates, kill -9."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ttrl_support import LABELS, NUM_FRAMES, QUESTION, SETTINGS, TIMES, Server, ask, jpegs, video

from components.ttrl.audit import verify


@pytest.fixture(scope="module")
def server(promoted, tmp_path_factory):
    running = Server(promoted, tmp_path_factory.mktemp("state"), **SETTINGS).ready()
    yield running
    if running.process.poll() is None:
        running.kill()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return video(tmp_path_factory.mktemp("media") / "clip.mp4").read_bytes()


def test_an_answer_says_everything(server, clip):
    response = ask(server, clip)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["answer"]["operation"] in LABELS
    assert 0 < answer["confidence"] <= 1
    assert sum(vote["count"] for vote in answer["votes"]) + answer["abstentions"] == 8
    assert answer["mode"] == "full"
    assert answer["degraded"] == ""
    assert answer["experience_id"]
    assert answer["window"] == {"start_s": 0.0, "padded_s": 2.6}
    status = server.client.get("/status").json()
    assert answer["model_digest"] == status["model_digest"]
    assert response.headers["x-trace-id"] == answer["trace_id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers


def test_raw_video_and_images_are_taken_too(server, clip):
    raw = server.client.post(
        "/predict", params={"question": QUESTION}, content=clip, headers={"content-type": "video/mp4"}
    )
    assert raw.status_code == 200, raw.text
    assert raw.json()["window"]["padded_s"] == 2.6
    pictures = [("image", (f"{n}.jpg", data, "image/jpeg")) for n, data in enumerate(jpegs(NUM_FRAMES))]
    timed = server.client.post("/predict", files=pictures, data={"question": QUESTION, "times_s": json.dumps(TIMES)})
    assert timed.status_code == 200, timed.text
    single = server.client.post(
        "/predict", params={"question": QUESTION}, content=jpegs(1)[0], headers={"content-type": "image/jpeg"}
    )
    assert single.json()["window"]["padded_s"] == 5.0


def test_start_s_chooses_the_window(server, tmp_path):
    long = video(tmp_path / "long.mp4", num_frames=180).read_bytes()
    assert ask(server, long).json()["window"]["start_s"] == pytest.approx(2.2)
    assert ask(server, long, start_s="1").json()["window"]["start_s"] == 1.0
    assert ask(server, long, start_s="9").status_code == 422


def test_nothing_is_stored_when_the_caller_says_so(server, clip):
    before = server.client.get("/status").json()["buffer"]["records"]
    answer = ask(server, clip, store="False").json()
    assert answer["experience_id"] is None
    assert answer["pseudo_label"] is False, "what is not stored teaches nothing"
    assert ask(server, clip, store="never").status_code == 422
    assert answer["mode"] == "full"
    assert server.client.get("/status").json()["buffer"]["records"] == before


def test_neighbours_move_confidence_only(server, clip):
    first, second = ask(server, clip).json(), ask(server, clip).json()
    assert second["votes"] == first["votes"], "the same upload gets the same seeds: neighbours cast no vote"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"operation": "Juggling", "start_s": 0, "end_s": 1, "next_operation": None},
        {"operation": "Picking", "start_s": "banana", "end_s": 1, "next_operation": None},
        {"operation": "Picking", "start_s": 3, "end_s": 1, "next_operation": None},
        {"value": "plaid"},
    ],
)
def test_an_answer_that_can_be_no_label_is_not_kept(server, clip, answer):
    identity = ask(server, clip).json()["experience_id"]
    refused = server.client.post("/feedback", json={"experience_id": identity, "answer": answer})
    assert refused.status_code == 422
    assert "cannot be a label" in refused.json()["error"]
    right = {"operation": "picking", "start_s": 0, "end_s": 1, "next_operation": None}
    assert server.client.post("/feedback", json={"experience_id": identity, "answer": right}).status_code == 200


def test_feedback_waits_for_review(server, clip):
    identity = ask(server, clip).json()["experience_id"]
    kept = server.client.post("/feedback", json={"experience_id": identity, "correct": False})
    assert kept.json() == {"experience_id": identity, "kept": True, "state": "waits for review"}
    post = server.client.post
    assert post("/feedback", json={"experience_id": identity}).status_code == 422
    assert post("/feedback", json={"experience_id": "nobody", "correct": True}).status_code == 422
    assert post("/feedback", json={"experience_id": identity, "correct": "perhaps"}).status_code == 422


def test_analyze_gives_a_timeline(server, tmp_path):
    long = video(tmp_path / "long.mp4", num_frames=260).read_bytes()
    response = server.client.post("/analyze", files={"video": ("a.mp4", long)}, data={"question": QUESTION})
    assert response.status_code == 200, response.text
    result = response.json()
    assert result["duration_s"] == pytest.approx(10.4)
    assert [window["start_s"] for window in result["windows"]] == pytest.approx([0, 2.5, 5.0, 5.4], abs=0.05)
    ends = [0.0, *(segment["end_s"] for segment in result["timeline"])]
    assert all(segment["start_s"] >= end for segment, end in zip(result["timeline"], ends, strict=False))
    assert ends[-1] <= 10.4
    unasked = server.client.post("/analyze", files={"video": ("a.mp4", long)})
    assert unasked.json()["timeline"] == result["timeline"], "the question is the one the policy was trained on"


def test_more_requests_than_slots_wait_or_are_told(server, clip):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(server, clip, store="false"), range(16)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 429}
    assert codes.count(200) >= 8
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)


def test_read_only_answers_without_storing(server, clip):
    server.client.post("/admin/read-only")
    answer = ask(server, clip).json()
    server.client.post("/admin/writable")
    assert (answer["mode"], answer["degraded"], answer["experience_id"]) == ("model-only", "read-only", None)


def test_only_named_settings_can_be_tuned(server):
    post = server.client.post
    refused = post("/admin/tune", json={"settings": {"port": 1}})
    assert refused.status_code == 422
    assert "port" in refused.json()["error"]
    assert post("/admin/tune", json={"settings": {"label_share": 7}}).status_code == 422
    assert post("/admin/tune", json={"settings": {"label_margin": 0.1}}).json() == {"label_margin": 0.1}
    assert post("/admin/tune", json={"settings": {"label_margin": 0.15}}).status_code == 200
    audit = (server.state / "audit.jsonl").read_text()
    assert '"before":{"label_margin":0.15}' in audit
    assert verify(server.state) >= 2


def test_personal_data_is_redacted_and_erased(server, clip):
    question = "Is Anna's parcel, call +49 170 1234567 or write anna@example.org, being packed?"
    identity = ask(server, clip, question).json()["experience_id"]
    stored = b"".join(p.read_bytes() for p in server.state.rglob("*") if p.is_file())
    assert b"parcel, call [number] or write [e-mail], being packed" in stored
    assert b"1234567" not in stored
    post = server.client.post
    assert post("/admin/erase", json={}).status_code == 422
    for nobody in ("abc", "019abcde-0000-7000-8000-00000000000z", ""):
        assert post("/admin/erase", json={"ids": [identity, nobody]}).status_code == 422
    assert post("/admin/erase", json={"ids": [identity]}).json() == {"erased": 1}
    assert post("/feedback", json={"experience_id": identity, "correct": True}).status_code == 422
    assert not any(b"parcel, call" in p.read_bytes() for p in server.state.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Different clips: the same one would get the same votes again, label or not."""
    folder = tmp_path_factory.mktemp("clips")
    return [video(folder / f"{n}.mp4", num_frames=20, seed=100 * n).read_bytes() for n in range(8)]


def finished_updates(server, clips, count):
    """Ask until so many updates were judged; returns their records."""
    turn = itertools.cycle(clips)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        updates = [u for u in server.client.get("/status").json()["updates"] if u["status"] != "rolled_back"]
        if len(updates) >= count:
            return updates
        ask(server, next(turn))
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())


def idle(server):
    """Wait until no update is under way."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        queue = server.client.get("/status").json()["update_queue"]
        if not queue["working"] and not queue["waiting"]:
            return
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())


def test_updates_publish_reject_and_roll_back(server, clip, clips):
    server.client.post("/admin/resume")
    tried = 1  # six canary questions: an update may well be refused, but not every one
    while (first := finished_updates(server, clips, tried)[-1])["status"] != "accepted" and tried < 5:
        tried += 1
    assert first["status"] == "accepted", finished_updates(server, clips, 1)
    assert first["adapter_after"] != first["adapter_before"]
    assert first["weight_change"] > 0
    assert first["canary_after"]["num_questions"] == 6
    assert first["canary_after"]["accuracy"] >= first["canary_before"]["accuracy"]
    assert (server.state / "adapters" / first["adapter_after"] / "adapter_model.safetensors").exists()
    idle(server)
    answer = ask(server, clip, store="false").json()
    assert answer["adapter_digest"] == server.client.get("/status").json()["adapter_digest"] != first["adapter_before"]

    server.client.post("/admin/tune", json={"settings": {"learning_rate": 1.0}})
    ruined = finished_updates(server, clips, len(finished_updates(server, clips, 1)) + 1)[-1]
    assert ruined["learning_rate"] > 0.05
    assert ruined["status"] == "rejected", ruined
    assert "canary accuracy fell" in ruined["reason"]
    assert ruined["changed_answers"] > 0
    assert not (server.state / "adapters" / ruined["adapter_after"]).exists()
    idle(server)
    server.client.post("/admin/pause")
    status = server.client.get("/status").json()
    assert status["adapter_digest"] == ruined["adapter_before"]
    assert not list((server.state / "candidates").iterdir())

    history = status["adapter_history"]
    back = server.client.post("/admin/rollback").json()
    assert back["adapter_digest"] == (history[-2] if len(history) > 1 else status["anchor_digest"])
    assert back["learning"] is False
    assert server.client.get("/status").json()["updates"][-1]["status"] == "rolled_back"


def test_no_user_data_in_the_log_and_no_upload_left(server, clip):
    ask(server, clip, "the secret word is xylophone")
    ask(server, b"broken", "the secret word is xylophone")
    assert "xylophone" not in server.log.read_text()
    assert not list((server.state / "uploads").glob("*"))
    handles = [str(one.readlink()) for one in Path(f"/proc/{server.process.pid}/fd").iterdir() if one.is_symlink()]
    assert not [name for name in handles if "upload" in name]


def test_metrics_are_exposed(server):
    text = server.client.get("/metrics").text
    assert "pixelis_ready 1.0" in text
    assert "_created" not in text
    records = server.client.get("/status").json()["buffer"]["records"]
    assert f"pixelis_buffer_experiences {float(records)}" in text, "as of now, not as of the last GET /status"
    assert 'pixelis_requests_total{route="/predict",status="200"}' in text
    assert 'pixelis_updates_total{status="accepted"}' in text


def test_kill_nine_loses_nothing_acknowledged(server, clip, promoted):
    answers = [ask(server, clip).json() for _ in range(3)]
    before = server.client.get("/status").json()
    leftover = server.state / "uploads" / "upload-leftover"
    leftover.parent.mkdir(exist_ok=True)
    leftover.touch()
    server.kill()
    again = Server(promoted, server.state, **SETTINGS).ready()
    try:
        after = again.client.get("/status").json()
        assert after["buffer"]["records"] == before["buffer"]["records"]
        assert after["adapter_digest"] == before["adapter_digest"]
        assert (before["learning"], after["learning"]) == (False, False), "the rollback's pause outlives the process"
        assert [u["update_id"] for u in after["updates"]] == [u["update_id"] for u in before["updates"]]
        for answer in answers:
            body = {"experience_id": answer["experience_id"], "correct": True}
            assert again.client.post("/feedback", json=body).status_code == 200
        assert not leftover.exists()
        assert again.stop() == 0
        assert not (server.state / "service.json").exists()
    finally:
        if again.process.poll() is None:
            again.kill()
