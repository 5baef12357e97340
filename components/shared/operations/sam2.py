"""SAM 2 through `transformers`, where configured: the weights, a picture made ready, and one object from one point.

Role: wraps `Sam2Model` (Ravi et al. 2024): the picture is resized to the model's square, normalised with ImageNet's
mean and deviation, the point given as one positive click; of the masks the one with the best predicted overlap is
returned. sam2_tracking.py follows an object with `Sam2VideoModel` of the same weights.
The pictures are prepared here, because the library's own processors need torchvision.
Guarantees: weights come from safetensors at the revision given; no gradient is kept; loaded once a process and model.
Not guaranteed: anything about accuracy: no weights travel with this repository.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import cv2
import numpy as np

from components.shared.operations.config import OperationsConfig
from components.shared.operations.result import OperationFault

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Kind = Literal["Sam2Model", "Sam2VideoModel"]


@functools.lru_cache(maxsize=2)
def load_model(kind: Kind, name: str, revision: str, device: str) -> Any:
    """The model of a hub name or folder, in evaluation mode.

    Raises:
        OperationFault: it cannot be loaded.
    """
    import transformers

    try:
        model: Any = getattr(transformers, kind).from_pretrained(
            name, revision=revision or "main", use_safetensors=True
        )
        return model.to(device).eval()
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # the last: torch without this device
        raise OperationFault(
            "unavailable",
            f"SAM 2 weights {name!r} cannot be loaded ({(str(error).splitlines() or [type(error).__name__])[0]}).",
            "another operation (operations.sam2_model must be a folder or hub name, or the backend `classical`)",
        ) from error


def configured_model(config: OperationsConfig, kind: Kind) -> Any:
    """The model that a section names; raises OperationFault."""
    return load_model(kind, config.sam2_model, config.sam2_revision, config.sam2_device)


def model_input(image: np.ndarray, side: int) -> Any:
    """uint8 RGB (height, width, 3) as a normalised float32 tensor (3, side, side)."""
    import torch

    square = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_LINEAR)
    normal = (square.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(normal.transpose(2, 0, 1).copy())


def source_mask(logits: Any, width: int, height: int) -> np.ndarray:
    """A mask's logits (rows, columns) as bool (height, width)."""
    return cv2.resize(logits.float().cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR) > 0


def segment_at(image: np.ndarray, x: int, y: int, model: Any) -> tuple[np.ndarray, float] | None:
    """The object at a pixel.

    Args:
        image: uint8 RGB (height, width, 3).
        x: Column.
        y: Row.
        model: A `Sam2Model`.

    Returns:
        (mask bool (height, width), predicted overlap 0..1), None where the mask is empty.
    """
    import torch

    height, width = image.shape[:2]
    side = int(model.config.prompt_encoder_config.image_size)
    point = [[[[(x + 0.5) * side / width, (y + 0.5) * side / height]]]]
    with torch.inference_mode():
        found = model(
            pixel_values=model_input(image, side)[None].to(model.device),
            input_points=torch.tensor(point, device=model.device),
            input_labels=torch.ones((1, 1, 1), dtype=torch.int64, device=model.device),
        )
    scores = found.iou_scores[0, 0].float().cpu().numpy()
    best = int(scores.argmax())
    mask = source_mask(found.pred_masks[0, 0, best], width, height)
    return (mask, float(np.clip(scores[best], 0, 1))) if mask.any() else None
