"""The curriculum's state machine: simple -> intermediate -> complex, by smoothed validation scores.

Pure: `observe` maps (state, score) to (state, decision), nothing else happens here; the trainer acts on decisions. The
state is JSON and lies inside the checkpoint, so a resumed run decides as an uninterrupted one.

    ADVANCE    the stage is over (its exit score is reached, `patience` evaluations brought nothing better, or its
               `max_evaluations` are used up): the
               trainer keeps a snapshot of weights and optimiser and adds the next stage's trajectories
    ROLLBACK   after the cooldown the smoothed score stands more than `tolerance` under the one before the move: the
               trainer restores the snapshot, goes back to the former stage, and the refused stage is not tried again
    STAY       everything else

Scores are compared on one scale: share of right tokens on validation trajectories of all stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from components.sft.config import CurriculumConfig

STAGES = ("simple", "intermediate", "complex")


class Decision(Enum):
    """What the trainer is to do."""

    STAY = "stay"
    ADVANCE = "advance"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class CurriculumState:
    """Where the curriculum stands.

    Attributes:
        stage: Index of the stage trained now.
        last: Index of the last stage that may be entered.
        scores: Scores since the last move.
        best: Best smoothed score since the last move.
        stale: Evaluations since `best`.
        cooldown: Evaluations left in which nothing is decided.
        entry: Smoothed score before the last advance, None before any and after its trial has passed.
        moves: How the stage changed: (evaluation, decision, stage after it).
        evaluations: Evaluations seen.
    """

    stage: int = 0
    last: int = len(STAGES) - 1
    scores: tuple[float, ...] = ()
    best: float = float("-inf")
    stale: int = 0
    cooldown: int = 0
    entry: float | None = None
    moves: tuple[tuple[int, str, int], ...] = ()
    evaluations: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values; no infinity."""
        return asdict(self) | {"best": None if self.best == float("-inf") else self.best}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CurriculumState:
        """Inverse of `to_json`."""
        best = float("-inf") if value["best"] is None else value["best"]
        moves = tuple((int(at), str(what), int(stage)) for at, what, stage in value["moves"])
        return cls(**(value | {"best": best, "moves": moves, "scores": tuple(value["scores"])}))


def start(counts: Sequence[int], *, enabled: bool) -> CurriculumState:
    """The first state: the first stage that has trajectories, or all at once where the curriculum is off.

    Args:
        counts: Training trajectories by stage.
        enabled: False trains on everything from the start.
    """
    present = [index for index, count in enumerate(counts) if count]
    if not present:
        return CurriculumState()
    return CurriculumState(stage=present[-1] if not enabled else present[0], last=present[-1])


def smoothed(scores: Sequence[float], window: int) -> float:
    """Mean of the last `window` scores."""
    recent = scores[-window:]
    return sum(recent) / len(recent)


def observe(state: CurriculumState, score: float, config: CurriculumConfig) -> tuple[CurriculumState, Decision]:
    """Take one validation score.

    Args:
        state: Before it.
        score: Higher is better.
        config: Thresholds.

    Returns:
        The state after it, and what the trainer is to do.
    """
    scores = (*state.scores, score)
    value = smoothed(scores, config.window)
    better = value > state.best + config.min_delta
    state = replace(
        state,
        scores=scores,
        best=value if better else state.best,
        stale=0 if better else state.stale + 1,
        evaluations=state.evaluations + 1,
    )
    if state.cooldown > 0:
        state = replace(state, cooldown=state.cooldown - 1)
        if state.cooldown > 0:
            return state, Decision.STAY
        return judge_move(state, value, config)
    if state.entry is not None:  # only without a cooldown: judge at the first evaluation
        state, decision = judge_move(state, value, config)
        if decision is Decision.ROLLBACK:
            return state, decision
    if state.stage < state.last and is_over(state, value, config):
        return move(state, state.stage + 1, Decision.ADVANCE, entry=value, cooldown=config.cooldown), Decision.ADVANCE
    return state, Decision.STAY


def judge_move(state: CurriculumState, value: float, config: CurriculumConfig) -> tuple[CurriculumState, Decision]:
    """Whether the last advance stands."""
    if state.entry is None or value >= state.entry - config.tolerance:
        return replace(state, entry=None, stale=0), Decision.STAY
    back = move(state, state.stage - 1, Decision.ROLLBACK, entry=None, cooldown=config.cooldown)
    return replace(back, last=state.stage - 1), Decision.ROLLBACK


def is_over(state: CurriculumState, value: float, config: CurriculumConfig) -> bool:
    """Whether the present stage has done its work."""
    filled = len(state.scores) >= config.window
    reached = filled and value >= config.exit_scores[min(state.stage, len(config.exit_scores) - 1)]
    used_up = bool(config.max_evaluations) and len(state.scores) >= config.max_evaluations
    return reached or used_up or state.stale >= config.patience


def move(
    state: CurriculumState, stage: int, decision: Decision, *, entry: float | None, cooldown: int
) -> CurriculumState:
    """The state right after a change of stage."""
    return replace(
        state,
        stage=stage,
        scores=(),
        best=float("-inf"),
        stale=0,
        cooldown=cooldown,
        entry=entry,
        moves=(*state.moves, (state.evaluations, decision.value, stage)),
    )
