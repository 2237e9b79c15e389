# SPDX-License-Identifier: Apache-2.0
"""The act graph: the action head and its sampler, unrolled.

Shape letters: L actions, A action width, C width, Z context tokens, H heads, D head width, R norm
rows.
"""

from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from par_model.action_head import ActionDit, CrossAttention, DitModulation
from par_model.diffusion import DdimStep, EulerStep, denoise_step, sampling_coefficients
from par_model.graphs.contract import MODEL_TYPE, Graph, GraphSpec, TensorSpec
from par_model.graphs.operations import GraphOperations
from par_model.model import PARModel


@dataclass(frozen=True)
class FoldedContext:
    """Cross-attention of one block to Z_A with the products that do not change over the steps taken
    in advance: queries are only multiplied by keys, and values only by the projection. A step has
    two products of C x HZ instead of two of C x C and two of each head, and reads so much less.

    Attributes:
        scores_CS: [C, HZ], the queries' weight times each head's keys, scaled.
        bias_S: [HZ], the queries' bias times the keys, scaled.
        values_SC: [HZ, C], each head's values times its part of the projection.
    """

    scores_CS: Tensor
    bias_S: Tensor
    values_SC: Tensor

    @staticmethod
    def of(attention: CrossAttention, context_1ZC: Tensor) -> "FoldedContext":
        def of_heads(x_1ZC: Tensor) -> Tensor:
            return x_1ZC[0].unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)

        keys_weight, values_weight = attention.kv.weight.chunk(2)
        keys_bias, values_bias = attention.kv.bias.chunk(2)
        keys_HZD = of_heads(functional.linear(context_1ZC, keys_weight, keys_bias))
        values_HZD = of_heads(functional.linear(context_1ZC, values_weight, values_bias))
        # The queries' bias is one more row of their weight.
        scale = keys_HZD.shape[-1] ** -0.5
        queries = torch.cat((attention.q.weight, attention.q.bias[:, None]), dim=1) * scale
        scores_HZC = keys_HZD @ queries.unflatten(0, (attention.num_heads, -1))
        values_HZC = values_HZD @ attention.proj.weight.t().unflatten(0, (attention.num_heads, -1))
        scores_CS = scores_HZC.flatten(0, 1).t()
        return FoldedContext(scores_CS[:-1], scores_CS[-1], values_HZC.flatten(0, 1))

    def attend(self, attention: CrossAttention, x_1LC: Tensor) -> Tensor:
        """What `attention` gives for x. By plain products: TensorRT-RTX 1.7.1 crashes while it
        compiles fused bfloat16 attention whose keys serve several steps."""
        scores_1LS = x_1LC @ self.scores_CS + self.bias_S
        scores_1LHZ = scores_1LS.unflatten(-1, (attention.num_heads, -1))
        weights_1LHZ = torch.softmax(scores_1LHZ, dim=-1, dtype=torch.float32).to(x_1LC.dtype)
        return weights_1LHZ.flatten(-2) @ self.values_SC + attention.proj.bias


class ActStep(nn.Module):
    """One step of the sampler; everything that differs between steps is an argument.

    Attributes:
        clean_rows: [R, C], the norm rows of a prefix; for a model with a largest delay.
    """

    clean_rows: Tensor

    def __init__(
        self,
        model: PARModel,
        operations: GraphOperations,
        kind: type[DdimStep | EulerStep],
    ) -> None:
        super().__init__()
        self.head = model.action_head
        self.attend = operations.attend
        self.clip_range = model.action_head.diffusion.clip_range
        self.kind = kind
        # torch.compile cannot read the fields of a dataclass that inherits them.
        self.num_coefficients = len(fields(kind))
        if self.head.max_delay:
            rows = _norm_rows(self.head.clean_modulation())
            self.register_buffer("clean_rows", rows, persistent=False)

    def forward(self, current_1LA: Tensor, *tensors: Tensor) -> Tensor:
        """`tensors` are the sampler's coefficients (0-d), each block's FoldedContext, then (with a
        largest delay) the prefix [1, L, A] and its length [1], then nine norm rows [C] a
        block and two for the last norm."""
        blocks = self.head.blocks
        source = iter(tensors)
        coefficients = [next(source) for _ in range(self.num_coefficients)]
        contexts = [FoldedContext(next(source), next(source), next(source)) for _ in blocks]
        mask = None
        if self.head.max_delay:
            prefix_1LA, length = next(source), next(source)
            given_L1 = torch.arange(prefix_1LA.shape[1], device=length.device)[:, None] < length
            current_1LA = torch.where(given_L1, prefix_1LA, current_1LA)
            mask = self.head.look_ahead_mask[None, None]
        rows = list(source)
        if self.head.max_delay:
            clean = self.clean_rows.unbind()
            rows = [torch.where(given_L1, *pair) for pair in zip(clean, rows, strict=True)]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.attend(q, k, v, mask)

        noisy = current_1LA.to(contexts[0].values_SC.dtype)
        x = self.head.embed(noisy) + self.head.step_positions.to(noisy.dtype)
        for number, (block, context) in enumerate(zip(blocks, contexts, strict=True)):
            shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = rows[
                9 * number : 9 * number + 9
            ]
            x = x + gate1 * block.self_attention(_norm(x, scale1, shift1), attend)
            x = x + gate2 * context.attend(block.cross_attention, _norm(x, scale2, shift2))
            x = x + gate3 * block.mlp(_norm(x, scale3, shift3))
        shift, scale = rows[-2:]
        predicted = self.head.head(_norm(x, scale, shift)).to(current_1LA.dtype)
        result = denoise_step(self.kind(*coefficients), current_1LA, predicted, self.clip_range)
        return torch.where(given_L1, prefix_1LA, result) if self.head.max_delay else result


