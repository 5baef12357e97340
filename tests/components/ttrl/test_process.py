"""The process around the service: no model, taken port, owned state, keys, signals, status and stop."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.shared.runtime.errors import EnvironmentFault
from components.ttrl.control import read_record, status, stop
from components.ttrl.security import make_key


def test_without_a_model_the_service_says_503(serve, tmp_path):
    server = serve(None, tmp_path / "state")
    get, post = server.client.get, server.client.post
    assert get("/healthz").status_code == 200
    ready = get("/readyz")
    for _ in range(50):
        if ready.json()["failed"]:
            break
        time.sleep(0.1)
        ready = get("/readyz")
    assert ready.status_code == 503
    assert "no promoted model" in ready.json()["reason"]
    answer = post("/predict", files={"video": b"x"}, data={"question": "What?"})
    assert answer.status_code == 503
    assert "answer" not in answer.json()
    assert answer.headers["retry-after"]
    assert get("/status").json()["ready"] is False
    assert status(server.state)["ready"] is False

    port = int(read_record(server.state)["url"].rsplit(":", 1)[1])
    command = [sys.executable, "-m", "components.ttrl", "--state", str(tmp_path / "other"), "--port", str(port)]
    taken = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert taken.returncode == 5
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr
    assert "Traceback" not in taken.stderr
    command = [sys.executable, "-m", "components.ttrl", "--state", str(server.state), "--port", "0"]
    owned = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert owned.returncode == 5
    assert f"belongs to a service that runs (process {server.process.pid})" in owned.stderr
    assert read_record(server.state)["pid"] == server.process.pid, "the refused process leaves the record alone"

    assert stop(server.state) is True
    assert server.process.wait(10) == 0
    assert stop(server.state) is False
    with pytest.raises(EnvironmentFault, match="no service record"):
        status(server.state)


def test_the_images_health_check_finds_the_service_wherever_it_listens(serve, tmp_path, monkeypatch):
    """The very command of images/serve/Dockerfile, against a service on a port that the system chose."""
    text = (Path(__file__).parents[3] / "images" / "serve" / "Dockerfile").read_text().replace("\\\n", "")
    [variable] = re.findall(r"(?m)^ENV (PIXELIS_SERVICE_RECORD)=/tmp/", text)
    [words] = re.findall(r"(?m)^HEALTHCHECK .* CMD (\[.*\])$", text)
    monkeypatch.setenv(variable, str(tmp_path / "record.json"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    command = [sys.executable, *json.loads(words)[1:]]
    assert subprocess.run(command, capture_output=True).returncode != 0, "no service yet"
    server = serve(None, tmp_path / "state")
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""
    server.process.send_signal(signal.SIGSTOP)
    assert subprocess.run(command, capture_output=True).returncode != 0, "it does not answer"
    server.process.send_signal(signal.SIGCONT)
    assert stop(server.state)
    assert not (tmp_path / "record.json").exists()
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_keys_and_roles(serve, tmp_path):
    keys = tmp_path / "keys.json"
    client, viewer = make_key(keys, "line-3", "client"), make_key(keys, "screen", "viewer")
    server = serve(None, tmp_path / "state", keys_file=keys)

    def code(method, path, key=None):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return server.client.request(method, path, headers=headers).status_code

    assert code("GET", "/healthz") == 200
    for path in ("/status", "/metrics"):
        assert code("GET", path) == 401
        assert code("GET", path, "wrong") == 401
        assert code("GET", path, viewer) == 200
    assert code("POST", "/predict", viewer) == 403
    assert code("POST", "/predict", client) == 503, "the key is right; there is no model"
    assert code("POST", "/admin/pause", client) == 403
    assert client not in server.log.read_text()


def test_a_wrong_setting_is_named(tmp_path):
    command = [sys.executable, "-m", "components.ttrl", "--state", str(tmp_path), "--port", "0"]
    for extra, message in (
        (["--set", "rollouts=0"], "ttrl.rollouts"),
        (["--set", "rollout=3"], "no such key"),
        (["--host", "0.0.0.0"], "open to anyone"),
    ):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_reused_process_number_is_left_alone(tmp_path):
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record = f'{{"pid": {bystander.pid}, "started": 1.0, "url": "http://127.0.0.1:1", "state_dir": "{tmp_path}"}}'
        (tmp_path / "service.json").write_text(record)
        assert stop(tmp_path) is False
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_nothing_answers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EnvironmentFault, match="no service answers"):
        status(f"http://127.0.0.1:{port}")
