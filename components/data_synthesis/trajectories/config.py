"""The `trajectories` section: which kinds are written in which shares, what is kept, who writes the thoughts.

Guarantee: imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.runtime.config import Section, StepSection


class TeacherSection(Section):
    """An OpenAI-compatible endpoint that writes the thoughts; off where `url` is empty."""

    url: str = ""
    """Base URL, such as `http://host:8000/v1`."""
    model: str = ""
    """Model name to ask for; recorded as the author."""
    key_variable: str = "PIXELIS_TEACHER_KEY"
    """Environment variable that holds the API key (a key never stands in a configuration)."""
    timeout_s: float = Field(30.0, gt=0, le=600)
    """Time one try may take."""
    retries: int = Field(2, ge=0, le=10)
    """Further tries after a time-out or a server error, with growing pauses."""
    max_calls: int = Field(10_000, ge=0, le=10_000_000)
    """Most distinct questions asked in one run, each with its retries, the first ones in order; the rest keep their
    template."""
    concurrency: int = Field(4, ge=1, le=64)
    """Requests under way at once."""
    cache: str = ""
    """Folder of answers by digest, reused over runs; empty keeps none."""

    @model_validator(mode="after")
    def _url_needs_model(self) -> Self:
        if self.url and not self.model:
            raise ValueError("teacher.model must be given where teacher.url is")
        return self


Look = Literal["zoom", "describe", "track", "read"]
Detail = Literal["tag", "label", "tool"]


class TrajectoriesConfig(StepSection):
    """How questions and trajectories are made from clips."""

    operations: OperationsConfig = TWIN_OPERATIONS
    """Settings of the operations that are executed; what trains, evaluates and serves the policy must use the same."""
    grid: int = Field(4, ge=2, le=10)
    """Synthetic zooms use the cells of a grid x grid division: a box is then one token of a small tokenizer."""
    thoughts: Literal["none", "short", "full"] = "short"
    """Length of the template thoughts before calls: none, two or three words, a sentence."""
    looks: tuple[Look, ...] = ("zoom",)
    """Ways of looking that trajectories draw from: `zoom` takes a crop, `describe` segments what moves and measures it,
    `track` follows it, `read` reads a label's text. A tiny policy taught one way of looking keeps to `zoom`."""
    closeups: bool = True
    """Ask close-up questions where the recordings' truth knows the answer."""
    details: tuple[Detail, ...] = ("tag",)
    """What close-ups ask about: the order's `tag`, the text of a shelf `label`, a small `tool`."""
    closeup_right: float = Field(0.20, ge=0, le=1)
    """Share of close-up trajectories that zoom to the evidence and answer."""
    closeup_none: float = Field(0.50, ge=0, le=1)
    """Share that answers without looking closer: a guess. Leaves reinforcement something to improve."""
    closeup_wrong: float = Field(0.20, ge=0, le=1)
    """Share that zooms elsewhere, then answers: the zoom is not imitated (learn is false), the answer's form is."""
    closeup_correction: float = Field(0.10, ge=0, le=1)
    """Share that zooms elsewhere (not imitated), recognises it, zooms to the evidence and answers."""
    closeup_wrong_learn: bool = False
    """Imitate wrong zooms too: an exploration prior, at the price of teaching them."""
    evidence_share: float = Field(0.08, ge=0, le=1)
    """Share of the operation trajectories that first zoom to where the work moves."""
    multi_share: float = Field(0.03, ge=0, le=1)
    """Share of the operation trajectories with a boundary that zoom on both of its sides."""
    support_gain: float = Field(1.5, ge=1, le=100)
    """A zoom to motion is kept only when its cell holds this many times the motion of an average cell."""
    detail_gain: float = Field(2.0, ge=1, le=1e6)
    """A close-up zoom is kept only when the crop shows this many times the detail of the policy's own view."""
    track_travel: float = Field(40.0, ge=1, le=1000)
    """A track is kept only when what it follows moves this far, in thousandths of the frame."""
    duplicate_bits: int = Field(2, ge=0, le=64)
    """Trajectories of equal text whose frames' hashes (192 bits) differ by at most this are duplicates."""
    max_chars: int = Field(2000, ge=50, le=100_000)
    """Longest text of all turns together."""
    max_turns: int = Field(5, ge=1, le=16)
    """Most turns of a trajectory, the answer included."""
    intermediate_from: float = Field(0.3, ge=0, le=1)
    """Difficulty from which a trajectory belongs to the intermediate stage."""
    complex_from: float = Field(0.6, ge=0, le=1)
    """Difficulty from which a trajectory belongs to the complex stage."""
    num_examples: int = Field(20, ge=0, le=200)
    """Examples in examples/index.html."""
    workers: int = Field(0, ge=0, le=256)
    """Processes; 0 is one per core. The result does not depend on it."""
    teacher: TeacherSection = TeacherSection()
    """Writer of the thoughts."""

    @model_validator(mode="after")
    def _shares_make_one(self) -> Self:
        total = self.closeup_right + self.closeup_none + self.closeup_wrong + self.closeup_correction
        if abs(total - 1) > 1e-6:
            raise ValueError(f"closeup_right + closeup_none + closeup_wrong + closeup_correction is {total:g}, not 1")
        if self.evidence_share + self.multi_share > 1:
            raise ValueError("evidence_share + multi_share is more than 1")
        if not self.looks or not self.details:
            raise ValueError("looks and details must each name at least one; closeups: false asks no close-ups")
        if not {"zoom", "describe", "track"} & set(self.looks):
            raise ValueError("looks needs zoom, describe or track: `read` alone finds no evidence of work")
        if self.complex_from < self.intermediate_from:
            raise ValueError("complex_from is below intermediate_from")
        return self
