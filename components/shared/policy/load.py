"""One way to load a policy, whatever its kind: policy.json in the base folder says it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from components.shared.policy.base_folder import base_digest
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.description import read_description
from components.shared.runtime.errors import ArtifactError


def load_policy(
    base: Path,
    adapter: Path | None = None,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    quantisation: str = "none",
) -> DecoderPolicy:
    """Load a policy.

    Args:
        base: Folder with config.json, safetensors, tokenizer.json and policy.json.
        adapter: Folder of a LoRA adapter made for this base, or None.
        device: `cpu`, `cuda` ...
        dtype: `float32`, `float16`, `bfloat16`; None for what the device does well.
        quantisation: `none`, `nf4` or `int8` (bitsandbytes; the language model's linear layers only).

    Raises:
        ArtifactError: the folder is incomplete or damaged, or the adapter was made for another base.
    """
    description = read_description(base)
    digest = base_digest(base)
    from components.shared.policy.native import load_native
    from components.shared.policy.prefix import load_prefix

    load = load_native if description.kind == "native" else load_prefix
    try:
        policy: DecoderPolicy = load(base, description, digest, device=device, dtype=dtype, quantisation=quantisation)
    except (SafetensorError, OSError) as error:  # truncated or missing weights, as the libraries word it
        raise ArtifactError(
            f"the weights in {base} cannot be read ({str(error).splitlines()[0]}), so there is no policy.",
            remedy="Delete the artifact and run the step that writes it again.",
        ) from error
    if adapter is not None:
        policy.load_adapter(adapter)
    return policy
