# SPDX-License-Identifier: Apache-2.0
"""PAR: the parts put together. training_loss, extend (new physical tokens), predict_actions,
predict_frame. Weights only; an episode's state is in policy.py.

Shape letters: B batch, N slots, T text tokens, K frame tokens, Z context tokens of the action
head, L actions of a slot, H the horizon (L, or more with a largest delay), S tokens, C width, D
action width, J joints, P numbers of a scene, c h w of a latent.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from par_model.action_head import DitSchedule, Prefix, make_action_head
from par_model.causal_mask import MaskRules, TokenLayout, causal_mask, token_layout
from par_model.config import ModelConfig
from par_model.frame_head import FrameHead, ImageEncoder, make_frame_decoder
from par_model.kv_cache import KVCache
from par_model.layers import Attend
from par_model.physical_tokenizer import Motion, PhysicalTokenizer
from par_model.transformer import Mixer, Rotation, Transformer, attend_masked, attend_slot


@dataclass(frozen=True)
class TrainingBatch:
    """Clips of N slots: frames O_0 .. O_N and chunks A_1 .. A_N, padded at the end.

    Attributes:
        text_BTC: the instruction's rows.
        latents_BNchw: [B, N + 1, c, h, w], O_0 .. O_N.
        actions_BNLD: normalised targets A_1 .. A_N; with a largest delay [B, N, H, D].
        context_actions_BNLD: the same as the history shows them (possibly with noise).
        proprio_BNJ: [B, N + 1, J] normalised measured joints at O_0 .. O_N.
        action_valid_BNL: bool, which actions count in the loss; [B, N, H] likewise.
        frame_valid_BN: bool, whether target frame O_n (n = 1 .. N) counts.
        slot_offset_B: int64, index of the clip's first slot.
        scene_BNP: positions in metres at O_0 .. O_{N-1}, NaN where unknown; P may be 0.
        executed_BNL: bool, which context actions were executed; None: all.
        clock_BN: int64, control steps from O_0 to O_0 .. O_{N-1}; None: L a slot.
        least_delay_BN: int64, the shortest prefix of a chunk that is to be learnt; None: 0.
        has_prefix_BN: bool, whether a chunk is learnt with prefixes; None: all are.
        action_rows_M: int64, rows of [B * N] with a valid action; None: read from the masks, which
            on a GPU waits for it.
        frame_rows_M: int64, rows of [B * N] with a valid frame; None likewise.
    """

    text_BTC: Tensor
    latents_BNchw: Tensor
    actions_BNLD: Tensor
    context_actions_BNLD: Tensor
    proprio_BNJ: Tensor
    action_valid_BNL: Tensor
    frame_valid_BN: Tensor
    slot_offset_B: Tensor
    scene_BNP: Tensor
    executed_BNL: Tensor | None = None
    clock_BN: Tensor | None = None
    least_delay_BN: Tensor | None = None
    has_prefix_BN: Tensor | None = None
    action_rows_M: Tensor | None = None
    frame_rows_M: Tensor | None = None

    def with_rows(self) -> "TrainingBatch":
        """The batch with its rows of valid actions and frames."""
        return replace(
            self,
            action_rows_M=self.action_valid_BNL.any(dim=-1).flatten().nonzero().squeeze(1),
            frame_rows_M=self.frame_valid_BN.flatten().nonzero().squeeze(1),
        )

    def to(self, device: torch.device) -> "TrainingBatch":
        """On `device`, without waiting where the memory is pinned."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{n: v.to(device, non_blocking=True) for n, v in given.items()})

    def pin_memory(self) -> "TrainingBatch":
        """In memory that a GPU reads while the program goes on."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: value.pin_memory() for name, value in given.items()})


@dataclass(frozen=True)
class SlotTimes:
    """When slots were, and what of their actions happened, for a model with a largest delay.

    Attributes:
        executed_BNL: bool, which of the context's actions were executed.
        clock_BN: int64, control steps from the context's first frame to each slot's.
    """

    executed_BNL: Tensor
    clock_BN: Tensor


@dataclass(frozen=True)
class Losses:
    """Eq. 11 and its two parts, 0-d."""

    total: Tensor
    frame: Tensor
    action: Tensor


@dataclass(frozen=True)
class Context:
    """What the transformer knows after each slot.

    Attributes:
        frame_BNKC: Z_O, raw (before the mixer).
        action_BNZC: Z_A, what the action head attends to; Z is L, or more for PAR-NoAR.
    """

    frame_BNKC: Tensor
    action_BNZC: Tensor


class PARModel(nn.Module):
    """Physical Autoregressive Model (arXiv 2508.09822) on NOVA's architecture."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config
        width = config.transformer.width
        self.tokenizer = PhysicalTokenizer(config)
        self.transformer = Transformer(config.transformer) if config.autoregressive else None
        self.mixer = Mixer(width, config.mixer_rank) if config.mixer_rank else None
        self.image_encoder = ImageEncoder(config)
        self.frame_decoder = make_frame_decoder(config)
        self.frame_head = FrameHead(config, self.mixer, self.image_encoder, self.frame_decoder)
        self.action_head = make_action_head(config)

        layout = token_layout(
            config.num_prefix_tokens, config.num_slots, config.num_frame_tokens, config.num_actions
        )
        for name in ("kinds", "slots", "steps"):
            self.register_buffer(f"layout_{name}", getattr(layout, name), persistent=False)
        self.rules = MaskRules(
            action_sees_frame=config.action_sees_frame,
            history_slots=config.history_slots,
            text_joint_with_first_slot=config.text_joint_with_first_slot,
        )

    @property
    def layout(self) -> TokenLayout:
        """The layout of the instruction and all slots."""
        return TokenLayout(self.layout_kinds, self.layout_slots, self.layout_steps)

    # ---- training

    def drawing_parts(self) -> list[nn.Module]:
        """What makes a picture of Z_O; no action depends on it."""
        return [p for p in (self.mixer, self.image_encoder, self.frame_decoder) if p is not None]

    def training_loss(
        self,
        batch: TrainingBatch,
        generator: torch.Generator,
        checkpoint_gradients: bool = False,
    ) -> Losses:
        """Teacher forcing over whole clips in parallel (paper, section 4.2.6 and Eq. 11)."""
        context = self.training_context(batch, checkpoint_gradients)
        return self.context_loss(context, batch, generator, checkpoint_gradients)

    def training_context(self, batch: TrainingBatch, checkpoint_gradients: bool = False) -> Context:
        """What the transformer knows after each slot of the clips."""
        times = None
        if batch.executed_BNL is not None and batch.clock_BN is not None:
            offset_B1 = batch.slot_offset_B[:, None] * self.config.num_actions
            times = SlotTimes(_one_later(batch.executed_BNL), batch.clock_BN + offset_B1)
        return self.encode_clip(
            batch.text_BTC,
            batch.latents_BNchw[:, :-1],
            _one_later(batch.context_actions_BNLD),
            batch.proprio_BNJ[:, :-1],
            batch.slot_offset_B,
            checkpoint_gradients,
            times,
        )

    def context_loss(
        self,
        context: Context,
        batch: TrainingBatch,
        generator: torch.Generator,
        checkpoint_gradients: bool = False,
        mask_ratio: float | None = None,
    ) -> Losses:
        """Eq. 11 of a `training_context`; `mask_ratio` as of `FrameHead.loss`."""
        action = context.action_BNZC.new_zeros(())
        weights = self.config.loss
        if batch.action_rows_M is None:
            batch = batch.with_rows()
        assert batch.action_rows_M is not None
        assert batch.frame_rows_M is not None
        if self.action_head is not None and weights.action_weight:
            rows_M = batch.action_rows_M
            least_BN, has_prefix_BN = batch.least_delay_BN, batch.has_prefix_BN
            action = self.action_head.loss(
                context.action_BNZC.flatten(0, 1)[rows_M],
                batch.actions_BNLD.flatten(0, 1)[rows_M],
                batch.action_valid_BNL.flatten(0, 1)[rows_M],
                generator,
                None if least_BN is None else least_BN.flatten()[rows_M],
                None if has_prefix_BN is None else has_prefix_BN.flatten()[rows_M],
            )
        frame = self.frame_head.loss(
            context.frame_BNKC,
            batch.latents_BNchw[:, 1:],
            batch.frame_rows_M,
            generator,
            checkpoint_gradients,
            mask_ratio,
        )
        total = weights.frame_weight * frame + weights.action_weight * action
        return Losses(total, frame, action)

    def encode_clip(
        self,
        text_BTC: Tensor,
        latents_BNchw: Tensor,
        actions_BNLD: Tensor,
        proprio_BNJ: Tensor | None,
        offset_B: Tensor,
        checkpoint_gradients: bool = False,
        times: SlotTimes | None = None,
        motion: Motion | None = None,
        attend_with: Callable[[Tensor], Attend] = attend_masked,
    ) -> Context:
        """One masked pass over [text; P_0; ...; P_{N-1}], without a cache.

        `actions_BNLD[:, n]` are A_n; row 0 is not read (BOA stands there). `attend_with` makes the
        attention of all layers from the mask [S, S]; PAR-NoAR has none and does not call it.
        """
        num_slots = latents_BNchw.shape[1]
        slots_BN = offset_B[:, None] + torch.arange(num_slots, device=offset_B.device)
        slot_tokens = self._slot_tokens(
            latents_BNchw, actions_BNLD, proprio_BNJ, slots_BN, True, times
        )
        text = self.tokenizer.prefix_tokens(text_BTC, motion)
        if self.transformer is None:
            return _without_transformer(text, slot_tokens, self.config.num_frame_tokens)
        tokens = torch.cat((text, rearrange(slot_tokens, "b n s c -> b (n s) c")), dim=1)
        layout = self.layout[: tokens.shape[1]]
        clock_BN = None if times is None else times.clock_BN
        rotation = self.tokenizer.rotation(layout, offset_B, clock_BN)
        mask = causal_mask(layout, layout, self.rules)
        z = self.transformer(tokens, rotation, attend_with(mask), checkpoint_gradients)
        return _split(z[:, text.shape[1] :], num_slots, self.config.num_frame_tokens)

    def _slot_tokens(
        self,
        latents_BNchw: Tensor,
        actions_BNLD: Tensor,
        proprio_BNJ: Tensor | None,
        slots_BN: Tensor,
        starts_with_boa: bool,
        times: SlotTimes | None,
    ) -> Tensor:
        """[B, N, K + L, C]."""
        is_first_BN = torch.zeros_like(slots_BN, dtype=torch.bool)
        is_first_BN[:, 0] = starts_with_boa
        if times is not None:
            slots_BN = times.clock_BN / self.config.num_actions
        # The learned time embedding knows num_slots slots; later ones (overflow "slide") share
        # the last one's.
        times_BN = slots_BN.clamp(max=self.config.num_slots - 1)
        frames = self.tokenizer.frame_tokens(latents_BNchw, is_first_BN, times_BN)
        if not self.config.num_actions:
            return frames
        executed_BNL = None if times is None else times.executed_BNL
        actions = self.tokenizer.action_tokens(
            actions_BNLD, is_first_BN, times_BN, proprio_BNJ, executed_BNL
        )
        return torch.cat((frames, actions), dim=2)

    # ---- inference

    def prefill(self, text_BTC: Tensor, motion: Motion | None = None) -> KVCache:
        """A new cache that holds the instruction (and the video model's motion); an empty one where
        the instruction sees slot 0 and so enters together with it, in `extend`."""
        assert self.transformer is not None, "PAR-NoAR has no cache"
        cache = self.transformer.allocate_cache(text_BTC.shape[0], self.config.cache_capacity)
        if self.rules.text_joint_with_first_slot:
            return cache
        tokens = self.tokenizer.prefix_tokens(text_BTC, motion)
        layout = self.layout[: tokens.shape[1]]
        mask = causal_mask(layout, layout, MaskRules())
        _, cache = self.transformer.forward_cached(
            tokens, self._rotation(layout, 0), attend_masked(mask), cache
        )
        return cache

    def extend(
        self,
        cache: KVCache | None,
        text_BTC: Tensor,
        latents_BNchw: Tensor,
        actions_BNLD: Tensor,
        proprio_BNJ: Tensor | None,
        first_slot: int,
        starts_with_boa: bool,
        times: SlotTimes | None = None,
        motion: Motion | None = None,
    ) -> tuple[Context, KVCache | None]:
        """Append N physical tokens, slots first_slot .. first_slot + N - 1, after the cache.

        Args:
            cache: what `prefill` or an earlier `extend` returned; None for PAR-NoAR.
            text_BTC: the instruction; read by PAR-NoAR, and where it is joint with slot 0, and so
                is the video model's `motion`.
            starts_with_boa: the first of the slots carries BOA, its actions are not read; in the
                video model it is BOV and its latent is not read.

        Raises:
            ValueError: the tokens do not fit into the cache.
        """
        num_slots = latents_BNchw.shape[1]
        device = latents_BNchw.device
        slots_BN = torch.arange(first_slot, first_slot + num_slots, device=device)
        slots_BN = slots_BN.expand(latents_BNchw.shape[0], -1)
        slot_tokens = self._slot_tokens(
            latents_BNchw, actions_BNLD, proprio_BNJ, slots_BN, starts_with_boa, times
        )
        if self.transformer is None or cache is None:
            text = self.tokenizer.prefix_tokens(text_BTC, motion)
            return _without_transformer(text, slot_tokens, self.config.num_frame_tokens), None
        tokens = rearrange(slot_tokens, "b n s c -> b (n s) c")
        num_text = 0
        if self.rules.text_joint_with_first_slot and cache.length == 0:
            text = self.tokenizer.prefix_tokens(text_BTC, motion)
            tokens, num_text = torch.cat((text, tokens), dim=1), text.shape[1]
        start, end = cache.length, cache.length + tokens.shape[1]
        # What the instruction sees concerns its own queries only.
        rules = self.rules if num_text else replace(self.rules, text_joint_with_first_slot=False)
        if num_slots == 1 and rules.is_figure_3:
            attend = attend_slot(self.config.num_frame_tokens)
        else:
            attend = attend_masked(causal_mask(self.layout[start:end], self.layout[:end], rules))
        rotation = self._rotation(self.layout[start:end], first_slot, times)
        z, cache = self.transformer.forward_cached(tokens, rotation, attend, cache)
        return _split(z[:, num_text:], num_slots, self.config.num_frame_tokens), cache

    def _rotation(
        self, layout: TokenLayout, first_slot: int, times: SlotTimes | None = None
    ) -> Rotation | None:
        """Rotation of the cache rows in `layout`, whose first slot is the episode's `first_slot`
        (the two differ where overflow "slide" moved the rows)."""
        if times is not None:
            return self.tokenizer.rotation(layout, clock_BN=times.clock_BN)
        moved = first_slot - max(0, int(layout.slots[0]))
        offset = torch.tensor([moved], device=layout.slots.device) if moved else None
        return self.tokenizer.rotation(layout, offset)

    def predict_actions(
        self,
        z_BZC: Tensor,
        noise_BLD: Tensor,
        sampler: str,
        num_steps: int,
        schedule: DitSchedule | None = None,
        generator: torch.Generator | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """A_n given Z_A, normalised: [B, H, D]. Arguments as of `ActionDit.sample`."""
        assert self.action_head is not None, "the video model has no actions"
        return self.action_head.sample(
            z_BZC, noise_BLD, sampler, num_steps, schedule, generator, prefix
        )

    def predict_frame(
        self,
        condition_BKC: Tensor,
        order_N: Tensor,
        generator: torch.Generator,
        sampler: str,
        num_steps: int,
        num_sets: int,
        null_condition_BKC: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """The next latent [B, c, h, w] given Z_O through `frame_head.condition`. Arguments as of
        `FrameHead.sample`."""
        return self.frame_head.sample(
            condition_BKC,
            order_N,
            generator,
            sampler,
            num_steps,
            num_sets,
            null_condition_BKC,
            guidance,
        )


def _split(z_BSC: Tensor, num_slots: int, num_frame_tokens: int) -> Context:
    z = rearrange(z_BSC, "b (n s) c -> b n s c", n=num_slots)
    return Context(z[:, :, :num_frame_tokens], z[:, :, num_frame_tokens:])


def _without_transformer(text_BTC: Tensor, slot_tokens: Tensor, num_frame_tokens: int) -> Context:
    """PAR-NoAR: the heads see the embedded tokens of the instruction and the slot."""
    text = text_BTC.unsqueeze(1).expand(-1, slot_tokens.shape[1], -1, -1)
    return Context(slot_tokens[:, :, :num_frame_tokens], torch.cat((slot_tokens, text), dim=2))


def _one_later(values_BNX: Tensor) -> Tensor:
    """What led to each frame: row n of what followed frame n - 1, zeros for the first."""
    return torch.cat((torch.zeros_like(values_BNX[:, :1]), values_BNX[:, :-1]), dim=1)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
