# SPDX-License-Identifier: Apache-2.0
"""Instruction, frames and actions to tokens, and where each token stands in time and space.

A physical token P_n is [frame tokens of O_n; L action tokens of A_n] (paper, section 4.2.2, Eq. 8).
A_n are the actions executed between O_{n-1} and O_n; A_0 is the learnable Begin-Of-Action.
The video model (num_actions 0, NOVA itself) has frame tokens only: slot 0 is the learnable
Begin-Of-Video and slot n holds latent n - 1.

Shape letters: B batch, N slots, T text tokens, K frame tokens, L actions, S all tokens,
C width, D action width, J joints, P rotary pairs, c h w a latent's channels, rows, columns (of
several views: those of each, one above the other).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from par_model.causal_mask import ACTION, TEXT, TokenLayout
from par_model.config import ModelConfig
from par_model.frame_stem import stem_and_patches
from par_model.layers import SiluMlp, rotary_angles, sinusoid, spatial_embedding
from par_model.transformer import Rotation

TIME_FREQUENCIES = 128
MOTION_FREQUENCIES = 128


class TimeEmbedding(nn.Module):
    """NOVA's learned embedding of a slot's time: sin-cos, MLP, layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = SiluMlp(2 * TIME_FREQUENCIES, width, width)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, times: Tensor) -> Tensor:
        """[...] to [..., C]."""
        waves = sinusoid(times, TIME_FREQUENCIES, cos_first=False)
        return self.norm(self.proj(waves.to(self.norm.weight.dtype)))


@dataclass(frozen=True)
class Motion:
    """What a video is to move like: `flow` is how much [NOVA: 1 to 10], `fps` frames a second."""

    flow: float = 5.0
    fps: float = 12.0


