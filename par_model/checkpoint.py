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
    manifest.json                      sha256 of every file above, checked when loading
    forward_model.safetensors          what surprise judges pictures by, where there is one; not in
                                       the manifest and not read here (par_model/forward_model.py)
    surprise.json                      thresholds of surprise, likewise (par_model/surprise.py)

No pickle anywhere. Nothing is inferred from a file name. Nothing is read that manifest.json does
not list, or that lies outside the folder; and no memory is taken for a model before its
configuration is known to fit the shapes of the stored tensors.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from par_model import output_files
from par_model.camera_fit import CameraFit
from par_model.config import ModelConfig, from_values, to_json
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable
from par_model.json_file import file_in, read_object, shown, texts_of
from par_model.model import PARModel
from par_model.normalization import Statistics, from_json_dict

FORMAT_VERSION = 1
MAX_SHARD_BYTES = 15 * 2**20
_INDEX = "weights.safetensors.index.json"
_EMBEDDINGS = "instructions.embeddings"
_CAMERA = "camera.json"
_MANIFEST = "manifest.json"
_DEFAULT_FIT = CameraFit()
_COPY = "copy the checkpoint again"
_REQUIRED = ("config.json", "statistics.json", "instructions.json", "training.json", _INDEX)


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
    """Write the folder atomically: under its name it is complete, or does not exist.

    `dtype` is the type in which floating-point weights are stored. An older checkpoint of the same
    name is replaced. Raises ValueError for a folder that holds anything else.
    """
    require_replaceable(folder)
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
    replace_checkpoint(partial, folder)


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy a checkpoint, whole or not at all. Raises ValueError as require_replaceable."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    replace_checkpoint(partial, folder)


