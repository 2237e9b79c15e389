# SPDX-License-Identifier: Apache-2.0
"""manifest.json of an export: what the graphs are, what they were made from, and their hashes.

It carries its own sha256, so an edit by hand is noticed; every file it names is hashed too.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from par_model.graphs.contract import CONTRACT_VERSION, GraphSpec, TensorSpec
from par_model.json_file import file_in, read_object, shown, texts_of

# int8: of the weights of linear layers, by a runtime; an export holds the others.
Precision = Literal["fp32", "fp16", "bf16", "int8"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = tuple(DTYPES)
FILE_NAME = "manifest.json"
GOLDENS = "goldens.safetensors"


@dataclass(frozen=True)
class Manifest:
    """Everything that an engine's correctness depends on, except the engine itself.

    Attributes:
        contract_version: of contract.py.
        checkpoint_name, checkpoint_sha256: the sha256 is of the checkpoint's own manifest.json,
            or of the weights where there is no folder.
        model: name of the configuration.
        precision, opset: type of the weights and the ONNX dialect.
        sampler, num_steps: unrolled into the act graph.
        num_slots, capacity: of the cache, in slots and tokens.
        versions: of torch, onnx and onnxscript.
        graphs: borders, in the order of export.
        files: name -> sha256 of every ONNX file, its data and the goldens.
    """

    contract_version: int
    checkpoint_name: str
    checkpoint_sha256: str
    model: str
    precision: Precision
    opset: int
    sampler: str
    num_steps: int
    num_slots: int
    capacity: int
    versions: dict[str, str]
    graphs: tuple[GraphSpec, ...]
    files: dict[str, str]

    def graph(self, name: str) -> GraphSpec:
        """Raises ValueError if the export left it out."""
        for spec in self.graphs:
            if spec.name == name:
                return spec
        raise ValueError(f"the export has no graph {name!r}; export it again with all graphs.")

    def write(self, folder: Path) -> None:
        content = dataclasses.asdict(self)
        content["sha256"] = _digest(content)
        (folder / FILE_NAME).write_text(json.dumps(content, indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """Raises ValueError: missing, not JSON, edited since it was written, another contract."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise ValueError(
                f"{folder} has no {FILE_NAME}; export the checkpoint with "
                "`python -m par_model.export_trt --checkpoint C --out " + str(folder) + "`."
            )
        content = read_object(path, "export again")
        claimed = content.pop("sha256", None)
        if claimed != _digest(content):
            raise ValueError(
                f"{path} was changed after it was written (its own sha256 does not fit); "
                "export again instead of editing it."
            )
        if content.get("contract_version") != CONTRACT_VERSION:
            raise ValueError(
                f"{path} is of graph contract {shown(content.get('contract_version'))}, this "
                f"program's is {CONTRACT_VERSION}; export again."
            )
        try:
            texts_of(content, "files", str(path), "export again")
            graphs = tuple(_graph(graph) for graph in content.pop("graphs"))
            return Manifest(**content, graphs=graphs)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not describe an export ({error!r}); export again."
            ) from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raises ValueError naming the first file that is missing or not the one exported."""
    for name, expected in manifest.files.items():
        path = file_in(folder, name, str(folder / FILE_NAME))
        if not path.is_file():
            raise ValueError(f"{folder} lacks {name}, which its manifest names; export again.")
        if sha256_of(path) != expected:
            raise ValueError(
                f"{path} is not the file that was exported (its sha256 differs from "
                f"{FILE_NAME}); export again."
            )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _graph(values: dict[str, Any]) -> GraphSpec:
    return GraphSpec(
        values["name"],
        *(
            tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in values[side])
            for side in ("inputs", "outputs")
        ),
        aliases=tuple((output, source) for output, source in values["aliases"]),
    )
