# SPDX-License-Identifier: Apache-2.0
"""The graph contract: what every exported or captured graph takes, gives and writes in place.

Batch 1, static shapes. docs/reference/graph_contract.md explains it; this file is its definition.

    encode   image -> latent
    prefill  text, position (0), caches -> caches: rows [0, T) hold the instruction
    step     latents, actions, (proprio), position, slot, caches -> frame_context,
             action_context, caches: rows [position, position + slot length) hold one slot
    rebase   the same for slots 0 .. n - 1 at once; no slot input
    act      action_context, noise -> actions: the whole sampler, its steps unrolled

Caches are one tensor of keys and one of values a layer; a cache output is its input with new
rows and shares its memory. Rows that were never written may hold any finite values: the mask is a
function of the slot alone and never shows them.

Shape letters: N slots, T text tokens, K frame tokens, L actions, S tokens of the new slots,
M capacity, Y layers, H heads, D head width, P rotary pairs, C width, A action width, J joints,
c h w of a latent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from par_model.action_dit import ActionDit, CrossAttention, DitModulation
from par_model.causal_mask import causal_mask
from par_model.checkpoint import Checkpoint
from par_model.config import ModelConfig
from par_model.diffusion import DdimStep, EulerStep, denoise_step, sampling_coefficients
from par_model.model import PARModel
from par_model.opensora_vae import FrameAttention

CONTRACT_VERSION = 1
# stands in a spec for the type that the graph is cast to
_MODEL_TYPE = "model"
# tables that stay float32 whatever the type of the weights
_FLOAT32_TABLES = ("cos", "sin", "coefficients")
GRAPH_NAMES = ("encode", "prefill", "step", "rebase", "act")

# (cache [1, H, M, D], rows [1, H, S, D], position int64 [1]) to the cache with the rows in it.
WriteRows = Callable[[Tensor, Tensor, Tensor], Tensor]
# (x [1, H, S, D], cos [S, P], sin [S, P]) to x with its first 2P dimensions rotated in pairs.
RotatePairs = Callable[[Tensor, Tensor, Tensor], Tensor]
# (queries [1, H, S, D], keys and values [1, H, M, D], bool [1, 1, S, M] or None) to [1, H, S, D];
# where the mask is True a query sees a key, and None shows all.
AttendMasked = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class GraphOperations(Protocol):
    """The three operations that runtimes spell differently."""

    write_rows: WriteRows
    rotate_pairs: RotatePairs
    attend: AttendMasked


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


def cache_names(num_layers: int, suffix: str = "") -> list[str]:
    """k_cache_0, v_cache_0, k_cache_1, ... in graph order."""
    return [f"{kind}_cache{suffix}_{y}" for y in range(num_layers) for kind in ("k", "v")]


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


def build_graphs(
    checkpoint: Checkpoint,
    operations: GraphOperations,
    sampler: str,
    num_steps: int,
    names: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Graph]:
    """Graphs of a checkpoint, on the device of its weights, which they share.

    Tables are computed with the weights as they are; then weights and tables (not rotary
    angles and sampling coefficients) become `dtype`: give float32 weights.

    Raises:
        ValueError: the model has something that static graphs cannot express.
    """
    model = checkpoint.model
    config = checkpoint.config
    require_static(config, sampler)
    makers: dict[str, Callable[[], Graph]] = {
        "encode": lambda: _encode_graph(checkpoint),
        "prefill": lambda: _prefill_graph(config, model, operations),
        "step": lambda: _extend_graph(config, model, operations, "step", 1),
        "rebase": lambda: _extend_graph(config, model, operations, "rebase", rebase_slots(config)),
        "act": lambda: _act_graph(model, operations, sampler, num_steps),
    }
    graphs = {name: makers[name]() for name in names or graph_names(config)}
    # All are made before any is cast: they share the weights.
    return {name: _cast(graph, dtype) for name, graph in graphs.items()}


def _cast(graph: Graph, dtype: torch.dtype) -> Graph:
    kept = {name: table for name, table in graph.module.named_buffers() if name in _FLOAT32_TABLES}
    graph.module.to(dtype)
    for name, table in kept.items():
        setattr(graph.module, name, table)
    return Graph(_as_type(graph.spec, str(dtype).removeprefix("torch.")), graph.module)


def _as_type(spec: GraphSpec, dtype: str) -> GraphSpec:
    def cast(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, dtype=dtype) if t.dtype == _MODEL_TYPE else t for t in tensors)

    return replace(spec, inputs=cast(spec.inputs), outputs=cast(spec.outputs))


def context_slots(config: ModelConfig) -> int:
    """Slots that the policy remembers: the caches hold no more, and cost follows their size."""
    return min(config.sampling.context_slots, config.num_slots)


def context_capacity(config: ModelConfig) -> int:
    """Tokens of the instruction and of the remembered slots."""
    return config.num_text_tokens + context_slots(config) * config.slot_length


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
    if config.action_head == "diffusion" and sampler not in ("ddim", "flow_matching"):
        raise ValueError(
            f"the act graph unrolls 'ddim' or 'flow_matching', not {sampler!r}; use backend "
            "'eager' for it, or set sampling.action_sampler to 'ddim'."
        )


# ---- encode


class EncodeGraph(nn.Module):
    """The picture's latent. The video autoencoder attends with one head of 512, for which TensorRT
    has no fused kernel."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.codec = checkpoint.codec.for_pictures()
        for module in self.codec.modules():
            if isinstance(module, FrameAttention):
                module.attend = attend_by_products

    def forward(self, image_1HWC: Tensor) -> Tensor:
        return self.codec.encode(image_1HWC)


