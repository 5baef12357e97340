"""The SAM 2 backend with a tiny model of random weights: the plumbing, not the accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.operations import OperationsConfig, Registry, default_registry
from components.shared.operations.masks import MaskRle, decode_mask
from components.shared.operations.sam2 import load_model
from components.shared.operations.sam2_tracking import Sam2Tracker
from components.shared.runtime.errors import ConfigError

FRAME = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
CALL = {"frame": 0, "x": 500, "y": 500}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the published checkpoints: the video model, of which the picture model is a part."""
    import torch
    from transformers import Sam2VideoConfig, Sam2VideoModel

    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [128, 128],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8],
        "fpn_hidden_size": 128, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip
    prompt = {"hidden_size": 128, "image_size": 128}
    decoder = {"hidden_size": 128, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    config = Sam2VideoConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder, image_size=128,
        memory_attention_hidden_size=128, memory_attention_num_layers=1, memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[8, 8], memory_encoder_hidden_size=128, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=64, num_maskmem=3, max_object_pointers_in_encoder=4,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2")
    Sam2VideoModel(config).save_pretrained(folder)
    return folder


def test_the_model_is_asked_and_its_mask_returned_at_source_size(weights: Path) -> None:
    registry = default_registry(OperationsConfig(segment_backend="sam2", sam2_model=str(weights), time_limit_s=600))
    result = registry.execute("SEGMENT_OBJECT_AT", CALL, [FRAME])
    assert result.ok or (result.error is not None and result.error.code == "nothing_found"), result.text
    if result.ok:
        mask = decode_mask(MaskRle.model_validate(result.data["mask"]), 90, 120)
        assert mask.any() and 0 <= result.data["score"] <= 1


def test_the_point_matters(weights: Path) -> None:
    import torch

    model = load_model("Sam2Model", str(weights), "", "cpu")
    pixels = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        logits = [
            model(pixel_values=pixels, input_points=torch.tensor([[[[p, p]]]]), input_labels=torch.ones(1, 1, 1).long())
            for p in (10.0, 100.0)
        ]
    assert not torch.allclose(logits[0].pred_masks, logits[1].pred_masks)


def test_missing_weights_are_a_structured_error(tmp_path: Path) -> None:
    registry = default_registry(OperationsConfig(segment_backend="sam2", sam2_model=str(tmp_path / "absent")))
    result = registry.execute("SEGMENT_OBJECT_AT", CALL, [FRAME])
    assert result.error is not None and result.error.code == "unavailable" and "absent" in result.text


@pytest.mark.parametrize("backend", ["segment_backend", "track_backend"])
def test_a_backend_needs_a_model(backend: str) -> None:
    with pytest.raises(ConfigError, match="sam2_model"):
        OperationsConfig.parse(f'{{"{backend}": "sam2"}}', name="operations")


class TestTracking:
    BOX = [200, 200, 600, 700]
    FRAMES = [np.random.default_rng(number).integers(0, 255, (90, 120, 3), np.uint8) for number in range(12)]

    @staticmethod
    def registry(weights: Path) -> Registry:
        return default_registry(OperationsConfig(track_backend="sam2", sam2_model=str(weights), time_limit_s=600))

    @pytest.mark.parametrize(("first", "to"), [(0, 11), (11, 0), (5, 5)])
    def test_every_frame_gets_a_box_inside_it(self, weights: Path, first: int, to: int) -> None:
        call = {"frame": first, "box": self.BOX, "to": to}
        result = self.registry(weights).execute("TRACK_OBJECT", call, self.FRAMES)
        assert result.ok, result.text
        entries = result.data["boxes"]
        assert [entry["frame"] for entry in entries] == list(range(first, to + 1) or range(first, to - 1, -1))
        for entry in entries:
            x0, y0, x1, y1 = entry["box"]
            assert 0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000 and 0 <= entry["confidence"] <= 1

    def followed(self, weights: Path, frames: list[np.ndarray], *, forget: bool = True) -> tuple[Sam2Tracker, Any]:
        """The tracker after all frames, and the masks' logits of every frame after the first."""
        import torch

        model = load_model("Sam2VideoModel", str(weights), "", "cpu")
        tracker = Sam2Tracker(frames[0], (24.0, 18.0, 72.0, 63.0), model)
        if not forget:
            tracker._forget = lambda number: None  # type: ignore[method-assign]
        logits: list[Any] = []
        hook = model.register_forward_hook(lambda module, given, found: logits.append(found.pred_masks))
        for frame in frames[1:]:
            tracker.update(frame)
        hook.remove()
        return tracker, torch.stack(logits)

    def test_it_is_deterministic_and_the_past_matters(self, weights: Path) -> None:
        import torch

        _, once = self.followed(weights, self.FRAMES)
        _, again = self.followed(weights, self.FRAMES)
        _, other = self.followed(weights, [255 - self.FRAMES[0], *self.FRAMES[1:]])
        assert torch.equal(once, again) and not torch.equal(once[-1], other[-1])

    def test_memory_does_not_grow_with_the_video_and_forgetting_changes_nothing(self, weights: Path) -> None:
        """Against the library's own bookkeeping, which keeps everything."""
        import torch

        forgetting, short = self.followed(weights, self.FRAMES)
        keeping, long = self.followed(weights, self.FRAMES, forget=False)
        assert torch.equal(short, long)
        assert not forgetting._session.processed_frames
        assert len(forgetting._session.output_dict_per_obj[0]["non_cond_frame_outputs"]) == 5
        assert len(keeping._session.output_dict_per_obj[0]["non_cond_frame_outputs"]) == 11

    def test_a_target_that_the_model_does_not_see_is_lost_where_it_was(self, weights: Path) -> None:
        import torch

        model = load_model("Sam2VideoModel", str(weights), "", "cpu")
        head = model.mask_decoder.pred_obj_score_head.proj_out
        before = head.bias.detach().clone()
        tracker = Sam2Tracker(self.FRAMES[0], (24.0, 18.0, 72.0, 63.0), model)
        try:
            with torch.no_grad():
                head.bias.fill_(-20.0)
            found = tracker.update(self.FRAMES[1])
        finally:
            with torch.no_grad():
                head.bias.copy_(before)
        assert found.lost and found.confidence < 0.01 and found.box == (24.0, 18.0, 72.0, 63.0)

    def test_missing_weights_are_a_structured_error(self, tmp_path: Path) -> None:
        result = self.registry(tmp_path / "absent").execute("TRACK_OBJECT", {"frame": 0, "box": self.BOX}, self.FRAMES)
        assert result.error is not None and result.error.code == "unavailable" and "absent" in result.text
