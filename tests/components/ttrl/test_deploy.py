"""Deployment: replace, wait, smoke-test; and what happens when it does not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ttrl_support import Server

from components.shared.runtime.artifacts import write_json
from components.shared.runtime.errors import StepError
from components.ttrl.config import TtrlConfig
from components.ttrl.control import default_state_dir, status, stop
from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy


def test_deploy_replaces_a_service_and_proves_that_it_answers(promoted, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PIXELIS_RUNNER_PID", "1")
    state, out = tmp_path / "state", tmp_path / "service"
    out.mkdir()
    previous = Server(None, state)
    config = TtrlConfig(port=0, state_dir=str(state), threads=1, rollouts=4)
    try:
        report = deploy(config, DeployInputs(promoted), DeployOutputs(out))
        assert previous.process.wait(10) == 0
        service = json.loads((out / "service.json").read_text())
        assert report.facts["service"] == service
        found = status(out)
        assert (found["pid"], found["model_digest"]) == (service["pid"], service["model_digest"])
        assert found["buffer"]["records"] == 0, "the smoke test teaches nothing"
        environment = Path(f"/proc/{service['pid']}/environ").read_bytes()
        assert b"PIXELIS_RUNNER_PID" not in environment
        session = Path(f"/proc/{service['pid']}/stat").read_text().rsplit(")", 1)[1].split()[3]
        assert int(session) == service["pid"], "a session of its own"
        for descriptor in ("0", "1", "2"):
            target = str(Path(f"/proc/{service['pid']}/fd/{descriptor}").readlink())
            assert target in ("/dev/null", service["log"])
        assert set(report.metrics) == {"ready_s", "smoke_predict_s", "smoke_confidence"}
        assert service["url"] in report.markdown
        assert "s of the window; next:" in report.markdown and '{"' not in report.markdown, (
            "the answer is told in words"
        )
    finally:
        assert stop(state) is True


def test_switched_off(tmp_path):
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "promotion.json", {"provenance": "real"})
    (tmp_path / "out").mkdir()
    report = deploy(TtrlConfig(deploy=False), DeployInputs(tmp_path / "model"), DeployOutputs(tmp_path / "out"))
    assert report.provenance == "real"
    assert json.loads((tmp_path / "out" / "service.json").read_text())["url"] is None


class BrokenLauncher:
    """Starts nothing that lives, or something that never gets ready."""

    def __init__(self, alive):
        self.alive, self.killed, self.log = alive, False, "service.log"

    def replace(self, config, model, state):
        return self

    def record(self):
        return None

    def is_alive(self):
        return self.alive

    def log_tail(self, num_lines=15):
        return "the cause stands here"

    def kill(self):
        self.killed = True


@pytest.mark.parametrize(("alive", "message"), [(False, "ended while starting"), (True, "was not ready")])
def test_a_service_that_does_not_come_up_is_stopped_and_its_log_shown(tmp_path, alive, message):
    write_json(tmp_path / "promotion.json", {})
    launcher = BrokenLauncher(alive)
    config = TtrlConfig(state_dir=str(tmp_path), ready_timeout_s=0.3)
    with pytest.raises(StepError, match=message) as caught:
        deploy(config, DeployInputs(tmp_path), DeployOutputs(tmp_path), launcher=launcher)
    assert "the cause stands here" in str(caught.value)
    assert launcher.killed


def test_where_the_state_lives(monkeypatch, tmp_path):
    assert default_state_dir(TtrlConfig(state_dir=str(tmp_path))) == tmp_path
    monkeypatch.setenv("PIXELIS_STATE_DIR", str(tmp_path / "root"))
    assert default_state_dir(TtrlConfig()) == tmp_path / "root" / "ttrl"
    monkeypatch.delenv("PIXELIS_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert default_state_dir(TtrlConfig()) == tmp_path / "xdg" / "pixelis" / "ttrl"
