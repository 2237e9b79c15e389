# SPDX-License-Identifier: Apache-2.0
"""PolicyGraphs over graphs of static shapes: positions, slots and caches, on the host.

A GraphRuntime only runs named graphs (graphs/contract.py) on buffers; what may be run is decided
here, once for all runtimes: a position out of range is refused before anything is launched
(TensorRT would drop the write in silence), a shorter cache stays valid, a long history is
re-encoded.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from par_model.backends.torch_eager import EagerContext, TorchEager
from par_model.checkpoint import Checkpoint
from par_model.graphs.contract import (
    clock_capacity,
    context_capacity,
    context_slots,
    rebase_slots,
)
from par_model.graphs.policy_graphs import (
    Expectation,
    Extended,
    Float32Array,
    SlotInputs,
    as_float32,
    padded_prefix,
)
from par_model.interface import ImageArray


class GraphRuntime(Protocol):
    """Runs graphs of the contract. Arrays are numpy or the runtime's own."""

    @property
    def name(self) -> str:
        """Runtime and device, for logs."""

    def allocate_cache(self) -> Any:
        """Buffers of one cache, zeroed."""

    def run(self, graph: str, inputs: Mapping[str, Any], cache: Any | None) -> dict[str, Any]:
        """Run one graph; its cache outputs are written into `cache`, the others are returned as
        arrays of their own that a later run leaves alone."""


@dataclass(frozen=True, eq=False)
class _Buffers:
    """Holds a runtime's cache buffers; when the last cache that uses them goes, they are lent
    again (a captured CUDA graph stays bound to their addresses)."""

    value: Any


