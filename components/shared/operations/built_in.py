"""The operations that ship with Pixelis."""

from __future__ import annotations

from components.shared.operations.config import OperationsConfig
from components.shared.operations.registry import Operation
from components.shared.operations.zoom_in import zoom_in


def built_in_operations(config: OperationsConfig) -> tuple[Operation, ...]:
    """All built-in operations with their settings; nothing heavy is loaded before the first call."""
    return (zoom_in(config),)
