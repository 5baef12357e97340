"""How good the alignment is on people it never saw: recall per pair and width against chance, zero-shot frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.alignment.corpus import Corpus, number, phrase
from components.alignment.features import BATCH, log_mels
from components.shared.encoders.matryoshka import Encoded
from components.shared.encoders.model import AlignmentModel
from components.shared.encoders.retrieval import chance_at, hits_at
from components.shared.learning.bootstrap import mean_interval
from components.shared.work.manifest import Manifest

KS = (1, 5, 10)
Recall = dict[str, dict[int, dict[str, dict[int, float]]]]
"""pair (`audio-vision`) -> width -> way (`audio_to_vision`, `vision_to_audio`) -> k -> share."""
Interval = tuple[float, float] | None
Intervals = dict[str, dict[int, dict[str, dict[int, Interval]]]]
"""The same with a 95 % interval in place of the share."""


@torch.inference_mode()
def recall(model: AlignmentModel, corpus: Corpus, features: torch.Tensor) -> tuple[Recall, dict[str, object]]:
    """R@k of clips (and their sound) against the split's distinct captions, per width.

    Returns:
        Recall by pair and width, and the gallery's facts: number of items and captions, chance both ways, intervals.
    """
    captions, own = number(corpus.captions)
    times, mask = torch.from_numpy(corpus.times_s), torch.from_numpy(corpus.mask)
    seen = model.vision.clip(features, times, mask)
    items = {"vision": arrays(seen)}
    rows = {"vision": np.arange(len(corpus))}
    heard = np.array([i for i, sound in enumerate(corpus.sounds) if sound], dtype=int)
    if model.audio is not None and len(heard):
        sounds = [corpus.sounds[i] for i in heard]
        items["audio"], rows["audio"] = sounds_of(model, sounds), heard
        if model.fusion is not None:
            items["fused"], rows["fused"] = sounds_of(model, sounds, seen.rows(torch.from_numpy(heard))), heard
    texts = arrays(model.text(captions))
    people = np.array([meta.subject for meta in corpus.metas])
    hits = {
        f"{name}-text": {width: hits_at(mrl[width], texts[width], own[rows[name]], KS) for width in mrl}
        for name, mrl in items.items()
    }
    chance = {pair: chance_at(own[rows[pair.partition("-")[0]]], len(captions), KS) for pair in hits}
    if "audio" in items:  # each sound's own clip among all clips that have sound
        alone = np.arange(len(heard))
        hits["audio-vision"] = {
            width: hits_at(sound, items["vision"][width][heard], alone, KS) for width, sound in items["audio"].items()
        }
        chance["audio-vision"] = chance_at(alone, len(heard), KS)
    hits = {pair: {width: named(pair, some) for width, some in mrl.items()} for pair, mrl in hits.items()}
    chance = {pair: named(pair, shares) for pair, shares in chance.items()}
    found = each(hits, lambda _, hit: float(hit.mean()))
    drawn = {pair: people[rows[pair.partition("-")[0]]] for pair in hits}
    intervals = each(hits, lambda pair, hit: interval(hit, drawn[pair]))
    gallery = {"num_items": len(corpus), "num_captions": len(captions), "chance": chance, "intervals": intervals}
    return found, gallery


def ways_of(pair: str) -> tuple[str, str]:
    """The names of a pair's two ways."""
    first, second = pair.split("-")
    return f"{first}_to_{second}", f"{second}_to_{first}"


def named(pair: str, both: dict[str, Any]) -> dict[str, Any]:
    """What is known there and back, by the names of these ways."""
    return dict(zip(ways_of(pair), (both["there"], both["back"]), strict=True))


def each(hits: Any, figure: Callable[[str, np.ndarray], Any]) -> Any:
    """A figure of the pair's name and hits in place of every array of hits."""
    return {
        pair: {
            width: {way: {k: figure(pair, hit) for k, hit in by_k.items()} for way, by_k in ways.items()}
            for width, ways in widths.items()
        }
        for pair, widths in hits.items()
    }


