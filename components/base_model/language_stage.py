"""Second stage: the language model, all its parameters, on frozen and cached vision features.

Loss = mean NLL of the learned tokens + dense_weight * cross-entropy of the label at each frame's position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from components.base_model.config import LanguageStageConfig
from components.base_model.lessons import Lesson, Lessons
from components.base_model.vision_stage import one_cycle
from components.shared.learning import checkpoint
from components.shared.policy.layout import Encoded
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
        loss = batch_loss(policy, lessons.batch(step, config.batch), config.dense_weight)
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


def batch_loss(policy: NativePolicy, lessons: Sequence[Lesson], dense_weight: float) -> torch.Tensor:
    """Mean negative log-likelihood over the learned tokens, plus the dense loss."""
    rows = [policy.layout.encode(lesson.conversation) for lesson in lessons]
    states = policy.hidden_states(rows)
    logits, _, targets = policy.logits_at(states, rows)
    loss = functional.cross_entropy(logits, targets)
    if dense_weight:
        loss = loss + dense_weight * dense_loss(policy, states, rows, [lesson.frame_labels for lesson in lessons])
    return loss


def dense_loss(
    policy: NativePolicy, states: torch.Tensor, rows: Sequence[Encoded], labels: Sequence[Sequence[str]]
) -> torch.Tensor:
    """Cross-entropy of each frame's label, read from the state at the frame's last token by the labels' embeddings.

    No token is spent on it, and the answer's first token then has only to copy what the frames already say.

    Args:
        policy: Whose tokenizer holds each label as one token; others are left out.
        states: (B, L, D).
        rows: The encoded conversations.
        labels: For each conversation the labels of its first frames; unscored ones are left out.
    """
    tokens = {name: policy.codec.encode(name) for name in policy.description.labels}
    single = {name: number for number, (name, ids) in enumerate(tokens.items()) if len(ids) == 1}
    where, truth = [], []
    for index, (row, names) in enumerate(zip(rows, labels)):
        for position, name in zip(row.image_ends, names):
            if name in single:
                where.append((index, position))
                truth.append(single[name])
    if not where:
        return states.sum() * 0.0
    at = torch.tensor(where)
    ids = torch.tensor([ids[0] for ids in tokens.values()])
    logits = functional.linear(states[at[:, 0], at[:, 1]], policy.language.embed_tokens.weight[ids])
    return functional.cross_entropy(logits, torch.tensor(truth))


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
