"""The registry: whatever a policy or a plugin does becomes a result, never an exception."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from components.shared.operations import (
    Operation,
    OperationFault,
    OperationResult,
    OperationsConfig,
    Registry,
    default_registry,
    operation,
)
from components.shared.operations.arguments import Arguments
from components.shared.operations.result import Drawing
from components.shared.operations.result_cache import size_bytes
from components.shared.runtime.errors import ConfigError

FRAMES = [np.random.default_rng(index).integers(0, 255, (90, 120, 3), np.uint8) for index in range(3)]

BUILT_IN = default_registry()


KEYS = sorted({key for name in BUILT_IN.names() for key in BUILT_IN.get(name).arguments.model_fields})


def anything() -> st.SearchStrategy[Any]:
    """Any JSON-like value, numbers beyond all bounds and bytes included."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.dictionaries(st.one_of(st.sampled_from([*KEYS, "size", "counts"]), st.text()), inner, max_size=5),
        ),
        max_leaves=12,
    )


class NoArguments(Arguments):
    """No arguments."""


class OneNumber(Arguments):
    """One number."""

    value: int = Field(ge=0)


def plugin(run: Any, **options: Any) -> Operation:
    return Operation("PLUGIN", "a plugin", NoArguments, run, **options)


def run_plugin(run: Any, config: OperationsConfig | None = None, **options: Any) -> tuple[OperationResult, Registry]:
    registry = Registry(config or OperationsConfig(), [plugin(run, **options)])
    return registry.execute("PLUGIN", {}, FRAMES), registry


class TestRegistering:
    def test_a_decorated_function_is_listed_with_its_schema(self) -> None:
        @operation("DOUBLE", "twice the value", OneNumber)
        def double(arguments: OneNumber, frames: Any) -> OperationResult:
            return OperationResult(True, str(2 * arguments.value))

        registry = Registry(operations=[double])
        (listed,) = registry.list_operations()
        assert listed["name"] == "DOUBLE"
        assert listed["parameters"]["properties"]["value"]["minimum"] == 0
        assert registry.execute("DOUBLE", {"value": 21}, []).text == "42"

    def test_a_taken_name_is_refused_unless_overridden(self) -> None:
        first, second = plugin(lambda a, f: OperationResult(True, "1")), plugin(lambda a, f: OperationResult(True, "2"))
        registry = Registry(operations=[first])
        with pytest.raises(ConfigError, match="registered twice"):
            registry.register(second)
        registry.register(second, override=True)
        assert registry.execute("PLUGIN", {}, FRAMES).text == "2"

    @pytest.mark.parametrize("name", ["zoom", "ZOOM IN", "", "Z-1"])
    def test_an_unusable_name_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="upper-case"):
            Registry(operations=[Operation(name, "", NoArguments, lambda a, f: OperationResult(True))])

    def test_examples_of_built_in_operations_are_valid(self) -> None:
        registry = default_registry()
        for name in registry.names():
            item = registry.get(name)
            assert item.example, name
            registry.check(name, item.example)


