"""What goes into an operation and what comes out of it, checked: a call's arguments before, a result's form after."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from components.shared.operations.arguments import Arguments
from components.shared.operations.config import OperationsConfig
from components.shared.operations.operation import Operation
from components.shared.operations.result import Drawing, OperationFault, OperationResult
from components.shared.runtime.config import canonical_json

MAX_ARGUMENT_CHARS = 16_384
"""Longer argument texts are refused unread."""


def typed_arguments(item: Operation, arguments: Any) -> Arguments:
    """An operation's arguments from a dict or JSON text; raises OperationFault with a right call in it."""
    if isinstance(arguments, (str, bytes)):
        arguments = parsed(item, arguments)
    if not isinstance(arguments, dict):
        raise OperationFault("invalid_arguments", f"arguments are a {type(arguments).__name__}.", item.usage())
    try:
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
        return item.arguments.model_validate(plain)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part)[:40] for part in e['loc']) or 'arguments'}: {e['msg'][:160]}"
            for e in error.errors(include_url=False, include_input=False, include_context=False)[:4]
        ]
        raise OperationFault("invalid_arguments", "; ".join(lines), item.usage()) from None
    except (TypeError, RecursionError, OverflowError) as error:
        raise OperationFault("invalid_arguments", f"{type(error).__name__}: {error}"[:200], item.usage()) from None


def parsed(item: Operation, text: str | bytes) -> Any:
    """The value of a JSON text; raises OperationFault."""
    if len(text) > MAX_ARGUMENT_CHARS:
        raise OperationFault(
            "too_large", f"arguments are {len(text)} characters long.", f"at most {MAX_ARGUMENT_CHARS} characters"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OperationFault("invalid_json", f"arguments are not JSON: {error}"[:200], item.usage()) from None


def checked_result(item: Operation, result: Any, config: OperationsConfig) -> OperationResult:
    """The result with long text cut; raises OperationFault where a plugin returned nonsense."""
    if wrong := malformed(result, config):
        raise OperationFault("invalid_result", f"{item.name} returned {wrong}.", "an OperationResult")
    if len(result.text) > config.max_text_chars:
        return replace(result, text=result.text[: config.max_text_chars] + " [cut]")
    checked: OperationResult = result
    return checked


def malformed(result: Any, config: OperationsConfig) -> str:
    """What is wrong with a result, empty where nothing is."""
    if not isinstance(result, OperationResult):
        return f"a {type(result).__name__}"
    if not isinstance(result.text, str) or not isinstance(result.data, dict) or (result.error is None) != result.ok:
        return "a result whose text, data, ok or error is malformed"
    if not isinstance(result.drawings, tuple) or not all(isinstance(item, Drawing) for item in result.drawings):
        return "drawings that are not a tuple of Drawing"
    if result.image is not None:
        image = result.image
        rgb = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        if not rgb or image.size == 0:
            return "an image that is not uint8 RGB"
        if image.size // 3 > config.max_image_pixels:
            return f"an image of {image.size // 3} pixels (limit {config.max_image_pixels})"
    try:
        canonical_json(result.data)
    except (TypeError, ValueError, RecursionError):
        return "data that is not JSON"
    return ""
