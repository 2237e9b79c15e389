# SPDX-License-Identifier: Apache-2.0
"""How much memory a training takes, before it starts: its steps are run on tensors without data
(torch's FakeTensor), and the bytes of those that live at the same time are counted.

What is not counted, and covered by HEADROOM: the allocator's gaps, cuBLAS' and cuDNN's workspaces
and the CUDA context.
"""

import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from par_model.config import ModelConfig
from par_model.diffusion import add_noise
from par_model.model import PARModel, TrainingBatch
from par_model.training.finetuning import FinetuningConfig, prepare
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.sharding import sharded_blocks
from par_model.training.side_tasks import SideTasks
from par_model.training.training_step import StepLoss

GIB = 2**30
# Share of the memory that is planned with.
HEADROOM = 0.9


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a training, and how its step is divided to fit.

    Attributes:
        weights, average, gradients, optimizer: of the model and the side tasks; where they are
            sharded, one process's part.
        gathered: weights that are whole at the same time, and gradients before they are divided,
            where they are sharded.
        activations_per_slot: at the peak of a micro-batch, for each slot of it.
        fixed_activations: at the same moment, whatever the slots.
        memory: what the device has.
        longest_clip: slots that a micro-batch holds at least.
        micro_slots, slots_per_batch: a micro-batch's slots, and a step's (the effective batch).
        num_processes: that share a step.
        sharded: whether weights, average, gradients and moments are divided among the processes.
    """

    num_parameters: int
    weights: int
    average: int
    gradients: int
    optimizer: int
    fixed_activations: int
    activations_per_slot: int
    memory: int
    longest_clip: int
    slots_per_batch: int
    micro_slots: int
    num_processes: int = 1
    gathered: int = 0
    sharded: bool = False

    @property
    def fixed(self) -> int:
        """Bytes that no division of a step saves."""
        parts = (self.weights, self.average, self.gradients, self.optimizer, self.gathered)
        return sum(parts) + self.fixed_activations

    def total(self, micro_slots: int) -> int:
        """Bytes at the peak."""
        return self.fixed + micro_slots * self.activations_per_slot

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step that one process takes, at most."""
        return -(-self.slots_per_batch // (self.micro_slots * self.num_processes))

    def report(self) -> str:
        """The plan in lines."""
        rows = [
            ("weights (float32)", self.weights),
            ("their moving average", self.average),
            ("gradients", self.gradients),
            ("AdamW's moments", self.optimizer),
            *([("gathered at a time", self.gathered)] if self.sharded else []),
            ("activations, fixed part", self.fixed_activations),
            (
                f"activations of {self.micro_slots} slots",
                self.micro_slots * self.activations_per_slot,
            ),
            ("all", self.total(self.micro_slots)),
        ]
        lines = [f"{self.num_parameters / 1e6:.1f} M parameters"]
        if self.sharded:
            lines[0] += f", sharded over {self.num_processes} processes; of each process:"
        lines += [f"  {name:<28}{size / GIB:8.2f} GiB" for name, size in rows]
        shared = f" x {self.num_processes} processes" if self.num_processes > 1 else ""
        lines.append(
            f"effective batch: {self.slots_per_batch} slots = {self.accumulation} micro-batches of "
            f"up to {self.micro_slots} slots{shared}; memory {self.memory / GIB:.1f} GiB, of which "
            f"{HEADROOM:.0%} are planned with"
        )
        return "\n".join(lines)


def plan_memory(
    model: ModelConfig,
    config: PolicyTrainingConfig,
    finetuning: FinetuningConfig | None,
    memory: int,
    num_scene: int = 0,
    num_processes: int = 1,
    sharded: bool = False,
) -> MemoryPlan:
    """The division of a step with the largest micro-batches that fit into `memory` bytes.

    Raises:
        ValueError: not even the longest clip fits; the sentence has the numbers.
    """
    longest = 1 if config.clips.single_slot_share == 1.0 else model.num_slots
    slots_per_batch = max(config.clips.slots_per_batch, longest)
    largest = max(longest, slots_per_batch // num_processes)
    one, two = (_measured(model, config, finetuning, num_scene, clips, sharded) for clips in (1, 2))
    among = num_processes if sharded else 1
    per_slot = max(1, (two.peak - one.peak) // model.num_slots)
    plan = MemoryPlan(
        num_parameters=one.num_parameters,
        weights=-(-one.weights // among),
        average=-(-one.weights // among),
        gradients=-(-one.gradients // among),
        optimizer=2 * -(-one.gradients // among),
        fixed_activations=max(0, one.peak - per_slot * model.num_slots),
        activations_per_slot=per_slot,
        memory=memory,
        longest_clip=longest,
        slots_per_batch=slots_per_batch,
        micro_slots=longest,
        num_processes=num_processes,
        gathered=one.gathered if sharded else 0,
        sharded=sharded,
    )
    usable = int(HEADROOM * memory)
    if plan.total(longest) > usable:
        raise ValueError(_refusal(plan, finetuning))
    fitting = (usable - plan.fixed) // per_slot
    return dataclasses.replace(plan, micro_slots=_even(largest, min(largest, fitting), longest))


def _even(slots: int, most: int, least: int) -> int:
    """The smallest part, in whole longest clips, that divides `slots` into as few parts as parts
    of at most `most` do."""
    if most >= slots:
        return slots
    parts = -(-slots // most)
    even = -(-slots // parts)
    return min(most // least * least, -(-even // least) * least)


def _refusal(plan: MemoryPlan, finetuning: FinetuningConfig | None) -> str:
    full = finetuning is not None and finetuning.lora_rank is None
    hint = " --lora-rank 16 trains fewer weights," if full else ""
    if not plan.sharded and plan.num_processes > 1:
        hint += " --sharding fsdp2 divides them among the processes,"
    return (
        f"training does not fit: {plan.fixed / GIB:.1f} GiB of weights, average, gradients and "
        f"moments and {plan.longest_clip * plan.activations_per_slot / GIB:.1f} GiB for one clip "
        f"of {plan.longest_clip} slots are {plan.total(plan.longest_clip) / GIB:.1f} GiB, and "
        f"{HEADROOM:.0%} of {plan.memory / GIB:.1f} GiB are usable;{hint} a smaller picture "
        "(convert_nova --resolution p256) or context (--num-slots) takes less."
    )


@dataclass(frozen=True)
class _Measured:
    num_parameters: int
    weights: int
    gradients: int
    # bytes of activations at the peak of a forward and backward pass
    peak: int
    # bytes of whole weights and gradients at the same time, where they are sharded
    gathered: int


def _measured(
    model_config: ModelConfig,
    config: PolicyTrainingConfig,
    finetuning: FinetuningConfig | None,
    num_scene: int,
    num_clips: int,
    sharded: bool,
) -> _Measured:
    """Of a micro-batch of `num_clips` of the longest clips."""
    with tensors_without_data(model_config):
        model = PARModel(model_config)
        if finetuning is not None:
            prepare(model, finetuning)
        loss = step_loss(model, config, finetuning, num_scene)
        loss.keeps_casts = not sharded
        batch = full_clips(model_config, num_clips, num_scene)
        trained = [p for p in loss.parameters() if p.requires_grad]
        with _LiveBytes() as live:
            # Every token masked: the diffusion MLP then has the most to do.
            result = loss(batch, None, 1.0, torch.Generator(), mask_ratio=1.0)
            result.total.backward()
    gradients = _bytes(trained)
    # The peak is in the backward pass, most gradients exist by then; they are counted apart.
    peak = max(0, live.peak - gradients)
    count = sum(p.numel() for p in loss.parameters())
    weights = _bytes([*loss.parameters(), *loss.buffers()])
    return _Measured(count, weights, gradients, peak, _gathered_bytes(loss))


def _gathered_bytes(loss: StepLoss) -> int:
    """What FSDP2 makes whole: all that is outside of blocks, with its gradients and their copy that
    is sent; two blocks (one is gathered ahead), with the gradients of one and their copy."""
    blocks = [_bytes(list(block.parameters())) for block in sharded_blocks(loss.model)]
    outside = _bytes(list(loss.parameters())) - sum(blocks)
    return 3 * outside + 4 * max(blocks, default=0)


@contextmanager
def tensors_without_data(config: ModelConfig) -> Iterator[None]:
    """New modules and tensors have shapes and types alone, and so has what is computed of them."""
    for diffusion in (config.frame_diffusion, config.action_diffusion):
        # Schedules are kept: they must be real.
        add_noise(diffusion, torch.zeros(1), torch.zeros(1), torch.zeros(1))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def step_loss(
    model: PARModel,
    config: PolicyTrainingConfig,
    finetuning: FinetuningConfig | None,
    num_scene: int,
) -> StepLoss:
    """Of one step, with new side tasks that read `num_scene` numbers of a scene."""
    chunk = (model.config.num_actions, model.config.action_width)
    width = model.config.transformer.width
    side = SideTasks(width, num_scene, chunk if config.chunk_weight else None)
    return StepLoss(model, side, config, finetuning)


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def full_clips(config: ModelConfig, num_clips: int, num_scene: int) -> TrainingBatch:
    """`num_clips` of the longest clips; all numbers are zero, all actions and frames valid."""
    clips, slots = num_clips, config.num_slots
    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)
    chunk = (config.num_actions, config.action_width)
    rows = torch.arange(clips * slots)
    delays = {}
    if config.max_delay_steps:
        delays = {
            "executed_BNL": torch.ones(clips, slots, config.num_actions, dtype=torch.bool),
            "clock_BN": torch.zeros(clips, slots, dtype=torch.int64),
            "least_delay_BN": torch.zeros(clips, slots, dtype=torch.int64),
            "has_prefix_BN": torch.ones(clips, slots, dtype=torch.bool),
        }
    return TrainingBatch(
        text_BTC=torch.zeros(clips, config.num_text_tokens, config.text_width),
        latents_BNchw=torch.zeros(clips, slots + 1, *latent),
        actions_BNLD=torch.zeros(clips, slots, config.horizon, config.action_width),
        context_actions_BNLD=torch.zeros(clips, slots, *chunk),
        proprio_BNJ=torch.zeros(clips, slots + 1, max(1, config.proprio_width)),
        action_valid_BNL=torch.ones(clips, slots, config.horizon, dtype=torch.bool),
        frame_valid_BN=torch.ones(clips, slots, dtype=torch.bool),
        slot_offset_B=torch.zeros(clips, dtype=torch.int64),
        scene_BNP=torch.zeros(clips, slots, num_scene),
        action_rows_M=rows,
        frame_rows_M=rows,
        **delays,
    )


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {
            id(leaf.untyped_storage())
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def meta_model(config: ModelConfig) -> PARModel:
    """A model without numbers, to count parameters."""
    with torch.device("meta"):
        return PARModel(config)


def device_memory(device: torch.device) -> int:
    """Bytes that a training may take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    import psutil

    return psutil.virtual_memory().available
