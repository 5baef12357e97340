"""What the buffer measures about itself, as numbers and in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RING = 4096
PREFIX = "pixelis_buffer_"


class Latencies:
    """The last few thousand durations of acknowledged writes, in seconds."""

    def __init__(self) -> None:
        self._ring = [0.0] * RING
        self.count = 0

    def extend(self, started: Sequence[float], now: float) -> None:
        """What began at these times ended now. Concurrent callers may lose each other's samples, and break nothing."""
        at = self.count % RING
        self._ring[at : at + len(started)] = [now - moment for moment in started]
        del self._ring[RING:]
        self.count += len(started)

    def quantiles(self) -> dict[str, float]:
        """p50, p99 and max in seconds; empty before the first."""
        if not self.count:
            return {}
        values = np.array(self._ring[: min(self.count, RING)])
        return {
            "p50": float(np.quantile(values, 0.5)),
            "p99": float(np.quantile(values, 0.99)),
            "max": float(values.max()),
        }


def prometheus(stats: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> str:
    """The numbers of `stats` as gauges in the Prometheus text format; nested maps join their names by `_`."""
    text = ",".join(f'{key}="{value}"' for key, value in (labels or {}).items())
    tail = f"{{{text}}}" if text else ""
    return "".join(f"{PREFIX}{name}{tail} {value!r}\n" for name, value in sorted(_flat(stats).items()))


def _flat(stats: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    result: dict[str, float] = {}
    for name, value in stats.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{name}_"))
        elif isinstance(value, bool):
            result[prefix + name] = float(value)
        elif isinstance(value, int | float):
            result[prefix + name] = value
    return result
