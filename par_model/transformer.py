# SPDX-License-Identifier: Apache-2.0
"""The causal transformer: (tokens, cache) -> (context Z, cache). Paper, Eq. 9.

Shape letters: B batch, S new tokens, M all tokens seen, C width, H heads, D head width, P pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from par_model.config import EncoderConfig
from par_model.kv_cache import KVCache
from par_model.layers import Attend, Block, Rotate, rotate_pairs


@dataclass(frozen=True)
class Rotation:
    """cos and sin of the tokens' rotary angles: [S, P], or [B, 1, S, P].

    Never below float32; the rotation is done in the type of the angles and cast back.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x_BHSD: Tensor) -> Tensor:
        return rotate_pairs(x_BHSD, self.cos, self.sin).to(x_BHSD.dtype)


def attend_masked(mask_SM: Tensor) -> Attend:
    """Attention where True in `mask_SM` lets a query look at a key."""

    def attend(q_BHSD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q_BHSD, k_BHMD, v_BHMD, attn_mask=mask_SM)

    return attend


def attend_slot(num_frame_tokens: int) -> Attend:
    """Fig. 3's mask for one new slot after a cache, without a mask over the cache.

    Two calls: frame queries over [cache; frame], all visible; action queries over
    [cache; frame; actions], causal among the actions (the last rows).
    """

    def attend(q_BHSD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
        num_actions = q_BHSD.shape[2] - num_frame_tokens
        if num_actions == 0:
            return functional.scaled_dot_product_attention(q_BHSD, k_BHMD, v_BHMD)
        num_seen_by_frame = k_BHMD.shape[2] - num_actions
        frames = functional.scaled_dot_product_attention(
            q_BHSD[:, :, :num_frame_tokens],
            k_BHMD[:, :, :num_seen_by_frame],
            v_BHMD[:, :, :num_seen_by_frame],
        )
        ones = torch.ones(num_actions, k_BHMD.shape[2], dtype=torch.bool, device=q_BHSD.device)
        actions = functional.scaled_dot_product_attention(
            q_BHSD[:, :, num_frame_tokens:], k_BHMD, v_BHMD, attn_mask=ones.tril(num_seen_by_frame)
        )
        return torch.cat((frames, actions), dim=2)

    return attend


class Mixer(nn.Module):
    """NOVA's scale-and-shift layer: anchor * (1 + gamma) + beta, both from a later slot's output.

    All that a later slot tells the frame head passes this rank-r bottleneck; a negative rank
    leaves the bottleneck out.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.lora = nn.Linear(width, rank, bias=False) if rank > 0 else nn.Identity()
        self.proj = nn.Linear(rank if rank > 0 else width, 2 * width)

    def forward(self, z: Tensor, anchor: Tensor) -> Tensor:
        gamma, beta = self.proj(self.lora(functional.silu(z))).chunk(2, dim=-1)
        return anchor * (1 + gamma) + beta


class Transformer(nn.Module):
    """NOVA's temporal encoder. Weights only: cache, mask and rotation are arguments."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_width = config.width // config.num_heads
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-5)

    def allocate_cache(self, batch_size: int, capacity: int) -> KVCache:
        weight = self.norm.weight
        return KVCache.allocate(
            len(self.blocks),
            batch_size,
            self.num_heads,
            capacity,
            self.head_width,
            weight.dtype,
            weight.device,
        )

    def forward(
        self,
        tokens_BSC: Tensor,
        rotation: Rotate | None,
        attend: Attend,
        checkpoint_gradients: bool = False,
    ) -> Tensor:
        """All tokens at once (training). Returns Z [B, S, C]."""
        for block in self.blocks:
            if checkpoint_gradients:
                tokens_BSC = checkpoint(block, tokens_BSC, attend, rotation, use_reentrant=False)
            else:
                tokens_BSC = block(tokens_BSC, attend, rotation)
        return self.norm(tokens_BSC)

    def forward_cached(
        self, tokens_BSC: Tensor, rotation: Rotate | None, attend: Attend, cache: KVCache
    ) -> tuple[Tensor, KVCache]:
        """New tokens after those in `cache`. Returns Z [B, S, C] and the longer cache.

        `attend` sees the keys and values of cache and new tokens together.

        Raises:
            ValueError: the tokens do not fit into the cache.
        """
        for layer, block in enumerate(self.blocks):

            def attend_with_cache(q: Tensor, k: Tensor, v: Tensor, layer: int = layer) -> Tensor:
                return attend(q, *cache.append(layer, k, v))

            tokens_BSC = block(tokens_BSC, attend_with_cache, rotation)
        return self.norm(tokens_BSC), cache.advance(tokens_BSC.shape[1])
