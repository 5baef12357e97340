"""SEGMENT_OBJECT_AT by SAM 2 through `transformers`, where configured.

Role: wraps `Sam2Model` (Ravi et al. 2024): the picture is resized to the model's square, normalised with ImageNet's
mean and deviation, the point given as one positive click; of the masks the one with the best predicted overlap is
returned.
The pictures are prepared here, because the library's own processor needs torchvision.
Guarantees: weights come from safetensors at the revision given; no gradient is kept; loaded once a process and model.
Not guaranteed: anything about accuracy: no weights travel with this repository.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from components.shared.runtime.errors import ModelNotReadyError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=2)
def load_model(name: str, revision: str, device: str) -> Any:
    """The model of a hub name or folder, in evaluation mode.

    Raises:
        ModelNotReadyError: it cannot be loaded.
    """
    from transformers import Sam2Model

    try:
        model: Any = Sam2Model.from_pretrained(name, revision=revision or "main", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelNotReadyError(
            f"SAM 2 weights {name!r} cannot be loaded ({str(error).splitlines()[0]}), so nothing can be segmented.",
            remedy="Give operations.segment_model a folder or hub name, or use the classical backend.",
        ) from error
    return model.to(device).eval()


def segment_at(image: np.ndarray, x: int, y: int, model: Any) -> tuple[np.ndarray, float] | None:
    """The object at a pixel.

    Args:
        image: uint8 RGB (height, width, 3).
        x: Column.
        y: Row.
        model: From `load_model`.

    Returns:
        (mask bool (height, width), predicted overlap 0..1), None where the mask is empty.
    """
    import torch

    height, width = image.shape[:2]
    side = int(model.config.prompt_encoder_config.image_size)
    square = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_LINEAR)
    normal = (square.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    pixels = torch.from_numpy(normal.transpose(2, 0, 1).copy())[None].to(model.device)
    point = [[[[(x + 0.5) * side / width, (y + 0.5) * side / height]]]]
    with torch.inference_mode():
        found = model(
            pixel_values=pixels,
            input_points=torch.tensor(point, device=model.device),
            input_labels=torch.ones((1, 1, 1), dtype=torch.int64, device=model.device),
        )
    scores = found.iou_scores[0, 0].float().cpu().numpy()
    best = int(scores.argmax())
    logits = found.pred_masks[0, 0, best].float().cpu().numpy()
    mask = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR) > 0
    return (mask, float(np.clip(scores[best], 0, 1))) if mask.any() else None
