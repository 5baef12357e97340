"""LoRA adapters by PEFT: made, saved, digested, swapped.

An adapter's folder holds PEFT's own adapter_config.json and adapter_model.safetensors, so that other tools read it, and
adapter.json: the digest of its tensors and the digest of the base it belongs to.
Guarantees: `load` and `set_state` replace all tensors or none; an adapter of another base, a truncated file or tensors
that do not match their digest are refused.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import ArtifactError

WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "adapter.json"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LANGUAGE_ONLY = rf".*language_model\..*\.({'|'.join(PROJECTIONS)})"
"""The vision tower has gate_proj, up_proj and down_proj too: it must not match."""


def lora_config(rank: int = 16, alpha: int | None = None) -> Any:
    """LoRA on the language model's projections; alpha defaults to twice the rank."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=alpha if alpha is not None else 2 * rank, target_modules=LANGUAGE_ONLY, lora_dropout=0.0
    )


def attach(model: Any, config: Any, *, seed: int = 0) -> Any:
    """Wrap a model with a fresh adapter; A is drawn from `seed`, B is zero, so outputs are unchanged."""
    from peft import get_peft_model

    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            bound = math.sqrt(3.0 / parameter.shape[1])
            drawn = (torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound / math.sqrt(3.0)
            parameter.data.copy_(drawn)
    return wrapped


def require(wrapped: Any) -> Any:
    """The wrapped model; an error where there is none."""
    if wrapped is None:
        raise ArtifactError("the policy has no adapter.", remedy="Call add_adapter or load_adapter first.")
    return wrapped


def state(wrapped: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors by PEFT's names, copied to the CPU."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(require(wrapped))
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in sorted(tensors.items())}


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 (hex) over names, shapes, types and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(wrapped: Any, directory: Path, base_digest: str) -> str:
    """Write the adapter's folder and return the digest of its tensors."""
    tensors = state(wrapped)
    digest = tensors_digest(tensors)
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".{WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    shutil.move(partial, directory / WEIGHTS)
    config = wrapped.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    plain |= {"inference_mode": True, "base_model_name_or_path": f"sha256:{base_digest}"}
    write_json(directory / CONFIG, {key: getattr(value, "value", value) for key, value in plain.items()})
    write_json(directory / RECORD, {"digest": digest, "base_digest": base_digest, "num_tensors": len(tensors)})
    return digest


def read(directory: Path, base_digest: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """(LoRA configuration, tensors) of an adapter folder, checked.

    Raises:
        ArtifactError: missing or truncated file, wrong digest, or an adapter of another base.
    """
    from peft import LoraConfig

    record = read_json(directory / RECORD)
    if record.get("base_digest") != base_digest:
        raise ArtifactError(
            f"the adapter {directory} was trained on base {str(record.get('base_digest'))[:12]}, not on "
            f"{base_digest[:12]}, so it does not fit.",
            remedy="Train it again on this base.",
        )
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{directory / WEIGHTS} cannot be read ({error}); the adapter in use stays.", remedy="Restore the file."
        ) from error
    digest = tensors_digest(tensors)
    if digest != record.get("digest"):
        raise ArtifactError(
            f"{directory / WEIGHTS} has digest {digest[:12]}, its record says {str(record.get('digest'))[:12]}; the "
            "adapter in use stays.",
            remedy="Restore the file.",
        )
    raw = read_json(directory / CONFIG)
    config = LoraConfig(
        r=raw["r"],
        lora_alpha=raw["lora_alpha"],
        target_modules=raw["target_modules"],
        lora_dropout=0.0,
        rank_pattern=raw.get("rank_pattern") or {},
        alpha_pattern=raw.get("alpha_pattern") or {},
    )
    return config, tensors


def load(model: Any, wrapped: Any, directory: Path, base_digest: str) -> Any:
    """Put the adapter of a folder on the model, replacing the present one; returns the wrapped model."""
    config, tensors = read(directory, base_digest)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if wrapped is not None:
        present = {name: tensor.shape for name, tensor in state(wrapped).items()}
        old = wrapped.peft_config["default"]
        if present == shapes and (old.lora_alpha, old.alpha_pattern) == (config.lora_alpha, config.alpha_pattern):
            set_state(wrapped, tensors)
            return wrapped
    targets = (
        [name for name, _ in model.named_modules() if re.fullmatch(config.target_modules, name)]
        if isinstance(config.target_modules, str)
        else config.target_modules
    )
    if not targets:
        raise ArtifactError(f"the adapter {directory} names no module of this base; the adapter in use stays.")
    before = None if wrapped is None else (wrapped.peft_config["default"], state(wrapped))
    if wrapped is not None:
        wrapped.unload()
    fresh = attach(model, config)
    try:
        set_state(fresh, tensors)
    except ArtifactError:
        fresh.unload()
        if before is not None:  # on the same modules, so that the caller's wrapper holds it again
            set_state(attach(model, before[0]), before[1])
        raise
    return fresh


def set_state(wrapped: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into the adapter in place, after checking that every name and shape fits."""
    from peft import get_peft_model_state_dict

    present = get_peft_model_state_dict(require(wrapped))
    wrong = sorted(
        name
        for name in present.keys() | tensors.keys()
        if name not in present or name not in tensors or present[name].shape != tensors[name].shape
    )
    if wrong:
        raise ArtifactError(
            f"{len(wrong)} adapter tensors do not fit the model (first: {wrong[0]}); the adapter in use stays.",
            remedy="Use an adapter of the same rank and base.",
        )
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
