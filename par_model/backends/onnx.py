# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: float32 graphs (float16 too, to check an export), cache rows written in
place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from par_model.backends.host_graphs import Array, HostGraphs
from par_model.graphs.contract import GraphSpec
from par_model.graphs.manifest import Manifest, verify_files

# What it raises for operators that it does not have, by version.
_REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxRuntime(HostGraphs):
    """GraphRuntime on a folder that `export_trt` wrote with precision fp32 or fp16.

    Args:
        folder: ONNX files beside their manifest.json, whose hashes are checked.
        num_threads: of one graph; None is as many as PyTorch uses.

    Raises:
        ValueError: a file is missing or changed, the folder is bfloat16, or this ONNX Runtime does
            not know its operators.
    """

    def __init__(self, folder: Path, num_threads: int | None = None) -> None:
        manifest = Manifest.read(folder)
        if manifest.precision == "bf16":
            raise ValueError(
                f"{folder} holds bf16 graphs, and ONNX Runtime on the CPU has no kernels for them; "
                "export with --precision fp32."
            )
        verify_files(folder, manifest)
        super().__init__(
            manifest, lambda spec: BoundGraph(folder / f"{spec.name}.onnx", spec, num_threads)
        )

    @property
    def name(self) -> str:
        return f"ONNX Runtime {onnxruntime.__version__} on cpu"


class BoundGraph:
    """A session whose inputs and outputs are buffers of ours: nothing is allocated in a run, and a
    cache output is its input's memory, so that only the new rows are written."""

    def __init__(self, path: Path, spec: GraphSpec, num_threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        # Threads may spin between operators, never between runs: the arm has other processes.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._spec = spec
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except _REFUSALS as error:
            raise ValueError(
                f"ONNX Runtime {onnxruntime.__version__} cannot run {path} ({str(error).strip()}); "
                "install the version in constraints.txt (it needs Python 3.11), or choose backend "
                "'eager'."
            ) from error
        self._aliases = dict(spec.aliases)
        owned = [s for s in spec.inputs if s.name not in self._aliases.values()]
        owned += [s for s in spec.outputs if s.name not in self._aliases]
        self._arrays = {s.name: np.zeros(s.shape, s.dtype) for s in owned}
        self._bindings: dict[int, tuple[Any, Mapping[str, Array]]] = {}

    def run(self, inputs: Mapping[str, Any], cache: Mapping[str, Array]) -> dict[str, Array]:
        for name, value in inputs.items():
            np.copyto(self._arrays[name], value, casting="same_kind")
        self._session.run_with_iobinding(self._binding(cache))
        return {
            spec.name: self._arrays[spec.name].copy()
            for spec in self._spec.outputs
            if spec.name not in self._aliases
        }

    def _binding(self, cache: Mapping[str, Array]) -> Any:
        key = id(cache) if cache else 0
        if key not in self._bindings:
            binding = self._session.io_binding()
            for spec in self._spec.inputs:
                array = cache[spec.name] if spec.name in cache else self._arrays[spec.name]
                _bind(binding.bind_input, spec.name, array)
            for spec in self._spec.outputs:
                source = self._aliases.get(spec.name)
                array = self._arrays[spec.name] if source is None else cache[source]
                _bind(binding.bind_output, spec.name, array)
            # The cache is kept beside the binding, so its id stays its own.
            self._bindings[key] = binding, cache
        return self._bindings[key][0]


def _bind(bind: Any, name: str, array: Array) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
