# SPDX-License-Identifier: Apache-2.0
"""Engine files: named by all they depend on, refused where any of it differs.

step-3f2a9c01d4e7.plan    the engine
step-3f2a9c01d4e7.json    its EngineKey in words, and the plan's sha256
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from par_model.graphs.manifest import Manifest, sha256_of
from par_model.json_file import read_object


@dataclass(frozen=True)
class Target:
    """What an engine is compiled for: the compiler and the GPU it chose kernels on.

    Attributes:
        compiler: "tensorrt" or "tensorrt_rtx".
        compiler_version: all of it, e.g. "11.4.0.106".
        compute_capability: e.g. "8.0".
        gpu_name: as the driver calls it, or None for a compiler that needs no GPU.
        driver_version: of the CUDA driver, or None likewise.
    """

    compiler: str
    compiler_version: str
    compute_capability: str
    gpu_name: str | None
    driver_version: str | None


@dataclass(frozen=True)
class EngineKey:
    """Everything that must agree between the moment an engine was built and now."""

    graph: str
    graph_sha256: str
    checkpoint_sha256: str
    contract_version: int
    precision: str
    opset: int
    num_steps: int
    num_slots: int
    capacity: int
    builder_flags: tuple[str, ...]
    compiler: str
    compiler_version: str
    compute_capability: str
    gpu_name: str | None
    driver_version: str | None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand in the file's name."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def engine_key(manifest: Manifest, graph: str, target: Target, flags: tuple[str, ...]) -> EngineKey:
    """The key of `graph` as the manifest describes it, on `target`."""
    parts = [
        f"{name} {digest}"
        for name, digest in sorted(manifest.files.items())
        if name.startswith(f"{graph}.onnx")
    ]
    return EngineKey(
        graph=graph,
        graph_sha256=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        checkpoint_sha256=manifest.checkpoint_sha256,
        contract_version=manifest.contract_version,
        precision=manifest.precision,
        opset=manifest.opset,
        num_steps=manifest.num_steps,
        num_slots=manifest.num_slots,
        capacity=manifest.capacity,
        builder_flags=flags,
        **dataclasses.asdict(target),
    )


def write_engine(folder: Path, key: EngineKey, plan: bytes) -> Path:
    """Write plan and sidecar, each whole or not at all. Returns the plan's path.

    Raises:
        ValueError: the plan is empty.
    """
    if not plan:
        raise ValueError(f"the compiler returned an empty plan for graph {key.graph!r}.")
    path = folder / f"{key.graph}-{key.digest}.plan"
    sidecar = dataclasses.asdict(key) | {"plan_sha256": hashlib.sha256(plan).hexdigest()}
    for to, content in (
        (path, plan),
        (path.with_suffix(".json"), (json.dumps(sidecar, indent=1) + "\n").encode()),
    ):
        partial = to.with_suffix(to.suffix + ".partial")
        partial.write_bytes(content)
        os.replace(partial, to)
    return path


def read_engine(folder: Path, key: EngineKey) -> bytes:
    """The plan for `key`.

    Raises:
        ValueError: there is none, it was built for something else (the sentence says what
            differs), or the file is not the one that was built.
    """
    path = folder / f"{key.graph}-{key.digest}.plan"
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        raise ValueError(_why_not(folder, key))
    sidecar = read_object(path.with_suffix(".json"), "build the engine again")
    expected = sidecar.pop("plan_sha256", None)
    if sidecar != json.loads(json.dumps(dataclasses.asdict(key))):
        raise ValueError(
            f"{path.with_suffix('.json')} was changed after it was written; build the engine again."
        )
    if sha256_of(path) != expected:
        raise ValueError(
            f"{path} is not the engine that was built (its sha256 differs from its .json); "
            "build the engine again."
        )
    return path.read_bytes()


def _why_not(folder: Path, key: EngineKey) -> str:
    found = sorted(folder.glob(f"{key.graph}-*.json"))
    again = "build it on this machine: python -m par_model.export_trt --stage build --out " + str(
        folder
    )
    if not found:
        return f"{folder} has no engine of graph {key.graph!r}; {again}."
    wanted = json.loads(json.dumps(dataclasses.asdict(key)))
    differences = []
    for path in found:
        try:
            built = read_object(path, "build the engine again")
        except ValueError as error:
            differences.append(str(error))
            continue
        parts = [
            f"{name} is {built.get(name)!r}, needed is {wanted[name]!r}"
            for name in wanted
            if built.get(name) != wanted[name]
        ]
        differences.append(f"{path.name}: {'; '.join(parts) or 'its plan is missing'}")
    return (
        f"no engine of graph {key.graph!r} in {folder} fits: {' | '.join(differences)}. "
        f"To make one that fits, {again}."
    )
