"""Retrieval figures as pure functions: recall at k both ways, and what chance would give.

A gallery with repeated captions makes "the right text" ambiguous, so texts are counted as distinct captions ("class
recall" where there are few of them): item -> text asks for the rank of the item's caption among the distinct captions;
text -> item asks whether any of the k nearest items carries the caption, averaged over captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np


def hits_at(
    items: np.ndarray, texts: np.ndarray, caption: np.ndarray, ks: Sequence[int]
) -> dict[str, dict[int, np.ndarray]]:
    """What is found among the first k, both ways.

    Args:
        items: (N, w), rows of length one.
        texts: (C, w), one row a distinct caption.
        caption: (N,) index into `texts` of each item's caption.
        ks: Numbers of results looked at.

    Returns:
        {"to_text": {k: (N,) bool}, "from_text": {k: bool for each caption that an item carries}}; captions that no item
        carries are not asked for, but stand in the gallery as distractors.
    """
    similarity = items @ texts.T
    own = similarity[np.arange(len(items)), caption]
    # Ties count against the model: a collapsed encoder must not score.
    rank_to_text = (similarity >= own[:, None]).sum(axis=1) - 1
    best_rank = []
    for index in np.unique(caption):
        own_item = similarity[caption == index, index].max()
        best_rank.append(int((similarity[caption != index, index] >= own_item).sum()))
    from_text = np.array(best_rank)
    return {"to_text": {k: rank_to_text < k for k in ks}, "from_text": {k: from_text < k for k in ks}}


def chance_at(caption: np.ndarray, num_captions: int, ks: Sequence[int]) -> dict[str, dict[int, float]]:
    """What a random ranking gives for the shares of `hits_at`.

    item -> text: k / C. text -> item: 1 - C(N - n, k) / C(N, k) for a caption carried by n of N items, averaged.
    """
    counts = np.unique(caption, return_counts=True)[1]
    total = len(caption)
    return {
        "to_text": {k: min(1.0, k / num_captions) for k in ks},
        "from_text": {
            k: float(np.mean([1 - comb(total - int(n), min(k, total)) / comb(total, min(k, total)) for n in counts]))
            for k in ks
        },
    }
