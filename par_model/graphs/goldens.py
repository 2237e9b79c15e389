# SPDX-License-Identifier: Apache-2.0
"""A short rollout with PyTorch's answers, and the bounds for other runtimes.

Recorded once from PyTorch in float32; replayed through any PolicyGraphs. What is compared is what
the policy sees: the contexts of every slot and the sampled chunks.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from par_model.config import ModelConfig
from par_model.graphs.contract import context_slots, rebase_slots
from par_model.graphs.policy_graphs import (
    BoolArray,
    Float32Array,
    PolicyGraphs,
    Slot,
    as_float32,
    rebased,
    slot_inputs,
)
from par_model.instruction import InstructionTable
from par_model.interface import ImageArray

Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]
IndexArray = np.ndarray[Any, np.dtype[np.int64]]
NUM_GOLDEN_SLOTS = 3
_SEED = 20260101
COMPARED = ("frame_context", "action_context", "actions")


@dataclass(frozen=True)
class RolloutStep:
    """One control step's inputs: the image, the chunk that led to it, the joints, the noise.

    For a model with a largest delay also: which actions of that chunk were executed, the control
    steps since the step before (int64 [1]), and a prefix [H, D] with its length (int64 [1]).
    """

    image: ImageArray
    actions: Float32Array
    proprio: Float32Array
    noise: Float32Array
    executed: BoolArray | None = None
    span: IndexArray | None = None
    prefix: Float32Array | None = None
    prefix_length: IndexArray | None = None

    def arrays(self) -> Tensors:
        """What is given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Deviation:
    """How far one output is from the reference: the largest difference, and the smallest cosine
    over the steps."""

    max_abs: float
    cosine: float


