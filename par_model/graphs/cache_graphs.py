# SPDX-License-Identifier: Apache-2.0
"""prefill, step and rebase: the graphs that write the caches.

Shape letters: N slots, T text tokens, K frame tokens, L actions, S tokens of the new slots,
M capacity, H heads, D head width, P rotary pairs, C width, A action width, J joints, c h w of a
latent.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from par_model.causal_mask import causal_mask
from par_model.config import ModelConfig
from par_model.graphs.contract import (
    MODEL_TYPE,
    Graph,
    GraphSpec,
    TensorSpec,
    cache_names,
    clock_capacity,
    context_capacity,
    context_slots,
)
from par_model.graphs.operations import GraphOperations
from par_model.model import PARModel

_POSITION = TensorSpec("position", "int64", (1,))
_SLOT = TensorSpec("slot", "int64", (1,))
# Names of tables that are gathered by the control step, not by the slot.
BY_CLOCK = "by_clock_"


class PrefillGraph(nn.Module):
    """The instruction's keys and values into rows [0, T)."""

    def __init__(self, model: PARModel, operations: GraphOperations) -> None:
        super().__init__()
        self.tokenizer, self.transformer = model.tokenizer, model.transformer
        self.write_rows, self.attend = operations.write_rows, operations.attend

    def forward(self, text_1TC: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        tokens = self.tokenizer.prefix_tokens(text_1TC)
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
        tables = _slot_tables(config, model)
        if config.max_delay_steps:
            tables = {"mask": tables["mask"]}
            for name, table in _clock_tables(config, model).items():
                self.register_buffer(name, table, persistent=False)
        for name, table in tables.items():
            if num_slots > 1:
                table = table[:num_slots]
            self.register_buffer(name, table, persistent=False)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the graph's spec."""
        source = iter(tensors)
        latents_1Nchw, actions_1NLA = next(source), next(source)
        proprio_1NJ = next(source) if self.config.proprio_width else None
        executed_1NL = next(source) if self.config.max_delay_steps else None
        clock_N = next(source) if self.config.max_delay_steps else None
        position = next(source)
        slot = next(source) if self.num_slots == 1 else None
        tables = {
            name: table if slot is None else table.index_select(0, slot)
            for name, table in self.named_buffers(recurse=False)
            if not name.startswith(BY_CLOCK)
        }
        if clock_N is not None:
            tables |= self._at(clock_N)
        tokens_1SC = self._tokens(
            latents_1Nchw, actions_1NLA, proprio_1NJ, executed_1NL, tables, slot
        )
        mask_SM = tables["mask"].flatten(0, 1)
        angles = None
        if "cos" in tables:
            angles = tables["cos"].flatten(0, 1), tables["sin"].flatten(0, 1)
        z_1SC, caches = self._transform(tokens_1SC, mask_SM, angles, position, source)
        z_1NSC = z_1SC.unflatten(1, (self.num_slots, self.config.slot_length))
        num_frame_tokens = self.config.num_frame_tokens
        return (z_1NSC[:, :, :num_frame_tokens], z_1NSC[:, :, num_frame_tokens:], *caches)

    def _at(self, clock_N: Tensor) -> dict[str, Tensor]:
        """Places and angles of slots at these control steps."""
        by_clock = {
            name.removeprefix(BY_CLOCK): table.index_select(0, clock_N)
            for name, table in self.named_buffers(recurse=False)
            if name.startswith(BY_CLOCK)
        }
        times_N1C = by_clock["time"]
        tables = {
            "frame_places": self.tokenizer.frame_positions.to(times_N1C.dtype) + times_N1C,
            "action_places": times_N1C,
        }
        for name in ("cos", "sin") if "frame_cos" in by_clock else ():
            frame_NKP = by_clock[f"frame_{name}"].expand(-1, self.config.num_frame_tokens, -1)
            tables[name] = torch.cat((frame_NKP, by_clock[f"action_{name}"]), dim=1)
        return tables

    def _tokens(
        self,
        latents_1Nchw: Tensor,
        actions_1NLA: Tensor,
        proprio_1NJ: Tensor | None,
        executed_1NL: Tensor | None,
        tables: dict[str, Tensor],
        slot: Tensor | None,
    ) -> Tensor:
        tokenizer = self.tokenizer
        frames_NKC = tokenizer.frame_patches(latents_1Nchw[0]) + tables["frame_places"]
        actions_NLC = tokenizer.action_embed(actions_1NLA[0])
        if executed_1NL is not None:
            is_executed = (executed_1NL[0] > 0.5).unsqueeze(-1)
            actions_NLC = torch.where(is_executed, actions_NLC, tokenizer.not_executed)
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


def _clock_tables(config: ModelConfig, model: PARModel) -> dict[str, Tensor]:
    """What depends on a slot's control step alone, by step: [M, 1, C], angles [M, 1, P] of frames
    and [M, L, P] of actions."""
    tokenizer = model.tokenizer
    layout = model.layout[config.num_text_tokens :][: config.slot_length]
    clock_M = torch.arange(clock_capacity(config), device=layout.slots.device)
    slots_M = (clock_M / config.num_actions).clamp(max=config.num_slots - 1)
    tables = {"time": tokenizer.time_embed(tokenizer.slot_times(slots_M)).unsqueeze(1)}
    rotation = tokenizer.rotation(layout, clock_BN=clock_M[:, None])
    if rotation is not None:
        frame, action = slice(1), slice(config.num_frame_tokens, None)
        for name, table in (("cos", rotation.cos[:, 0]), ("sin", rotation.sin[:, 0])):
            tables |= {f"frame_{name}": table[:, frame], f"action_{name}": table[:, action]}
    return {BY_CLOCK + name: table.detach().clone() for name, table in tables.items()}


def prefill_graph(config: ModelConfig, model: PARModel, operations: GraphOperations) -> Graph:
    text = TensorSpec("text", MODEL_TYPE, (1, config.num_text_tokens, config.text_width))
    spec = GraphSpec(
        "prefill",
        (text, _POSITION, *_cache_specs(config, model)),
        _cache_specs(config, model, "_out"),
        _aliases(config, model),
    )
    return Graph(spec, PrefillGraph(model, operations))


def extend_graph(
    config: ModelConfig,
    model: PARModel,
    operations: GraphOperations,
    name: str,
    num_slots: int,
) -> Graph:
    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)
    chunk, width = (config.num_actions, config.action_width), config.transformer.width
    inputs = [
        TensorSpec("latents", MODEL_TYPE, (1, num_slots, *latent)),
        TensorSpec("actions", MODEL_TYPE, (1, num_slots, *chunk)),
    ]
    if config.proprio_width:
        inputs.append(TensorSpec("proprio", MODEL_TYPE, (1, num_slots, config.proprio_width)))
    if config.max_delay_steps:
        inputs.append(TensorSpec("executed", "float32", (1, num_slots, config.num_actions)))
        inputs.append(TensorSpec("clock", "int64", (num_slots,)))
    inputs += [_POSITION, _SLOT] if num_slots == 1 else [_POSITION]
    outputs = (
        TensorSpec("frame_context", MODEL_TYPE, (1, num_slots, config.num_frame_tokens, width)),
        TensorSpec("action_context", MODEL_TYPE, (1, num_slots, config.num_actions, width)),
    )
    spec = GraphSpec(
        name,
        (*inputs, *_cache_specs(config, model)),
        (*outputs, *_cache_specs(config, model, "_out")),
        _aliases(config, model),
    )
    return Graph(spec, ExtendGraph(config, model, operations, num_slots))


def _cache_specs(config: ModelConfig, model: PARModel, suffix: str = "") -> tuple[TensorSpec, ...]:
    transformer = model.transformer
    assert transformer is not None
    shape = (1, transformer.num_heads, context_capacity(config), transformer.head_width)
    names = cache_names(len(transformer.blocks), suffix)
    return tuple(TensorSpec(name, MODEL_TYPE, shape) for name in names)


def _aliases(config: ModelConfig, model: PARModel) -> tuple[tuple[str, str], ...]:
    given, made = _cache_specs(config, model), _cache_specs(config, model, "_out")
    return tuple((after.name, before.name) for before, after in zip(given, made, strict=True))
