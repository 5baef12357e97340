"""Second stage: the language model, all its parameters, on frozen and cached vision features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from components.base_model.config import LanguageStageConfig
from components.base_model.lessons import Lessons
from components.base_model.vision_stage import one_cycle
from components.shared.learning import checkpoint
from components.shared.policy.interface import Conversation
from components.shared.policy.native import NativePolicy
from components.shared.runtime.progress import Progress

CHECKPOINT_EVERY = 100


def train_language(
    policy: NativePolicy, lessons: Lessons, config: LanguageStageConfig, work: Path, key: str
) -> list[tuple[float, float]]:
    """Train in place; resumes from the newest checkpoint in `work`.

    Args:
        policy: Vision trained and frozen.
        lessons: Source of conversations.
        config: Steps, batch, rate.
        work: Folder that survives a kill.
        key: Names configuration, data and code of a checkpoint.

    Returns:
        The loss curve.
    """
    policy.train_language()
    parameters = policy.trainable_parameters()
    decay = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    start, curve = restore(policy, optimizer, work, key)
    bar = Progress(config.steps, "language stage", unit="steps")
    bar.advance(start)
    for step in range(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(step, config.steps, config.learning_rate)
        loss = batch_loss(policy, lessons.batch(step, config.batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        curve.append((float(step), loss.item()))
        bar.advance(note=f"loss {curve[-1][1]:.3f}")
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < config.steps:
            tensors = {f"model.{name}": value for name, value in language_state(policy).items()}
            tensors |= checkpoint.optimizer_tensors(optimizer)
            checkpoint.save(work / "language", key, step + 1, tensors, {"curve": curve})
    policy.model.requires_grad_(False)
    return curve


def batch_loss(policy: NativePolicy, conversations: Sequence[Conversation]) -> torch.Tensor:
    """Mean negative log-likelihood over the learned tokens."""
    logprobs, mask = policy.token_logprobs(conversations)
    return -(logprobs * mask).sum() / mask.sum()


def language_state(policy: NativePolicy) -> dict[str, torch.Tensor]:
    """The language model's parameters by name (lm_head is tied to its embeddings)."""
    return dict(policy.language.named_parameters())


def restore(
    policy: NativePolicy, optimizer: torch.optim.Optimizer, work: Path, key: str
) -> tuple[int, list[tuple[float, float]]]:
    """(first step, curve so far) from the newest checkpoint, (0, []) where there is none."""
    found = checkpoint.newest(work / "language", key)
    if found is None:
        return 0, []
    with torch.no_grad():
        for name, parameter in language_state(policy).items():
            parameter.copy_(found.tensors[f"model.{name}"])
    checkpoint.restore_optimizer(optimizer, found.tensors)
    return found.step, [(float(step), float(loss)) for step, loss in found.state["curve"]]
