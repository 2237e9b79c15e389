# SPDX-License-Identifier: Apache-2.0
"""From the options of `par_model.train policy` to the numbers of a run: what is not given has the
training preset's value; a step is divided so that it fits into memory."""

import math
import os
from collections.abc import Sequence
from typing import TypeVar

import torch

from par_model.config import ModelConfig
from par_model.model import count_parameters
from par_model.training.ablations import ABLATIONS
from par_model.training.clip_config import ClipConfig
from par_model.training.finetuning import FinetuningConfig
from par_model.training.memory_plan import (
    GIB,
    MemoryPlan,
    device_memory,
    meta_model,
    plan_memory,
)
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.processes import Execution, is_under_torchrun
from par_model.training.stage_options import LearningOptions, PicturesOptions
from par_model.training.training_presets import FULL_SIZE, TRAINING_PRESETS

# Smaller models are trained on a CPU without a memory plan: their batches fit.
_PLANNED_PARAMETERS = 100e6
_MOST_DATA_WORKERS = 4
_Number = TypeVar("_Number", int, float)


def training_config(
    options: LearningOptions, preset_name: str, tasks: Sequence[str], ablation: str
) -> PolicyTrainingConfig:
    """The numbers of a run; `preset_name` of TRAINING_PRESETS.

    Raises:
        ValueError: --shares cannot be read.
    """
    preset = TRAINING_PRESETS[preset_name]
    learning_rate = preset.learning_rate if options.pretrained is None else FULL_SIZE.learning_rate
    return PolicyTrainingConfig(
        num_steps=options.steps,
        hours=None if options.steps else options.hours,
        learning_rate=_or(options.learning_rate, learning_rate),
        num_warmup_steps=_or(options.warmup_steps, preset.num_warmup_steps),
        weight_decay=preset.weight_decay,
        gradient_clip=preset.gradient_clip,
        average_decay=_or(options.average_decay, preset.average_decay),
        scene_weight=_or(options.scene_weight, preset.scene_weight),
        chunk_weight=_or(options.chunk_weight, preset.chunk_weight),
        picture_weight=options.picture_weight,
        pictures_per_step=options.pictures_per_step,
        seed=options.seed,
        task_shares=tuple(sorted(_shares(options.shares, tasks).items())),
        clips=ABLATIONS[ablation].clips(_clips(options, preset.clips)),
        log_every=options.log_every,
        save_every=_or(options.save_every, preset.save_every),
        validate_every=preset.validate_every,
        evaluate_every=options.evaluate_every or None,
        evaluate_from=options.evaluate_every or 0,
        num_evaluation_episodes=options.evaluation_episodes,
        trained="next_picture" if isinstance(options, PicturesOptions) else "all",
    )


def _clips(options: LearningOptions, preset: ClipConfig) -> ClipConfig:
    return ClipConfig(
        slots_per_batch=_or(options.slots_per_batch, preset.slots_per_batch),
        context_noise=_or(options.context_noise, preset.context_noise),
        offset_share=options.offset_share,
        from_start_share=_or(options.from_start_share, preset.from_start_share),
        single_slot_share=_or(options.single_slot_share, preset.single_slot_share),
        max_slots=options.max_clip_slots,
        random_span_share=options.random_span_share,
        late_start_share=options.late_start_share,
        slow_start_share=options.slow_start_share,
        no_prefix_share=options.no_prefix_share,
        on_policy_share=options.on_policy_share,
        decisive_weight=options.decisive_weight,
    )


def _or(given: _Number | None, default: _Number) -> _Number:
    return default if given is None else given


def memory_plan(
    options: LearningOptions,
    model: ModelConfig,
    config: PolicyTrainingConfig,
    finetuning: FinetuningConfig | None,
    device: torch.device,
) -> MemoryPlan | None:
    """None for a small model on a CPU, unless it is asked for.

    Raises:
        ValueError: the training does not fit.
    """
    asked = options.plan or options.memory is not None
    is_large = count_parameters(meta_model(model)) > _PLANNED_PARAMETERS
    if not asked and device.type == "cpu" and not is_large:
        return None
    given = options.memory
    memory = device_memory(device) if given is None else int(given * GIB)
    num_processes = int(os.environ["WORLD_SIZE"]) if is_under_torchrun() else 1
    if options.plan and options.processes is not None:
        num_processes = options.processes
    return plan_memory(
        model,
        config,
        finetuning,
        memory,
        num_processes=num_processes,
        sharded=options.sharding == "fsdp2",
    )


def execution(options: LearningOptions, plan: MemoryPlan | None, device: torch.device) -> Execution:
    """How the run is computed. Raises ValueError for options that do not go together."""
    sharded = options.sharding == "fsdp2"
    if sharded and not is_under_torchrun():
        raise ValueError(
            "--sharding fsdp2 divides the weights among processes: start the command by torchrun "
            "(python -m torch.distributed.run), or leave it out."
        )
    if sharded and options.scenes:
        raise ValueError("--sharding fsdp2 does not know --scenes; leave one of the two out.")
    micro_slots = options.micro_slots
    if micro_slots is None and plan is not None and plan.micro_slots < plan.slots_per_batch:
        micro_slots = plan.micro_slots
    if micro_slots is None and is_under_torchrun():
        raise ValueError("several processes need --micro-slots, or --memory to choose it from.")
    return Execution(micro_slots, _num_data_workers(options, device), sharded)


def _num_data_workers(options: LearningOptions, device: torch.device) -> int:
    if options.data_workers is not None:
        return options.data_workers
    cores = len(os.sched_getaffinity(0))
    return min(_MOST_DATA_WORKERS, cores) if device.type == "cuda" else 0


def latent_memory(options: LearningOptions, device: torch.device) -> int:
    """How many bytes of latents one process may keep: the trainers of this machine and their data
    workers, each of which keeps its own, together keep at most half of its memory."""
    num_trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_under_torchrun() else 1
    num_readers = num_trainers * (1 + _num_data_workers(options, device))
    return _machine_memory() // 2 // num_readers


def _machine_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def training_device(name: str) -> torch.device:
    """Of --device. Raises ValueError where there is no GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was asked for, but torch finds no GPU; check nvidia-smi.")
    return torch.device(name)


def _shares(text: str | None, tasks: Sequence[str]) -> dict[str, float]:
    """ "PushCube=0.8,PickCube=0.2" -> shares; all tasks alike where nothing is given."""
    if text is None:
        return {task: 1.0 / len(tasks) for task in tasks}
    shares = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            shares[name] = float(number)
        except ValueError:
            raise ValueError(f"--shares: {part!r} is not TASK=NUMBER.") from None
        if name not in tasks:
            raise ValueError(f"--shares: no data of {name!r} is given; there is {tasks}.")
        if not 0.0 <= shares[name] < math.inf:
            raise ValueError(f"--shares: {part!r} is not a number of 0 or more.")
    if not sum(shares.values()):
        raise ValueError(f"--shares: {text!r} gives every task 0; one must have more.")
    return {task: shares.get(task, 0.0) for task in tasks}