class TestCallersMistakes:
    @pytest.mark.parametrize(
        ("name", "arguments", "code", "needle"),
        [
            ("ZOOM", {}, "unknown_operation", "Did you mean ZOOM_IN"),
            (None, {}, "unknown_operation", "ZOOM_IN"),
            ("ZOOM_IN", "{not json", "invalid_json", "keys: frame"),
            ("ZOOM_IN", "[" * 5000, "invalid_json", "keys: frame"),
            ("ZOOM_IN", "9" * 20000, "too_large", "16384"),
            ("ZOOM_IN", [1, 2], "invalid_arguments", "list"),
            ("ZOOM_IN", {}, "invalid_arguments", "frame"),
            ("ZOOM_IN", {"frame": "1", "box": [0, 0, 500, 500]}, "invalid_arguments", "frame"),
            ("ZOOM_IN", {"frame": True, "box": [0, 0, 500, 500]}, "invalid_arguments", "frame"),
            ("ZOOM_IN", {"frame": 0, "box": [0, 0, float("nan"), 500]}, "invalid_arguments", "box"),
            ("ZOOM_IN", {"frame": 0, "box": [0, 0, 1001, 500]}, "invalid_arguments", "1000"),
            ("ZOOM_IN", {"frame": 0, "box": [500, 0, 100, 500]}, "invalid_arguments", "inverted"),
            ("ZOOM_IN", {"frame": 0, "box": [0, 0, 500]}, "invalid_arguments", "box"),
            ("ZOOM_IN", {"frame": 0, "box": [0, 0, 500, 500], "zoom": 2}, "invalid_arguments", "zoom"),
            ("ZOOM_IN", {"frame": 7, "box": [0, 0, 500, 500]}, "frame_out_of_range", "from 0 to 2"),
            ("ZOOM_IN", {"frame": 0, "box": [0, 0, 100, 100]}, "crop_too_small", "28"),
            ("SEGMENT_OBJECT_AT", {"frame": 0, "x": 1000.5, "y": 5}, "invalid_arguments", "1000"),
            ("SEGMENT_OBJECT_AT", {"frame": 0, "x": float("nan"), "y": 5}, "invalid_arguments", "x"),
            ("SEGMENT_OBJECT_AT", {"frame": 3, "x": 5, "y": 5}, "frame_out_of_range", "from 0 to 2"),
            ("GET_PROPERTIES", {"frame": 0}, "invalid_arguments", "box or a mask"),
            ("GET_PROPERTIES", {"frame": 0, "box": [5, 5, 5, 9]}, "invalid_arguments", "empty"),
            (
                "GET_PROPERTIES",
                {"frame": 0, "mask": {"size": [90, 120], "counts": [-1]}},
                "invalid_arguments",
                "counts",
            ),
            ("GET_PROPERTIES", {"frame": 0, "mask": {"size": [9, 9], "counts": [81]}}, "invalid_arguments", "120x90"),
            (
                "GET_PROPERTIES",
                {"frame": 0, "mask": {"size": [90, 120], "counts": [10800]}},
                "invalid_arguments",
                "empty",
            ),
            ("READ_TEXT", {"frame": 0, "box": [0, 0, 1, 1]}, "crop_too_small", "4 px"),
            ("READ_TEXT", {"frame": -1}, "invalid_arguments", "frame"),
            ("TRACK_OBJECT", {"frame": 0, "box": [0, 0, 500, 500], "to": 99}, "frame_out_of_range", "from 0 to 2"),
            ("TRACK_OBJECT", {"frame": 0, "box": [0, 0, 10, 10]}, "crop_too_small", "6 px"),
        ],
    )
    def test_each_gets_its_error(self, name: Any, arguments: Any, code: str, needle: str) -> None:
        registry = default_registry()
        result = registry.execute(name, arguments, FRAMES)
        assert not result.ok and result.image is None
        assert result.error is not None and result.error.code == code
        assert needle in result.text
        assert not registry.faults, "a caller's mistake is no fault of the operation"
        assert registry.mistakes == {(name if name in registry.names() else "?", code): 1}

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            ([], "frame_out_of_range"),
            (None, "invalid_frames"),
            ([np.zeros((90, 120), np.uint8)], "invalid_frames"),
            ([np.zeros((90, 120, 3), np.float32)], "invalid_frames"),
            ([np.zeros((0, 120, 3), np.uint8)], "invalid_frames"),
            (["frame.jpg"], "invalid_frames"),
            ([np.zeros((90, 1200, 3), np.uint8)], "too_large"),
        ],
    )
    def test_bad_frames(self, frames: Any, code: str) -> None:
        registry = default_registry(OperationsConfig(max_frame_pixels=100_000))
        result = registry.execute("ZOOM_IN", {"frame": 0, "box": [0, 0, 1000, 1000]}, frames)
        assert result.error is not None and result.error.code == code

    def test_a_thousand_calls_in_one_answer_run_only_up_to_the_limit(self) -> None:
        registry = default_registry(OperationsConfig(max_calls=5))
        results = registry.execute_many([("ZOOM_IN", {"frame": 0, "box": [0, 0, 500, 500]})] * 1000, FRAMES)
        assert [r.ok for r in results] == [True] * 5 + [False] * 995
        assert results[5].error is not None and results[5].error.code == "too_many_calls"
        assert registry.mistakes["?", "too_many_calls"] == 995

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        name=st.one_of(st.sampled_from(BUILT_IN.names()), st.text(), st.none(), st.integers()),
        arguments=st.one_of(anything(), st.dictionaries(st.sampled_from(KEYS), anything(), max_size=4)),
    )
    def test_fuzz_never_raises_and_always_explains(self, name: Any, arguments: Any) -> None:
        result = BUILT_IN.execute(name, arguments, FRAMES)
        assert result.ok or (result.error is not None and result.error.message and result.text)
        assert not BUILT_IN.faults, "whatever a caller writes is no fault of an operation"

    @settings(max_examples=100, deadline=None)
    @given(
        name=st.sampled_from(BUILT_IN.names()),
        text=st.one_of(
            st.text(max_size=60), st.sampled_from(["NaN", "1e999", "null", '"', "{}", "[[", "\\u0000", "-0"])
        ),
        first=st.integers(0, 80),
        length=st.integers(0, 10),
    )
    def test_fuzz_of_broken_json(self, name: str, text: str, first: int, length: int) -> None:
        good = json.dumps(BUILT_IN.get(name).example)
        result = BUILT_IN.execute(name, good[:first] + text + good[first + length :], FRAMES)
        assert result.ok or (result.error is not None and result.error.message)
        assert not BUILT_IN.faults


