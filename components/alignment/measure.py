"""How good the alignment is on people it never saw: recall per pair and width against chance, zero-shot frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from components.alignment.corpus import Corpus, number, phrase
from components.shared.encoders.audio import decode_audio
from components.shared.encoders.model import AlignmentModel
from components.shared.encoders.retrieval import chance_at, recall_at
from components.shared.encoders.vision import to_pixels
from components.shared.work.manifest import Manifest

KS = (1, 5, 10)
BATCH = 256
Recall = dict[str, dict[int, dict[str, dict[int, float]]]]
"""pair -> width -> way (`to_text`, `from_text`) -> k -> share."""


@torch.inference_mode()
def frame_features(model: AlignmentModel, frames: np.ndarray) -> torch.Tensor:
    """Tower features of clips' frames: uint8 (N, T, S, S, 3) -> (N, T, K, hidden)."""
    flat = frames.reshape(-1, *frames.shape[2:])
    size = model.vision.image_size
    parts = [model.vision.frame_features(to_pixels(flat[i : i + BATCH], size)) for i in range(0, len(flat), BATCH)]
    return torch.cat([part.cpu() for part in parts]).unflatten(0, frames.shape[:2])


@torch.inference_mode()
def recall(model: AlignmentModel, corpus: Corpus, features: torch.Tensor) -> tuple[Recall, dict[str, object]]:
    """R@k of clips (and their sound) against the split's distinct captions, per width.

    Returns:
        Recall by pair and width, and the gallery's facts: number of items and captions, chance both ways.
    """
    captions, own = number(corpus.captions)
    times, mask = torch.from_numpy(corpus.times_s), torch.from_numpy(corpus.mask)
    items = {"vision": model.vision.clip(features, times, mask).mrl}
    rows = {"vision": np.arange(len(corpus))}
    with_sound = np.array([i for i, sound in enumerate(corpus.sounds) if sound], dtype=int)
    if model.audio is not None and len(with_sound):
        mel, real = model.audio.mel([decode_audio(corpus.sounds[i] or b"") for i in with_sound])
        items["audio"], rows["audio"] = model.audio(mel, real).mrl, with_sound
    texts = model.text(captions).mrl
    found: Recall = {}
    for name, mrl in items.items():
        found[f"{name}-text"] = {
            width: recall_at(mrl[width].cpu().numpy(), texts[width].cpu().numpy(), own[rows[name]], KS) for width in mrl
        }
    gallery = {"num_items": len(corpus), "num_captions": len(captions), "chance": chance_at(own, len(captions), KS)}
    return found, gallery


@torch.inference_mode()
def zero_shot(model: AlignmentModel, corpus: Corpus, features: torch.Tensor, manifest: Manifest) -> dict[str, object]:
    """Single frames named by the nearest label phrase: accuracy, majority share, confusion[truth][prediction]."""
    kept = corpus.labels >= 0
    truth = corpus.labels[kept]
    images = model.vision.frames(features[torch.from_numpy(kept)]).mrl[model.config.full_width]
    phrases = model.text([phrase(manifest, label) for label in manifest.labels]).mrl[model.config.full_width]
    guess = (images @ phrases.T).argmax(dim=1).cpu().numpy()
    confusion = np.zeros((len(manifest.labels),) * 2, int)
    np.add.at(confusion, (truth, guess), 1)
    majority = float(np.bincount(truth).max() / len(truth)) if len(truth) else 0.0
    return {
        "accuracy": float((guess == truth).mean()) if len(truth) else 0.0,
        "majority": majority,
        "confusion": confusion,
    }


def plot(found: Recall, gallery: dict[str, object], curve: list[tuple[float, float]], switch: int, path: Path) -> None:
    """Recall over width, both ways, with chance; and the training loss, the second stage begun at step `switch`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chance: dict[str, dict[int, float]] = gallery["chance"]  # type: ignore[assignment]
    figure, axes = plt.subplots(1, 2 * len(found) + 1, figsize=(4.2 * (2 * len(found) + 1), 3.6), layout="constrained")
    panels = [(pair, way) for pair in found for way in ("to_text", "from_text")]
    for axis, (pair, way) in zip(axes, panels, strict=False):
        widths = sorted(found[pair])
        for colour, k in zip(("#0b6e99", "#d9730d", "#448361"), KS, strict=True):
            axis.plot(range(len(widths)), [found[pair][w][way][k] for w in widths], "o-", color=colour, label=f"R@{k}")
            axis.axhline(chance[way][k], color=colour, linestyle=":", linewidth=1.2)
        name = pair.split("-", maxsplit=1)[0]
        axis.set_title(f"{name} → caption" if way == "to_text" else f"caption → {name}", fontsize=11)
        axis.set_xticks(range(len(widths)), [str(w) for w in widths])
        axis.set_xlabel("embedding width (dotted: chance)")
        axis.set_ylim(0, 1.03)
        axis.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel(f"recall, {gallery['num_items']} clips of unseen people")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=9, ncols=3, loc="outside lower left")
    if curve:
        axes[-1].plot(*zip(*curve, strict=True), color="#37352f", linewidth=1)
        axes[-1].axvline(switch, color="#909090", linestyle="--", linewidth=1)
    axes[-1].set_title("training loss: frames | clips", fontsize=11)
    axes[-1].set_xlabel("step")
    axes[-1].grid(alpha=0.25)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
