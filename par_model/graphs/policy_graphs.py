# SPDX-License-Identifier: Apache-2.0
"""The contract between PARPolicy and what runs the network: batch 1, numpy in, numpy out.

A runtime owns the weights and the memory of caches; the policy owns the episode. Shapes: V
views, one above the other in an image of V H rows and W columns; c h w latent, N slots, L actions,
D action width, J joints, K frame tokens, Z context tokens, C width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from par_model.config import ModelConfig
from par_model.interface import ImageArray

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SlotInputs:
    """N physical tokens before embedding.

    Attributes:
        latents: what `encode` returned, N of them.
        actions: normalised actions that led to each frame, each float32 [L, D]; the first is not
            read where the slots start with BOA.
        proprio: normalised measured joints at each frame, each float32 [J].
        executed: for a model with a largest delay, which of the actions were executed, each bool
            [L].
        clock: likewise, control steps from the cache's first frame to each.
    """

    latents: tuple[Any, ...]
    actions: tuple[Float32Array, ...]
    proprio: tuple[Float32Array, ...]
    executed: tuple[BoolArray, ...] = ()
    clock: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Slot:
    """One of `SlotInputs`; `executed` is None where the model has no largest delay."""

    latent: Any
    actions: Float32Array
    proprio: Float32Array
    executed: BoolArray | None = None
    clock: int = 0


def slot_inputs(slots: Sequence[Slot]) -> SlotInputs:
    """The slots in one."""
    executed = [slot.executed for slot in slots if slot.executed is not None]
    return SlotInputs(
        tuple(slot.latent for slot in slots),
        tuple(slot.actions for slot in slots),
        tuple(slot.proprio for slot in slots),
        tuple(executed),
        tuple(slot.clock for slot in slots) if executed else (),
    )


def rebased(slots: Sequence[Slot]) -> list[Slot]:
    """The slots with a clock that starts at the first of them."""
    return [replace(slot, clock=slot.clock - slots[0].clock) for slot in slots]


@dataclass(frozen=True)
class Extended:
    """What `extend` returns, in the runtime's own objects.

    Attributes:
        first, last: contexts of the first and of the last slot that was appended. The first of
            slots that start with BOA is the mixer's anchor for all later ones.
        cache: holds the appended slots too.
    """

    first: Any
    last: Any
    cache: Any


@dataclass(frozen=True)
class Expectation:
    """What the frame head needs to know of a context to judge the next latent.

    Attributes:
        context: of the newest slot.
        anchor: of the first slot; None where that is the newest.
    """

    context: Any
    anchor: Any | None


class PolicyGraphs(Protocol):
    """What every runtime offers. Latents, caches and contexts are the runtime's own objects; the
    policy keeps and returns them without looking inside."""

    @property
    def config(self) -> ModelConfig:
        """Of the model that it runs."""

    @property
    def name(self) -> str:
        """Runtime and device, for logs."""

    @property
    def sampling_steps(self) -> tuple[int, ...]:
        """Numbers of sampling steps that `act` can, the default first, then fewer."""

    @property
    def can_fork(self) -> bool:
        """Whether two copies of an episode may go on apart from each other."""

    def encode(self, image: ImageArray) -> Any:
        """uint8 [V H, W, 3] to a latent; in clip mode also a tile [5, H, W, 3] to its last one."""

    def prefill(self, text: Float32Array) -> Any:
        """The instruction's rows [T, text width] to a cache that holds it."""

    def extend(
        self, cache: Any, slots: SlotInputs, first_slot: int, starts_with_boa: bool
    ) -> Extended:
        """Append slots. What `cache` itself holds up to its length stays valid."""

    def rewind_to_instruction(self, cache: Any) -> Any:
        """The cache without any slot."""

    def evict_oldest_slot(self, cache: Any) -> Any:
        """The cache without its first slot, later ones moved down."""

    def act(
        self,
        context: Any,
        noise: Float32Array,
        seed: int,
        prefix: Float32Array | None = None,
        num_steps: int | None = None,
    ) -> Float32Array:
        """Sample the chunk [H, D], normalised, from `noise` [H, D]; H is the model's horizon.

        Args:
            seed: for samplers that draw more noise on the way (ddpm).
            prefix: float32 [d, D], normalised actions that the chunk begins with; d is at most the
                model's largest delay.
            num_steps: one of `sampling_steps`; None is the default.
        """

    def predict_frame(self, context: Any, anchor: Any | None, seed: int) -> ImageArray:
        """The model's picture of the next observation, uint8 [V H, W, 3]."""

    def decode(self, latent: Float32Array) -> ImageArray:
        """A latent [C, V h, w] as a picture, uint8 [V H, W, 3]."""

    def foretell(self, expected: Expectation) -> Any:
        """What `observed_errors` needs to know of the slot before: the part of its work that can be
        done before the next latent is there."""

    def observed_errors(self, foretold: Any, latent: Any) -> Float32Array:
        """How badly this latent was foretold, float32 [N] for its image tokens: Eq. 4 at fixed
        noises and times."""

    def attention(self, text: Float32Array, slots: SlotInputs) -> Float32Array:
        """What the newest slot's action tokens look at, float32 [layers, heads, L, S], over the
        S = T + N (K + L) tokens of the instruction [T, text width] and of all N slots of the
        context, which start with BOA. Encodes them anew: slow, never needed to act."""


def as_float32(value: Any) -> Float32Array:
    """A runtime's array as numpy."""
    if isinstance(value, Tensor):
        value = value.detach().float().cpu().numpy()
    result: Float32Array = np.asarray(value, dtype=np.float32)
    return result


def padded_prefix(prefix: Float32Array, config: ModelConfig) -> Float32Array:
    """[d, D] to [H, D], zeros behind it.

    Raises:
        ValueError: it is longer than the model's largest delay.
    """
    if len(prefix) > config.max_delay_steps:
        raise ValueError(
            f"{len(prefix)} committed actions were given and {config.name} goes on from at most "
            f"{config.max_delay_steps}; answer earlier, or train with a larger max_delay_steps."
        )
    return np.pad(prefix, ((0, config.horizon - len(prefix)), (0, 0)))
