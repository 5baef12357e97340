"""The operations that ship with Pixelis."""

from __future__ import annotations

from components.shared.operations.config import OperationsConfig
from components.shared.operations.get_properties import get_properties
from components.shared.operations.operation import Operation
from components.shared.operations.read_text import read_text
from components.shared.operations.segment_object_at import segment_object_at
from components.shared.operations.track_object import track_object
from components.shared.operations.zoom_in import zoom_in

BUILT_IN = (zoom_in, segment_object_at, get_properties, read_text, track_object)


def built_in_operations(config: OperationsConfig) -> tuple[Operation, ...]:
    """All built-in operations with their settings; nothing heavy is loaded before the first call."""
    return tuple(make(config) for make in BUILT_IN)
