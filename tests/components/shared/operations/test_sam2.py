"""The SAM 2 backend with a tiny model of random weights: the plumbing, not the accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.shared.operations import OperationsConfig, default_registry
from components.shared.operations.masks import MaskRle, decode_mask
from components.shared.runtime.errors import ConfigError

FRAME = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
CALL = {"frame": 0, "x": 500, "y": 500}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [128, 128],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3],
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": 128}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    torch.manual_seed(0)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    folder = tmp_path_factory.mktemp("sam2")
    Sam2Model(config).save_pretrained(folder)
    return folder


def test_the_model_is_asked_and_its_mask_returned_at_source_size(weights: Path) -> None:
    registry = default_registry(OperationsConfig(segment_backend="sam2", segment_model=str(weights), time_limit_s=600))
    result = registry.execute("SEGMENT_OBJECT_AT", CALL, [FRAME])
    assert result.ok or (result.error is not None and result.error.code == "nothing_found"), result.text
    if result.ok:
        mask = decode_mask(MaskRle.model_validate(result.data["mask"]), 90, 120)
        assert mask.any() and 0 <= result.data["score"] <= 1


def test_the_point_matters(weights: Path) -> None:
    import torch

    from components.shared.operations.sam2 import load_model

    model = load_model(str(weights), "", "cpu")
    pixels = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        logits = [
            model(pixel_values=pixels, input_points=torch.tensor([[[[p, p]]]]), input_labels=torch.ones(1, 1, 1).long())
            for p in (10.0, 100.0)
        ]
    assert not torch.allclose(logits[0].pred_masks, logits[1].pred_masks)


def test_missing_weights_are_a_structured_error(tmp_path: Path) -> None:
    registry = default_registry(OperationsConfig(segment_backend="sam2", segment_model=str(tmp_path / "absent")))
    result = registry.execute("SEGMENT_OBJECT_AT", CALL, [FRAME])
    assert result.error is not None and result.error.code == "unavailable" and "absent" in result.text


def test_the_backend_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="segment_model"):
        OperationsConfig.parse('{"segment_backend": "sam2"}', name="operations")
