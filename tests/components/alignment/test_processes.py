"""Two processes over gloo: the loss and gradient of a step of each stage, all three modalities, are those of one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus
from components.alignment.trainer import Trainer
from components.shared.encoders.config import AudioShape, EncoderConfig, TextShape, VisionShape
from components.shared.encoders.model import build_model
from components.shared.learning.group import Group

CLIPS, FRAMES = 8, 3
PHRASES = ["red", "green", "blue"]
CONFIG = AlignmentConfig(
    encoder=EncoderConfig(
        widths=(4, 8),
        num_latents=2,
        perceiver_heads=2,
        audio=True,
        vision_tower=VisionShape(image_size=28, hidden=16, layers=1, heads=2),
        text_tower=TextShape(vocabulary=300, hidden=16, layers=1, heads=2),
        audio_tower=AudioShape(hidden=16, layers=1, heads=2, num_mel_bins=20, seconds=1.0),
    ),
    frame_steps=2, frames_per_step=6, clip_steps=2, clips_per_step=CLIPS, sound_steps=2, sounds_per_step=6, seed=1,
    precision="float32",
)  # fmt: skip


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    made = Corpus(
        metas=[],
        frames=rng.integers(0, 255, (CLIPS, FRAMES, 28, 28, 3), dtype=np.uint8),
        times_s=np.tile(np.arange(FRAMES, dtype=np.float32), (CLIPS, 1)),
        mask=np.ones((CLIPS, FRAMES), bool),
        labels=rng.integers(0, len(PHRASES), (CLIPS, FRAMES)),
        captions=[f"{PHRASES[i % 3]}, then {PHRASES[i % 2]}" for i in range(CLIPS)],
        sounds=[b"x"] * (CLIPS - 1) + [None],
    )
    made.metas = [None] * CLIPS
    return made


STAGES = {"frames": 0, "clips": 2, "sounds": 4}
"""A step of each stage."""
TOWERS = {"frames": {"vision", "text"}, "clips": {"text"}, "sounds": {"audio"}}
"""Which towers it trains."""


def trained(folder: Path, step: int) -> Trainer:
    """After one step; log-mel is made up, since what is checked is the training step."""
    torch.manual_seed(0)
    model = build_model(CONFIG.encoder, [*corpus().captions, *PHRASES])
    trainer = Trainer(CONFIG, model, corpus(), PHRASES, folder, "key", Group("cpu"))
    generator = torch.Generator().manual_seed(0)
    positions = model.audio.positions
    mels = torch.randn(CLIPS, 20, 2 * positions, generator=generator)
    trainer.hearing.mels = (mels, torch.ones(CLIPS, positions) > 0)
    model.train()
    with trainer.parts:
        trainer.losses = [trainer.step(step)]
    return trainer


def test_two_processes_equal_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    subprocess.run([*command, str(tmp_path)], check=True, timeout=200)
    for stage, number in STAGES.items():
        alone = trained(tmp_path / "alone", number)
        gradients = {name: p.grad for name, p in alone.model.named_parameters() if p.grad is not None}
        touched = {name.partition(".")[0] for name in gradients}
        assert touched - {"log_scale"} == ({"audio"} if stage == "sounds" else {"vision", "text"})
        assert {name.partition(".tower")[0] for name in gradients if ".tower" in name} == TOWERS[stage]
        for rank in range(2):
            found = torch.load(tmp_path / f"{stage}-{rank}.pt", weights_only=True)
            assert torch.allclose(torch.tensor(found["losses"]), torch.tensor(alone.losses), rtol=1e-4)
            assert found["gradients"].keys() == gradients.keys()
            for name, gradient in gradients.items():
                scale = float(gradient.abs().max())
                assert torch.allclose(found["gradients"][name], gradient, atol=2e-3 * scale + 1e-6), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for stage, number in STAGES.items():
        done = trained(out, number)
        kept = {name: p.grad for name, p in done.model.named_parameters() if p.grad is not None}
        torch.save({"losses": done.losses, "gradients": kept}, out / f"{stage}-{done.group.rank}.pt")
    done.group.close()