def rollout_steps(config: ModelConfig, count: int, seed: int) -> list[RolloutStep]:
    """Steps of made-up inputs of the right sizes: smooth pictures, actions in [-1, 1]."""
    generator = np.random.default_rng(seed)
    slot, chunk = ((n, config.action_width) for n in (config.num_actions, config.horizon))
    joints = config.proprio_width or config.action_width

    def picture() -> ImageArray:
        coarse = generator.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        height, width, _ = config.picture_shape
        rows = np.arange(height) * 4 // height
        columns = np.arange(width) * 4 // width
        grain = generator.integers(0, 32, config.picture_shape)
        return (coarse[rows][:, columns] // 2 + grain).astype(np.uint8)

    def late() -> Tensors:
        if not config.max_delay_steps:
            return {}
        span = generator.integers(1, config.horizon, 1)
        missing = max(0, config.num_actions - int(span[0]))
        return {
            "executed": np.arange(config.num_actions) >= missing,
            "span": span,
            "prefix": generator.uniform(-1, 1, chunk).astype(np.float32),
            "prefix_length": generator.integers(0, config.max_delay_steps + 1, 1),
        }

    return [
        RolloutStep(
            picture(),
            generator.uniform(-1, 1, slot).astype(np.float32),
            generator.standard_normal(joints).astype(np.float32),
            generator.standard_normal(chunk).astype(np.float32),
            **late(),
        )
        for _ in range(count)
    ]


def replay(graphs: PolicyGraphs, text: Float32Array, steps: list[RolloutStep]) -> Iterator[Tensors]:
    """Run the steps as PARPolicy would (a full history is re-encoded); yields the outputs."""
    config = graphs.config
    cache = graphs.prefill(text)
    slots: list[Slot] = []
    for step in steps:
        if len(slots) == context_slots(config):
            slots = rebased(slots[len(slots) - rebase_slots(config) :])
            cache = graphs.rewind_to_instruction(cache)
            if slots:
                cache = graphs.extend(cache, slot_inputs(slots), 0, True).cache
        clock = slots[-1].clock + int(step.span[0]) if slots and step.span is not None else 0
        slot = Slot(graphs.encode(step.image), step.actions, step.proprio, step.executed, clock)
        extended = graphs.extend(cache, slot_inputs([slot]), len(slots), not slots)
        context, cache = extended.last, extended.cache
        slots.append(slot)
        prefix = None if step.prefix is None else step.prefix[: int(step.prefix_length[0])]
        yield {
            "frame_context": as_float32(context.frame),
            "action_context": as_float32(context.action),
            "actions": graphs.act(context, step.noise, 0, prefix),
        }


def record_goldens(graphs: PolicyGraphs, instructions: InstructionTable) -> Tensors:
    """The golden rollout's inputs and outputs as named arrays."""
    text = as_float32(instructions.embeddings_ITC[0])
    steps = rollout_steps(graphs.config, NUM_GOLDEN_SLOTS, _SEED)
    tensors: Tensors = {"text": text}
    for index, (step, outputs) in enumerate(zip(steps, replay(graphs, text, steps), strict=True)):
        named = {**step.arrays(), **{f"expected_{name}": value for name, value in outputs.items()}}
        tensors |= {f"{index}.{name}": np.ascontiguousarray(value) for name, value in named.items()}
    return tensors


def compare_goldens(graphs: PolicyGraphs, tensors: Tensors) -> dict[str, Deviation]:
    """Replay the golden rollout; the deviation of each output over its steps."""
    steps, expected = [], []
    for index in range(NUM_GOLDEN_SLOTS):
        names = [field.name for field in fields(RolloutStep) if f"{index}.{field.name}" in tensors]
        steps.append(RolloutStep(**{name: tensors[f"{index}.{name}"] for name in names}))
        expected.append({name: tensors[f"{index}.expected_{name}"] for name in COMPARED})
    return deviations(expected, replay(graphs, tensors["text"], steps))


def deviations(expected: Iterable[Tensors], got: Iterable[Tensors]) -> dict[str, Deviation]:
    """The largest deviation of each compared output over two rollouts."""
    worst = {name: Deviation(0.0, 1.0) for name in COMPARED}
    for reference, answer in zip(expected, got, strict=True):
        for name in COMPARED:
            now = _deviation(reference[name], answer[name])
            worst[name] = Deviation(
                max(worst[name].max_abs, now.max_abs), min(worst[name].cosine, now.cosine)
            )
    return worst


def require_close(
    found: Mapping[str, Deviation],
    precision: str,
    what: str,
    usual: Mapping[str, Deviation] | None = None,
) -> None:
    """Raises ValueError naming the output that is out of its bounds.

    fp32: 1e-4 everywhere. fp16, bf16 and int8: contexts by cosine (0.999); actions by cosine
    (0.99) and within 0.05, 5 % of a standard deviation; each bound at least twice what PyTorch
    itself deviates in that precision, where `usual` says it.
    """
    for name, deviation in found.items():
        finite = np.isfinite(deviation.max_abs) and np.isfinite(deviation.cosine)
        yardstick = Deviation(0.0, 1.0) if usual is None else usual[name]
        if precision == "fp32":
            good, bound = deviation.max_abs < 1e-4, "at most 1e-4 max abs"
        elif name == "actions":
            cosine = min(0.99, 2.0 * yardstick.cosine - 1.0)
            max_abs = max(0.05, 2.0 * yardstick.max_abs)
            good = deviation.cosine >= cosine and deviation.max_abs <= max_abs
            bound = f"cosine at least {cosine:.4g} and at most {max_abs:.3g} max abs"
        else:
            cosine = min(0.999, 2.0 * yardstick.cosine - 1.0)
            good, bound = deviation.cosine >= cosine, f"cosine at least {cosine:.4g}"
        if not (finite and good):
            raise ValueError(
                f"{what}: {name} is off by {deviation.max_abs:.3g} (cosine "
                f"{deviation.cosine:.6f}), allowed is {bound}; the graphs do not compute what "
                "PyTorch computes. Build them again on this machine, or export with another "
                "--precision."
            )


def _deviation(reference: Float32Array, answer: Float32Array) -> Deviation:
    a, b = reference.astype(np.float64).ravel(), answer.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norm if norm else float(np.array_equal(a, b))
    return Deviation(float(np.abs(a - b).max()), cosine)
