# SPDX-License-Identifier: Apache-2.0
"""NOVA's folders as files: JSON and tensors, however they were saved.

A NOVA folder is a diffusers pipeline: transformer/, scheduler/, vae/, text_encoder/, tokenizer/,
each with its own configuration and weights. The sub-folder names are read, never the class paths
in model_index.json, which changed between releases.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from par_model.json_file import read_object, require_plain_name


def transformer_folder(folder: Path) -> Path:
    """`folder`/transformer of a pipeline, or `folder` itself where it is that part alone."""
    return folder / "transformer" if (folder / "transformer").is_dir() else folder


def read_json(path: Path) -> dict[str, object]:
    """Raises ValueError if the file is missing or not a JSON object."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; give the folder that NOVA's save_pretrained wrote, with "
            "transformer/, scheduler/ and vae/ in it."
        )
    return read_object(path, "copy the folder again")


class TensorFiles:
    """The tensors of one folder: safetensors or .bin, whole or sharded, any variant infix.

    Attributes:
        shapes: shape of every tensor by name.

    Raises:
        ValueError: no weights, or a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _weight_files(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self._files:
            for name, shape in _shapes(path).items():
                self.shapes[name] = shape

    def read(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Each of `names` once, in the files' order; one tensor in memory at a time."""
        for path in self._files:
            if path.suffix == ".bin":
                for name, value in _load_bin(path).items():
                    if name in names:
                        yield name, value
                continue
            with safe_open(path, framework="pt") as file:
                for name in names.intersection(file.keys()):
                    yield name, file.get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    """The one set of weights in the folder; plain names before variants, safetensors before bin."""
    for suffix in ("safetensors", "bin"):
        indices = sorted(folder.glob(f"*.{suffix}.index*.json"), key=lambda p: (len(p.name), p))
        if indices:
            weight_map = read_json(indices[0]).get("weight_map")
            is_map = isinstance(weight_map, dict)
            if not is_map or not all(isinstance(name, str) for name in weight_map.values()):
                raise ValueError(f"{indices[0]} has no weight_map; copy the folder again.")
            for name in set(weight_map.values()):
                require_plain_name(folder, name, str(indices[0]))
            files = [folder / name for name in sorted(set(weight_map.values()))]
            if missing := [path.name for path in files if not path.is_file()]:
                raise ValueError(f"{folder} lacks the shard {missing[0]}; copy the whole folder.")
            return files
        whole = [path for path in folder.glob(f"*.{suffix}") if "-of-" not in path.name]
        if whole:
            return [min(whole, key=lambda path: (len(path.name), path.name))]
    raise ValueError(
        f"{folder} holds no weights (*.safetensors or *.bin); give the folder that NOVA's "
        "save_pretrained wrote."
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".bin":
        return {name: tuple(value.shape) for name, value in _load_bin(path).items()}
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); the copy is incomplete or damaged, copy it again."
        ) from error


def _load_bin(path: Path) -> dict[str, Tensor]:
    """A pickle file, through torch's restricted reader and no other."""
    try:
        # Reason for reading a pickle file, here only: older NOVA folders hold .bin files. With
        # weights_only=True torch unpickles plain tensors alone, and runs no code of the file.
        values = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises what the damage happens to cause
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as plain tensors ({reason}); the file is damaged or holds "
            "more than weights. Convert it to safetensors where you trust it."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise ValueError(f"{path} must hold tensors by name and nothing else.")
    return values
