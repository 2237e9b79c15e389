# SPDX-License-Identifier: Apache-2.0
"""The contract between PARPolicy and what runs the network: batch 1, numpy in, numpy out.

A runtime owns the weights and the memory of caches; the policy owns the episode. Shapes: H W
image, c h w latent, N slots, L actions, D action width, J joints, K frame tokens, Z context
tokens, C width.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from par_model.config import ModelConfig
from par_model.interface import ImageArray

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SlotInputs:
    """N physical tokens before embedding.

    Attributes:
        latents: what `encode` returned, N of them.
        actions: normalised actions that led to each frame, each float32 [L, D]; the first is not
            read where the slots start with BOA.
        proprio: normalised measured joints at each frame, each float32 [J].
    """

    latents: tuple[Any, ...]
    actions: tuple[Float32Array, ...]
    proprio: tuple[Float32Array, ...]

    def __len__(self) -> int:
        return len(self.latents)


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


class PolicyGraphs(Protocol):
    """What every runtime offers. Latents, caches and contexts are the runtime's own objects; the
    policy keeps and returns them without looking inside."""

    @property
    def config(self) -> ModelConfig:
        """Of the model that it runs."""

    @property
    def name(self) -> str:
        """Runtime and device, for logs."""

    def encode(self, image: ImageArray) -> Any:
        """uint8 [H, W, 3] to a latent; in clip mode also a tile [5, H, W, 3] to its last one."""

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

    def act(self, context: Any, noise: Float32Array, seed: int) -> Float32Array:
        """Sample the chunk [L, D], normalised, from `noise` [L, D]. `seed` is for samplers that
        draw more noise on the way (ddpm)."""

    def predict_frame(self, context: Any, anchor: Any | None, seed: int) -> ImageArray:
        """The model's picture of the next observation, uint8 [H, W, 3]."""


def as_float32(value: Any) -> Float32Array:
    """A runtime's array as numpy."""
    if isinstance(value, Tensor):
        value = value.detach().float().cpu().numpy()
    result: Float32Array = np.asarray(value, dtype=np.float32)
    return result
