"""The `promotion` section: under which name and alias a model enters the registry."""

from __future__ import annotations

from pydantic import Field

from components.shared.runtime.config import StepSection


class PromotionConfig(StepSection):
    """Registry names."""

    model_name: str = Field("pixelis", pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")
    """Registered model; one trained on synthetic recordings gets `-twin` appended and so never replaces a real one."""
    alias: str = Field("champion", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    """Alias moved to the promoted version; the version it leaves is tagged with when and why."""
    max_canary_clips: int = Field(1000, ge=1)
    """Most canary clips shipped with the model, evenly over the classes."""
