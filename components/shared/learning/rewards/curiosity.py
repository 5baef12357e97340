"""Curiosity reward: pay for looking closer while the group rarely does, and charge for looking too often.

After Pixel Reasoner (Su et al. 2025, arXiv:2505.15966): alpha max(H - rho, 0) 1[used] + beta min(N - n, 0), where rho
is the group's rate of rollouts with an operation, n a rollout's number of calls, alpha .5, beta .05, H .3, N 1.

Two corrections (SYSTEM.md, section 5). The bonus is paid only where the answer is right: the original also pays it on
wrong answers, and looking becomes an end in itself. At rho = 0 nobody can earn the bonus, so use of operations never
recovers from 0: the trainer adds one rollout whose operation is forced to such a group (`forced` episodes); forced
rollouts do not count in rho. The charge for calls past the first holds on wrong answers too.

Novelty (optional, weight 0 by default): a right answer's bonus grows with the mean cosine distance of its crops to the
nearest crops seen before, as embedded by the alignment encoder; a ring of the last `memory` embeddings is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from components.shared.learning.episode import Episode
from components.shared.learning.rewards.scored import RolloutBatch, Scored
from components.shared.learning.rewards.task import is_correct

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Images uint8 (H, W, 3) -> embeddings (number of images, dim)."""


class Novelty:
    """Mean cosine distance (0..2) of images to the nearest remembered one, which is then remembered itself."""

    def __init__(self, embed: Embed, *, memory: int = 1024) -> None:
        self._embed, self._memory = embed, memory
        self.seen: np.ndarray | None = None
        """(at most `memory`, dim), unit length, oldest first; part of a training checkpoint."""

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        """One novelty an episode, 0 without crops. All are measured against what was seen before this batch."""
        images = [call.image for episode in episodes for call in episode.calls if call.image is not None]
        if not images:
            return [0.0] * len(episodes)
        fresh = self._embed(images)
        fresh = fresh / np.maximum(np.linalg.norm(fresh, axis=1, keepdims=True), 1e-12)
        distance = iter(1.0 - (fresh @ self.seen.T).max(axis=1) if self.seen is not None else np.ones(len(fresh)))
        scores = []
        for episode in episodes:
            mine = [float(next(distance)) for call in episode.calls if call.image is not None]
            scores.append(sum(mine) / len(mine) if mine else 0.0)
        self.seen = (fresh if self.seen is None else np.concatenate([self.seen, fresh]))[-self._memory :]
        return scores


class CuriosityReward:
    """See the module's text.

    Args:
        alpha: Weight of the bonus.
        beta: Charge for each call past `free_calls`.
        target_rate: H; no bonus once the group uses operations this often.
        free_calls: N.
        novelty: None, or what measures how new the crops are.
        novelty_weight: Its weight inside the bonus.
    """

    name = "curiosity"

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.05,
        target_rate: float = 0.3,
        free_calls: int = 1,
        novelty: Novelty | None = None,
        novelty_weight: float = 0.0,
    ) -> None:
        self.alpha, self.beta, self.target_rate, self.free_calls = alpha, beta, target_rate, free_calls
        self.novelty, self.novelty_weight = novelty, novelty_weight

    def score(self, batch: RolloutBatch) -> list[Scored]:
        """One score a rollout."""
        fresh = self.novelty.score(batch.episodes) if self.novelty is not None else [0.0] * len(batch.episodes)
        scored = [Scored(0.0)] * len(batch.episodes)
        for members in batch.members().values():
            rate = operation_rate([batch.episodes[index] for index in members])
            for index in members:
                episode = batch.episodes[index]
                used = bool(episode.calls)
                correct = is_correct(episode.question, episode.answer)
                bonus = self.alpha * max(self.target_rate - rate, 0.0) + self.novelty_weight * fresh[index]
                charge = self.beta * min(self.free_calls - len(episode.calls), 0)
                why = {
                    "rate": round(rate, 4),
                    "used": used,
                    "paid": used and correct,
                    "novelty": round(fresh[index], 4),
                }
                scored[index] = Scored(bonus * (used and correct) + charge, why)
        return scored


def operation_rate(episodes: Sequence[Episode]) -> float:
    """Share of the unforced episodes that used an operation; 0 where all are forced."""
    free = [episode for episode in episodes if not episode.forced]
    return sum(bool(episode.calls) for episode in free) / len(free) if free else 0.0
