# SPDX-License-Identifier: Apache-2.0
"""PyTorch, operation by operation: the reference that the other runtimes are compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from par_model.action_head import Prefix
from par_model.attention_weights import RecordedAttention
from par_model.checkpoint import Checkpoint
from par_model.diffusion import least_steps
from par_model.frame_codec import decode_views, encode_views
from par_model.frame_head import generation_order, surprise_draws
from par_model.graphs.policy_graphs import (
    Expectation,
    Extended,
    Float32Array,
    SlotInputs,
    as_float32,
    padded_prefix,
)
from par_model.interface import ImageArray
from par_model.kv_cache import KVCache
from par_model.model import SlotTimes


@dataclass(frozen=True)
class EagerContext:
    """A slot's outputs: Z_O [1, K, C] raw, and Z_A [1, Z, C]."""

    frame: Tensor
    action: Tensor


@dataclass(frozen=True)
class EagerCache:
    """`keys_values` is None for PAR-NoAR, which sees the instruction directly."""

    keys_values: KVCache | None
    text: Tensor


class TorchEager:
    """PolicyGraphs on a torch device.

    Args:
        checkpoint: weights and configuration; the modules are moved to `device` as `dtype`.
        num_steps: sampling steps of the action head; None is the checkpoint's default.
        sampler: of the action head; None is the checkpoint's default.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        num_steps: int | None = None,
        sampler: str | None = None,
    ) -> None:
        self.config = checkpoint.config
        self.device, self.dtype = device, dtype
        self.model = checkpoint.model.to(device, dtype)
        codec = checkpoint.codec.to(device, dtype)
        # Single pictures need no convolution over time.
        self.codec = codec.for_pictures() if self.config.observation_mode == "image" else codec
        sampling = self.config.sampling
        self.sampler = sampler or sampling.action_sampler
        self.num_steps = sampling.action_num_steps if num_steps is None else num_steps
        head = self.model.action_head
        with torch.inference_mode():
            self._schedules = {
                number: head.schedule(self.sampler, number) for number in self.sampling_steps
            }
        noise, times = surprise_draws(self.config)
        self._surprise_noise, self._surprise_times = noise.to(device, dtype), times.to(device)

    @property
    def name(self) -> str:
        return f"torch eager on {self.device.type}"

    @property
    def can_fork(self) -> bool:
        return True

    @property
    def sampling_steps(self) -> tuple[int, ...]:
        """The default and its halves, down to the fewest that the action head may take."""
        halves = (self.num_steps >> shift for shift in range(1, self.num_steps.bit_length()))
        least = least_steps(self.config.action_diffusion)
        return (self.num_steps, *(number for number in halves if number >= least))

    @torch.inference_mode()
    def encode(self, image: ImageArray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
        if pixels.ndim == 4:
            return self.codec.encode_clip(pixels.unsqueeze(0))[:, -1]
        return encode_views(self.codec, pixels.unsqueeze(0), self.config.num_views)

    @torch.inference_mode()
    def prefill(self, text: Float32Array) -> EagerCache:
        rows = self._tensor(text).unsqueeze(0)
        cache = None if self.model.transformer is None else self.model.prefill(rows)
        return EagerCache(cache, rows)

    @torch.inference_mode()
    def extend(
        self, cache: EagerCache, slots: SlotInputs, first_slot: int, starts_with_boa: bool
    ) -> Extended:
        """As PolicyGraphs.extend. Raises ValueError where the slots do not fit into the cache."""
        self._require_room(cache, len(slots))
        context, keys_values = self.model.extend(
            cache.keys_values,
            cache.text,
            torch.stack(slots.latents, dim=1),
            self._tensor(np.stack(slots.actions)).unsqueeze(0),
            self._tensor(np.stack(slots.proprio)).unsqueeze(0),
            first_slot,
            starts_with_boa,
            self._slot_times(slots),
        )
        first, last = (
            EagerContext(context.frame_BNKC[:, n], context.action_BNZC[:, n]) for n in (0, -1)
        )
        return Extended(first, last, EagerCache(keys_values, cache.text))

    def rewind_to_instruction(self, cache: EagerCache) -> EagerCache:
        if cache.keys_values is None:
            return cache
        # An instruction that saw slot 0 enters anew, together with the next slot 0.
        joint = self.config.text_joint_with_first_slot
        length = 0 if joint else self.config.num_text_tokens
        return EagerCache(cache.keys_values.rewind(length), cache.text)

    @torch.inference_mode()
    def evict_oldest_slot(self, cache: EagerCache) -> EagerCache:
        if cache.keys_values is None:
            return cache
        shorter = cache.keys_values.evict(self.config.num_text_tokens, self.config.slot_length)
        return EagerCache(shorter, cache.text)

    @torch.inference_mode()
    def act(
        self,
        context: EagerContext,
        noise: Float32Array,
        seed: int,
        prefix: Float32Array | None = None,
        num_steps: int | None = None,
    ) -> Float32Array:
        given, number = None, num_steps or self.num_steps
        if prefix is not None:
            rows = self._tensor(padded_prefix(prefix, self.config)).unsqueeze(0)
            given = Prefix.of_lengths(rows, torch.tensor([len(prefix)], device=self.device))
        actions = self.model.predict_actions(
            context.action,
            self._tensor(noise).unsqueeze(0),
            self.sampler,
            number,
            self._schedules[number],
            torch.Generator().manual_seed(seed),
            given,
        )
        result: Float32Array = actions[0].float().cpu().numpy()
        return result

    @torch.inference_mode()
    def predict_frame(
        self, context: EagerContext, anchor: EagerContext | None, seed: int
    ) -> ImageArray:
        generator = torch.Generator(self.device).manual_seed(seed)
        sampling = self.config.sampling
        latent = self.model.predict_frame(
            self.model.frame_head.condition(
                context.frame, None if anchor is None else anchor.frame
            ),
            generation_order(self.config.num_image_tokens, generator),
            generator,
            sampling.frame_sampler,
            sampling.frame_num_steps,
            sampling.frame_num_sets,
        )
        return self._picture(latent)

    @torch.inference_mode()
    def decode(self, latent: Float32Array) -> ImageArray:
        return self._picture(self._tensor(latent)[None])

    def _picture(self, latent_1Chw: Tensor) -> ImageArray:
        pictures = decode_views(self.codec, latent_1Chw, self.config.num_views)
        picture: ImageArray = pictures[0].cpu().numpy()
        return picture

    @torch.inference_mode()
    def foretell(self, expected: Expectation) -> Tensor:
        head, anchor = self.model.frame_head, expected.anchor
        return head.foretell(
            head.condition(expected.context.frame, None if anchor is None else anchor.frame)
        )

    @torch.inference_mode()
    def observed_errors(self, foretold: Tensor, latent: Tensor) -> Float32Array:
        errors = self.model.frame_head.observed_errors(
            foretold, latent, self._surprise_noise, self._surprise_times
        )
        return as_float32(errors[0])

    @torch.inference_mode()
    def attention(self, text: Float32Array, slots: SlotInputs) -> Float32Array:
        """As PolicyGraphs.attention. Raises ValueError where the model has no such attention."""
        if self.model.transformer is None or self.config.overflow == "slide":
            raise ValueError(
                "attention maps need a transformer over the whole context, which PAR-NoAR and "
                "models with overflow 'slide' do not have; choose another checkpoint."
            )
        recorded = RecordedAttention(self.config.num_actions)
        self.model.encode_clip(
            self._tensor(text).unsqueeze(0),
            torch.stack(slots.latents, dim=1),
            self._tensor(np.stack(slots.actions)).unsqueeze(0),
            self._tensor(np.stack(slots.proprio)).unsqueeze(0),
            torch.zeros(1, dtype=torch.int64, device=self.device),
            times=self._slot_times(slots),
            attend_with=recorded.attend_masked,
        )
        return as_float32(torch.cat(recorded.layers))

    def _slot_times(self, slots: SlotInputs) -> SlotTimes | None:
        if not self.config.max_delay_steps:
            return None
        executed = torch.from_numpy(np.stack(slots.executed)).to(self.device).unsqueeze(0)
        return SlotTimes(executed, torch.tensor([slots.clock], device=self.device))

    def _require_room(self, cache: EagerCache, num_slots: int) -> None:
        if cache.keys_values is None:
            return
        held = cache.keys_values.length
        end = max(held, self.config.num_text_tokens) + num_slots * self.config.slot_length
        if end > self.config.cache_capacity:
            raise ValueError(
                f"the cache holds {self.config.num_slots} slots ({self.config.cache_capacity} "
                f"tokens) and {end} tokens were asked for; rebase or reset the policy first."
            )

    def _tensor(self, array: Float32Array) -> Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)
