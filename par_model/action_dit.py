# SPDX-License-Identifier: Apache-2.0
"""The Action-DiT: (noisy actions, t, Z_A) -> the noise, or v, of the chunk.

Network only (epsilon_theta of the paper's Eq. 10; which, says `DiffusionConfig.prediction`);
the sampler is in diffusion.py. Z_A enters by cross-attention alone (section 4.2.3) and t by
adaptive layer norms alone, so both are computed once and reused over the steps.

Shape letters: B batch, L actions, D action width, C width, Z context tokens, X context width.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from par_model.config import ActionDitConfig
from par_model.layers import Attention, Mlp, SiluMlp, sinusoid


@dataclass(frozen=True)
class DitContext:
    """Keys and values of Z_A, one pair a block, each [B, H, Z, head width]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class DitModulation:
    """Adaptive-norm statistics of one diffusion time: [B, 9, C] a block and last [B, 2, C]."""

    blocks: tuple[Tensor, ...]
    last: Tensor


class CrossAttention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys_values(self, context_BZC: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = rearrange(
            self.kv(context_BZC), "b z (two h d) -> two b h z d", two=2, h=self.num_heads
        ).unbind(0)
        return keys, values

    def forward(self, x_BLC: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries = rearrange(self.q(x_BLC), "b l (h d) -> b h l d", h=self.num_heads)
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.proj(rearrange(attended, "b h l d -> b l (h d)"))


class DitBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each under adaLN-zero (shift, scale, gate)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 9 * width)
        self.self_attention = Attention(width, num_heads)
        self.cross_attention = CrossAttention(width, num_heads)
        self.mlp = Mlp(width, mlp_ratio * width)

    def forward(
        self, x_BLC: Tensor, statistics_B9C: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (
            statistics_B9C.unsqueeze(2).unbind(1)
        )
        x_BLC = x_BLC + gate1 * self.self_attention(self.norm(x_BLC) * (1 + scale1) + shift1)
        x_BLC = x_BLC + gate2 * self.cross_attention(
            self.norm(x_BLC) * (1 + scale2) + shift2, keys, values
        )
        return x_BLC + gate3 * self.mlp(self.norm(x_BLC) * (1 + scale3) + shift3)


class ActionDit(nn.Module):
    """DiT over the L actions of a chunk. Gates and head start at zero (DiT practice)."""

    def __init__(
        self, config: ActionDitConfig, action_width: int, num_actions: int, context_width: int
    ) -> None:
        super().__init__()
        width = config.width
        self.time_frequencies = config.time_frequencies
        self.embed = nn.Linear(action_width, width)
        self.time_proj = SiluMlp(config.time_frequencies, width, width)
        self.context_proj = nn.Linear(context_width, width)
        self.blocks = nn.ModuleList(
            DitBlock(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, action_width)
        steps = torch.arange(num_actions, dtype=torch.float64)
        self.register_buffer(
            "step_positions", sinusoid(steps, width // 2, cos_first=False).float(), persistent=False
        )
        for layer in (
            *(block.modulation for block in self.blocks),
            self.last_modulation,
            self.head,
        ):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def context(self, z_BZX: Tensor) -> DitContext:
        """Z_A to the keys and values of every block: once a chunk."""
        context_BZC = self.context_proj(z_BZX)
        pairs = [block.cross_attention.keys_values(context_BZC) for block in self.blocks]
        return DitContext(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def modulation(self, times_B: Tensor) -> DitModulation:
        """Diffusion times (0 .. num_train_timesteps - 1) to norm statistics: once a schedule."""
        waves = sinusoid(times_B, self.time_frequencies // 2, cos_first=True)
        condition_BC = functional.silu(self.time_proj(waves.to(self.head.weight.dtype)))
        return DitModulation(
            tuple(
                rearrange(block.modulation(condition_BC), "b (nine c) -> b nine c", nine=9)
                for block in self.blocks
            ),
            rearrange(self.last_modulation(condition_BC), "b (two c) -> b two c", two=2),
        )

    def forward(self, noisy_BLD: Tensor, modulation: DitModulation, context: DitContext) -> Tensor:
        """Returns the prediction [B, L, D]."""
        x_BLC = self.embed(noisy_BLD) + self.step_positions.to(noisy_BLD.dtype)
        for block, statistics, keys, values in zip(
            self.blocks, modulation.blocks, context.keys, context.values, strict=True
        ):
            x_BLC = block(x_BLC, statistics, keys, values)
        shift, scale = modulation.last.unsqueeze(2).unbind(1)
        return self.head(self.norm(x_BLC) * (1 + scale) + shift)


class ActionRegressor(nn.Module):
    """PAR-Discrete's head (paper, section 5.3.2): an MLP from Z_A to actions, no sampling."""

    def __init__(self, width: int, hidden: int, action_width: int) -> None:
        super().__init__()
        self.mlp = SiluMlp(width, hidden, action_width)

    def forward(self, z_BLX: Tensor) -> Tensor:
        return self.mlp(z_BLX)
