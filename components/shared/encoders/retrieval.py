"""Retrieval figures as pure functions: recall at k both ways, and what chance would give.

A gallery with repeated captions makes "the right text" ambiguous, so texts are counted as distinct captions ("class
recall" where there are few of them): item -> caption asks for the rank of the item's caption among the distinct
captions; caption -> item asks whether any of the k nearest items carries the caption, averaged over captions. What
stands in a caption's place need be no text: a sound's may be its clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np


def hits_at(
    items: np.ndarray, captions: np.ndarray, own: np.ndarray, ks: Sequence[int]
) -> dict[str, dict[int, np.ndarray]]:
    """What is found among the first k, both ways.

    Args:
        items: (N, w), rows of length one.
        captions: (C, w), one row a distinct caption.
        own: (N,) index into `captions` of each item's.
        ks: Numbers of results looked at.

    Returns:
        {"there": {k: (N,) bool}, "back": {k: bool for each caption that an item carries}}; captions that no item
        carries are not asked for, but stand in the gallery as distractors.
    """
    similarity = items @ captions.T
    right = similarity[np.arange(len(items)), own]
    # Ties count against the model: a collapsed encoder must not score.
    there = (similarity >= right[:, None]).sum(axis=1) - 1
    best_rank = []
    for index in np.unique(own):
        best = similarity[own == index, index].max()
        best_rank.append(int((similarity[own != index, index] >= best).sum()))
    back = np.array(best_rank)
    return {"there": {k: there < k for k in ks}, "back": {k: back < k for k in ks}}


def chance_at(own: np.ndarray, num_captions: int, ks: Sequence[int]) -> dict[str, dict[int, float]]:
    """What a random ranking gives for the shares of `hits_at`.

    item -> caption: k / C. caption -> item: 1 - C(N - n, k) / C(N, k) for a caption carried by n of N items, averaged.
    """
    counts = np.unique(own, return_counts=True)[1]
    total = len(own)
    return {
        "there": {k: min(1.0, k / num_captions) for k in ks},
        "back": {
            k: float(np.mean([1 - comb(total - int(n), min(k, total)) / comb(total, min(k, total)) for n in counts]))
            for k in ks
        },
    }
