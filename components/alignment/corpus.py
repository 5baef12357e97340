"""What alignment learns from: clips as arrays, with the phrases that name them.

Phrases come from the manifest's captions (the label itself where it has none), so any label set works. Clips without a
scored label are left out, and ambiguous ones where a caption names one operation only; frames under the null label are
not used as single frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from components.shared.runtime.errors import InputError
from components.shared.runtime.memory import give_back
from components.shared.runtime.reproducibility import cpu_threads
from components.shared.samples.clip import ClipMeta
from components.shared.samples.clip_shards import read_views
from components.shared.work.manifest import Manifest

MIN_RUN = 2
"""Frames a label must hold in a row to be named in a clip's caption."""
BRIEFLY_S, FOR_A_WHILE_S = 1.0, 2.0
"""Under the first an operation is brief, over the second it lasts."""


@dataclass
class Corpus:
    """Clips of one split; N clips, at most T frames each.

    Attributes:
        frames: (N, T, S, S, 3) uint8 RGB, zero where padded.
        times_s: (N, T) seconds.
        mask: (N, T) bool, True where a frame is real.
        labels: (N, T) index into the manifest's labels, -1 where a frame has no scored label.
        captions: N phrases.
        sounds: N FLAC byte strings or None.
    """

    metas: list[ClipMeta]
    frames: np.ndarray
    times_s: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    captions: list[str]
    sounds: list[bytes | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.metas)


def phrase(manifest: Manifest, label: str) -> str:
    """The short phrase a label is called by."""
    return manifest.captions.get(label, label)


def caption(meta: ClipMeta, manifest: Manifest, style: str) -> str:
    """A clip's caption: its operation, or the operations under way in it in order, joined by `, then`."""
    if style == "operation":
        return phrase(manifest, meta.operation)
    known = set(manifest.labels)
    runs = [(label, len(list(group))) for label, group in groupby(meta.frame_labels)]
    named = [(label, count) for label, count in runs if label in known and count >= MIN_RUN]
    merged = [(label, sum(count for _, count in group)) for label, group in groupby(named, key=lambda run: run[0])]
    if style == "sequence" or not merged:
        return ", then ".join(phrase(manifest, label) for label, _ in merged or [(meta.operation, 0)])
    a_frame = meta.duration_s / len(meta.frame_labels)
    return ", then ".join(lasting(phrase(manifest, label), count * a_frame) for label, count in merged)


def lasting(text: str, seconds: float) -> str:
    """A phrase with how long what it names lasts."""
    if seconds < BRIEFLY_S:
        return f"briefly {text}"
    return f"{text} for a while" if seconds > FOR_A_WHILE_S else text


def usable(meta: ClipMeta, manifest: Manifest, style: str) -> bool:
    """Whether a clip can be named: it has one clear, scored answer, or a scored operation in its sequence."""
    if style == "operation":
        return not meta.ambiguous and meta.operation in manifest.labels
    return meta.operation in manifest.labels


def read_corpus(
    artifact: Path, split: str, manifest: Manifest, *, style: str, audio: bool, max_clips: int | None = None
) -> Corpus:
    """Read a split, evenly thinned to `max_clips`.

    Raises:
        InputError: clips of different frame sizes.
    """
    metas, clips, sounds = [], [], []
    for clip in read_views(artifact, split):
        if usable(clip.meta, manifest, style):
            metas.append(clip.meta)
            clips.append(clip)
            sounds.append(clip.audio_flac if audio else None)
    if max_clips is not None and len(metas) > max_clips:
        kept = np.linspace(0, len(metas) - 1, max_clips).astype(int)
        metas, clips, sounds = ([items[i] for i in kept] for items in (metas, clips, sounds))  # type: ignore[assignment]
    with ThreadPoolExecutor(cpu_threads()) as threads:  # the decoder works outside Python's lock
        frames = list(threads.map(lambda clip: clip.view_frames, clips))
    if len({item.shape[1:] for item in frames}) > 1:
        raise InputError(
            f"split {split} has frames of sizes {sorted({item.shape[1:] for item in frames})}; one is needed."
        )
    corpus = stack(metas, frames, sounds, manifest, style)
    del clips, frames
    give_back()
    return corpus


def stack(
    metas: list[ClipMeta], frames: list[np.ndarray], sounds: list[bytes | None], manifest: Manifest, style: str
) -> Corpus:
    """Pad clips to the longest one's number of frames."""
    longest = max((len(item) for item in frames), default=0)
    side = frames[0].shape[1:] if frames else (0, 0, 3)
    corpus = Corpus(
        metas=metas,
        frames=np.zeros((len(metas), longest, *side), np.uint8),
        times_s=np.zeros((len(metas), longest), np.float32),
        mask=np.zeros((len(metas), longest), bool),
        labels=np.full((len(metas), longest), -1),
        captions=[caption(meta, manifest, style) for meta in metas],
        sounds=sounds,
    )
    index = {label: number for number, label in enumerate(manifest.labels)}
    for row, (meta, item) in enumerate(zip(metas, frames, strict=True)):
        count = len(item)
        corpus.frames[row, :count], corpus.mask[row, :count] = item, True
        corpus.times_s[row, :count] = meta.frame_times_s
        corpus.labels[row, :count] = [index.get(label, -1) for label in meta.frame_labels]
    return corpus


def number(texts: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Distinct texts, sorted, and each given text's index among them."""
    items = list(texts)
    distinct = sorted(set(items))
    place = {text: row for row, text in enumerate(distinct)}
    return distinct, np.array([place[text] for text in items], dtype=int)