class TestPluginFaults:
    @pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
    def test_a_plugin_that_raises(self, error: BaseException) -> None:
        def run(arguments: Any, frames: Any) -> OperationResult:
            raise error

        result, registry = run_plugin(run)
        assert result.error is not None and result.error.code == "internal"
        assert registry.faults["PLUGIN", "internal"] == 1

    @pytest.mark.parametrize(
        "nonsense",
        [
            None,
            "text",
            OperationResult(True, text=7),  # type: ignore[arg-type]
            OperationResult(False),
            OperationResult(True, image=np.zeros((4, 4), np.uint8)),
            OperationResult(True, image=np.zeros((4, 4, 3), np.float64)),
            OperationResult(True, image=np.zeros((3000, 3000, 3), np.uint8)),
            OperationResult(True, data={"x": float("nan")}),
            OperationResult(True, data={"x": object()}),
            OperationResult(True, drawings=("box",)),  # type: ignore[arg-type]
        ],
    )
    def test_a_plugin_that_returns_nonsense(self, nonsense: Any) -> None:
        result, registry = run_plugin(lambda a, f: nonsense)
        assert result.error is not None and result.error.code == "invalid_result"
        assert registry.faults["PLUGIN", "invalid_result"] == 1

    def test_a_plugin_that_hangs_times_out_and_is_switched_off(self) -> None:
        release = threading.Event()

        def run(arguments: Any, frames: Any) -> OperationResult:
            release.wait(30)
            return OperationResult(True)

        registry = Registry(OperationsConfig(time_limit_s=0.05, quarantine_after=2), [plugin(run)])
        start = time.monotonic()
        codes = [registry.execute("PLUGIN", {}, FRAMES).error.code for _ in range(4)]  # type: ignore[union-attr]
        release.set()
        assert codes == ["timeout", "timeout", "quarantined", "quarantined"]
        assert time.monotonic() - start < 5

    def test_a_plugin_whose_loading_hangs_times_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("components.shared.operations.registry.PREPARE_LIMIT_S", 0.05)
        release = threading.Event()
        result, registry = run_plugin(lambda a, f: OperationResult(True), prepare=lambda: release.wait(30))
        release.set()
        assert result.error is not None and result.error.code == "timeout" and "to load" in result.text
        assert registry.faults["PLUGIN", "timeout"] == 1

    @pytest.mark.parametrize("part", ["prepare", "frames_used"])
    @pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
    def test_a_plugin_that_raises_outside_its_body(self, part: str, error: BaseException) -> None:
        def fail(*given: Any) -> Any:
            raise error

        result, registry = run_plugin(lambda a, f: OperationResult(True), **{part: fail})
        assert result.error is not None and result.error.code == "internal"
        assert registry.faults["PLUGIN", "internal"] == 1

    def test_loading_happens_once_and_is_tried_again_after_a_failure(self) -> None:
        loaded: list[int] = []

        def prepare() -> None:
            loaded.append(1)
            if len(loaded) == 1:
                raise OSError("network")

        registry = Registry(OperationsConfig(), [plugin(lambda a, f: OperationResult(True), prepare=prepare)])
        assert [registry.execute("PLUGIN", {}, FRAMES).ok for _ in range(4)] == [False, True, True, True]
        assert len(loaded) == 2

    def test_arguments_without_a_schema_are_refused_at_the_door(self) -> None:
        class Opaque(Arguments):
            model_config = {"arbitrary_types_allowed": True}
            thing: threading.Event

        item = Operation("OPAQUE", "", Opaque, lambda a, f: OperationResult(True))
        with pytest.raises(ConfigError, match="JSON schema"):
            Registry(operations=[item])

    def test_a_plugin_cannot_change_the_callers_frames(self) -> None:
        before = FRAMES[0].copy()

        def run(arguments: Any, frames: Any) -> OperationResult:
            frames[0][:] = 0
            return OperationResult(True)

        result, _ = run_plugin(run)
        assert result.error is not None and result.error.code == "internal"
        assert np.array_equal(FRAMES[0], before)

    def test_a_fault_raised_by_an_operation_keeps_its_words(self) -> None:
        def run(arguments: Any, frames: Any) -> OperationResult:
            raise OperationFault("nothing_found", "no text here.", "a region with text")

        result, registry = run_plugin(run)
        assert result.text == "error nothing_found: no text here. Expected: a region with text"
        assert not registry.faults

    def test_a_lazy_sequence_that_fails_is_reported(self) -> None:
        class Broken(list):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return 3

            def __getitem__(self, index: Any) -> Any:
                raise OSError("disk gone")

        result = default_registry().execute("ZOOM_IN", {"frame": 0, "box": [0, 0, 900, 900]}, Broken())
        assert result.error is not None and result.error.code == "internal"

    def test_long_text_is_cut(self) -> None:
        result, _ = run_plugin(lambda a, f: OperationResult(True, "x" * 5000), OperationsConfig(max_text_chars=100))
        assert result.text == "x" * 100 + " [cut]"