def interval(hit: np.ndarray, people: np.ndarray) -> Interval:
    """95 % interval of a recall: whole people are drawn where clips ask, single captions where captions ask.

    None where there is only one to draw from.
    """
    drawn = people if len(hit) == len(people) else np.arange(len(hit)).astype(str)
    found = mean_interval(hit.astype(float), drawn.tolist())
    return (found.low, found.high) if found.num_sessions > 1 else None


def sounds_of(model: AlignmentModel, sounds: list[bytes | None], seen: Encoded | None = None) -> dict[int, np.ndarray]:
    """Embeddings of sounds by width, encoded as in training; fused with what was seen beside them where it is given."""
    assert model.audio is not None
    mel, real = log_mels(model, sounds)
    parts = []
    for start in range(0, len(mel), BATCH):
        at = slice(start, start + BATCH)
        heard = model.audio(mel[at].float(), real[at])
        if seen is not None and model.fusion is not None:
            heard = model.fusion({"vision": seen.rows(at), "audio": heard})
        parts.append(arrays(heard))
    return {width: np.concatenate([part[width] for part in parts]) for width in parts[0]}


def arrays(encoded: Encoded) -> dict[int, np.ndarray]:
    """The Matryoshka embeddings as NumPy arrays."""
    return {width: rows.cpu().numpy() for width, rows in encoded.mrl.items()}


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


def plot(
    found: Recall, gallery: dict[str, object], curve: list[tuple[float, float]], switches: Sequence[int], path: Path
) -> None:
    """Recall over width, both ways, with intervals and chance; and the training loss, stages parted at `switches`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chance: dict[str, dict[str, dict[int, float]]] = gallery["chance"]  # type: ignore[assignment]
    intervals: Intervals = gallery["intervals"]  # type: ignore[assignment]
    panels = [(pair, way) for pair in found for way in ways_of(pair)]
    rows = -(-(len(panels) + 1) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(12.6, 3.4 * rows + 0.3), layout="constrained")
    axes = grid.flatten()
    for axis in axes[len(panels) + 1 :]:
        axis.remove()
    axes = axes[: len(panels) + 1]
    for axis, (pair, way) in zip(axes, panels, strict=False):
        widths, tops = sorted(found[pair]), [0.0]
        for colour, k in zip(("#0b6e99", "#d9730d", "#448361"), KS, strict=True):
            share = [found[pair][w][way][k] for w in widths]
            ends = [intervals[pair][w][way][k] or (at, at) for w, at in zip(widths, share, strict=True)]
            apart = np.abs(np.array(ends).T - share)
            tops += [chance[pair][way][k], *(high for _, high in ends)]
            axis.errorbar(range(len(widths)), share, apart, fmt="o-", capsize=3, color=colour, label=f"R@{k}")
            axis.axhline(chance[pair][way][k], color=colour, linestyle=":", linewidth=1.2)
        axis.set_title(way.replace("text", "caption").replace("_to_", " → "), fontsize=11)
        axis.set_xticks(range(len(widths)), [str(w) for w in widths])
        axis.set_xlabel("embedding width (dotted: chance)")
        axis.set_ylim(0, min(1.03, 1.1 * max(tops) or 1.03))
        axis.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel(f"recall, {gallery['num_items']} clips of unseen people")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=9, ncols=3, loc="outside lower left")
    if curve:
        axes[-1].plot(*zip(*curve, strict=True), color="#37352f", linewidth=1)
        axes[-1].set_yscale("log")
        for switch in switches:
            axes[-1].axvline(switch, color="#909090", linestyle="--", linewidth=1)
    axes[-1].set_title("training loss: frames | clips" + " | sounds" * (len(switches) > 1), fontsize=11)
    axes[-1].set_xlabel("step")
    axes[-1].grid(alpha=0.25)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
