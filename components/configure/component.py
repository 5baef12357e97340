"""KFP interface of `configure`: run form in, one canonical JSON section a step out."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def configure(
    profile: str,
    classes: str,
    seed: int,
    source: str,
    data_uri: str,
    base_weights: str,
    num_people: int,
    max_clips: int,
    sft_steps: int,
    deploy: bool,
    overrides: str,
) -> NamedTuple(  # type: ignore[valid-type]
    "Sections",
    [
        ("recordings", str),
        ("clips", str),
        ("trajectories", str),
        ("base_model", str),
        ("alignment", str),
        ("sft", str),
        ("rft", str),
        ("evaluation", str),
        ("promotion", str),
        ("ttrl", str),
    ],
):  # type: ignore[valid-type]
    """Validate the run form and hand each step its section.

    Args:
        profile: The profile's sections as JSON, fixed when the pipeline was compiled.
        classes: Where each section's class lives, as JSON.
        seed: Seed of every step.
        source: twin, openpack or segments.
        data_uri: Folder of the recordings or its address; empty for the digital twin.
        base_weights: tiny, or repository@commit of the model hub; empty for the profile's.
        num_people: People the digital twin renders for training.
        max_clips: Cap on training clips, 0 for none.
        sft_steps: Optimiser steps of fine-tuning at most.
        deploy: Start the service when the gate promotes.
        overrides: Further keys by section, as JSON; `{}` for none.
    """
    import json

    from components.configure.resolve import read_overrides, resolve_sections
    from components.shared.runtime.step import record_values

    form = {
        "seed": seed,
        "source": source,
        "data_uri": data_uri,
        "base_weights": base_weights,
        "num_people": num_people,
        "max_clips": max_clips,
        "sft_steps": sft_steps,
        "deploy": deploy,
    }
    with record_values("configure", form) as record:
        sections = resolve_sections(json.loads(profile), json.loads(classes), form, read_overrides(overrides))
        record.facts = {"sections": {name: json.loads(text) for name, text in sections.items()}}
    names = [
        "recordings",
        "clips",
        "trajectories",
        "base_model",
        "alignment",
        "sft",
        "rft",
        "evaluation",
        "promotion",
        "ttrl",
    ]
    return tuple(sections[name] for name in names)
