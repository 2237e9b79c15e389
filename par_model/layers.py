# SPDX-License-Identifier: Apache-2.0
"""The blocks that every part of PAR is made of. No state beyond weights and constants.

Shape letters: B batch, S tokens, C width, H heads, D head width, F frequencies.
"""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

# (queries, keys, values), each [B, H, S, D], to the attended values [B, H, S, D].
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# Rotates queries or keys [B, H, S, D] by their tokens' positions.
Rotate = Callable[[Tensor], Tensor]


def attend_all(queries_BHSD: Tensor, keys_BHSD: Tensor, values_BHSD: Tensor) -> Tensor:
    """Every query looks at every key."""
    return functional.scaled_dot_product_attention(queries_BHSD, keys_BHSD, values_BHSD)


class Attention(nn.Module):
    """Multi-head self-attention with packed projections (order [3, heads, head width])."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x_BSC: Tensor, attend: Attend = attend_all, rotate: Rotate | None = None
    ) -> Tensor:
        q_BHSD, k_BHSD, v_BHSD = rearrange(
            self.qkv(x_BSC), "b s (three h d) -> three b h s d", three=3, h=self.num_heads
        ).unbind(0)
        if rotate is not None:
            q_BHSD, k_BHSD = rotate(q_BHSD), rotate(k_BHSD)
        return self.proj(rearrange(attend(q_BHSD, k_BHSD, v_BHSD), "b h s d -> b s (h d)"))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class SiluMlp(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.silu(self.fc1(x)))


class Block(nn.Module):
    """Res-post-norm block of NOVA: x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)

    def forward(
        self, x_BSC: Tensor, attend: Attend = attend_all, rotate: Rotate | None = None
    ) -> Tensor:
        x_BSC = x_BSC + self.norm1(self.attn(x_BSC, attend, rotate))
        return x_BSC + self.norm2(self.mlp(x_BSC))


class AdaptiveNorm(nn.Module):
    """Layer norm whose `num_statistics` vectors (scale, shift, ...) come from a condition."""

    def __init__(self, width: int, condition_width: int, num_statistics: int) -> None:
        super().__init__()
        self.num_statistics = num_statistics
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.proj = nn.Linear(condition_width, num_statistics * width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the scaled and shifted norm of x, and the statistics after the first two."""
        scale, shift, *rest = self.proj(functional.silu(condition)).chunk(self.num_statistics, -1)
        return self.norm(x) * (1 + scale) + shift, tuple(rest)


def sinusoid(positions: Tensor, num_frequencies: int, cos_first: bool) -> Tensor:
    """[...] to [..., 2 * num_frequencies], frequencies 10000^(-i / num_frequencies).

    NOVA writes cos then sin for diffusion times and sin then cos for positions.
    Computed in float32 at least, whatever the type of the model.
    """
    kind = torch.float64 if positions.dtype == torch.float64 else torch.float32
    exponents = torch.arange(num_frequencies, device=positions.device, dtype=kind)
    frequencies_F = torch.exp(-math.log(10000.0) / num_frequencies * exponents)
    angles = positions.to(kind).unsqueeze(-1) * frequencies_F
    pair = (angles.cos(), angles.sin()) if cos_first else (angles.sin(), angles.cos())
    return torch.cat(pair, dim=-1)


def spatial_embedding(rows: int, columns: int, width: int) -> Tensor:
    """[rows * columns, width] float64: [sin w, cos w, sin h, cos h] of the integer grid [NOVA]."""
    row_S, column_S = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    quarter = width // 4
    return torch.cat(
        [
            sinusoid(column_S.flatten(), quarter, cos_first=False),
            sinusoid(row_S.flatten(), quarter, cos_first=False),
        ],
        dim=-1,
    )


def rotary_angles(positions_S: Tensor, theta: float, num_pairs: int) -> Tensor:
    """[S] to [S, num_pairs]: angle_j = position * theta^(-j / num_pairs) [PAPER 4.3: RoPE]."""
    exponents = torch.arange(num_pairs, device=positions_S.device, dtype=torch.float64) / num_pairs
    return positions_S.to(torch.float64).unsqueeze(-1) * theta ** (-exponents)


def rotate_pairs(x_BHSD: Tensor, cos_SP: Tensor, sin_SP: Tensor) -> Tensor:
    """Rotate the first 2P dimensions of each head, taken in interleaved pairs.

    cos and sin are [S, P], or [B, 1, S, P] where the samples of a batch differ.
    """
    num_rotated = 2 * cos_SP.shape[-1]
    rotated, passed = x_BHSD[..., :num_rotated], x_BHSD[..., num_rotated:]
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    turned = torch.stack((even * cos_SP - odd * sin_SP, even * sin_SP + odd * cos_SP), dim=-1)
    return (
        torch.cat((turned.flatten(-2), passed), dim=-1) if passed.shape[-1] else turned.flatten(-2)
    )