class TestCache:
    @staticmethod
    def counted(calls: list[int], size: int = 4) -> Operation:
        def run(arguments: OneNumber, frames: Any) -> OperationResult:
            calls.append(arguments.value)
            image = np.full((size, size, 3), int(frames[0].sum() % 251), np.uint8)
            return OperationResult(True, str(arguments.value), image=image, drawings=(Drawing(0, (0, 0, 1, 1)),))

        return Operation("COUNT", "", OneNumber, run, frames_used=lambda a, n: [0])

    def test_equal_pixels_and_arguments_are_computed_once(self) -> None:
        calls: list[int] = []
        registry = Registry(operations=[self.counted(calls)])
        first = registry.execute("COUNT", {"value": 1}, FRAMES)
        again = registry.execute("COUNT", {"value": 1}, [FRAMES[0].copy(), *FRAMES[1:]])
        assert calls == [1] and again.cached and not first.cached
        assert np.array_equal(first.image, again.image)  # type: ignore[arg-type]

    @pytest.mark.parametrize("change", ["pixel", "argument", "version"])
    def test_any_change_is_computed_anew(self, change: str) -> None:
        calls: list[int] = []
        item = self.counted(calls)
        registry = Registry(operations=[item])
        registry.execute("COUNT", {"value": 1}, FRAMES)
        frames = [frame.copy() for frame in FRAMES]
        if change == "pixel":
            frames[0][5, 5, 1] ^= 1
        if change == "version":
            import dataclasses

            registry.register(dataclasses.replace(item, version="2"), override=True)
        registry.execute("COUNT", {"value": 2 if change == "argument" else 1}, frames)
        assert len(calls) == 2

    def test_memory_is_bounded(self) -> None:
        calls: list[int] = []
        registry = Registry(OperationsConfig(cache_bytes=20_000), [self.counted(calls, size=50)])
        for value in range(10):
            registry.execute("COUNT", {"value": value}, FRAMES)
        assert registry.cache.size_bytes <= 20_000
        registry.execute("COUNT", {"value": 9}, FRAMES)
        registry.execute("COUNT", {"value": 0}, FRAMES)
        assert calls == [*range(10), 0]

    def test_a_long_track_counts_as_much_as_it_holds(self) -> None:
        """A thousand boxes hold most of a megabyte; counted as a kilobyte, the cache outgrew its budget."""
        tracemalloc.start()
        boxes = [{"frame": n + 1000, "box": [n + 1000, n + 2000, n + 3000, n + 4000]} for n in range(1000)]
        drawings = tuple(
            Drawing(n, (n + 1000, n + 2000, n + 3000, n + 4000), label=f"{n / 7:.2f}") for n in range(1000)
        )
        result = OperationResult(True, "followed", data={"boxes": boxes}, drawings=drawings)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held > 300_000 and 0.8 * held < size_bytes(result) < 3 * held
