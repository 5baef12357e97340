"""A node of a TrainJob that is asked to end: what it has is stored, whenever the request comes."""

import contextlib
import os
import signal

import pytest

from components.shared.runtime import node
from components.shared.runtime.train_job import Job


@pytest.fixture(autouse=True)
def alive():
    """A request that nobody passes on fails the test instead of ending it."""

    def fail(*_):
        raise AssertionError("the node would have ended")

    before = signal.signal(signal.SIGTERM, fail)
    yield fail
    signal.signal(signal.SIGTERM, before)


def ask():
    os.kill(os.getpid(), signal.SIGTERM)


def job(module):
    return Job(module=module, section={}, inputs={}, outputs=(), exchange="minio://mlpipeline/exchange/one")


def test_asked_while_it_stores_checkpoints_it_stores_them(tmp_path, monkeypatch, alive):
    stored = []

    @contextlib.contextmanager
    def kept(work, uri):
        yield
        ask()
        stored.append(uri)

    monkeypatch.setattr(node, "kept", kept)
    assert node.run(job("this_module_does_not_exist"), tmp_path, rank=0) == 1
    assert stored == ["minio://mlpipeline/exchange/one/work"]
    assert signal.getsignal(signal.SIGTERM) is alive


def test_asked_before_its_processes_start_it_starts_none(tmp_path, monkeypatch):
    monkeypatch.setattr(node.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with node.Processes() as processes:
        ask()
        assert processes.run(job("never"), []) == 128 + signal.SIGTERM


def test_asked_while_they_run_it_passes_the_request_on(tmp_path, monkeypatch):
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with node.Processes() as processes:
        real = node.subprocess.Popen

        def started_and_asked(*words, **options):
            child = real(*words, **options)
            ask()
            return child

        monkeypatch.setattr(node.subprocess, "Popen", started_and_asked)
        assert processes.run(job("sleeper"), []) != 0
