"""A plugin in a package of its own is found and used; the pool survives whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.shared.operations import OperationResult, OperationsConfig, default_registry
from components.shared.operations import pool as pool_module
from components.shared.operations.command import list_rows
from components.shared.operations.pool import OperationPool

FRAME = np.full((60, 80, 3), (10, 200, 30), np.uint8)
SOURCE = """
import os, time
from components.shared.operations import OperationResult, operation
from components.shared.operations.arguments import Arguments, FrameIndex

class FrameOnly(Arguments):
    frame: FrameIndex

def one(arguments, num_frames):
    return (arguments.frame,)

@operation("MEAN_GREEN", "The mean of the green channel.", FrameOnly, example={"frame": 0}, frames_used=one)
def mean_green(arguments, frames):
    value = float(frames[arguments.frame][..., 1].mean())
    return OperationResult(True, f"{value:.0f}", data={"pid": os.getpid()})

@operation("HANG", "Never ends.", FrameOnly, example={"frame": 0}, frames_used=one, isolate=False)
def hang(arguments, frames):
    time.sleep(600)

@operation("DIE", "Ends the process.", FrameOnly, example={"frame": 0}, frames_used=one)
def die(arguments, frames):
    os._exit(7)

@operation("SLOW_TO_LOAD", "Loads for longer than a call may take.", FrameOnly, example={"frame": 0}, frames_used=one,
           prepare=lambda: time.sleep(2.5))
def slow_to_load(arguments, frames):
    return OperationResult(True, "loaded")

@operation("EAT", "Takes all memory.", FrameOnly, example={"frame": 0}, frames_used=one)
def eat(arguments, frames):
    return OperationResult(True, str(len(bytearray(64 * 2**30))))

def make(config):
    return operation("CONFIGURED", f"limit {config.time_limit_s}", FrameOnly, example={"frame": 0})(mean_green.run)

broken = 7
"""
ENTRY_POINTS = """[pixelis.operations]
mean_green = pixelis_green:mean_green
hang = pixelis_green:hang
die = pixelis_green:die
eat = pixelis_green:eat
slow_to_load = pixelis_green:slow_to_load
configured = pixelis_green:make
broken = pixelis_green:broken
absent = pixelis_green:does_not_exist
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the distribution `pixelis-green` from its wheel."""
    folder = tmp_path_factory.mktemp("plugin")
    wheel, info = folder / "pixelis_green-1.0-py3-none-any.whl", "pixelis_green-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pixelis_green.py", SOURCE)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pixelis-green\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", ENTRY_POINTS)
        archive.writestr(f"{info}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", folder / "site", wheel], check=True, timeout=120)
    return folder / "site"


@pytest.fixture
def plugin(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The installed distribution on this process' path."""
    monkeypatch.syspath_prepend(str(installed))
    yield
    sys.modules.pop("pixelis_green", None)


def test_a_person_runs_an_installed_plugin_from_the_command_line(installed: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "green.png"), cv2.cvtColor(FRAME, cv2.COLOR_RGB2BGR))
    code = "from pipelines.cli import main; main()"
    call = ["operations", "run", "MEAN_GREEN", "--image", str(tmp_path / "green.png")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code, *call], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip().splitlines()[-1] == "200"


@pytest.mark.usefixtures("plugin")
class TestPlugin:
    def test_it_is_found_listed_and_used_beside_the_built_in_ones(self) -> None:
        registry = default_registry(OperationsConfig(time_limit_s=3))
        assert {"MEAN_GREEN", "CONFIGURED", "ZOOM_IN"} <= set(registry.names())
        assert registry.execute("MEAN_GREEN", {"frame": 0}, [FRAME]).text == "200"
        rows = {row.name: row for row in list_rows(registry)}
        assert rows["MEAN_GREEN"].source == "plugin pixelis_green" and rows["ZOOM_IN"].source == "built in"
        assert rows["CONFIGURED"].description == "limit 3.0"

    def test_broken_entry_points_are_left_out_and_recorded(self) -> None:
        registry = default_registry()
        assert registry.faults["broken", "unavailable"] == 1 and registry.faults["absent", "unavailable"] == 1

    def test_the_pool_outlives_hanging_dying_and_greedy_operations(self) -> None:
        calls = [
            ("MEAN_GREEN", {"frame": 0}, [FRAME]),
            ("DIE", {"frame": 0}, [FRAME]),
            ("EAT", {"frame": 0}, [FRAME]),
            ("HANG", {"frame": 0}, [FRAME]),
            ("MEAN_GREEN", {"frame": 1}, [FRAME, FRAME // 2]),
            ("NO_SUCH", {}, [FRAME]),
            ("MEAN_GREEN", {"frame": 5}, [FRAME]),
            ("ZOOM_IN", {"frame": 0, "box": [0, 0, 1000, 1000]}, [FRAME]),
        ]
        with OperationPool(OperationsConfig(time_limit_s=0.5), workers=1, memory_bytes=8 * 2**30) as pool:
            results = pool.map(calls)
        codes = [result.error.code if result.error else "ok" for result in results]
        assert codes == ["ok", "internal", "internal", "timeout", "ok", "unknown_operation", "frame_out_of_range", "ok"]
        assert "exit code 7" in results[1].text and "MemoryError" in results[2].text
        assert results[4].text == "100" and np.array_equal(results[7].image, FRAME)  # type: ignore[arg-type]


@pytest.mark.usefixtures("plugin")
def test_loading_a_model_in_a_worker_does_not_count_against_the_calls_limit() -> None:
    with OperationPool(OperationsConfig(time_limit_s=0.5), workers=1) as pool:
        assert pool.execute("SLOW_TO_LOAD", {"frame": 0}, [FRAME]).text == "loaded"


def test_two_workers_give_ordered_results() -> None:
    frames = [np.full((40, 40, 3), value, np.uint8) for value in range(12)]
    calls = [("ZOOM_IN", {"frame": index, "box": [0, 0, 1000, 1000]}, frames) for index in range(12)]
    with OperationPool(OperationsConfig(), workers=2) as pool:
        results = pool.map(calls)
    assert [int(result.image[0, 0, 0]) for result in results] == list(range(12))  # type: ignore[index]


def test_a_worker_that_cannot_start_costs_its_call_and_not_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for one more process, once; the pool's only place must not be lost with it."""
    start, refused = pool_module.Worker, [OSError(12, "Cannot allocate memory")]

    def worker(*arguments: object) -> pool_module.Worker:
        if refused:
            raise refused.pop()
        return start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pool_module, "Worker", worker)
    call = ("ZOOM_IN", {"frame": 0, "box": [0, 0, 1000, 1000]}, [FRAME])
    pool = OperationPool(OperationsConfig(), workers=1)
    results: list[OperationResult] = []
    thread = threading.Thread(target=lambda: results.extend([pool.execute(*call), pool.execute(*call)]), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "the second call waits for a worker that is no more"
    assert "Cannot allocate" in results[0].text and results[1].ok
    pool.close()
