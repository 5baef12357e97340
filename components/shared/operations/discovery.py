"""Which operations there are on this machine: the built-in ones and the plugins of installed packages.

A plugin is an entry point of the group `pixelis.operations` that names an `Operation`, or a function
`OperationsConfig -> Operation`.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.operations.operation import Operation
from components.shared.operations.registry import Registry

ENTRY_POINTS = "pixelis.operations"
log = logging.getLogger(__name__)


def default_registry(config: OperationsConfig = TWIN_OPERATIONS) -> Registry:
    """A fresh registry of the built-in operations and all plugins installed on this machine.

    A plugin that cannot be loaded or whose name is taken is left out with a logged warning and counted in `faults`.

    Args:
        config: The section a policy was trained with; the default is the twin profile's.
    """
    from components.shared.operations.built_in import built_in_operations  # here: reading a section needs no OpenCV

    registry = Registry(config, built_in_operations(config))
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: p.name):
        try:
            loaded = point.load()
            registry.register(loaded if isinstance(loaded, Operation) else loaded(config))
        except (Exception, SystemExit) as error:
            log.warning("operation plugin %s left out: %s: %s", point.name, type(error).__name__, error)
            registry.faults[point.name, "unavailable"] += 1
    return registry
