"""policy.json: what a base folder says about its policy beyond the weights' own configuration.

Role: the file stands beside config.json, model.safetensors and tokenizer.json in a base folder. It names the kind of
policy, the labels it was prepared for, and the few choices of prompt layout a tiny model makes differently from a
downloaded one (a vocabulary of single tokens, no markers around images).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.config import Section
from components.shared.runtime.errors import ArtifactError

POLICY_FILE = "policy.json"
PolicyKind = Literal["native", "prefix", "prefix_trm", "trm_decoder"]


class PolicyDescription(Section):
    """The content of policy.json."""

    kind: PolicyKind = "native"
    """`native`: Qwen2.5-VL. `prefix`: aligned image tokens before a Qwen language model; `prefix_trm`: with recursive
    refinement before the logits; `trm_decoder`: a recursive network in the language model's place (experiment)."""
    source: Literal["tiny", "hub"] = "tiny"
    revision: str = ""
    """Pinned revision of a downloaded base, empty for `tiny`."""
    labels: tuple[str, ...] = ()
    """Scored label names in the manifest's order."""
    choices: tuple[str, ...] = ()
    """Values a close-up answer can take, empty where the data has no close-ups."""
    num_frames: int = Field(16, ge=1)
    view_size: int = Field(56, ge=14)
    """Side of the policy's frames in pixels."""
    image_markers: bool = True
    """Put `<|vision_start|>` and `<|vision_end|>` around each image, as Qwen's own template does."""
    system: str = ""
    """System text put before every conversation that brings none (instructions for a downloaded model)."""
    min_pixels: int = Field(56 * 56, ge=1)
    max_pixels: int = Field(28 * 28 * 1280, ge=1)
    provenance: Literal["synthetic", "real"] = "synthetic"


def read_description(base: Path) -> PolicyDescription:
    """The description in a base folder.

    Raises:
        ArtifactError: the folder holds no policy.json, or one that this code cannot read.
    """
    path = base / POLICY_FILE
    try:
        return PolicyDescription.model_validate(read_json(path))
    except ValueError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{path} does not describe a policy ({error}), so it cannot be loaded.", remedy="Run base_model again."
        ) from error


def write_description(description: PolicyDescription, base: Path) -> None:
    """Write policy.json."""
    write_json(base / POLICY_FILE, description.model_dump(mode="json"))
