"""The run form: the few typed values a person fills in the Kubeflow UI, and where each goes in the configuration."""

from __future__ import annotations

from pydantic import Field

from components.shared.runtime.config import Section


class RunForm(Section):
    """Values of the run form; they are laid over the profile compiled into the pipeline."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of every step."""
    source: str = Field("twin", pattern="^(twin|openpack|segments)$")
    """Where recordings come from."""
    data_uri: str = ""
    """Folder of the recordings or its address (s3://bucket/folder, minio://, gs://); empty for the digital twin."""
    base_weights: str = Field("", pattern=r"^(|tiny|[\w.-]+/[\w.-]+@[0-9a-f]{40})$")
    """The policy's starting weights: `tiny` (made here) or `repository@commit` of the hub; empty: the profile's."""
    num_people: int = Field(270, ge=1, le=5000)
    """People the digital twin renders for training; other sources bring their own."""
    max_clips: int = Field(0, ge=0)
    """Cap on training clips, 0 for none."""
    sft_steps: int = Field(160, ge=1, le=1_000_000)
    """Optimiser steps of fine-tuning at most."""
    deploy: bool = True
    """Start the service when the gate promotes the model."""


DESTINATIONS = {
    "seed": "run.seed",
    "source": "recordings.source",
    "data_uri": "recordings.path",
    "num_people": "recordings.twin.num_train_people",
    "max_clips": "clips.max_clips",
    "sft_steps": "sft.steps",
    "deploy": "ttrl.deploy",
}
"""Where each value goes; `base_weights` is several values there and goes through `weights_keys`."""


def weights_keys(value: str) -> dict[str, object]:
    """The keys of the `base_model` section that a value of the form means."""
    repository, _, revision = value.partition("@")
    return {"kind": "hub", "hub": {"repo": repository, "revision": revision}} if revision else {"kind": value}


def weights_value(kind: str, repository: str, revision: str) -> str:
    """Inverse of `weights_keys`; empty for weights in a local folder, which the form cannot name."""
    if kind != "hub":
        return kind
    return f"{repository}@{revision}" if revision else ""
