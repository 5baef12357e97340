"""Format reward: every message the policy wrote is a strict call or a strict answer, and there is an answer."""

from __future__ import annotations

from components.shared.learning.rewards.scored import RolloutBatch, Scored


class FormatReward:
    """Share of well-formed messages among the policy's own, and 0 without an answer; 0..1."""

    name = "format"

    def score(self, batch: RolloutBatch) -> list[Scored]:
        """One score a rollout."""
        scored = []
        for episode in batch.episodes:
            share = sum(episode.well_formed) / len(episode.well_formed) if episode.well_formed else 0.0
            answered = episode.answer is not None
            scored.append(Scored(share * answered, {"well_formed": round(share, 4), "answered": answered}))
        return scored
