# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU: the float32 ONNX graphs; the host writes the new cache rows."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from par_model.backends.host_graphs import Array, HostGraphs
from par_model.graphs.contract import GraphSpec
from par_model.graphs.manifest import Manifest, Precision, verify_files

# Importing openvino sends an event to its makers unless this module is missing; a robot's program
# calls nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402
from openvino import opset13  # noqa: E402
from openvino.frontend.onnx import ConversionExtension  # noqa: E402

_VERSION = openvino.__version__.split("-")[0]
# Smaller matrices take no time, and what they read and write are joint angles.
_LEAST_ROUNDED = 4096
_INT8_GROUP = 32


class OpenVinoRuntime(HostGraphs):
    """GraphRuntime on a folder that `export_trt` wrote with precision fp32.

    Args:
        folder: ONNX files beside their manifest.json, whose hashes are checked.
        num_threads: of one graph; None is as many as PyTorch uses.
        precision: "fp32", or "int8" for linear layers: their matrices are rounded to 8 bits with
            one scale an output, their inputs at each run with one scale for 32 numbers. Attention
            and convolutions stay float32.

    Raises:
        ValueError: a file is missing or changed, the folder is not float32, or this OpenVINO
            refuses a graph.
    """

    def __init__(
        self, folder: Path, num_threads: int | None = None, precision: Precision = "fp32"
    ) -> None:
        manifest = Manifest.read(folder)
        if manifest.precision != "fp32":
            raise ValueError(
                f"{folder} holds {manifest.precision} graphs, and OpenVINO takes float32 "
                "ones; export with --precision fp32."
            )
        verify_files(folder, manifest)
        core = openvino.Core()
        core.add_extension(ConversionExtension("TensorScatter", _tensor_scatter))
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads or torch.get_num_threads(),
            # It would take bfloat16 by itself where the CPU has it.
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INT8_GROUP if precision == "int8" else 0,
            # The arm has other processes, which a pinned thread would have to share its core with.
            "ENABLE_CPU_PINNING": False,
        }
        self.precision = precision
        super().__init__(
            manifest,
            lambda spec: CompiledGraph(
                core, folder / f"{spec.name}.onnx", spec, settings, precision
            ),
        )

    @property
    def name(self) -> str:
        rounded = ", int8" if self.precision == "int8" else ""
        return f"OpenVINO {_VERSION} on cpu{rounded}"


class CompiledGraph:
    """A graph whose inputs are buffers of ours. Instead of a whole cache it gives the rows that
    are new in it, which are then written at `position`."""

    def __init__(
        self,
        core: Any,
        path: Path,
        spec: GraphSpec,
        settings: dict[str, Any],
        precision: Precision = "fp32",
    ) -> None:
        self._spec = spec
        self._aliases = dict(spec.aliases)
        try:
            model = _with_rows_for_caches(core.read_model(path), spec)
            if precision == "int8":
                _round_weights(model)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(
                f"OpenVINO {_VERSION} cannot run {path} ({' '.join(str(error).split())}); "
                "install the version in constraints.txt, or choose backend 'onnx' or 'eager'."
            ) from error
        owned = [s for s in spec.inputs if s.name not in self._aliases.values()]
        self._arrays = {s.name: np.zeros(s.shape, s.dtype) for s in owned}
        self._requests: dict[int, tuple[Any, Mapping[str, Array]]] = {}

    def run(self, inputs: Mapping[str, Any], cache: Mapping[str, Array]) -> dict[str, Array]:
        for name, value in inputs.items():
            np.copyto(self._arrays[name], value, casting="same_kind")
        request = self._request(cache)
        request.infer()
        results = {}
        for index, spec in enumerate(self._spec.outputs):
            value = request.get_output_tensor(index).data
            source = self._aliases.get(spec.name)
            if source is None:
                results[spec.name] = value.copy()
            else:
                start = int(self._arrays["position"][0])
                cache[source][:, :, start : start + value.shape[2]] = value
        return results

    def _request(self, cache: Mapping[str, Array]) -> Any:
        key = id(cache) if cache else 0
        if key not in self._requests:
            request = self._compiled.create_infer_request()
            for index, spec in enumerate(self._spec.inputs):
                array = cache[spec.name] if spec.name in cache else self._arrays[spec.name]
                request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
            # The cache is kept beside the request, so its id stays its own.
            self._requests[key] = request, cache
        return self._requests[key][0]


def _round_weights(model: Any) -> None:
    """Linear layers' matrices to int8 with a scale an output, as OpenVINO's products in int8 take
    them."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() != "Constant":
            continue
        matrix = source.get_data()
        if matrix.ndim != 2 or matrix.size < _LEAST_ROUNDED:
            continue
        inputs = 1 if node.get_attributes()["transpose_b"] else 0
        scale = np.abs(matrix).max(axis=inputs, keepdims=True) / 127
        scale = np.maximum(scale, np.finfo(np.float32).tiny)
        rounded = np.round(matrix / scale).astype(np.int8)
        restored = opset13.convert(opset13.constant(rounded), "f32")
        restored = opset13.multiply(restored, opset13.constant(scale.astype(np.float32)))
        node.input(1).replace_source_output(restored.output(0))


def _tensor_scatter(node: Any) -> list[Any]:
    """TensorScatter along axis 2, which OpenVINO 2026.4 does not know, by operators that it
    does."""
    cache, rows, position = (node.get_input(index) for index in range(3))
    num_rows = rows.get_partial_shape()[2].get_length()
    index = opset13.add(position, opset13.constant(np.arange(num_rows, dtype=np.int64)))
    return opset13.scatter_update(cache, index, rows, np.int64(2)).outputs()


def _with_rows_for_caches(model: Any, spec: GraphSpec) -> Any:
    """The model with the contract's order of inputs and outputs, and each cache output replaced by
    the rows that are written into it."""
    parameters = {name: p for p in model.get_parameters() for name in p.output(0).get_names()}
    caches = dict(spec.aliases)
    results = []
    for tensor in spec.outputs:
        source = model.output(tensor.name).get_node().input_value(0)
        if tensor.name in caches:
            source = source.get_node().input_value(2)
        results.append(opset13.result(source))
    return openvino.Model(results, [parameters[tensor.name] for tensor in spec.inputs], spec.name)
