"""The training pipeline: recordings in, a promoted model and its service out.

    configure -> recordings -> clips (fan-out) -> clips_join -> trajectories, base_model, alignment
              -> sft -> rft -> evaluation -> gate -> promotion -> ttrl;   finish (always)

Where `base_model.policy` is not `native`, alignment runs before base_model, which stands on its encoder.

`build` makes the pipeline for one composed configuration: images, resources, placement and the width of the fan-out are
fixed then. The same object is compiled for a cluster and run by `kfp.local`. Importing this module imports no torch.
No `from __future__ import annotations` here: kfp reads the types of the run form at import.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from kfp import dsl

from components.alignment.component import alignment
from components.base_model.component import base_model
from components.configure.component import configure
from components.configure.config import DESTINATIONS, weights_value
from components.data_synthesis.clips.component import clip_groups, clips, clips_join
from components.data_synthesis.recordings.component import recordings
from components.data_synthesis.trajectories.component import trajectories
from components.evaluation.component import evaluation, gate
from components.finish.component import finish
from components.promotion.component import promotion
from components.rft.component import rft
from components.sft.component import sft
from components.shared.runtime.config import canonical_json
from components.ttrl.component import ttrl
from pipelines.config import sections
from pipelines.placement import place
from pipelines.steps import SECTIONS, STEPS

NAME = "pixelis-training"


def form_defaults(config: Any) -> dict[str, Any]:
    """The run form's values as the configuration has them."""
    values = {}
    for key, destination in DESTINATIONS.items():
        values[key] = attrgetter(destination)(config)
    chosen = config.base_model
    values["base_weights"] = weights_value(chosen.kind, chosen.hub.repo, chosen.hub.revision)
    return values


def build(config: Any, until: str = "", *, retries: bool = True) -> Callable[..., Any]:
    """The pipeline of one configuration.

    Args:
        config: A composed configuration.
        until: Last step to run, empty for all.
        retries: Try failed tasks again as the placement says; off on one machine, where a person reads the error.

    Returns:
        A KFP pipeline function.
    """
    profile = canonical_json(sections(config))
    classes = canonical_json(SECTIONS)
    default = form_defaults(config)
    names = canonical_json([step.name for step in STEPS])
    order = [step.name for step in STEPS]
    last = order.index(until) if until else len(order)
    before_base = config.base_model.policy != "native"  # such a policy sees through the aligned encoder

    def wanted(step: str) -> bool:
        return order.index(step) <= last

    def put(task: Any, step: str, *, always: bool = False, light: bool = False) -> Any:
        place(task, step, config.placement, light=light, retries=retries)
        return task.set_caching_options(False) if always else task

    def align(hand: Any, cut: Any, read: Any) -> Any:
        task = alignment(section=hand["alignment"], clips=cut, recordings=read["recordings"])
        return put(task, "alignment").outputs["encoder"]

    @dsl.pipeline(name=f"{NAME}-{config.profile}", description=f"Pixelis training, profile {config.profile}")
    def pipeline(
        seed: int = default["seed"],
        source: str = default["source"],
        data_uri: str = default["data_uri"],
        base_weights: str = default["base_weights"],
        num_people: int = default["num_people"],
        max_clips: int = default["max_clips"],
        sft_steps: int = default["sft_steps"],
        deploy: bool = default["deploy"],
        overrides: str = "{}",
    ) -> None:
        """Train, judge and deploy a vision-language agent from recordings of work.

        Args:
            seed: Seed of every step.
            source: Where recordings come from: twin, openpack or segments.
            data_uri: Folder of the recordings, or s3://bucket/folder (minio://, gs://); empty for the digital twin.
            base_weights: The policy's starting weights: tiny, or repository@commit of the hub; empty: the profile's.
            num_people: People the digital twin renders for training; other sources bring their own.
            max_clips: Cap on training clips, 0 for none.
            sft_steps: Optimiser steps of fine-tuning at most.
            deploy: Start the service when the gate promotes the model.
            overrides: Further configuration keys by section, as JSON.
        """
        end = put(finish(steps=names, profile=config.profile), "finish", always=True)
        with dsl.ExitHandler(end, name="pixelis"):
            hand = put(
                configure(
                    profile=profile,
                    classes=classes,
                    seed=seed,
                    source=source,
                    data_uri=data_uri,
                    base_weights=base_weights,
                    num_people=num_people,
                    max_clips=max_clips,
                    sft_steps=sft_steps,
                    deploy=deploy,
                    overrides=overrides,
                ),
                "configure",
                always=True,
            ).outputs
            if not wanted("recordings"):
                return
            read = put(recordings(section=hand["recordings"]), "recordings").outputs
            if not wanted("clips"):
                return
            groups = put(clip_groups(section=hand["clips"], recordings=read["recordings"]), "clips", light=True)
            with dsl.ParallelFor(groups.output, name="groups") as item:
                part = put(clips(item=item, recordings=read["recordings"]), "clips")
            cut = put(
                clips_join(
                    section=hand["clips"],
                    recordings=read["recordings"],
                    groups=dsl.Collected(part.outputs["clips"]),
                ),
                "clips",
            ).outputs["clips"]
            if not wanted("trajectories"):
                return
            tasks = put(
                trajectories(
                    section=hand["trajectories"], clips=cut, recordings=read["recordings"], truth=read["truth"]
                ),
                "trajectories",
            ).outputs["trajectories"]
            if not wanted("base_model"):
                return
            encoder = align(hand, cut, read) if before_base else None
            base = put(
                base_model(
                    section=hand["base_model"],
                    clips=cut,
                    trajectories=tasks,
                    recordings=read["recordings"],
                    **({"encoder": encoder} if before_base else {}),
                ),
                "base_model",
            ).outputs["model"]
            if not wanted("alignment"):
                return
            encoder = encoder or align(hand, cut, read)
            if not wanted("sft"):
                return
            tuned = put(sft(section=hand["sft"], trajectories=tasks, clips=cut, base=base), "sft").outputs["adapter"]
            if not wanted("rft"):
                return
            reinforced = put(
                rft(section=hand["rft"], trajectories=tasks, clips=cut, base=base, adapter=tuned, encoder=encoder),
                "rft",
            ).outputs["reinforced"]
            if not wanted("evaluation"):
                return
            judged = put(
                evaluation(
                    section=hand["evaluation"],
                    promotion=hand["promotion"],
                    clips=cut,
                    trajectories=tasks,
                    recordings=read["recordings"],
                    base=base,
                    sft=tuned,
                    rft=reinforced,
                ),
                "evaluation",
                always=True,
            ).outputs["evaluation"]
            decision = put(gate(section=hand["evaluation"], evaluation=judged), "evaluation", always=True, light=True)
            if not wanted("promotion"):
                return
            with dsl.If(decision.output == "promote", name="promote"):
                model = put(
                    promotion(
                        section=hand["promotion"],
                        clips=cut,
                        trajectories=tasks,
                        recordings=read["recordings"],
                        base=base,
                        sft=tuned,
                        rft=reinforced,
                        encoder=encoder,
                        evaluation=judged,
                    ),
                    "promotion",
                    always=True,
                ).outputs["model"]
                if wanted("ttrl"):
                    put(ttrl(section=hand["ttrl"], model=model), "ttrl", always=True)

    return pipeline
