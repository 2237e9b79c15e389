# SPDX-License-Identifier: Apache-2.0
"""PAR: the parts put together. training_loss, extend (new physical tokens), predict_actions,
predict_frame. Weights only; an episode's state is in policy.py.

Shape letters: B batch, N slots, T text tokens, K frame tokens, L actions, S tokens, C width,
D action width, J joints, P numbers of a scene, E values of an image token, c h w of a latent,
R draws, M any number.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from par_model.action_dit import ActionDit, ActionRegressor, DitModulation
from par_model.causal_mask import MaskRules, TokenLayout, causal_mask, token_layout
from par_model.config import ModelConfig
from par_model.diffusion import add_noise, draw_times, sample, sampling_times
from par_model.frame_head import (
    FrameDecoder,
    FrameRegressor,
    ImageEncoder,
    patchify,
    sample_mask_ratio,
    set_sizes,
    unpatchify,
    visible_tokens,
)
from par_model.kv_cache import KVCache
from par_model.physical_tokenizer import PhysicalTokenizer
from par_model.transformer import Mixer, Rotation, Transformer, attend_masked, attend_slot


@dataclass(frozen=True)
class TrainingBatch:
    """Clips of N slots: frames O_0 .. O_N and chunks A_1 .. A_N, padded at the end.

    Attributes:
        text_BTC: the instruction's rows.
        latents_BNchw: [B, N + 1, c, h, w], O_0 .. O_N.
        actions_BNLD: normalised targets A_1 .. A_N.
        context_actions_BNLD: the same as the history shows them (possibly with noise).
        proprio_BNJ: [B, N + 1, J] normalised measured joints at O_0 .. O_N.
        action_valid_BNL: bool, which actions count in the loss.
        frame_valid_BN: bool, whether target frame O_n (n = 1 .. N) counts.
        slot_offset_B: int64, index of the clip's first slot.
        scene_BNP: positions in metres at O_0 .. O_{N-1}, NaN where unknown; P may be 0.
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
        self.image_encoder = ImageEncoder(
            config.image_encoder,
            config.image_token_width,
            config.latent_height // config.image_patch,
            config.latent_width // config.image_patch,
        )
        self.frame_decoder: FrameDecoder | FrameRegressor
        if config.frame_head == "diffusion":
            self.frame_decoder = FrameDecoder(config.frame_decoder, config.image_token_width, width)
        else:
            self.frame_decoder = FrameRegressor(
                width, config.frame_decoder.width, config.image_token_width
            )
        self.action_head: ActionDit | ActionRegressor | None = None
        if not config.num_actions:
            pass
        elif config.action_head == "diffusion":
            self.action_head = ActionDit(
                config.action_dit, config.action_width, config.num_actions, width
            )
        else:
            self.action_head = ActionRegressor(width, config.action_dit.width, config.action_width)

        layout = token_layout(
            config.num_text_tokens, config.num_slots, config.num_frame_tokens, config.num_actions
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
        num_slots = batch.actions_BNLD.shape[1]
        return self.encode_clip(
            batch.text_BTC,
            batch.latents_BNchw[:, :-1],
            torch.cat(
                (
                    torch.zeros_like(batch.context_actions_BNLD[:, :1]),
                    batch.context_actions_BNLD[:, : num_slots - 1],
                ),
                dim=1,
            ),
            batch.proprio_BNJ[:, :-1],
            batch.slot_offset_B,
            checkpoint_gradients,
        )

    def context_loss(
        self,
        context: Context,
        batch: TrainingBatch,
        generator: torch.Generator,
        checkpoint_gradients: bool = False,
    ) -> Losses:
        """Eq. 11 of a `training_context`."""
        action = self._action_loss(context, batch, generator)
        frame = self._frame_loss(context, batch, generator, checkpoint_gradients)
        weights = self.config.loss
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
    ) -> Context:
        """One masked pass over [text; P_0; ...; P_{N-1}], without a cache.

        `actions_BNLD[:, n]` are A_n; row 0 is not read (BOA stands there).
        """
        num_slots = latents_BNchw.shape[1]
        slots_BN = offset_B[:, None] + torch.arange(num_slots, device=offset_B.device)
        slot_tokens = self._slot_tokens(latents_BNchw, actions_BNLD, proprio_BNJ, slots_BN, True)
        text = self.tokenizer.text_tokens(text_BTC)
        if self.transformer is None:
            return self._context_without_transformer(text, slot_tokens)
        tokens = torch.cat((text, rearrange(slot_tokens, "b n s c -> b (n s) c")), dim=1)
        layout = self.layout[: tokens.shape[1]]
        rotation = self.tokenizer.rotation(layout, offset_B)
        mask = causal_mask(layout, layout, self.rules)
        z = self.transformer(tokens, rotation, attend_masked(mask), checkpoint_gradients)
        return self._split(z[:, text.shape[1] :], num_slots)

    def _slot_tokens(
        self,
        latents_BNchw: Tensor,
        actions_BNLD: Tensor,
        proprio_BNJ: Tensor | None,
        slots_BN: Tensor,
        starts_with_boa: bool,
    ) -> Tensor:
        """[B, N, K + L, C]."""
        is_first_BN = torch.zeros_like(slots_BN, dtype=torch.bool)
        is_first_BN[:, 0] = starts_with_boa
        # The learned time embedding knows num_slots slots; later ones (overflow "slide") share
        # the last one's.
        times_BN = slots_BN.clamp(max=self.config.num_slots - 1)
        frames = self.tokenizer.frame_tokens(latents_BNchw, is_first_BN, times_BN)
        if not self.config.num_actions:
            return frames
        actions = self.tokenizer.action_tokens(actions_BNLD, is_first_BN, times_BN, proprio_BNJ)
        return torch.cat((frames, actions), dim=2)

    def _split(self, z_BSC: Tensor, num_slots: int) -> Context:
        z = rearrange(z_BSC, "b (n s) c -> b n s c", n=num_slots)
        num_frame_tokens = self.config.num_frame_tokens
        return Context(z[:, :, :num_frame_tokens], z[:, :, num_frame_tokens:])

    def _context_without_transformer(self, text_BTC: Tensor, slot_tokens: Tensor) -> Context:
        """PAR-NoAR: the heads see the embedded tokens of the instruction and the slot."""
        text = text_BTC.unsqueeze(1).expand(-1, slot_tokens.shape[1], -1, -1)
        frames = slot_tokens[:, :, : self.config.num_frame_tokens]
        return Context(frames, torch.cat((slot_tokens, text), dim=2))

    def _action_loss(
        self, context: Context, batch: TrainingBatch, generator: torch.Generator
    ) -> Tensor:
        """L_act of Eq. 11: Eq. 10 over the chunk, one t per chunk and draw (section 4.3)."""
        if self.action_head is None:
            return context.frame_BNKC.new_zeros(())
        chosen = batch.action_valid_BNL.any(dim=-1)
        z_MZC, target_MLD = context.action_BNZC[chosen], batch.actions_BNLD[chosen]
        valid_ML = batch.action_valid_BNL[chosen]
        if isinstance(self.action_head, ActionRegressor):
            error_ML = (self.action_head(self._regressed(z_MZC)) - target_MLD).square().mean(-1)
            return _masked_mean(error_ML, valid_ML)
        config = self.config.action_diffusion
        num_draws = self.config.loss.num_draws
        context_kv = self.action_head.context(z_MZC)
        repeated = type(context_kv)(
            tuple(k.repeat(num_draws, 1, 1, 1) for k in context_kv.keys),
            tuple(v.repeat(num_draws, 1, 1, 1) for v in context_kv.values),
        )
        clean = target_MLD.repeat(num_draws, 1, 1)
        times = draw_times(config, clean.shape[0], generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device).to(clean.dtype)
        noisy, target = add_noise(config, clean, noise, times)
        predicted = self.action_head(noisy, self.action_head.modulation(times), repeated)
        error_ML = (predicted - target).square().mean(-1)
        return _masked_mean(error_ML, valid_ML.repeat(num_draws, 1))

    def _frame_loss(
        self,
        context: Context,
        batch: TrainingBatch,
        generator: torch.Generator,
        checkpoint_gradients: bool,
    ) -> Tensor:
        """L_obs of Eq. 11: Eq. 4 on NOVA's masked sets, t and noise per token, on a random share of
        the frames."""
        config, loss = self.config.frame_diffusion, self.config.loss
        valid_M = batch.frame_valid_BN.flatten().nonzero().squeeze(1)
        count = max(1, round(loss.frame_fraction * valid_M.shape[0]))
        if loss.frame_weight == 0 or valid_M.shape[0] == 0:
            return context.frame_BNKC.new_zeros(())
        order = torch.rand(valid_M.shape[0], generator=generator, device=valid_M.device).argsort()
        chosen_M = valid_M[order[:count]]
        condition_MKC = self.clip_conditions(context.frame_BNKC).flatten(0, 1)[chosen_M]
        tokens_MNE = patchify(
            batch.latents_BNchw[:, 1:].flatten(0, 1)[chosen_M], self.config.image_patch
        )
        ratio = sample_mask_ratio(loss.mask_ratio_low, loss.mask_ratio_std, generator)
        visible, masked_MN = visible_tokens(count, tokens_MNE.shape[1], ratio, generator)
        z_MNC = self.image_encoder(tokens_MNE, visible, condition_MKC, checkpoint_gradients)
        z_MC, clean_ME = z_MNC[masked_MN], tokens_MNE[masked_MN]
        if isinstance(self.frame_decoder, FrameRegressor):
            return (self.frame_decoder(z_MC) - clean_ME).square().mean()
        clean = clean_ME.repeat(loss.num_draws, 1)
        times = draw_times(config, clean.shape[0], generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device).to(clean.dtype)
        noisy, target = add_noise(config, clean, noise, times)
        predicted = self.frame_decoder(
            noisy,
            self.frame_decoder.time_condition(times),
            self.frame_decoder.condition_proj(z_MC).repeat(loss.num_draws, 1),
        )
        return (predicted - target).square().mean()

    # ---- inference

    def prefill(self, text_BTC: Tensor) -> KVCache:
        """A new cache that holds the instruction; an empty one where the instruction sees slot 0
        and so enters together with it, in `extend`."""
        assert self.transformer is not None, "PAR-NoAR has no cache"
        cache = self.transformer.allocate_cache(text_BTC.shape[0], self.config.cache_capacity)
        if self.rules.text_joint_with_first_slot:
            return cache
        tokens = self.tokenizer.text_tokens(text_BTC)
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
    ) -> tuple[Context, KVCache | None]:
        """Append N physical tokens, slots first_slot .. first_slot + N - 1, after the cache.

        Args:
            cache: what `prefill` or an earlier `extend` returned; None for PAR-NoAR.
            text_BTC: the instruction; read by PAR-NoAR, and where it is joint with slot 0.
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
            latents_BNchw, actions_BNLD, proprio_BNJ, slots_BN, starts_with_boa
        )
        if self.transformer is None or cache is None:
            text = self.tokenizer.text_tokens(text_BTC)
            return self._context_without_transformer(text, slot_tokens), None
        tokens = rearrange(slot_tokens, "b n s c -> b (n s) c")
        num_text = 0
        if self.rules.text_joint_with_first_slot and cache.length == 0:
            text = self.tokenizer.text_tokens(text_BTC)
            tokens, num_text = torch.cat((text, tokens), dim=1), text.shape[1]
        start, end = cache.length, cache.length + tokens.shape[1]
        # What the instruction sees concerns its own queries only.
        rules = self.rules if num_text else replace(self.rules, text_joint_with_first_slot=False)
        if num_slots == 1 and rules.is_figure_3:
            attend = attend_slot(self.config.num_frame_tokens)
        else:
            attend = attend_masked(causal_mask(self.layout[start:end], self.layout[:end], rules))
        rotation = self._rotation(self.layout[start:end], first_slot)
        z, cache = self.transformer.forward_cached(tokens, rotation, attend, cache)
        return self._split(z[:, num_text:], num_slots), cache

    def _rotation(self, layout: TokenLayout, first_slot: int) -> Rotation | None:
        """Rotation of the cache rows in `layout`, whose first slot is the episode's `first_slot`
        (the two differ where overflow "slide" moved the rows)."""
        moved = first_slot - max(0, int(layout.slots[0]))
        offset = torch.tensor([moved], device=layout.slots.device) if moved else None
        return self.tokenizer.rotation(layout, offset)

    def frame_condition(self, z_BKC: Tensor, anchor_BKC: Tensor | None) -> Tensor:
        """Z_O of a slot to what the image encoder is told.

        Args:
            anchor_BKC: Z_O of the context's first slot, which the mixer scales and shifts;
                None where this is that first slot: its output is used as it is.
        """
        if self.mixer is None or anchor_BKC is None:
            return z_BKC
        return self.mixer(z_BKC, anchor_BKC)

    def clip_conditions(self, z_BNKC: Tensor) -> Tensor:
        """`frame_condition` of every slot of a clip, anchored at its first."""
        anchor = z_BNKC[:, :1]
        if self.mixer is None:
            return z_BNKC
        return torch.cat((anchor, self.mixer(z_BNKC[:, 1:], anchor)), dim=1)

    def action_modulations(self, sampler: str, num_steps: int) -> list[DitModulation]:
        """The Action-DiT's norm statistics of every sampling step: once a schedule."""
        if not isinstance(self.action_head, ActionDit):
            return []
        times = sampling_times(self.config.action_diffusion, sampler, num_steps)
        device = self.tokenizer.begin_of_action.device
        return [self.action_head.modulation(time.to(device).view(1)) for time in times]

    def predict_actions(
        self,
        z_BZC: Tensor,
        noise_BLD: Tensor,
        sampler: str,
        num_steps: int,
        modulations: list[DitModulation] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample A_n given Z_A: normalised actions [B, L, D]."""
        assert self.action_head is not None, "the video model has no actions"
        if isinstance(self.action_head, ActionRegressor):
            return self.action_head(self._regressed(z_BZC))
        head = self.action_head
        context = head.context(z_BZC)
        steps = modulations or self.action_modulations(sampler, num_steps)
        return sample(
            lambda noisy, index: head(noisy, steps[index], context),
            noise_BLD,
            self.config.action_diffusion,
            sampler,
            num_steps,
            generator,
        )

    def _regressed(self, z_MZC: Tensor) -> Tensor:
        """The L rows a regression head reads: the slot's action positions."""
        start = self.config.num_frame_tokens if self.transformer is None else 0
        return z_MZC[:, start : start + self.config.num_actions]

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
        """Generate the next latent [B, c, h, w], set by set (paper, Eq. 7).

        Args:
            condition_BKC: Z_O through `frame_condition`.
            order_N: the random order of image tokens, one per episode.
            null_condition_BKC: the same without instruction; needed where guidance is not 1.
        """
        config = self.config
        if guidance != 1.0:
            if null_condition_BKC is None:
                raise ValueError("guidance other than 1 needs the condition without instruction.")
            condition_BKC = torch.cat((condition_BKC, null_condition_BKC))
        batch_size, num_tokens = condition_BKC.shape[0], config.num_image_tokens
        single = batch_size // 2 if guidance != 1.0 else batch_size
        tokens = condition_BKC.new_zeros(batch_size, num_tokens, config.image_token_width)
        done = 0
        for size in set_sizes(num_tokens, num_sets):
            visible = order_N[:done].expand(batch_size, -1)
            chosen = order_N[done : done + size]
            z = self.image_encoder(tokens, visible, condition_BKC)[:, chosen]
            noise = torch.randn(
                single, num_tokens, config.image_token_width, generator=generator, device=z.device
            )
            values = self._sample_tokens(
                z, noise[:, chosen].to(z.dtype), sampler, num_steps, guidance, generator
            )
            tokens = tokens.index_copy(1, chosen, values.repeat(batch_size // single, 1, 1))
            done += size
        rows = config.latent_height // config.image_patch
        return unpatchify(tokens[:single], config.image_patch, rows)

    def _sample_tokens(
        self,
        z_BMC: Tensor,
        noise_BME: Tensor,
        sampler: str,
        num_steps: int,
        guidance: float,
        generator: torch.Generator,
    ) -> Tensor:
        if isinstance(self.frame_decoder, FrameRegressor):
            return self.frame_decoder(z_BMC[: noise_BME.shape[0]])
        decoder = self.frame_decoder
        condition = decoder.condition_proj(z_BMC)
        times = sampling_times(self.config.frame_diffusion, sampler, num_steps).to(z_BMC.device)
        time_conditions = decoder.time_condition(times)

        def predict(noisy: Tensor, index: int) -> Tensor:
            if guidance == 1.0:
                return decoder(noisy, time_conditions[index], condition)
            both = decoder(noisy.repeat(2, 1, 1), time_conditions[index], condition)
            conditioned, null = both.chunk(2)
            return null + guidance * (conditioned - null)

        config = self.config.frame_diffusion
        return sample(predict, noise_BME, config, sampler, num_steps, generator)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
