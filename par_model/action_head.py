# SPDX-License-Identifier: Apache-2.0
"""The action heads: Z_A -> a chunk of normalised actions; network, loss and sampling.

The Action-DiT is the network (noisy actions, t, Z_A) -> the noise, or v, of the chunk
(epsilon_theta of the paper's Eq. 10; which, says `DiffusionConfig.prediction`). Z_A enters by
cross-attention alone (section 4.2.3) and t by adaptive layer norms alone, so both are computed
once and reused over the steps. PAR-Discrete regresses instead. Both have `loss` and `sample`.

A head with a largest delay predicts the slot's actions and so many more, and goes on from a prefix:
the chunk's first rows, given clean, at diffusion time 0 (training-time action conditioning,
arXiv 2512.05964). The slot's rows see each other and the look-ahead sees all, so that without a
prefix the slot's rows are what a head without look-ahead predicts.

Shape letters: B batch, M chunks of a loss, L actions (those of the look-ahead included), R rows of
norm statistics (1, or L where a prefix has its own), D action width, C width, Z context tokens, X
context width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from par_model.config import ModelConfig
from par_model.diffusion import (
    denoising_errors,
    require_enough_steps,
    sample,
    sampling_times,
)
from par_model.layers import Attend, Attention, Mlp, SiluMlp, attend_all, sinusoid


@dataclass(frozen=True)
class DitContext:
    """Keys and values of Z_A, one pair a block, each [B, H, Z, head width]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class DitModulation:
    """Adaptive-norm statistics of a diffusion time: [B, 9, R, C] a block and last [B, 2, R, C]."""

    blocks: tuple[Tensor, ...]
    last: Tensor

    def but(self, other: "DitModulation", chosen_BL: Tensor) -> "DitModulation":
        """Those of `other` in the chosen rows."""
        mask_B1L1 = chosen_BL[:, None, :, None]

        def pick(own: Tensor, others: Tensor) -> Tensor:
            return torch.where(mask_B1L1, others, own)

        return self._with(other, pick)

    def but_in_training(self, other: "DitModulation", chosen_BL: Tensor) -> "DitModulation":
        """As `but`, for training: a product with one-hot rows, whose gradient is a product too and
        takes less time than `where`'s on a CPU. A runtime may round products (TF32)."""
        rows_BL2 = torch.stack((~chosen_BL, chosen_BL), dim=-1).to(self.last.dtype)

        def pick(own: Tensor, others: Tensor) -> Tensor:
            both = torch.cat((own, others.expand(len(own), -1, -1, -1)), dim=2)
            return torch.stack([rows_BL2 @ one_B2C for one_B2C in both.unbind(1)], dim=1)

        return self._with(other, pick)

    def _with(
        self, other: "DitModulation", pick: Callable[[Tensor, Tensor], Tensor]
    ) -> "DitModulation":
        blocks = (pick(own, others) for own, others in zip(self.blocks, other.blocks, strict=True))
        return DitModulation(tuple(blocks), pick(self.last, other.last))


@dataclass(frozen=True)
class DitSchedule:
    """Norm statistics of a sampler's steps, and of a prefix (diffusion time 0)."""

    steps: tuple[DitModulation, ...]
    clean: DitModulation


@dataclass(frozen=True)
class Prefix:
    """The first rows of a chunk: actions [B, L, D] of which those of `rows_BL` (bool) are given."""

    actions_BLD: Tensor
    rows_BL: Tensor

    @staticmethod
    def of_lengths(actions_BLD: Tensor, lengths_B: Tensor) -> "Prefix":
        """The first `lengths_B` (int64) actions of each chunk."""
        rows_L = torch.arange(actions_BLD.shape[1], device=actions_BLD.device)
        return Prefix(actions_BLD, rows_L < lengths_B[:, None])

    def put_into(self, actions_BLD: Tensor) -> Tensor:
        """The given rows in place of those of `actions_BLD`."""
        return torch.where(self.rows_BL.unsqueeze(-1), self.actions_BLD, actions_BLD)


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
        self,
        x_BLC: Tensor,
        statistics_B9RC: Tensor,
        keys: Tensor,
        values: Tensor,
        attend: Attend = attend_all,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (
            statistics_B9RC.unbind(1)
        )
        x_BLC = x_BLC + gate1 * self.self_attention(
            self.norm(x_BLC) * (1 + scale1) + shift1, attend
        )
        x_BLC = x_BLC + gate2 * self.cross_attention(
            self.norm(x_BLC) * (1 + scale2) + shift2, keys, values
        )
        return x_BLC + gate3 * self.mlp(self.norm(x_BLC) * (1 + scale3) + shift3)


