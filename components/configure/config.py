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
    """Folder of the recordings; empty for the digital twin."""
    max_clips: int = Field(0, ge=0)
    """Cap on training clips, 0 for none."""
    deploy: bool = True
    """Start the service when the gate promotes the model."""


DESTINATIONS = {
    "seed": "run.seed",
    "source": "recordings.source",
    "data_uri": "recordings.path",
    "max_clips": "clips.max_clips",
    "deploy": "ttrl.deploy",
}
