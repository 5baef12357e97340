"""Clips of one step that have the same caption are each other's positives, not negatives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus
from components.alignment.trainer import Trainer
from components.shared.encoders.config import EncoderConfig, TextShape, VisionShape
from components.shared.encoders.model import build_model

CAPTIONS = ["picking", "scanning", "picking", "folding", "picking"]
CONFIG = AlignmentConfig(
    encoder=EncoderConfig(
        widths=(8,),
        num_latents=2,
        perceiver_heads=2,
        vision_tower=VisionShape(image_size=28, hidden=16, layers=1, heads=2),
        text_tower=TextShape(vocabulary=300, hidden=16, layers=1, heads=2),
    ),
    frame_steps=0, clip_steps=1, clips_per_step=len(CAPTIONS), w_clip=1.0, w_mrl=0.0, precision="float32",
)  # fmt: skip


def corpus() -> Corpus:
    """No labelled frame, so that whole clips are all that a step learns from."""
    count = len(CAPTIONS)
    return Corpus(
        metas=[None] * count,
        frames=np.random.default_rng(0).integers(0, 255, (count, 2, 28, 28, 3), dtype=np.uint8),
        times_s=np.tile(np.arange(2, dtype=np.float32), (count, 1)),
        mask=np.ones((count, 2), bool),
        labels=np.full((count, 2), -1),
        captions=CAPTIONS,
        sounds=[None] * count,
    )


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    torch.manual_seed(0)
    return Trainer(CONFIG, build_model(CONFIG.encoder, CAPTIONS), corpus(), [], tmp_path, "key")


def cross_entropy(logits: np.ndarray, positives: np.ndarray) -> float:
    """Both ways, mean over rows of the log share, averaged over each row's positives."""
    total = 0.0
    for table in (logits, logits.T):
        shares = np.log(np.exp(table) / np.exp(table).sum(1, keepdims=True))
        total -= float(np.mean([row[wanted].mean() for row, wanted in zip(shares, positives, strict=True)]))
    return total / 2


SAME = np.array(CAPTIONS)[:, None] == np.array(CAPTIONS)[None]
EVERY_ROW_ITS_OWN = np.eye(len(CAPTIONS), dtype=bool)


def rows(seed: int) -> torch.Tensor:
    made = torch.randn(len(CAPTIONS), 8, generator=torch.Generator().manual_seed(seed))
    return made / made.norm(dim=1, keepdim=True)


def test_the_target_is_spread_over_equal_captions(trainer):
    """What was seen and heard in clips of one caption: different vectors, so calling them negatives is another loss."""
    seen, heard = rows(0), rows(1)
    with torch.no_grad():
        loss = float(trainer.loss({"vision": {8: seen}, "audio": {8: heard}}, trainer.caption_of))
        logits = float(trainer.model.log_scale.exp()) * (heard.double() @ seen.double().T).numpy()
    assert loss == pytest.approx(cross_entropy(logits, SAME), abs=1e-4)
    assert abs(cross_entropy(logits, EVERY_ROW_ITS_OWN) - loss) > 0.1


def test_a_step_on_clips_is_that_loss_over_its_clips_and_their_captions(trainer):
    """Equal captions are one vector here, for which spreading the target and not spreading it are the same loss."""
    model, train = trainer.model, trainer.train
    with torch.no_grad(), trainer.parts:
        seen = model.vision.clip(
            trainer.tower_features(), torch.from_numpy(train.times_s), torch.from_numpy(train.mask)
        ).mrl[8]
        logits = (model.log_scale.double().exp() * seen.double() @ model.text(CAPTIONS).mrl[8].double().T).numpy()
        with torch.enable_grad():
            loss = trainer.clips_step(np.random.default_rng(0))
    assert loss == pytest.approx(cross_entropy(logits, SAME), abs=1e-4)
    assert loss == pytest.approx(cross_entropy(logits, EVERY_ROW_ITS_OWN), abs=1e-4)
    assert loss != pytest.approx(cross_entropy(logits[:, ::-1], SAME), abs=1e-2)