class ActionDit(nn.Module):
    """DiT over the L actions of a chunk. Gates and head start at zero (DiT practice).

    Attributes:
        diffusion: the noise process that `loss` trains on and `sample` reverses.
        num_draws: times and noises that `loss` draws for each chunk.
        max_delay: the longest prefix.
    """

    look_ahead_mask: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.diffusion = config.action_diffusion
        self.num_draws = config.loss.num_draws
        self.max_delay = config.max_delay_steps
        dit, width = config.action_dit, config.action_dit.width
        self.time_frequencies = dit.time_frequencies
        self.embed = nn.Linear(config.action_width, width)
        self.time_proj = SiluMlp(dit.time_frequencies, width, width)
        self.context_proj = nn.Linear(config.transformer.width, width)
        self.blocks = nn.ModuleList(
            DitBlock(width, dit.num_heads, dit.mlp_ratio) for _ in range(dit.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, config.action_width)
        steps = torch.arange(config.horizon, dtype=torch.float64)
        self.register_buffer(
            "step_positions", sinusoid(steps, width // 2, cos_first=False).float(), persistent=False
        )
        rows = torch.arange(config.horizon)
        self.register_buffer(
            "look_ahead_mask",
            (rows[:, None] >= config.num_actions) | (rows < config.num_actions),
            persistent=False,
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
                rearrange(block.modulation(condition_BC), "b (nine c) -> b nine 1 c", nine=9)
                for block in self.blocks
            ),
            rearrange(self.last_modulation(condition_BC), "b (two c) -> b two 1 c", two=2),
        )

    def clean_modulation(self) -> DitModulation:
        """That of a prefix: diffusion time 0."""
        return self.modulation(torch.zeros(1, device=self.head.weight.device))

    def forward(self, noisy_BLD: Tensor, modulation: DitModulation, context: DitContext) -> Tensor:
        """Returns the prediction [B, L, D]."""
        x_BLC = self.embed(noisy_BLD) + self.step_positions.to(noisy_BLD.dtype)
        for block, statistics, keys, values in zip(
            self.blocks, modulation.blocks, context.keys, context.values, strict=True
        ):
            x_BLC = block(x_BLC, statistics, keys, values, self._attend)
        shift, scale = modulation.last.unbind(1)
        return self.head(self.norm(x_BLC) * (1 + scale) + shift)

    def loss(
        self,
        z_MZX: Tensor,
        actions_MLD: Tensor,
        valid_ML: Tensor,
        generator: torch.Generator,
        least_delay_M: Tensor | None = None,
        has_prefix_M: Tensor | None = None,
    ) -> Tensor:
        """L_act of the paper's Eq. 11, 0-d: Eq. 10 over the chunk, one t per chunk and draw
        (section 4.3), averaged over the actions that are valid.

        With a largest delay each draw is given a prefix of `least_delay_M` (0 where it is None) to
        `max_delay` actions, evenly, which does not count; none where `has_prefix_M` (bool) is
        False.
        """
        context = self.context(z_MZX)
        repeated = DitContext(
            tuple(k.repeat(self.num_draws, 1, 1, 1) for k in context.keys),
            tuple(v.repeat(self.num_draws, 1, 1, 1) for v in context.values),
        )
        valid = valid_ML.repeat(self.num_draws, 1)
        prefix = None
        if self.max_delay:
            delays = self._draw_delays(least_delay_M, valid, generator)
            if has_prefix_M is not None:
                delays = delays * has_prefix_M.repeat(self.num_draws)
            prefix = Prefix.of_lengths(actions_MLD.repeat(self.num_draws, 1, 1), delays)
            valid = valid & ~prefix.rows_BL

        def predict(noisy_BLD: Tensor, times_B: Tensor) -> Tensor:
            modulation = self.modulation(times_B)
            if prefix is not None:
                clean = self.clean_modulation()
                modulation = modulation.but_in_training(clean, prefix.rows_BL)
                noisy_BLD = prefix.put_into(noisy_BLD)
            return self(noisy_BLD, modulation, repeated)

        errors = denoising_errors(
            predict,
            actions_MLD,
            self.diffusion,
            self.num_draws,
            generator,
        )
        return _masked_mean(errors.mean(-1), valid)

    def _draw_delays(
        self, least_M: Tensor | None, valid_ML: Tensor, generator: torch.Generator
    ) -> Tensor:
        """int64, one for each of the draws in `valid_ML`."""
        share = torch.rand(len(valid_ML), generator=generator, device=generator.device)
        least = torch.zeros_like(share, dtype=torch.int64)
        if least_M is not None:
            least = least_M.repeat(self.num_draws)
        return least + (share * (self.max_delay + 1 - least)).long()

    def schedule(self, sampler: str, num_steps: int) -> DitSchedule:
        """The `modulation` of every sampling step, and the clean one.

        Raises:
            ValueError: as `make_scheduler`, and `require_enough_steps`.
        """
        require_enough_steps(self.diffusion, num_steps)
        times = sampling_times(self.diffusion, sampler, num_steps).to(self.head.weight.device)
        steps = tuple(self.modulation(time.view(1)) for time in times)
        return DitSchedule(steps, self.clean_modulation())

    def sample(
        self,
        z_BZX: Tensor,
        noise_BLD: Tensor,
        sampler: str,
        num_steps: int,
        schedule: DitSchedule | None = None,
        generator: torch.Generator | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Normalised actions [B, L, D], which begin with the prefix.

        Args:
            schedule: what `schedule` returned, where the caller kept it.
            generator: for the samplers that draw noise on the way (ddpm).
        """
        context = self.context(z_BZX)
        schedule = schedule or self.schedule(sampler, num_steps)
        steps: Sequence[DitModulation] = schedule.steps
        keep = _keep_nothing if prefix is None else prefix.put_into
        if prefix is not None:
            steps = [step.but(schedule.clean, prefix.rows_BL) for step in steps]
        return keep(
            sample(
                lambda noisy, index: self(keep(noisy), steps[index], context),
                noise_BLD,
                self.diffusion,
                sampler,
                num_steps,
                generator,
            )
        )

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if not self.max_delay:
            return attend_all(queries, keys, values)
        return functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self.look_ahead_mask
        )


class ActionRegressor(nn.Module):
    """PAR-Discrete's head (paper, section 5.3.2): an MLP from Z_A to actions, no sampling."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mlp = SiluMlp(config.transformer.width, config.action_dit.width, config.action_width)
        # PAR-NoAR's Z_A begins with the slot's frame tokens and ends with the instruction.
        first = 0 if config.autoregressive else config.num_frame_tokens
        self.action_rows = slice(first, first + config.num_actions)

    def forward(self, z_BLX: Tensor) -> Tensor:
        return self.mlp(z_BLX)

    def loss(
        self,
        z_MZX: Tensor,
        actions_MLD: Tensor,
        valid_ML: Tensor,
        generator: torch.Generator,
        least_delay_M: Tensor | None = None,
        has_prefix_M: Tensor | None = None,
    ) -> Tensor:
        """As `ActionDit.loss`, of the actions themselves; draws nothing."""
        errors_MLD = (self(z_MZX[:, self.action_rows]) - actions_MLD).square()
        return _masked_mean(errors_MLD.mean(-1), valid_ML)

    def schedule(self, sampler: str, num_steps: int) -> None:
        """None: there are no sampling steps."""

    def sample(
        self,
        z_BZX: Tensor,
        noise_BLD: Tensor,
        sampler: str,
        num_steps: int,
        schedule: DitSchedule | None = None,
        generator: torch.Generator | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """As `ActionDit.sample`; reads Z_A only, and knows no prefix."""
        return self(z_BZX[:, self.action_rows])


def make_action_head(config: ModelConfig) -> ActionDit | ActionRegressor | None:
    """The head that `config.action_head` names; None for the video model, which has no actions."""
    if not config.num_actions:
        return None
    return ActionDit(config) if config.action_head == "diffusion" else ActionRegressor(config)


def _keep_nothing(actions_BLD: Tensor) -> Tensor:
    return actions_BLD


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)