class ActContext(nn.Module):
    """Z_A to the FoldedContext of every block, one after another: once a chunk."""

    def __init__(self, model: PARModel) -> None:
        super().__init__()
        self.head = model.action_head

    def forward(self, context_1ZC: Tensor) -> tuple[Tensor, ...]:
        projected = self.head.context_proj(context_1ZC)
        folded = [FoldedContext.of(block.cross_attention, projected) for block in self.head.blocks]
        return tuple(
            tensor for one in folded for tensor in (one.scores_CS, one.bias_S, one.values_SC)
        )


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
        steps = sampling_coefficients(model.action_head.diffusion, sampler, num_steps)
        coefficients = torch.tensor([astuple(step) for step in steps])
        schedule = model.action_head.schedule(sampler, num_steps)
        rows = torch.stack([_norm_rows(modulation) for modulation in schedule.steps])
        self.register_buffer("coefficients", coefficients.to(rows.device), persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        self.context = ActContext(model)
        self.step = ActStep(model, operations, type(steps[0]))

    def forward(self, context_1ZC: Tensor, noise_1LA: Tensor, *prefix: Tensor) -> Tensor:
        given = (*self.context(context_1ZC), *prefix)
        current = noise_1LA
        for coefficients, rows in zip(self.coefficients, self.rows, strict=True):
            current = self.step(current, *coefficients.unbind(), *given, *rows.unbind())
        return current


class RegressGraph(nn.Module):
    """PAR-Discrete's act: the noise is not read."""

    def __init__(self, model: PARModel) -> None:
        super().__init__()
        self.head = model.action_head

    def forward(self, context_1LC: Tensor, noise_1LA: Tensor) -> Tensor:
        return self.head(context_1LC).to(noise_1LA.dtype) + 0.0 * noise_1LA


def act_graph(model: PARModel, operations: GraphOperations, sampler: str, num_steps: int) -> Graph:
    config = model.config
    chunk = (1, config.horizon, config.action_width)
    context = (1, config.num_actions, config.transformer.width)
    inputs = [
        TensorSpec("action_context", MODEL_TYPE, context),
        TensorSpec("noise", "float32", chunk),
    ]
    if config.max_delay_steps:
        inputs.append(TensorSpec("prefix", "float32", chunk))
        inputs.append(TensorSpec("prefix_length", "int64", (1,)))
    spec = GraphSpec("act", tuple(inputs), (TensorSpec("actions", "float32", chunk),))
    if isinstance(model.action_head, ActionDit):
        return Graph(spec, ActGraph(model, operations, sampler, num_steps))
    return Graph(spec, RegressGraph(model))


def _norm_rows(modulation: DitModulation) -> Tensor:
    """[R, C] of one step: shift, scale, gate thrice a block, then the last shift and scale. A
    norm's (1 + scale) and shift are its weight and bias."""
    statistics = (*(block[0, :, 0] for block in modulation.blocks), modulation.last[0, :, 0])
    rows = torch.cat(statistics).clone()
    rows[1::3] += 1
    return rows.detach()


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight and bias [C], or [L, C] where rows have their own."""
    if weight.ndim == 1:
        return functional.layer_norm(x, weight.shape, weight, bias, eps=1e-6)
    return functional.layer_norm(x, weight.shape[-1:], eps=1e-6) * weight + bias
