# SPDX-License-Identifier: Apache-2.0
"""A trained policy as a folder: configuration, weights, statistics, instructions, card, manifest.

    config.json                        ModelConfig
    statistics.json                    normalisation, arm and joint order named
    instructions.json                  the known instructions (their embeddings are tensors)
    camera.json                        how a camera of another size is fitted; the default rule
                                       where an older checkpoint lacks it
    weights-0000i-of-0000n.safetensors shards under 16 MiB
    weights.safetensors.index.json     tensor name -> shard
    training.json                      how it was made: data, seeds, command, hardware
    README.md                          the model card
    manifest.json                      sha256 of every other file, checked when loading

No pickle anywhere. Nothing is inferred from a file name.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from par_model.camera_fit import CameraFit
from par_model.config import ModelConfig, from_json, to_json
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable
from par_model.model import PARModel
from par_model.normalization import Statistics, from_json_dict

FORMAT_VERSION = 1
MAX_SHARD_BYTES = 15 * 2**20
_INDEX = "weights.safetensors.index.json"
_EMBEDDINGS = "instructions.embeddings"
_CAMERA = "camera.json"
_MANIFEST = "manifest.json"
_DEFAULT_FIT = CameraFit()


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a deployed policy needs."""

    config: ModelConfig
    model: PARModel
    codec: FrameCodec
    statistics: Statistics
    instructions: InstructionTable
    training: Mapping[str, object]
    camera_fit: CameraFit = _DEFAULT_FIT


def save_checkpoint(
    folder: Path,
    *,
    config: ModelConfig,
    model: PARModel,
    codec: FrameCodec,
    statistics: Statistics,
    instructions: InstructionTable,
    card: str,
    training: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
    camera_fit: CameraFit = _DEFAULT_FIT,
) -> None:
    """Write the folder as a whole: it is complete under its name, or not there.

    `dtype` is the type in which floating-point weights are stored. An older folder of the same
    name is replaced.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(to_json(config))
    _write_json(partial / "statistics.json", statistics.to_json_dict())
    _write_json(partial / "instructions.json", {"texts": list(instructions.texts)})
    _write_json(partial / _CAMERA, camera_fit.to_json())
    _write_json(partial / "training.json", dict(training))
    (partial / "README.md").write_text(card)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"codec.{name}": value for name, value in codec.state_dict().items()}
    tensors[_EMBEDDINGS] = instructions.embeddings_ITC
    _write_shards(partial, {name: _stored(value, dtype) for name, value in tensors.items()})
    _write_json(
        partial / _MANIFEST,
        {"format_version": FORMAT_VERSION, "sha256": _hashes(partial)},
    )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def load_checkpoint(folder: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read and verify a checkpoint; weights are converted to `dtype`, on the CPU.

    Raises:
        ValueError: the folder or a file is missing, a file does not match its sha256, a tensor is
            missing, left over or of another shape. The sentence names it.
    """
    _require_files(folder)
    _verify_manifest(folder)
    config = from_json((folder / "config.json").read_text())
    texts = tuple(json.loads((folder / "instructions.json").read_text())["texts"])
    with _WithoutInitialisation():
        model, codec = PARModel(config), FrameCodec(config.codec)
    embeddings = torch.empty(len(texts), config.num_text_tokens, config.text_width)
    targets = {f"model.{name}": value for name, value in model.state_dict().items()}
    targets |= {f"codec.{name}": value for name, value in codec.state_dict().items()}
    targets[_EMBEDDINGS] = embeddings
    _read_shards(folder, targets)
    return Checkpoint(
        config=config,
        model=model.to(dtype).eval().requires_grad_(False),
        codec=codec.to(dtype).eval().requires_grad_(False),
        statistics=from_json_dict(json.loads((folder / "statistics.json").read_text())),
        instructions=InstructionTable(texts, embeddings.to(dtype)),
        training=json.loads((folder / "training.json").read_text()),
        camera_fit=_read_camera_fit(folder),
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a checkpoint by its looks; `load_checkpoint` says whether it is sound."""
    return (folder / _MANIFEST).is_file()


def _read_camera_fit(folder: Path) -> CameraFit:
    path = folder / _CAMERA
    return CameraFit.from_json(path.read_text()) if path.is_file() else _DEFAULT_FIT


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    split = split_torch_state_dict_into_shards(
        tensors,
        filename_pattern="weights{suffix}.safetensors",
        max_shard_size=MAX_SHARD_BYTES,
    )
    for file_name, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file_name)
    _write_json(folder / _INDEX, {"weight_map": split.tensor_to_filename})


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: _sha256(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "manifest.json"
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"checkpoint {folder} is not a folder; give the folder that holds config.json, "
            "or train one with `python -m par_model.train`."
        )
    needed = ("config.json", "statistics.json", "instructions.json", "training.json", _INDEX)
    if missing := [name for name in (*needed, _MANIFEST) if not (folder / name).is_file()]:
        raise ValueError(f"checkpoint {folder} lacks {', '.join(missing)}; copy the whole folder.")


def _verify_manifest(folder: Path) -> None:
    manifest = json.loads((folder / _MANIFEST).read_text())
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {folder} has format version {manifest.get('format_version')}; "
            f"this program reads version {FORMAT_VERSION}."
        )
    for name, expected in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"checkpoint {folder} lacks {name}; copy the whole folder.")
        if _sha256(path) != expected:
            raise ValueError(
                f"checkpoint {folder}: {name} is not the file that was saved (its sha256 differs "
                "from manifest.json); copy it anew, or save the checkpoint again after a change."
            )


class _WithoutInitialisation(TorchFunctionMode):
    """Modules built inside keep their memory as it is: every value is about to be read."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@torch.no_grad()
def _read_shards(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill every target from its file, each stored tensor used exactly once, a shard at a time."""
    weight_map: dict[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
    if missing := sorted(set(targets) - set(weight_map)):
        raise ValueError(
            f"checkpoint {folder} lacks the tensors {_some(missing)}; "
            "config.json and weights are of different models, or the copy is incomplete."
        )
    unread = set(targets)
    for file_name in sorted(set(weight_map.values())):
        try:
            tensors = load_file(folder / file_name)
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"checkpoint {folder}: {file_name} cannot be read ({error}); copy it anew."
            ) from error
        if unknown := sorted(set(tensors) - set(targets)):
            raise ValueError(
                f"checkpoint {folder} has tensors that its configuration does not know: "
                f"{_some(unknown)}; config.json and weights are of different models."
            )
        for name, value in tensors.items():
            if value.shape != targets[name].shape:
                raise ValueError(
                    f"checkpoint {folder}: tensor {name} must have shape "
                    f"{list(targets[name].shape)}, got {list(value.shape)}; config.json and "
                    "weights are of different models."
                )
            targets[name].copy_(value)
        unread -= set(tensors)
    if unread:
        raise ValueError(
            f"checkpoint {folder} lacks the tensors {_some(sorted(unread))}; copy it anew."
        )


def _some(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
