# SPDX-License-Identifier: Apache-2.0
"""What a training run needs to go on after a kill: one safetensors file, replaced atomically.

A run that is resumed from it is equal, bit for bit, to one that was never stopped: weights,
optimiser moments and the sampler's place are stored, and all randomness of a step is derived from
(seed, step), so there is no hidden generator state.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from par_model.config import from_values
from par_model.training.sharding import own_part

FILE_NAME = "state.safetensors"
_FORMAT = "par_training_state_1"


@dataclass(frozen=True)
class TrainingState:
    """Named tensors, and a JSON object with the rest (step, places, settings, losses so far)."""

    tensors: dict[str, Tensor]
    values: dict[str, object]


def save_state(folder: Path, state: TrainingState) -> None:
    """Write `state` into `folder`; a kill at any moment leaves the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (FILE_NAME + ".writing")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    save_file(tensors, temporary, {"format": _FORMAT, "values": json.dumps(state.values)})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE_NAME)


def load_state(folder: Path) -> TrainingState | None:
    """The state stored in `folder`, or None if there is none.

    Raises:
        ValueError: the file is not a training state of this version.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it to start this training again."
        ) from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is not a training state of this version ({_FORMAT}), got "
            f"{metadata.get('format')!r}; remove it to start this training again."
        )
    return TrainingState(tensors, json.loads(metadata["values"]))


def require_same_run(
    folder: Path, values: Mapping[str, object], own: dict[str, Any], allow_other_data: bool
) -> None:
    """Raise ValueError unless the run of these `values` had the codec, settings and data of `own`,
    which is what it stored as "identity"."""
    stored = values["identity"]
    assert isinstance(stored, dict)
    # Runs that began before 2026-11-26 do not name their codec.
    if (codec := stored.get("codec", own["codec"])) != own["codec"]:
        raise ValueError(
            f"{folder} holds a run with the codec {codec}, got the codec {own['codec']}; give the "
            "--codec that the run began with, or another --out."
        )
    same = all(stored[name] == own[name] for name in ("config", "statistics"))
    model = from_values(own["model"])
    # How it samples and what it remembers is of no consequence for the training.
    before = dataclasses.replace(from_values(stored["model"]), sampling=model.sampling)
    same = same and before == model
    data = ("episodes", "scenes")
    same_data = allow_other_data or all(stored.get(name, []) == own[name] for name in data)
    if not same or not same_data:
        raise ValueError(
            f"{folder} holds a run with other settings or other data; resume with the same ones "
            "(--resume other-data allows other episodes), or give another --out."
        )


def require_open_length(
    folder: Path, values: Mapping[str, object], num_steps: int | None, hours: float | None
) -> None:
    """Raise ValueError where `hours` are asked for of a run whose number of steps is fixed, by
    --steps or by other hours."""
    fixed = values["num_steps"]
    if num_steps is None and fixed is not None and values.get("hours", hours) != hours:
        raise ValueError(
            f"{folder} holds step {values['step']} of a run of {fixed} steps, whose length --hours "
            "cannot change; give --steps (of the whole run) or another --out."
        )


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers, each name behind `prefix`."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def restore_module(prefix: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `module_tensors`. Raises ValueError if a name is missing or left over."""
    found = {
        name.removeprefix(prefix + "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix + ".")
    }
    missing, unknown = sorted(module.state_dict().keys() - found.keys()), None
    unknown = sorted(found.keys() - module.state_dict().keys())
    if missing or unknown:
        raise ValueError(
            f"the training state does not fit {prefix}: missing {missing[:3]}, unknown "
            f"{unknown[:3]}; was the preset changed? Start in another folder."
        )
    own = module.state_dict()
    module.load_state_dict({name: own_part(value, own[name]) for name, value in found.items()})


def optimizer_tensors(
    module: nn.Module, optimizer: torch.optim.AdamW, prefix: str = ""
) -> dict[str, Tensor]:
    """AdamW's moments by parameter name, each behind `prefix`; empty before the first step."""
    tensors = {}
    for name, parameter in module.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{prefix}{name}"] = tensor
    return tensors


def restore_optimizer(
    module: nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, Tensor], prefix: str = ""
) -> None:
    """The inverse of `optimizer_tensors`."""
    for name, parameter in module.named_parameters():
        for key, tensor in _moments(prefix + name, tensors):
            # AdamW keeps its step count on the CPU, and whole.
            if key == "step":
                optimizer.state[parameter][key] = tensor.to("cpu", copy=True)
            else:
                own = own_part(tensor, parameter)
                optimizer.state[parameter][key] = own.to(parameter.device, copy=True)


def restore_training(
    state: TrainingState,
    modules: Mapping[str, nn.Module],
    trained: nn.Module,
    optimizer: torch.optim.AdamW,
) -> int:
    """Put back what a training on one machine stored; returns the step after which it goes on.

    Args:
        modules: those stored with `module_tensors`, by prefix.
        trained: the one whose parameters `optimizer` has.

    Raises ValueError as `restore_module`.
    """
    for prefix, module in modules.items():
        restore_module(prefix, module, state.tensors)
    restore_optimizer(trained, optimizer, state.tensors)
    step = state.values["step"]
    assert isinstance(step, int)
    return step


def _moments(name: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key in ("step", "exp_avg", "exp_avg_sq"):
        if (tensor := tensors.get(f"adam.{key}.{name}")) is not None:
            yield key, tensor


def step_generator(seed: int, step: int, stream: int, device: torch.device) -> torch.Generator:
    """The generator of one training step; `stream` keeps different uses apart."""
    generator = torch.Generator(device=device)
    # SplitMix64's constants: neighbouring (seed, step, stream) give unrelated generators.
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB
    generator.manual_seed(mixed & (2**63 - 1))
    return generator