class MotionEmbedding(nn.Module):
    """NOVA's two tokens of motion: sin-cos and an MLP for each number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.flow_proj = SiluMlp(2 * MOTION_FREQUENCIES, width, width)
        self.fps_proj = SiluMlp(2 * MOTION_FREQUENCIES, width, width)

    def forward(self, motion: Motion) -> Tensor:
        """[2, C]: flow, frame rate."""
        weight = self.flow_proj.fc1.weight
        numbers = torch.tensor([motion.flow, motion.fps], dtype=torch.float64)
        waves = sinusoid(numbers, MOTION_FREQUENCIES, cos_first=False).to(weight)
        return torch.stack((self.flow_proj(waves[0]), self.fps_proj(waves[1])))


class PhysicalTokenizer(nn.Module):
    """Everything between raw inputs and the transformer's first block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        self.text_proj = nn.Linear(config.text_width, width)
        self.text_norm = nn.LayerNorm(width, eps=1e-5)
        # rows that stand where an instruction has no token; all of them are the null instruction
        self.register_buffer(
            "text_padding", torch.zeros(max(512, config.num_text_tokens), config.text_width)
        )
        self.frame_stem, self.frame_embed = stem_and_patches(
            config.codec.latent_channels, config.frame_stem_channels, config.frame_patch, width
        )
        self.time_embed = TimeEmbedding(width)
        self.motion_embed = MotionEmbedding(width) if config.motion_tokens else None
        if config.num_actions:
            self.action_embed = SiluMlp(config.action_width, config.action_tokenizer_hidden, width)
            # every row starts as the same vector: the paper's single token, generalised
            self.begin_of_action = nn.Parameter(
                (0.02 * torch.randn(1, width)).repeat(config.num_actions, 1)
            )
        if config.max_delay_steps:
            # stands where a slot is shorter than L actions
            self.not_executed = nn.Parameter(0.02 * torch.randn(1, width))
        self.begin_of_video = nn.Parameter(0.02 * torch.randn(1, width))
        self.proprio_embed = (
            nn.Linear(config.proprio_width, width) if config.proprio_width else None
        )
        # Views share stem, embedding and places; a learned vector tells them apart.
        self.view_embed = (
            nn.Parameter(0.02 * torch.randn(config.num_views, width))
            if config.num_views > 1
            else None
        )
        rows_of_view = config.frame_rows // config.num_views
        places = spatial_embedding(rows_of_view, config.frame_columns, width).float()
        self.register_buffer(
            "frame_positions", places.repeat(config.num_views, 1), persistent=False
        )

    def prefix_tokens(self, text_BTC: Tensor, motion: Motion | None = None) -> Tensor:
        """Embedding rows [B, T, text width] to tokens [B, T, C]; the video model's [B, T + 2, C]
        end with those of `motion` (None: NOVA's usual one)."""
        tokens = self.text_norm(self.text_proj(text_BTC))
        if self.motion_embed is None:
            return tokens
        motion_2C = self.motion_embed(motion or Motion())
        return torch.cat((tokens, motion_2C.expand(len(tokens), -1, -1)), dim=1)

    def null_text(self, batch_size: int) -> Tensor:
        """The empty instruction [B, T, text width], for guidance and for dropped prompts."""
        return self.text_padding[: self.config.num_text_tokens].expand(batch_size, -1, -1)

    def slot_times(self, slots: Tensor) -> Tensor:
        """Slot indices [...], or control steps over L, to the time embedding's clock. Index 0 is
        NOVA's begin-of-video."""
        unit = self.config.base_time / self.config.num_slots
        first = 0 if self.config.first_slot == "bov" else 1
        return (slots + first) * unit

    def frame_tokens(self, latents_BNchw: Tensor, is_first_BN: Tensor, slots_BN: Tensor) -> Tensor:
        """[B, N, c, h, w] and slot indices [B, N] to [B, N, K, C].

        Where first_slot is "bov", the latents at `is_first_BN` are not read: BOV stands there.
        """
        flat = rearrange(latents_BNchw, "b n c h w -> (b n) c h w")
        tokens = rearrange(
            self.frame_patches(flat), "(b n) k c -> b n k c", b=latents_BNchw.shape[0]
        )
        if self.config.first_slot == "bov":
            tokens = torch.where(is_first_BN[..., None, None], self.begin_of_video, tokens)
        return self.add_positions(tokens, slots_BN)

    def frame_patches(self, latents_Mchw: Tensor) -> Tensor:
        """Latents to tokens [M, K, C] without places, view by view."""
        if self.view_embed is None:
            return self.frame_embed(self.frame_stem(latents_Mchw)).flatten(2).transpose(1, 2)
        views = rearrange(latents_Mchw, "m c (v h) w -> (m v) c h w", v=self.config.num_views)
        tokens = self.frame_embed(self.frame_stem(views))
        tokens = rearrange(tokens, "(m v) c h w -> m v (h w) c", v=self.config.num_views)
        return (tokens + self.view_embed[:, None]).flatten(1, 2)

    def add_positions(self, tokens_BNKC: Tensor, slots_BN: Tensor) -> Tensor:
        times_BN1C = self.time_embed(self.slot_times(slots_BN)).unsqueeze(2)
        return tokens_BNKC + self.frame_positions.to(tokens_BNKC.dtype) + times_BN1C

    def action_tokens(
        self,
        actions_BNLD: Tensor,
        is_first_BN: Tensor,
        slots_BN: Tensor,
        proprio_BNJ: Tensor | None,
        executed_BNL: Tensor | None = None,
    ) -> Tensor:
        """[B, N, L, D] to [B, N, L, C]; where `is_first_BN` the actions are BOA and not read, and
        where not `executed_BNL` (bool) the learned row `not_executed` stands for them.

        Actions carry their slot's time embedding, so that they lie where the pretrained
        transformer expects its inputs.
        """
        tokens = self.action_embed(actions_BNLD)
        if executed_BNL is not None:
            tokens = torch.where(executed_BNL.unsqueeze(-1), tokens, self.not_executed)
        tokens = torch.where(is_first_BN[..., None, None], self.begin_of_action, tokens)
        if self.proprio_embed is not None:
            if proprio_BNJ is None:
                raise ValueError("this model reads measured joint positions; none were given.")
            tokens = tokens + self.proprio_embed(proprio_BNJ).unsqueeze(2)
        return tokens + self.time_embed(self.slot_times(slots_BN)).unsqueeze(2)

    def rotation(
        self,
        layout: TokenLayout,
        offsets_B: Tensor | None = None,
        clock_BN: Tensor | None = None,
    ) -> Rotation | None:
        """The rotary embedding of the tokens in `layout`, slots shifted by `offsets_B`, or frame n
        of those slots at control step clock_BN[:, n] (int64) and its actions up to there.

        The clock counts env steps: frame n stands at n L, action (n, l) at (n - 1) L + l + 1 with
        l from 0, text at 0. One step of the frame index is L steps of the action index: the
        "distinct frequency settings" of the paper (section 4.3) on one physical clock.
        """
        if self.config.position_mode == "ape":
            return None
        rotary = self.config.rotary
        if clock_BN is not None:
            first = layout.slots.clamp(min=0).min()
            frame_time = clock_BN[:, (layout.slots - first).clamp(min=0)]
        else:
            slots_BS = layout.slots if offsets_B is None else layout.slots + offsets_B[:, None]
            frame_time = slots_BS * self.config.num_actions
        action_time = frame_time - self.config.num_actions + layout.steps + 1
        pairs = rotary.rotary_dim // 2
        angles = _by_kind(
            layout,
            rotary_angles(frame_time * rotary.scale_frame, rotary.theta_frame, pairs),
            rotary_angles(action_time * rotary.scale_action, rotary.theta_action, pairs),
        )
        if angles.ndim == 3:
            angles = angles.unsqueeze(1)
        weights = self.frame_embed.weight.dtype
        kind = torch.float64 if weights == torch.float64 else torch.float32
        return Rotation(angles.cos().to(kind), angles.sin().to(kind))


def _by_kind(layout: TokenLayout, frame_angles: Tensor, action_angles: Tensor) -> Tensor:
    kinds = layout.kinds.unsqueeze(-1)
    chosen = torch.where(kinds == ACTION, action_angles, frame_angles)
    return torch.where(kinds == TEXT, torch.zeros_like(chosen), chosen)
