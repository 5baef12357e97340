"""Tiny recursive reasoning: one small network applied again and again to an answer y and a latent z.

    z <- f(z, y + x)   latent_steps times        x: the question, y: the answer so far, z: what was worked out
    y <- f(y, z)

Source: Jolicoeur-Martineau, Less is More: Recursive Reasoning with Tiny Networks (TRM), 2025. As there: f(a, b) runs
the network on the sum a + b; a round is repeated `cycles` times of which only the last has a gradient; that makes one
supervised step; y and z are carried on without gradient; y and z start as fixed random vectors.
The sum is what lets z reach y whatever the network's mask: with y and z side by side under a causal mask, y would never
attend to z and the recursion would do nothing.
Deviations: all supervised steps share one optimiser step; no moving average of weights; RMSNorm has a learned scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from components.shared.policy.shapes import RecursionShape

Network = Callable[[torch.Tensor], torch.Tensor]
THETA = 10_000.0


def rotation(positions: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (B, 1, L, head_dim) of rotary embeddings for positions (B, L)."""
    steps = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.float()[..., None] / THETA**steps
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding of (B, heads, L, head_dim)."""
    low, high = states.float().chunk(2, dim=-1)
    return (states.float() * turn[0] + torch.cat([-high, low], dim=-1) * turn[1]).to(states.dtype)


@dataclass
class Attending:
    """How one application of the network attends.

    Attributes:
        turn: cos and sin for the tokens' positions.
        mask: bool (B, 1, L, keys), True where a token may look; None: everywhere.
        cache: Key-value cache, or None.
        application: The next free place in the cache: each application of a layer has keys of its own.
        causal: Each token looks at itself and those before it, without a mask.
    """

    turn: tuple[torch.Tensor, torch.Tensor]
    mask: torch.Tensor | None = None
    cache: Any = None
    application: int = 0
    causal: bool = False

    def seen(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The new keys and values with the cached ones in front."""
        if self.cache is None:
            return keys, values
        self.application += 1
        return self.cache.update(keys, values, self.application - 1)


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, states: torch.Tensor, how: Attending) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        split = lambda projected: projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key = (rotate(split(part(states)), how.turn) for part in (self.q_proj, self.k_proj))
        keys, values = how.seen(key, split(self.v_proj(states)))
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=how.mask, is_causal=how.causal)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class GatedUnit(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(…, D) -> (…, D)."""
        return self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))


class Layer(nn.Module):
    """Attention and gated unit, each normalised after its residual sum, as TRM has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(width, heads), GatedUnit(width)
        self.attn_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)

    def forward(self, states: torch.Tensor, how: Attending) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        states = self.attn_norm(states + self.self_attn(states, how))
        return self.mlp_norm(states + self.mlp(states))


def recurse(
    network: Network, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, latent_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One round: z refined `latent_steps` times, then y."""
    for _ in range(latent_steps):
        z = network(z + (y + x))
    return network(y + z), z


def supervised_step(
    network: Network, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, shape: RecursionShape
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cycles` rounds of which only the last has a gradient: (y, z)."""
    with torch.no_grad():
        for _ in range(shape.cycles - 1):
            y, z = recurse(network, x, y, z, shape.latent_steps)
    return recurse(network, x, y, z, shape.latent_steps)


class Refiner(nn.Module):
    """Refines a decoder's last hidden states before the logits: down_proj -> recursion -> up_proj, added to the state.

    A token's state is laid out as a small grid of slots, and the network attends over these slots without a mask: one
    token at a time. So no token ever sees another one here: what was causal stays causal, and a key-value cache has
    nothing to keep.
    """

    y_start: torch.Tensor
    z_start: torch.Tensor

    def __init__(self, hidden: int, shape: RecursionShape) -> None:
        super().__init__()
        self.shape = shape
        grid = shape.slots * shape.width
        self.down_proj, self.up_proj = nn.Linear(hidden, grid, bias=False), nn.Linear(grid, hidden, bias=False)
        self.layers = nn.ModuleList(Layer(shape.width, shape.heads) for _ in range(shape.layers))
        self.halt = nn.Linear(grid, 1) if shape.halting else None
        self.register_buffer("y_start", torch.randn(shape.slots, shape.width))
        self.register_buffer("z_start", torch.randn(shape.slots, shape.width))

    def network(self, states: torch.Tensor) -> torch.Tensor:
        """f: (N, slots, width) -> (N, slots, width)."""
        places = torch.arange(self.shape.slots, device=states.device)[None]
        how = Attending(rotation(places, self.shape.width // self.shape.heads))
        for layer in self.layers:
            states = layer(states, how)
        return states

    def steps(self, states: torch.Tensor, *, learn_all: bool = True) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """After each supervised step (refined states, halting logits (…) or None), states and refined ones (…, D).

        Without `learn_all` only the last step has a gradient: no step's gradient reaches the one before it anyway.
        """
        training = torch.is_grad_enabled()
        flat = states.reshape(-1, states.shape[-1]).to(self.down_proj.weight.dtype)
        x = self.down_proj(flat).unflatten(-1, (self.shape.slots, self.shape.width))
        y, z = (start.to(x).expand_as(x) for start in (self.y_start, self.z_start))
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        made = []
        for left in reversed(range(self.shape.supervised_steps)):
            with torch.set_grad_enabled(training and (learn_all or not left)):
                new, z = supervised_step(self.network, x, y, z, self.shape)
                y = torch.where(done[:, None, None], y, new)
                answer = y.flatten(1)
                halting = self.halt(answer).squeeze(-1) if self.halt is not None else None
                refined = (flat + self.up_proj(answer)).view(states.shape).to(states.dtype)
            made.append((refined, None if halting is None else halting.view(states.shape[:-1])))
            if halting is not None and not training:
                done = done | (halting > 0)
                if bool(done.all()):
                    break
            y, z = y.detach(), z.detach()
        return made

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Refined states (…, D) after the last step, or after the one at which a token halts.

        With a gradient as without: what is scored is what was sampled. A halted token's gradient is that of the step at
        which it halted.
        """
        if self.halt is None or not torch.is_grad_enabled():
            return self.steps(states, learn_all=False)[-1][0]
        made = self.steps(states)
        refined = made[-1][0]
        for earlier, halting in reversed(made[:-1]):
            assert halting is not None
            refined = torch.where((halting > 0)[..., None], earlier, refined)
        return refined
