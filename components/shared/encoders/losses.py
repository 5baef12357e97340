"""Contrastive losses as pure functions.

    L        = w_clip · L_D + w_mrl · Σ_w L_w            w over all Matryoshka widths, D (the full one) among them
    L_w      = mean over pairs of modalities (a, b) of NCE(a_w, b_w)
    NCE(a,b) = ½ [ CE(s·a bᵀ, t) + CE(s·b aᵀ, t) ]       s = exp(log_scale), clamped at 100

Sources: CLIP (Radford et al. 2021) for NCE and the clamp; Matryoshka (Kusupati et al. 2022) for the sum. Deviations:
where several rows of a batch carry the same caption, `groups` spreads the target t evenly over them (UniCL, Yang et al.
2022), because calling an equal caption a negative teaches that a thing differs from itself; without equal groups this
is exactly CLIP's loss. Pairs are averaged, not summed, so a third modality does not change the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F

MAX_LOG_SCALE = math.log(100.0)
INITIAL_LOG_SCALE = math.log(1 / 0.07)


def symmetric_infonce(
    a: torch.Tensor, b: torch.Tensor, log_scale: torch.Tensor, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """NCE(a, b) of the module's docstring.

    Args:
        a: (B, w), rows of length one.
        b: (B, w), rows of length one; row i belongs to row i of `a`.
        log_scale: Scalar, log of the inverse temperature, clamped to at most log 100 here.
        groups: (B,) integers; rows with equal numbers are each other's positives. None: every row is its own.

    Returns:
        Scalar loss.
    """
    logits = torch.exp(torch.clamp(log_scale, max=MAX_LOG_SCALE)) * a @ b.T
    if groups is None:
        targets = torch.eye(len(a), dtype=logits.dtype, device=logits.device)
    else:
        same = (groups[:, None] == groups[None, :]).to(logits.dtype)
        targets = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def class_infonce(
    items: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
    """`symmetric_infonce(items, classes[labels], log_scale, labels)` where the texts are few: B · K products, not B².

    A class that stands n times among the columns counts n times in a row's sum; the rows of a class are all the same.

    Args:
        items: (B, w), rows of length one.
        classes: (K, w), rows of length one.
        labels: (B,) each item's class.
        log_scale: As above.
    """
    logits = torch.exp(torch.clamp(log_scale, max=MAX_LOG_SCALE)) * items @ classes.T
    counts = torch.bincount(labels, minlength=len(classes)).to(logits.dtype)
    own = logits.gather(1, labels[:, None]).squeeze(1).mean()
    to_class = torch.logsumexp(logits + counts.log(), dim=1).mean() - own
    to_items = (counts / len(items) * torch.logsumexp(logits, dim=0)).sum() - own
    return (to_class + to_items) / 2


def class_loss(
    items: Mapping[int, torch.Tensor],
    classes: Mapping[int, torch.Tensor],
    labels: torch.Tensor,
    log_scale: torch.Tensor,
    *,
    w_clip: float = 1.0,
    w_mrl: float = 1.0,
) -> torch.Tensor:
    """L of the module's docstring of one pair, items (B, width) by width against few classes (K, width)."""
    per_width = {width: class_infonce(rows, classes[width], labels, log_scale) for width, rows in items.items()}
    return w_clip * per_width[max(per_width)] + w_mrl * torch.stack(list(per_width.values())).sum()


def contrastive_loss(
    embeddings: Mapping[str, Mapping[int, torch.Tensor]],
    log_scale: torch.Tensor,
    *,
    groups: torch.Tensor | None = None,
    present: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, float] | None = None,
    w_clip: float = 1.0,
    w_mrl: float = 1.0,
) -> torch.Tensor:
    """L of the module's docstring over every pair of modalities.

    Args:
        embeddings: modality -> width -> (B, width), normalised; all modalities have the same widths.
        log_scale: Scalar.
        groups: (B,), see `symmetric_infonce`.
        present: modality -> (B,) bool where a modality is missing in some rows; a pair uses rows that have both, and is
            left out where fewer than two have.
        weights: modality -> weight, 1 where it is not given; a pair counts as much as its modalities' product says.
        w_clip: Weight of the full width.
        w_mrl: Weight of the sum over widths.

    Raises:
        ValueError: no pair of modalities has two rows.
    """
    widths = sorted(next(iter(embeddings.values())))
    by_width: dict[int, list[torch.Tensor]] = {width: [] for width in widths}
    total = 0.0
    for first, second in combinations(sorted(embeddings), 2):
        rows = _rows_with_both(first, second, present, len(embeddings[first][widths[0]]))
        if rows is not None and len(rows) < 2:
            continue
        weight = (weights or {}).get(first, 1.0) * (weights or {}).get(second, 1.0)
        total += weight
        for width in widths:
            a, b, g = embeddings[first][width], embeddings[second][width], groups
            if rows is not None:
                a, b, g = a[rows], b[rows], None if g is None else g[rows]
            by_width[width].append(weight * symmetric_infonce(a, b, log_scale, g))
    if not by_width[widths[0]]:
        raise ValueError("no two modalities are present together in two rows, so there is nothing to contrast.")
    per_width = {width: torch.stack(losses).sum() / total for width, losses in by_width.items()}
    return w_clip * per_width[widths[-1]] + w_mrl * torch.stack(list(per_width.values())).sum()


def _rows_with_both(
    first: str, second: str, present: Mapping[str, torch.Tensor] | None, batch: int
) -> torch.Tensor | None:
    if present is None or (first not in present and second not in present):
        return None
    everything = torch.ones(batch, dtype=torch.bool, device=next(iter(present.values())).device)
    return torch.nonzero(present.get(first, everything) & present.get(second, everything)).squeeze(1)


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, (W·B, …), with gradient to each process's own; the input itself where it is alone.

    Every process then computes the same loss over the whole batch; the averaging of DistributedDataParallel gives the
    gradient of that loss.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows)))