def _encode_graph(checkpoint: Checkpoint) -> Graph:
    config = checkpoint.config
    image = TensorSpec("image", "uint8", (1, config.image_height, config.image_width, 3))
    shape = (1, config.codec.latent_channels, config.latent_height, config.latent_width)
    spec = GraphSpec("encode", (image,), (TensorSpec("latent", _MODEL_TYPE, shape),))
    return Graph(spec, EncodeGraph(checkpoint))


# ---- prefill, step, rebase


class PrefillGraph(nn.Module):
    """The instruction's keys and values into rows [0, T)."""

    def __init__(self, model: PARModel, operations: GraphOperations) -> None:
        super().__init__()
        self.tokenizer, self.transformer = model.tokenizer, model.transformer
        self.write_rows, self.attend = operations.write_rows, operations.attend

    def forward(self, text_1TC: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        tokens = self.tokenizer.text_tokens(text_1TC)
        written: list[Tensor] = []
        source = iter(caches)
        for block in self.transformer.blocks:
            # Text stands at rotary position 0: nothing turns.
            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                written.append(self.write_rows(next(source), k, position))
                written.append(self.write_rows(next(source), v, position))
                return self.attend(q, k, v, None)

            tokens = block(tokens, attend)
        return tuple(written)


class ExtendGraph(nn.Module):
    """One slot after the cache, or the first n slots at once.

    Time and space embeddings, rotary angles and the mask are tables over slots, computed once in
    float32 at least and gathered by `slot`.
    """

    def __init__(
        self, config: ModelConfig, model: PARModel, operations: GraphOperations, num_slots: int
    ) -> None:
        super().__init__()
        self.config = config
        self.num_slots = num_slots
        self.tokenizer, self.transformer = model.tokenizer, model.transformer
        self.write_rows, self.attend = operations.write_rows, operations.attend
        self.turn = operations.rotate_pairs
        for name, table in _slot_tables(config, model).items():
            if num_slots > 1:
                table = table[:num_slots]
            self.register_buffer(name, table, persistent=False)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the graph's spec."""
        source = iter(tensors)
        latents_1Nchw, actions_1NLA = next(source), next(source)
        proprio_1NJ = next(source) if self.config.proprio_width else None
        position = next(source)
        slot = next(source) if self.num_slots == 1 else None
        tables = {
            name: table if slot is None else table.index_select(0, slot)
            for name, table in self.named_buffers(recurse=False)
        }
        tokens_1SC = self._tokens(latents_1Nchw, actions_1NLA, proprio_1NJ, tables, slot)
        mask_SM = tables["mask"].flatten(0, 1)
        angles = None
        if "cos" in tables:
            angles = tables["cos"].flatten(0, 1), tables["sin"].flatten(0, 1)
        z_1SC, caches = self._transform(tokens_1SC, mask_SM, angles, position, source)
        z_1NSC = z_1SC.unflatten(1, (self.num_slots, self.config.slot_length))
        num_frame_tokens = self.config.num_frame_tokens
        return (z_1NSC[:, :, :num_frame_tokens], z_1NSC[:, :, num_frame_tokens:], *caches)

    def _tokens(
        self,
        latents_1Nchw: Tensor,
        actions_1NLA: Tensor,
        proprio_1NJ: Tensor | None,
        tables: dict[str, Tensor],
        slot: Tensor | None,
    ) -> Tensor:
        tokenizer = self.tokenizer
        frames_NKC = tokenizer.frame_patches(latents_1Nchw[0]) + tables["frame_places"]
        actions_NLC = tokenizer.action_embed(actions_1NLA[0])
        # Slot 0 carries the Begin-Of-Action; its actions are not read.
        if slot is None:
            first, later = tokenizer.begin_of_action.unsqueeze(0), actions_NLC[1:]
            actions_NLC = torch.cat((first, later))
        else:
            is_first = (slot == 0).view(1, 1, 1)
            actions_NLC = torch.where(is_first, tokenizer.begin_of_action, actions_NLC)
        if proprio_1NJ is not None:
            actions_NLC = actions_NLC + tokenizer.proprio_embed(proprio_1NJ[0]).unsqueeze(1)
        actions_NLC = actions_NLC + tables["action_places"]
        return torch.cat((frames_NKC, actions_NLC), dim=1).flatten(0, 1).unsqueeze(0)

    def _transform(
        self,
        tokens_1SC: Tensor,
        mask_SM: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        position: Tensor,
        caches: Iterator[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        written: list[Tensor] = []

        def rotate(x_1HSD: Tensor) -> Tensor:
            cos_SP, sin_SP = angles
            return self.turn(x_1HSD.to(cos_SP.dtype), cos_SP, sin_SP).to(x_1HSD.dtype)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys = self.write_rows(next(caches), k, position)
            values = self.write_rows(next(caches), v, position)
            written.extend((keys, values))
            return self.attend(q, keys, values, mask_SM.view(1, 1, *mask_SM.shape))

        for block in self.transformer.blocks:
            tokens_1SC = block(tokens_1SC, attend, rotate if angles else None)
        return self.transformer.norm(tokens_1SC), written


def _slot_tables(config: ModelConfig, model: PARModel) -> dict[str, Tensor]:
    """What depends on the slot alone, by slot: places [N, K, C] and [N, 1, C], angles [N, S, P],
    mask bool [N, S, M]."""
    tokenizer, layout = model.tokenizer, model.layout[: context_capacity(config)]
    num_slots, start = context_slots(config), config.num_text_tokens
    weight = tokenizer.frame_embed.weight
    slots_1N = torch.arange(num_slots, device=weight.device).unsqueeze(0)
    blank = weight.new_zeros(1, num_slots, config.num_frame_tokens, config.transformer.width)
    places = tokenizer.add_positions(blank, slots_1N)[0]
    times = torch.zeros_like(places[:, :1])
    if config.position_mode != "rope3d":
        times = tokenizer.time_embed(tokenizer.slot_times(slots_1N))[0].unsqueeze(1)
    mask = causal_mask(layout[start:], layout, model.rules)
    tables = {
        "frame_places": places,
        "action_places": times,
        "mask": mask.unflatten(0, (num_slots, config.slot_length)),
    }
    rotation = tokenizer.rotation(layout[start:])
    if rotation is not None:
        tables["cos"] = rotation.cos.unflatten(0, (num_slots, config.slot_length))
        tables["sin"] = rotation.sin.unflatten(0, (num_slots, config.slot_length))
    return {name: table.detach().clone() for name, table in tables.items()}


def cache_specs(config: ModelConfig, model: PARModel, suffix: str = "") -> tuple[TensorSpec, ...]:
    transformer = model.transformer
    assert transformer is not None
    shape = (1, transformer.num_heads, context_capacity(config), transformer.head_width)
    names = cache_names(len(transformer.blocks), suffix)
    return tuple(TensorSpec(name, _MODEL_TYPE, shape) for name in names)


_POSITION = TensorSpec("position", "int64", (1,))
_SLOT = TensorSpec("slot", "int64", (1,))


def _aliases(config: ModelConfig, model: PARModel) -> tuple[tuple[str, str], ...]:
    given, made = cache_specs(config, model), cache_specs(config, model, "_out")
    return tuple((after.name, before.name) for before, after in zip(given, made, strict=True))


def _prefill_graph(config: ModelConfig, model: PARModel, operations: GraphOperations) -> Graph:
    text = TensorSpec("text", _MODEL_TYPE, (1, config.num_text_tokens, config.text_width))
    spec = GraphSpec(
        "prefill",
        (text, _POSITION, *cache_specs(config, model)),
        cache_specs(config, model, "_out"),
        _aliases(config, model),
    )
    return Graph(spec, PrefillGraph(model, operations))


def _extend_graph(
    config: ModelConfig,
    model: PARModel,
    operations: GraphOperations,
    name: str,
    num_slots: int,
) -> Graph:
    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)
    chunk, width = (config.num_actions, config.action_width), config.transformer.width
    inputs = [
        TensorSpec("latents", _MODEL_TYPE, (1, num_slots, *latent)),
        TensorSpec("actions", _MODEL_TYPE, (1, num_slots, *chunk)),
    ]
    if config.proprio_width:
        inputs.append(TensorSpec("proprio", _MODEL_TYPE, (1, num_slots, config.proprio_width)))
    inputs += [_POSITION, _SLOT] if num_slots == 1 else [_POSITION]
    outputs = (
        TensorSpec("frame_context", _MODEL_TYPE, (1, num_slots, config.num_frame_tokens, width)),
        TensorSpec("action_context", _MODEL_TYPE, (1, num_slots, config.num_actions, width)),
    )
    spec = GraphSpec(
        name,
        (*inputs, *cache_specs(config, model)),
        (*outputs, *cache_specs(config, model, "_out")),
        _aliases(config, model),
    )
    return Graph(spec, ExtendGraph(config, model, operations, num_slots))


# ---- act


class ActStep(nn.Module):
    """One step of the sampler; everything that differs between steps is an argument."""

    def __init__(
        self,
        model: PARModel,
        operations: GraphOperations,
        kind: type[DdimStep | EulerStep],
    ) -> None:
        super().__init__()
        self.head = model.action_head
        self.attend = operations.attend
        self.clip_range = model.config.action_diffusion.clip_range
        self.kind = kind

    def forward(self, current_1LA: Tensor, *tensors: Tensor) -> Tensor:
        """`tensors` are the sampler's coefficients (0-d), each block's keys, then values, then
        nine norm rows [C] a block and two for the last norm."""
        blocks = self.head.blocks
        source = iter(tensors)
        coefficients = [next(source) for _ in fields(self.kind)]
        keys, values = ([next(source) for _ in blocks] for _ in range(2))
        rows = list(source)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.attend(q, k, v, None)

        noisy = current_1LA.to(keys[0].dtype)
        x = self.head.embed(noisy) + self.head.step_positions.to(noisy.dtype)
        for number, block in enumerate(blocks):
            shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = rows[
                9 * number : 9 * number + 9
            ]
            x = x + gate1 * block.self_attention(_norm(x, scale1, shift1), attend)
            x = x + gate2 * _attend_to_context(
                block.cross_attention, _norm(x, scale2, shift2), keys[number], values[number]
            )
            x = x + gate3 * block.mlp(_norm(x, scale3, shift3))
        shift, scale = rows[-2:]
        predicted = self.head.head(_norm(x, scale, shift)).to(current_1LA.dtype)
        return denoise_step(self.kind(*coefficients), current_1LA, predicted, self.clip_range)


class ActContext(nn.Module):
    """Z_A to the keys of every block, then the values: once a chunk."""

    def __init__(self, model: PARModel) -> None:
        super().__init__()
        self.head = model.action_head

    def forward(self, context_1ZC: Tensor) -> tuple[Tensor, ...]:
        context = self.head.context(context_1ZC)
        return (*context.keys, *context.values)


class ActGraph(nn.Module):
    """The Action-DiT and its sampler, unrolled. Norm statistics of every step are constants; the
    sample is accumulated in float32 whatever the network's type.

    Attributes:
        coefficients: float32 [number of steps, numbers a step].
        rows: [number of steps, R, C], the norm rows that `ActStep` takes.
    """

    coefficients: Tensor
    rows: Tensor

    def __init__(
        self, model: PARModel, operations: GraphOperations, sampler: str, num_steps: int
    ) -> None:
        super().__init__()
        config = model.config.action_diffusion
        steps = sampling_coefficients(config, sampler, num_steps)
        coefficients = torch.tensor([astuple(step) for step in steps])
        modulations = model.action_modulations(sampler, num_steps)
        rows = torch.stack([_norm_rows(modulation) for modulation in modulations])
        self.register_buffer("coefficients", coefficients.to(rows.device), persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        self.context = ActContext(model)
        self.step = ActStep(model, operations, type(steps[0]))

    def forward(self, context_1ZC: Tensor, noise_1LA: Tensor) -> Tensor:
        keys_values = self.context(context_1ZC)
        current = noise_1LA
        for coefficients, rows in zip(self.coefficients, self.rows, strict=True):
            current = self.step(current, *coefficients.unbind(), *keys_values, *rows.unbind())
        return current


def _attend_to_context(
    attention: CrossAttention, x_1LC: Tensor, keys_1HZD: Tensor, values_1HZD: Tensor
) -> Tensor:
    """CrossAttention.forward by plain products. The scores are L x Z, tiny; and TensorRT-RTX 1.7.1
    crashes while it compiles fused bfloat16 attention whose keys serve several steps."""
    queries_1HLD = attention.q(x_1LC).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    attended_1HLD = attend_by_products(queries_1HLD, keys_1HZD, values_1HZD)
    return attention.proj(attended_1HLD.transpose(1, 2).flatten(2))


def attend_fused(
    queries_1HSD: Tensor, keys_1HMD: Tensor, values_1HMD: Tensor, mask_11SM: Tensor | None = None
) -> Tensor:
    """An AttendMasked that exporters keep as one operator where their dialect has it."""
    return functional.scaled_dot_product_attention(
        queries_1HSD, keys_1HMD, values_1HMD, attn_mask=mask_11SM
    )


def attend_by_products(
    queries_1HSD: Tensor, keys_1HMD: Tensor, values_1HMD: Tensor, mask_11SM: Tensor | None = None
) -> Tensor:
    """An AttendMasked without a fused operator; softmax in float32."""
    queries_1HSD = queries_1HSD * queries_1HSD.shape[-1] ** -0.5
    scores_1HSM = queries_1HSD @ keys_1HMD.transpose(-1, -2)
    if mask_11SM is not None:
        scores_1HSM = torch.where(mask_11SM, scores_1HSM, -torch.inf)
    weights_1HSM = torch.softmax(scores_1HSM, dim=-1, dtype=torch.float32).to(queries_1HSD.dtype)
    return weights_1HSM @ values_1HMD


def _norm_rows(modulation: DitModulation) -> Tensor:
    """[R, C] of one step: shift, scale, gate thrice a block, then the last shift and scale. A
    norm's (1 + scale) and shift are its weight and bias."""
    rows = torch.cat((*(block[0] for block in modulation.blocks), modulation.last[0])).clone()
    rows[1::3] += 1
    return rows.detach()


class RegressGraph(nn.Module):
    """PAR-Discrete's act: the noise is not read."""

    def __init__(self, model: PARModel) -> None:
        super().__init__()
        self.head = model.action_head

    def forward(self, context_1LC: Tensor, noise_1LA: Tensor) -> Tensor:
        return self.head(context_1LC).to(noise_1LA.dtype) + 0.0 * noise_1LA


def _norm(x: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
    return functional.layer_norm(x, weight_C.shape, weight_C, bias_C, eps=1e-6)


def _act_graph(model: PARModel, operations: GraphOperations, sampler: str, num_steps: int) -> Graph:
    config = model.config
    chunk = (1, config.num_actions, config.action_width)
    context = (1, config.num_actions, config.transformer.width)
    spec = GraphSpec(
        "act",
        (TensorSpec("action_context", _MODEL_TYPE, context), TensorSpec("noise", "float32", chunk)),
        (TensorSpec("actions", "float32", chunk),),
    )
    if isinstance(model.action_head, ActionDit):
        return Graph(spec, ActGraph(model, operations, sampler, num_steps))
    return Graph(spec, RegressGraph(model))
