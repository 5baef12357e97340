"""The steps in the order in which data flows, with their section of the configuration and their image family.

The one table that configuration, placement, the command line and the summary read; a new step is a new row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step: its name in the DAG, where its section's class lives, and which image it runs in."""

    name: str
    section: str
    """`module:Class` of the step's configuration section, empty where it has none of its own."""
    image: str
    """Image family: data (no torch), train or serve. trajectories may segment with SAM 2, so it has torch."""
    about: str
    keeps_work: bool = False
    """Whether it has a work folder with checkpoints, which `placement.exchange` keeps for the next attempt."""
    several_nodes: bool = False
    """Whether `placement.steps.<name>.num_nodes` may be over 1: its entry point trains under torchrun."""


STEPS = (
    Step("configure", "", "data", "validate the run form, hand each step its section"),
    Step(
        "recordings",
        "components.data_synthesis.recordings.config:RecordingsConfig",
        "data",
        "digital twin, OpenPack tree or labelled videos",
    ),
    Step("clips", "components.data_synthesis.clips.config:ClipsConfig", "data", "windows, frame sampling, shards"),
    Step(
        "trajectories",
        "components.data_synthesis.trajectories.config:TrajectoriesConfig",
        "train",
        "questions, executed operations, quality filter",
    ),
    Step(
        "base_model",
        "components.base_model.config:BaseModelConfig",
        "train",
        "the policy's starting weights",
        keeps_work=True,
    ),
    Step(
        "alignment",
        "components.alignment.config:AlignmentConfig",
        "train",
        "contrastive encoders, Matryoshka widths",
        keeps_work=True,
    ),
    Step(
        "sft",
        "components.sft.config:SftConfig",
        "train",
        "curriculum fine-tuning (LoRA)",
        keeps_work=True,
        several_nodes=True,
    ),
    Step(
        "rft",
        "components.rft.config:RftConfig",
        "train",
        "GRPO with visual operations",
        keeps_work=True,
        several_nodes=True,
    ),
    Step("evaluation", "components.evaluation.config:EvaluationConfig", "train", "metrics, baselines, intervals, gate"),
    Step("promotion", "components.promotion.config:PromotionConfig", "data", "registry version, model card, alias"),
    Step("ttrl", "components.ttrl.config:TtrlConfig", "serve", "deploy the service that goes on learning"),
    Step("finish", "", "data", "summary, on success and on failure"),
)
BY_NAME = {step.name: step for step in STEPS}
SECTIONS = {step.name: step.section for step in STEPS if step.section}
