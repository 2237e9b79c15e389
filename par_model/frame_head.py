# SPDX-License-Identifier: Apache-2.0
"""From Z_O to the next latent: image encoder (set by set) and diffusion MLP (NOVA, section 3.3).

Image tokens are patches of a latent, row-major, each ordered (dy, dx, channel).

Shape letters: B batch, N image tokens, V visible tokens, K condition tokens, C width,
E values of an image token, M tokens of any number.
"""

import itertools
import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from par_model.config import EncoderConfig, FrameDecoderConfig
from par_model.layers import AdaptiveNorm, Block, SiluMlp, sinusoid, spatial_embedding


def patchify(latents_Bchw: Tensor, patch: int) -> Tensor:
    """[B, c, h, w] to [B, N, E]."""
    return rearrange(latents_Bchw, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens_BNE: Tensor, patch: int, rows: int) -> Tensor:
    """[B, N, E] to [B, c, h, w]; `rows` of tokens."""
    return rearrange(tokens_BNE, "b (h w) (p q c) -> b c (h p) (w q)", p=patch, q=patch, h=rows)


def set_sizes(num_tokens: int, num_sets: int) -> list[int]:
    """How many tokens each autoregressive set generates; cosine schedule, empty sets left out.

    Differences of round(N cos(pi/2 k/K)), k = 0..K [NOVA]. Sums to `num_tokens`.
    """
    left = [round(num_tokens * math.cos(math.pi / 2 * k / num_sets)) for k in range(num_sets + 1)]
    sizes = [before - after for before, after in itertools.pairwise(left)]
    return [size for size in sizes if size > 0]


class ImageEncoder(nn.Module):
    """Masked set prediction: the first half of the blocks sees [condition; known tokens],
    the second half [condition; all tokens]. Bidirectional, no mask, no cache."""

    def __init__(self, config: EncoderConfig, token_width: int, rows: int, columns: int) -> None:
        super().__init__()
        self.embed = nn.Linear(token_width, config.width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.register_buffer(
            "positions", spatial_embedding(rows, columns, config.width).float(), persistent=False
        )

    def forward(
        self,
        tokens_BNE: Tensor,
        visible_BV: Tensor,
        condition_BKC: Tensor,
        checkpoint_gradients: bool = False,
    ) -> Tensor:
        """Returns one vector per image token [B, N, C].

        Args:
            tokens_BNE: the latent's tokens; only the visible ones are read.
            visible_BV: int64 indices of the tokens that are known; V may be 0.
            condition_BKC: Z_O (through the mixer), prepended; it gets no position.
        """
        num_condition = condition_BKC.shape[1]
        half = len(self.blocks) // 2
        positions = self.positions.to(condition_BKC.dtype)
        index_BVC = visible_BV.unsqueeze(-1).expand(-1, -1, condition_BKC.shape[-1])

        visible_BVE = tokens_BNE.gather(
            1, visible_BV.unsqueeze(-1).expand(-1, -1, tokens_BNE.shape[-1])
        )
        x = torch.cat((condition_BKC, self.embed(visible_BVE) + positions[visible_BV]), dim=1)
        x = _through(self.blocks[:half], x, checkpoint_gradients)

        all_tokens = (self.mask_token + positions).expand(tokens_BNE.shape[0], -1, -1)
        all_tokens = all_tokens.scatter(1, index_BVC, x[:, num_condition:])
        x = torch.cat((x[:, :num_condition], all_tokens), dim=1)
        x = _through(self.blocks[half:], x, checkpoint_gradients)
        return self.norm(x)[:, num_condition:]


def _through(blocks: nn.ModuleList, x_BSC: Tensor, checkpoint_gradients: bool) -> Tensor:
    for block in blocks:
        if checkpoint_gradients:
            x_BSC = checkpoint(block, x_BSC, use_reentrant=False)
        else:
            x_BSC = block(x_BSC)
    return x_BSC


class FrameDecoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, width, 3)
        self.proj = SiluMlp(width, width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x_MC: Tensor, condition_MC: Tensor) -> Tensor:
        hidden, (gate,) = self.norm1(x_MC, condition_MC)
        return x_MC + gate * self.norm2(self.proj(hidden))


class FrameDecoder(nn.Module):
    """The diffusion MLP: (noisy token, t, z) -> noise, each token on its own (paper, Eq. 4)."""

    def __init__(self, config: FrameDecoderConfig, token_width: int, condition_width: int) -> None:
        super().__init__()
        width = config.width
        self.time_frequencies = config.time_frequencies
        self.embed = nn.Linear(token_width, width)
        self.timestep_proj = SiluMlp(config.time_frequencies, width, width)
        self.condition_proj = SiluMlp(condition_width, width, width)
        self.blocks = nn.ModuleList(FrameDecoderBlock(width) for _ in range(config.depth))
        self.norm = AdaptiveNorm(width, width, 2)
        self.head = nn.Linear(width, token_width)

    def time_condition(self, times_M: Tensor) -> Tensor:
        """Diffusion times to [M, C]."""
        waves = sinusoid(times_M, self.time_frequencies // 2, cos_first=True)
        return self.timestep_proj(waves.to(self.head.weight.dtype))

    def forward(
        self, noisy_ME: Tensor, time_condition_MC: Tensor, z_condition_MC: Tensor
    ) -> Tensor:
        """`z_condition_MC` is `condition_proj(z)`: once a token, reused over the steps."""
        condition_MC = time_condition_MC + z_condition_MC
        x_MC = self.embed(noisy_ME)
        for block in self.blocks:
            x_MC = block(x_MC, condition_MC)
        x_MC, _ = self.norm(x_MC, condition_MC)
        return self.head(x_MC)


class FrameRegressor(nn.Module):
    """PAR-Discrete's head for frames: an MLP from z to the token."""

    def __init__(self, condition_width: int, hidden: int, token_width: int) -> None:
        super().__init__()
        self.mlp = SiluMlp(condition_width, hidden, token_width)

    def forward(self, z_MC: Tensor) -> Tensor:
        return self.mlp(z_MC)


def visible_tokens(
    batch_size: int, num_tokens: int, mask_ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random choice of visible tokens per sample, the same number for all.

    Returns int64 indices [B, V] and the mask bool [B, N], True where a token is to be predicted.
    """
    num_visible = round((1 - mask_ratio) * num_tokens)
    noise_BN = torch.rand(batch_size, num_tokens, generator=generator, device=generator.device)
    visible_BV = noise_BN.argsort(dim=1)[:, :num_visible]
    masked_BN = torch.ones(batch_size, num_tokens, dtype=torch.bool, device=generator.device)
    return visible_BV, masked_BN.scatter(1, visible_BV, False)


def sample_mask_ratio(low: float, std: float, generator: torch.Generator) -> float:
    """Normal around 1 with `std`, truncated to [low, 1] [NOVA]: the half normal by inversion."""
    half_width = 0.5 * math.erf((1 - low) / (std * math.sqrt(2)))
    uniform = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    depth = torch.erfinv(uniform * half_width * 2) * math.sqrt(2) * std
    return 1.0 - float(depth)


def generation_order(num_tokens: int, generator: torch.Generator) -> Tensor:
    """The random order of an episode's image tokens: drawn once, reused for every frame."""
    noise = torch.rand(num_tokens, generator=generator, device=generator.device)
    return noise.argsort()
