"""TRACK_OBJECT by SAM 2's video model through `transformers`, where configured.

Role: `Sam2VideoModel` streams: the first frame is prompted with the box, every later one is found from the memory of
those before it. The box of a frame is that of its mask; the confidence is the model's probability that the object is
in the picture, and a target the model sees no more is lost (its last box stays).
Guarantees: memory does not grow with the video: only what the model's memory attention can reach is kept. Frames are
numbered in the order they are given, so that following backwards is the same as forwards.
Not guaranteed: anything about accuracy: no weights travel with this repository.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from components.shared.operations.masks import mask_box
from components.shared.operations.sam2 import model_input, source_mask
from components.shared.operations.tracking import FloatBox, Tracked

OBJECT = 1
"""The number the followed object has in the session."""
BOX_CORNERS = (2, 3)
"""Labels of a box's two corners among SAM's point labels."""


class Sam2Tracker:
    """Tracks one box; `update` as `CorrelationTracker` has it.

    Args:
        frame: uint8 RGB (height, width, 3).
        box: Target (x0, y0, x1, y1) in pixels.
        model: A `Sam2VideoModel`.
    """

    def __init__(self, frame: np.ndarray, box: FloatBox, model: Any) -> None:
        import torch
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        self._model, self._box = model, box
        self._height, self._width = frame.shape[:2]
        self._side = int(model.config.prompt_encoder_config.image_size)
        self._reach = max(int(model.config.num_maskmem), int(model.config.max_object_pointers_in_encoder)) + 1
        session: Any = Sam2VideoInferenceSession(
            video=None,
            video_height=self._height,
            video_width=self._width,
            inference_device=model.device,
            inference_state_device=model.device,
            video_storage_device=model.device,
            dtype=model.dtype,
        )
        self._number = session.add_new_frame(model_input(frame, self._side))
        corners = np.array(box).reshape(2, 2) * self._side / (self._width, self._height)
        prompt = {
            "point_coords": torch.tensor(corners[None, None], dtype=torch.float32),
            "point_labels": torch.tensor([[BOX_CORNERS]], dtype=torch.int32),
        }
        session.add_point_inputs(session.obj_id_to_idx(OBJECT), self._number, prompt)
        session.obj_with_new_inputs = [OBJECT]
        model(session, frame_idx=self._number)
        session.processed_frames.pop(self._number)
        self._session = session

    def update(self, frame: np.ndarray) -> Tracked:
        """Find the target in the next frame."""
        self._number += 1  # said, because the session would count the pictures it still holds
        found = self._model(self._session, frame=model_input(frame, self._side), frame_idx=self._number)
        confidence = float(found.object_score_logits.float().sigmoid().max())
        mask = source_mask(found.pred_masks[0, 0], self._width, self._height)
        lost = confidence < 0.5 or not mask.any()
        if not lost:
            self._box = mask_box(mask)
        self._forget(self._number)
        return Tracked(self._box, round(confidence, 3), lost)

    def _forget(self, number: int) -> None:
        """Drop the picture just used and what lies beyond the memory attention's reach."""
        self._session.processed_frames.pop(number, None)
        kept = self._session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        for old in [index for index in kept if index <= number - self._reach]:
            del kept[old]
        self._session.frames_tracked_per_obj[0].pop(number - self._reach, None)
