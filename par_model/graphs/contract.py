# SPDX-License-Identifier: Apache-2.0
"""The graph contract: what every exported or captured graph takes, gives and writes in place.

Batch 1, static shapes. docs/reference/graph_contract.md explains it; this file is its definition.

    encode   image -> latent
    prefill  text, position (0), caches -> caches: rows [0, T) hold the instruction
    step     latents, actions, (proprio), position, slot, caches -> frame_context,
             action_context, caches: rows [position, position + slot length) hold one slot
    rebase   the same for slots 0 .. n - 1 at once; no slot input
    act      action_context, noise -> actions: the whole sampler, its steps unrolled

For a model with a largest delay, step and rebase also take executed and clock (in front of
position), and act takes prefix and prefix_length (behind noise).

Caches are one tensor of keys and one of values a layer; a cache output is its input with new
rows and shares its memory. Rows that were never written may hold any finite values: the mask is a
function of the slot alone and never shows them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from par_model.config import ModelConfig
from par_model.diffusion import STATELESS_SAMPLERS

CONTRACT_VERSION = 1
GRAPH_NAMES = ("encode", "prefill", "step", "rebase", "act")
# stands in a spec for the type that the graph is cast to
MODEL_TYPE = "model"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; dtype by its numpy name, or "bfloat16"."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A graph's border. `aliases` maps a cache output to the input whose memory it shares."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Graph:
    """A module and its border; calling it takes tensors in the order of `spec.inputs`."""

    spec: GraphSpec
    module: nn.Module

    def example_inputs(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Zeros of the right shapes, for tracing."""
        return tuple(
            torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device=device)
            for spec in self.spec.inputs
        )


def cache_names(num_layers: int, suffix: str = "") -> list[str]:
    """k_cache_0, v_cache_0, k_cache_1, ... in graph order."""
    return [f"{kind}_cache{suffix}_{y}" for y in range(num_layers) for kind in ("k", "v")]


def as_type(spec: GraphSpec, dtype: str) -> GraphSpec:
    """The spec with `dtype` wherever it says MODEL_TYPE."""

    def cast(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, dtype=dtype) if t.dtype == MODEL_TYPE else t for t in tensors)

    return replace(spec, inputs=cast(spec.inputs), outputs=cast(spec.outputs))


def context_slots(config: ModelConfig) -> int:
    """Slots that the policy remembers: the caches hold no more, and cost follows their size."""
    return min(config.sampling.context_slots, config.num_slots)


def context_capacity(config: ModelConfig) -> int:
    """Tokens of the instruction and of the remembered slots."""
    return config.num_text_tokens + context_slots(config) * config.slot_length


def clock_capacity(config: ModelConfig) -> int:
    """Control steps that the remembered slots of a model with a largest delay may span."""
    return context_slots(config) * config.horizon


def rebase_slots(config: ModelConfig) -> int:
    """Slots that are kept when the context is full."""
    return context_slots(config) // 2


def graph_names(config: ModelConfig) -> tuple[str, ...]:
    """Graphs of a model; one kept slot is a step, so it needs no rebase graph."""
    return tuple(name for name in GRAPH_NAMES if name != "rebase" or rebase_slots(config) > 1)


def require_static(config: ModelConfig, sampler: str) -> None:
    """Raises ValueError naming what only the eager runtime can do."""
    if not config.num_actions:
        raise ValueError("this is a video model without actions; it has no act graph.")
    if config.text_joint_with_first_slot:
        raise ValueError(
            "the instruction of this model sees slot 0, so it has no prefill of its own; "
            "use backend 'eager'."
        )
    if not config.autoregressive:
        raise ValueError(
            "this model has no transformer (PAR-NoAR), so it has no cached step graph; "
            "use backend 'eager'."
        )
    if config.observation_mode == "clip":
        raise ValueError(
            "observation mode 'clip' encodes tiles of five pictures, and the encode graph takes "
            "one picture; use backend 'eager'."
        )
    if config.overflow == "slide":
        raise ValueError(
            "overflow 'slide' moves cache rows and counts slots without end, which static graphs "
            "cannot; use backend 'eager', or a model with overflow 'rebase'."
        )
    if config.action_head == "diffusion" and sampler not in STATELESS_SAMPLERS:
        raise ValueError(
            f"the act graph unrolls {' or '.join(map(repr, STATELESS_SAMPLERS))}, not "
            f"{sampler!r}; use backend 'eager' for it, or set sampling.action_sampler to 'ddim'."
        )
