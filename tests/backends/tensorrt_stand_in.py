# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TensorRT's Python binding: it records calls, and computes with PyTorch on the
memory whose raw addresses it is given, so buffer mistakes give wrong numbers.

A plan is JSON that names a graph; engines read and write float32 CPU memory.
"""

import ctypes
import enum
import json

import numpy as np
import torch
from safetensors.numpy import save_file

from par_model.backends.torch_eager import TorchEager
from par_model.export.onnx_graphs import write_rows_plain
from par_model.graphs.contract import CONTRACT_VERSION
from par_model.graphs.engine_files import Target, engine_key, write_engine
from par_model.graphs.goldens import record_goldens
from par_model.graphs.manifest import GOLDENS, Manifest, sha256_of
from par_model.graphs.modules import build_graphs
from par_model.graphs.operations import attend_fused
from par_model.layers import rotate_pairs

TARGET = Target("tensorrt", "11.4.0.106", "8.0", "NVIDIA A100-SXM4-80GB", "580.65.06")


def build_stand_in(checkpoint, num_steps, folder, in_place):
    """Engines for TARGET in `folder`; returns the binding that runs them."""
    graphs = build_graphs(checkpoint, FunctionalOperations(), "ddim", num_steps)
    eager = TorchEager(checkpoint, torch.device("cpu"), num_steps=num_steps)
    save_file(record_goldens(eager, checkpoint.instructions), folder / GOLDENS)
    for name in graphs:
        (folder / f"{name}.onnx").write_text(f"in place of {name}")
    config = checkpoint.config
    manifest = Manifest(
        CONTRACT_VERSION,
        "tiny",
        "ab" * 32,
        config.name,
        "fp32",
        20,
        "ddim",
        num_steps,
        config.num_slots,
        config.cache_capacity,
        {},
        tuple(graph.spec for graph in graphs.values()),
        {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )
    manifest.write(folder)
    for name in graphs:
        key = engine_key(manifest, name, TARGET, ("no_tf32",))
        write_engine(folder, key, json.dumps({"graph": name}).encode())
    return StandIn(graphs, in_place)


class FunctionalOperations:
    """GraphOperations that return a new cache."""

    rotate_pairs = staticmethod(rotate_pairs)
    write_rows = staticmethod(write_rows_plain)
    attend = staticmethod(attend_fused)


class TensorIOMode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 2
    INT64 = 3
    UINT8 = 4


_TYPES = {"float32": DataType.FLOAT, "int64": DataType.INT64, "uint8": DataType.UINT8}


class StandIn:
    """What `import tensorrt` would give.

    Args:
        graphs: the graphs that engines run.
        in_place: engines declare cache outputs as aliases of their inputs.
    """

    TensorIOMode, DataType, TARGET = TensorIOMode, DataType, TARGET

    class Logger:
        WARNING = 0

        def __init__(self, severity):
            pass

    def __init__(self, graphs, in_place):
        self.graphs, self.in_place = graphs, in_place
        self.calls = []

    def Runtime(self, logger):
        return _Runtime(self)


class _Runtime:
    def __init__(self, module):
        self._module = module

    def deserialize_cuda_engine(self, plan):
        name = json.loads(plan)["graph"]
        return _Engine(self._module, self._module.graphs[name]) if name else None


class _Engine:
    def __init__(self, module, graph):
        self._module, self._graph = module, graph
        self._tensors = [(t, TensorIOMode.INPUT) for t in graph.spec.inputs]
        self._tensors += [(t, TensorIOMode.OUTPUT) for t in graph.spec.outputs]

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, index):
        return self._tensors[index][0].name

    def _find(self, name):
        return next(item for item in self._tensors if item[0].name == name)

    def get_tensor_mode(self, name):
        return self._find(name)[1]

    def get_tensor_shape(self, name):
        return list(self._find(name)[0].shape)

    def get_tensor_dtype(self, name):
        return _TYPES[self._find(name)[0].dtype]

    def get_aliased_input_tensor(self, name):
        return dict(self._graph.spec.aliases).get(name) if self._module.in_place else None

    def create_execution_context(self):
        self._module.calls.append(("create_execution_context", self._graph.spec.name))
        return _Context(self._module, self._graph)


class _Context:
    def __init__(self, module, graph):
        self._module, self._graph = module, graph
        self._addresses = {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        spec = self._graph.spec
        self._module.calls.append(("execute_async_v3", spec.name))
        aliases = dict(spec.aliases)
        for output, source in aliases.items():
            shared = self._addresses[output] == self._addresses[source]
            assert shared == self._module.in_place
        inputs = [_memory(t, self._addresses[t.name]).clone() for t in spec.inputs]
        with torch.inference_mode():
            outputs = self._graph.module(*inputs)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        for tensor, value in zip(spec.outputs, outputs, strict=True):
            _memory(tensor, self._addresses[tensor.name]).copy_(value)
        return True


def _memory(spec, address):
    """The tensor that lies at an address of this process."""
    count = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    raw = (ctypes.c_uint8 * count).from_address(address)
    return torch.from_numpy(np.frombuffer(raw, dtype=spec.dtype).reshape(spec.shape))
