"""Visual operations: the registry and what it runs."""

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.operations.discovery import default_registry
from components.shared.operations.operation import Operation, operation
from components.shared.operations.registry import Registry
from components.shared.operations.result import Drawing, OperationError, OperationFault, OperationResult

__all__ = [
    "TWIN_OPERATIONS",
    "Drawing",
    "Operation",
    "OperationError",
    "OperationFault",
    "OperationResult",
    "OperationsConfig",
    "Registry",
    "default_registry",
    "operation",
]
