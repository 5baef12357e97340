"""What every base folder has in common: the digest of what makes its behaviour, and the number type it is loaded in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from components.shared.policy.description import POLICY_FILE
from components.shared.policy.tokenizer import TOKENIZER_FILE
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import ArtifactError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

PREFIX_FILE, PREFIX_WEIGHTS = "prefix.json", "prefix.safetensors"
"""Beside the language model's own files: what a prefix policy has besides it."""


def base_digest(base: Path) -> str:
    """sha256 over the files that make a base's behaviour: configuration, tokenizer, description, weights."""
    names = ["config.json", TOKENIZER_FILE, POLICY_FILE, *sorted(path.name for path in base.glob("*.safetensors"))]
    if (base / PREFIX_WEIGHTS).exists():
        names.append(PREFIX_FILE)
    digest = hashlib.sha256()
    for name in names:
        if not (base / name).is_file():
            raise ArtifactError(
                f"{base / name} is missing, so {base.name} is not a usable base.", remedy="Run base_model again."
            )
        digest.update(f"{name}\0{sha256_file(base / name)}\n".encode())
    if not any(name.endswith(".safetensors") and name != PREFIX_WEIGHTS for name in names):
        raise ArtifactError(
            f"{base} holds no safetensors weights, so there is no model.", remedy="Run base_model again."
        )
    return digest.hexdigest()


def number_type(dtype: str | None, device: str) -> torch.dtype:
    """The named type; without a name float32 on the CPU, on a GPU bfloat16 where native, float16 on older ones."""
    if dtype:
        return DTYPES[dtype]
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