@dataclass(frozen=True)
class StaticCache:
    """The first `length` rows of the buffers; caches of one episode share the buffers."""

    buffers: _Buffers
    length: int

    def rewind(self, length: int) -> "StaticCache":
        """The cache as it was at `length` rows.

        Raises:
            ValueError: `length` is negative or more than what is held.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"the KV cache holds {self.length} tokens; cannot rewind to {length}.")
        return replace(self, length=length)


@dataclass(frozen=True)
class StaticContext:
    """A slot's outputs: Z_O [1, K, C] raw and Z_A [1, L, C], the runtime's arrays."""

    frame: Any
    action: Any


class StaticGraphs:
    """PolicyGraphs on a GraphRuntime.

    Args:
        pictures: draws `predict_frame` from the contexts that the runtime computed; the frame
            head's loop over sets is no static graph.
    """

    def __init__(self, checkpoint: Checkpoint, runtime: GraphRuntime, pictures: TorchEager) -> None:
        self.config = checkpoint.config
        self.runtime = runtime
        self._pictures = pictures
        self._free: list[Any] = []

    @property
    def name(self) -> str:
        return self.runtime.name

    @property
    def can_fork(self) -> bool:
        return False

    def encode(self, image: ImageArray) -> Any:
        return self.runtime.run("encode", {"image": image[None]}, None)["latent"]

    def prefill(self, text: Float32Array) -> StaticCache:
        cache = StaticCache(self._lend(), self.config.num_text_tokens)
        inputs = {"text": text[None], "position": _index(0)}
        self.runtime.run("prefill", inputs, cache.buffers.value)
        return cache

    def extend(
        self, cache: StaticCache, slots: SlotInputs, first_slot: int, starts_with_boa: bool
    ) -> Extended:
        """As PolicyGraphs.extend.

        Raises:
            ValueError: the slots do not continue the cache, or do not fit into it.
        """
        self._require_room(cache, len(slots), first_slot, starts_with_boa)
        if max(slots.clock, default=0) >= clock_capacity(self.config):
            raise ValueError(
                f"a slot {max(slots.clock)} control steps after the first one was asked for, and "
                f"the graphs know {clock_capacity(self.config)}; reset the policy."
            )
        if first_slot == 0 and 1 < len(slots) == rebase_slots(self.config):
            contexts = self._run("rebase", cache, slots, 0)
        else:
            contexts = []
            for index in range(len(slots)):
                one = SlotInputs(*(values[index : index + 1] for values in vars(slots).values()))
                length = cache.length + index * self.config.slot_length
                contexts += self._run(
                    "step", replace(cache, length=length), one, first_slot + index
                )
        length = cache.length + len(slots) * self.config.slot_length
        return Extended(contexts[0], contexts[-1], replace(cache, length=length))

    def rewind_to_instruction(self, cache: StaticCache) -> StaticCache:
        return cache.rewind(self.config.num_text_tokens)

    def evict_oldest_slot(self, cache: StaticCache) -> StaticCache:
        raise ValueError(
            "overflow 'slide' moves cache rows, which static graphs cannot; use backend 'eager'."
        )

    @property
    def sampling_steps(self) -> tuple[int, ...]:
        """One number, which the act graph unrolls."""
        return (self._pictures.num_steps,)

    def act(
        self,
        context: StaticContext,
        noise: Float32Array,
        seed: int,
        prefix: Float32Array | None = None,
        num_steps: int | None = None,
    ) -> Float32Array:
        """As PolicyGraphs.act; the samplers of static graphs draw nothing on the way, so `seed` is
        not read, and their steps are unrolled, so there is one number of them."""
        assert num_steps in (None, *self.sampling_steps)
        inputs = {"action_context": context.action, "noise": noise[None]}
        if prefix is None:
            prefix = noise[:0]
        rows = padded_prefix(prefix, self.config)
        if self.config.max_delay_steps:
            inputs |= {"prefix": rows[None], "prefix_length": _index(len(prefix))}
        return as_float32(self.runtime.run("act", inputs, None)["actions"][0])

    def predict_frame(
        self, context: StaticContext, anchor: StaticContext | None, seed: int
    ) -> ImageArray:
        """As PolicyGraphs.predict_frame, drawn by PyTorch."""
        return self._pictures.predict_frame(
            self._eager(context), None if anchor is None else self._eager(anchor), seed
        )

    def decode(self, latent: Float32Array) -> ImageArray:
        """As PolicyGraphs.decode, by PyTorch."""
        return self._pictures.decode(latent)

    def foretell(self, expected: Expectation) -> Tensor:
        """As PolicyGraphs.foretell, computed by PyTorch."""
        anchor = None if expected.anchor is None else self._eager(expected.anchor)
        return self._pictures.foretell(Expectation(self._eager(expected.context), anchor))

    def observed_errors(self, foretold: Tensor, latent: Any) -> Float32Array:
        """As PolicyGraphs.observed_errors, computed by PyTorch."""
        return self._pictures.observed_errors(foretold, self._tensor(latent))

    def attention(self, text: Float32Array, slots: SlotInputs) -> Float32Array:
        """As PolicyGraphs.attention, computed by PyTorch."""
        latents = tuple(self._tensor(latent) for latent in slots.latents)
        return self._pictures.attention(text, replace(slots, latents=latents))

    def _lend(self) -> _Buffers:
        value = self._free.pop() if self._free else self.runtime.allocate_cache()
        buffers = _Buffers(value)
        weakref.finalize(buffers, self._free.append, value)
        return buffers

    def _require_room(
        self, cache: StaticCache, num_slots: int, first_slot: int, starts_with_boa: bool
    ) -> None:
        config = self.config
        held = context_slots(config)
        if not 0 <= first_slot <= held - num_slots:
            raise ValueError(
                f"the cache holds {held} slots ({context_capacity(config)} tokens) and "
                f"slots {first_slot} to {first_slot + num_slots - 1} were asked for; rebase or "
                "reset the policy first."
            )
        expected = config.num_text_tokens + first_slot * config.slot_length
        if cache.length != expected:
            raise ValueError(
                f"slot {first_slot} starts at token {expected} and the cache holds {cache.length}; "
                "slots must follow each other without a gap."
            )
        if starts_with_boa != (first_slot == 0):
            raise ValueError(
                f"slot {first_slot} was asked for with starts_with_boa={starts_with_boa}; the "
                "Begin-Of-Action belongs to slot 0 and to it alone."
            )

    def _run(
        self, graph: str, cache: StaticCache, slots: SlotInputs, first_slot: int
    ) -> list[StaticContext]:
        latents = slots.latents
        inputs: dict[str, Any] = {
            "latents": _stack(latents),
            "actions": np.stack(slots.actions)[None],
            "position": _index(cache.length),
        }
        if self.config.proprio_width:
            inputs["proprio"] = np.stack(slots.proprio)[None]
        if self.config.max_delay_steps:
            inputs["executed"] = np.stack(slots.executed).astype(np.float32)[None]
            inputs["clock"] = np.array(slots.clock, dtype=np.int64)
        if graph == "step":
            inputs["slot"] = _index(first_slot)
        outputs = self.runtime.run(graph, inputs, cache.buffers.value)
        frames, actions = outputs["frame_context"], outputs["action_context"]
        return [StaticContext(frames[:, n], actions[:, n]) for n in range(len(slots))]

    def _eager(self, context: StaticContext) -> EagerContext:
        return EagerContext(self._tensor(context.frame), self._tensor(context.action))

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value).to(self._pictures.device, self._pictures.dtype)


def _index(value: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([value], dtype=np.int64)


def _stack(latents: tuple[Any, ...]) -> Any:
    """N latents [1, c, h, w] to [1, N, c, h, w]."""
    if isinstance(latents[0], Tensor):
        return torch.stack(latents, dim=1)
    return np.stack(latents, axis=1)
