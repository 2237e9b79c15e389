# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines on torch's memory and streams, replayed as CUDA graphs.

A cache output that the engine declares as an alias of its input (IKVCacheUpdate) shares the
input's address; one that it does not is written to a buffer of its own and its new rows are copied
into the cache.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from par_model.backends.device_graph import Bind, Buffers, DeviceGraph, Launch, empty, empty_cache
from par_model.backends.tensorrt_module import (
    compiler_flags,
    current_target,
    started,
    tensorrt_module,
)
from par_model.graphs.contract import GraphSpec
from par_model.graphs.engine_files import Target, engine_key, read_engine
from par_model.graphs.manifest import Manifest, verify_files


class TensorRTRuntime:
    """GraphRuntime on a folder that `export_trt` built engines in.

    Args:
        folder: manifest, ONNX files and plans.
        checkpoint_sha256: of the checkpoint that is to be answered for; None does not ask.
        trt, target, device: the module, the machine and its memory; None is what is found.

    Raises:
        ValueError: no TensorRT, no GPU, an engine for another machine, TensorRT or checkpoint, a
            changed file, an engine whose border is not the manifest's. The sentence says which.
    """

    def __init__(
        self,
        folder: Path,
        checkpoint_sha256: str | None = None,
        trt: Any | None = None,
        target: Target | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.manifest = Manifest.read(folder)
        if checkpoint_sha256 not in (None, self.manifest.checkpoint_sha256):
            raise ValueError(
                f"{folder} was exported from checkpoint {self.manifest.checkpoint_name!r} "
                f"({self.manifest.checkpoint_sha256[:12]}), and the one to run is "
                f"{str(checkpoint_sha256)[:12]}; export this checkpoint."
            )
        self._trt = tensorrt_module() if trt is None else trt
        self._target = current_target(self._trt) if target is None else target
        self.device = torch.device("cuda") if device is None else device
        verify_files(folder, self.manifest)
        self._runtime = started(self._trt, "Runtime", self._trt.Logger(self._trt.Logger.WARNING))
        flags = compiler_flags(self.manifest.precision)
        self._engines: dict[str, Any] = {}
        self._graphs: dict[str, DeviceGraph] = {}
        for spec in self.manifest.graphs:
            key = engine_key(self.manifest, spec.name, self._target, flags)
            engine = self._runtime.deserialize_cuda_engine(read_engine(folder, key))
            if engine is None:
                raise ValueError(
                    f"TensorRT {self._target.compiler_version} cannot read the engine of graph "
                    f"{spec.name!r} in {folder}; build it again."
                )
            self._require_border(engine, spec)
            self._engines[spec.name] = engine
            self._graphs[spec.name] = DeviceGraph(spec, self.device, self._binder(engine, spec))

    @property
    def name(self) -> str:
        target = self._target
        return f"TensorRT {target.compiler_version} {self.manifest.precision} on {target.gpu_name}"

    def allocate_cache(self) -> dict[str, Tensor]:
        return empty_cache(self.manifest.graph("step"), self.device)

    def run(
        self, graph: str, inputs: Mapping[str, Any], cache: Buffers | None
    ) -> dict[str, Tensor]:
        return self._graphs[graph].run(inputs, cache)

    def _require_border(self, engine: Any, spec: GraphSpec) -> None:
        trt = self._trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {}
        for name in names:
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape = tuple(engine.get_tensor_shape(name))
            found[name] = (is_input, _dtype_name(trt, engine.get_tensor_dtype(name)), shape)
        expected = {t.name: (True, t.dtype, t.shape) for t in spec.inputs}
        expected |= {t.name: (False, t.dtype, t.shape) for t in spec.outputs}
        for name in sorted(set(found) | set(expected)):
            if found.get(name) != expected.get(name):
                raise ValueError(
                    f"engine of graph {spec.name!r}: tensor {name} must be "
                    f"{_border_text(expected.get(name))}, it is {_border_text(found.get(name))}; "
                    "build it again."
                )

    def _binder(self, engine: Any, spec: GraphSpec) -> Bind:
        shared, copied = _split_aliases(engine, spec)

        def bind(buffers: Buffers) -> Launch:
            # A context's addresses stand in the CUDA graph that is captured from it, so each set
            # of buffers has its own; the launch below keeps it.
            context = engine.create_execution_context()
            if context is None:
                raise ValueError(
                    f"TensorRT has no execution context for graph {spec.name!r}; most likely the "
                    "GPU's memory is full: free some, and see what nvidia-smi lists."
                )
            outputs = {t.name: t for t in spec.outputs}
            scratch = {name: empty(outputs[name], self.device) for name in copied}
            addresses = {name: buffers[source] for name, source in shared.items()}
            for tensor in (*spec.inputs, *spec.outputs):
                at = addresses.get(tensor.name, scratch.get(tensor.name))
                at = buffers[tensor.name] if at is None else at
                if not context.set_tensor_address(tensor.name, at.data_ptr()):
                    raise ValueError(
                        f"TensorRT refused the buffer of {tensor.name} in graph {spec.name!r}."
                    )

            def launch() -> None:
                if not context.execute_async_v3(_stream(self.device)):
                    raise RuntimeError(f"TensorRT could not run graph {spec.name!r}.")
                for name, source in copied.items():
                    _copy_rows(scratch[name], buffers[source], buffers["position"], spec)

            return launch

        return bind


def _split_aliases(engine: Any, spec: GraphSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Cache outputs (name -> input) that the engine writes in place, and those it does not."""
    # Absent before TensorRT 10.15, which has no aliases either.
    aliased = getattr(engine, "get_aliased_input_tensor", lambda output: None)
    shared, copied = {}, {}
    for output, source in spec.aliases:
        in_place = aliased(output) == source
        (shared if in_place else copied)[output] = source
    return shared, copied


def _copy_rows(made: Tensor, cache: Tensor, position: Tensor, spec: GraphSpec) -> None:
    rows = position + torch.arange(_rows_written(spec), device=cache.device)
    cache.index_copy_(2, rows, made.index_select(2, rows))


def _rows_written(spec: GraphSpec) -> int:
    shapes = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    if "text" in shapes:
        return shapes["text"][1]
    _, slots, frame_tokens, _ = shapes["frame_context"]
    return slots * (frame_tokens + shapes["action_context"][2])


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _dtype_name(trt: Any, dtype: Any) -> str:
    names = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.BF16: "bfloat16",
        trt.DataType.INT64: "int64",
        trt.DataType.UINT8: "uint8",
    }
    return names.get(dtype, str(dtype))


def _border_text(border: tuple[bool, str, tuple[int, ...]] | None) -> str:
    if border is None:
        return "absent"
    is_input, dtype, shape = border
    return f"{'input' if is_input else 'output'} {dtype} {list(shape)}"
