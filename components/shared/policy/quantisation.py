"""Quantisation by bitsandbytes: NF4 or int8 for the language model's linear layers, and a report of what was quantised.

The vision tower and lm_head stay in full precision. Skipping is by each module's full name, read from the model's own
structure: the short names `visual` and `lm_head` did not keep the tower out in a trial.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.shared.runtime.errors import ConfigError, EnvironmentFault

SCHEMES = ("none", "nf4", "int8")


def loading_options(base: Path, kind: Any, scheme: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What `from_pretrained` of the transformers class `kind` needs for this scheme; empty for `none`."""
    if scheme == "none":
        return {}
    return {"quantization_config": quantisation_config(base, kind, scheme, dtype), "device_map": {"": device}}


def quantisation_config(base: Path, kind: Any, scheme: str, dtype: torch.dtype) -> Any:
    """A `BitsAndBytesConfig` that quantises only the linear layers of the decoder.

    Raises:
        ConfigError: unknown scheme.
        EnvironmentFault: bitsandbytes is not installed.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"quantisation {scheme!r} is unknown; allowed: {', '.join(SCHEMES)}.")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(
            f"quantisation {scheme} needs bitsandbytes, which is not installed.", remedy="Install the extra `gpu`."
        ) from error
    from transformers import BitsAndBytesConfig

    skip = unquantised_modules(base, kind)
    if scheme == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=skip,
    )


def unquantised_modules(base: Path, kind: Any) -> list[str]:
    """Full names of the linear layers outside the decoder's layers, from the base's configuration (no weights read)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, local_files_only=True)
    with torch.device("meta"):
        skeleton = kind(config)
    decoder = ".language_model." if config.get_text_config() is not config else ".layers."
    return [
        name
        for name, module in skeleton.named_modules()
        if isinstance(module, torch.nn.Linear) and decoder not in f".{name}."
    ]


def quantised_modules(model: torch.nn.Module) -> list[str]:
    """Names of the modules whose weights are quantised now."""
    kinds = ("Linear4bit", "Linear8bitLt")
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds]