def replace_checkpoint(fresh: Path, folder: Path) -> None:
    """Move the folder `fresh` to `folder`. Raises ValueError as require_replaceable."""
    require_replaceable(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def require_replaceable(folder: Path) -> None:
    """Only a checkpoint is ever deleted. Raises ValueError for another folder with files in it."""
    kind = ("a checkpoint", "a checkpoint")
    output_files.require_replaceable(folder, _MANIFEST, "format_version", kind)


def load_checkpoint(folder: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read and verify a checkpoint; weights are converted to `dtype`, on the CPU.

    Raises:
        ValueError: the folder or a file is missing, a file does not match its sha256, a tensor is
            missing, left over or of another shape. The sentence names it.
    """
    _require_files(folder)
    _verify_manifest(folder)
    config = read_config(folder)
    texts = _texts(folder)
    statistics = from_json_dict(read_object(folder / "statistics.json", _COPY))
    _require_fit(statistics, config)
    files = _weight_files(folder)
    _require_shapes(folder, _stored_shapes(folder, files), _expected_shapes(config, len(texts)))
    with _WithoutInitialisation():
        model, codec = PARModel(config), FrameCodec(config.codec)
    embeddings = torch.empty(len(texts), config.num_text_tokens, config.text_width)
    _read_shards(folder, files, _targets(model, codec, embeddings))
    return Checkpoint(
        config=config,
        model=model.to(dtype).eval().requires_grad_(False),
        codec=codec.to(dtype).eval().requires_grad_(False),
        statistics=statistics,
        instructions=InstructionTable(texts, embeddings.to(dtype)),
        training=read_object(folder / "training.json", _COPY),
        camera_fit=_read_camera_fit(folder),
    )


def read_config(folder: Path) -> ModelConfig:
    """A checkpoint's configuration alone. Raises ValueError where it cannot be read."""
    return from_values(read_object(folder / "config.json", _COPY))


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` has a checkpoint's files; `load_checkpoint` verifies their content."""
    return (folder / _MANIFEST).is_file()


def _read_camera_fit(folder: Path) -> CameraFit:
    path = folder / _CAMERA
    return CameraFit.from_json(read_object(path, _COPY)) if path.is_file() else _DEFAULT_FIT


def _texts(folder: Path) -> tuple[str, ...]:
    """The instructions of instructions.json."""
    texts = read_object(folder / "instructions.json", _COPY).get("texts")
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not is_list or len(set(texts)) != len(texts):
        raise ValueError(
            f'checkpoint {folder}: instructions.json must hold a list "texts" of different texts; '
            f"{_COPY}."
        )
    return tuple(texts)


def _require_fit(statistics: Statistics, config: ModelConfig) -> None:
    """Raise ValueError where the statistics are of another model's actions."""
    shape = (max(1, config.horizon), config.action_width)
    if statistics.action_low.shape != shape or len(statistics.joint_names) != config.action_width:
        raise ValueError(
            f"statistics.json is of chunks of {list(statistics.action_low.shape)} numbers and "
            f"config.json of {list(shape)}; they belong to different models."
        )
    if config.proprio_width not in (0, config.action_width):
        raise ValueError(
            f"proprio_width is {config.proprio_width}; it must be 0 or the {config.action_width} "
            "joints of statistics.json. Check config.json."
        )


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
    if missing := [name for name in (*_REQUIRED, _MANIFEST) if not (folder / name).is_file()]:
        raise ValueError(f"checkpoint {folder} lacks {', '.join(missing)}; copy the whole folder.")


def _verify_manifest(folder: Path) -> None:
    """Every file that is read is listed, lies in the folder and has the sha256 that is listed."""
    manifest = read_object(folder / _MANIFEST, _COPY)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {folder} has format version {shown(manifest.get('format_version'))}; "
            f"this program reads version {FORMAT_VERSION}."
        )
    hashes = texts_of(manifest, "sha256", f"checkpoint {folder}: {_MANIFEST}", _COPY)
    for name in (*_REQUIRED, *_optional(folder), *_shard_names(folder)):
        if name not in hashes:
            raise ValueError(
                f"checkpoint {folder}: {_MANIFEST} does not list {shown(name)}, so that file "
                f"cannot be verified; {_COPY}, or save it again."
            )
    for name, expected in hashes.items():
        path = file_in(folder, name, f"checkpoint {folder}: {_MANIFEST}")
        if not path.is_file():
            raise ValueError(f"checkpoint {folder} lacks {name}; copy the whole folder.")
        if _sha256(path) != expected:
            raise ValueError(
                f"checkpoint {folder}: {name} is not the file that was saved (its sha256 differs "
                "from manifest.json); copy it again, or save the checkpoint again after a change."
            )


def _optional(folder: Path) -> tuple[str, ...]:
    return (_CAMERA,) if (folder / _CAMERA).exists() else ()


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> file name, as the index says."""
    what = f"checkpoint {folder}: {_INDEX}"
    return texts_of(read_object(folder / _INDEX, _COPY), "weight_map", what, _COPY)


def _shard_names(folder: Path) -> list[str]:
    return sorted(set(_weight_map(folder).values()))


def _weight_files(folder: Path) -> list[Path]:
    what = f"checkpoint {folder}: {_INDEX}"
    return [file_in(folder, name, what) for name in _shard_names(folder)]


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


def _targets(model: PARModel, codec: FrameCodec, embeddings: Tensor) -> dict[str, Tensor]:
    """Everything that is stored, by its stored name."""
    targets = {f"model.{name}": value for name, value in model.state_dict().items()}
    targets |= {f"codec.{name}": value for name, value in codec.state_dict().items()}
    return targets | {_EMBEDDINGS: embeddings}


def _expected_shapes(config: ModelConfig, num_texts: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a model, of which none is made."""
    with torch.device("meta"), _WithoutInitialisation():
        model, codec = PARModel(config), FrameCodec(config.codec)
        embeddings = torch.empty(num_texts, config.num_text_tokens, config.text_width)
    targets = _targets(model, codec, embeddings)
    return {name: tuple(value.shape) for name, value in targets.items()}


def _stored_shapes(folder: Path, files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in the weights' files, from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  it is no mapping
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"checkpoint {folder}: {path.name} cannot be read ({error}); copy it again."
            ) from error
    return shapes


def _require_shapes(
    folder: Path, stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    if missing := sorted(set(expected) - set(stored)):
        raise ValueError(
            f"checkpoint {folder} lacks the tensors {_some(missing)}; "
            "config.json and weights belong to different models, or the copy is incomplete."
        )
    if unknown := sorted(set(stored) - set(expected)):
        raise ValueError(
            f"checkpoint {folder} has tensors that its configuration does not know: "
            f"{_some(unknown)}; config.json and weights belong to different models."
        )
    for name, shape in stored.items():
        if shape != expected[name]:
            raise ValueError(
                f"checkpoint {folder}: tensor {name} must have shape {list(expected[name])}, got "
                f"{list(shape)}; config.json and weights belong to different models."
            )


@torch.no_grad()
def _read_shards(folder: Path, files: list[Path], targets: Mapping[str, Tensor]) -> None:
    """Fill every target from its file, a shard at a time."""
    for path in files:
        for name, value in load_file(path).items():
            if value.is_floating_point() != targets[name].is_floating_point():
                raise ValueError(
                    f"checkpoint {folder}: tensor {name} must be of type {targets[name].dtype}, "
                    f"got {value.dtype}; copy it again."
                )
            targets[name].copy_(value)


def _some(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
