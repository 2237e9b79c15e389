# SPDX-License-Identifier: Apache-2.0
"""torch.compile, and on a GPU one CUDA graph per graph of the contract.

The compiler's own CUDA graphs are not used: captures here have the addresses of our buffers, so
that caches and inputs are not copied by it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from par_model.backends.device_graph import Buffers, DeviceGraph, Launch, empty_cache
from par_model.checkpoint import Checkpoint
from par_model.graphs.contract import Graph
from par_model.graphs.modules import build_graphs
from par_model.graphs.operations import attend_fused
from par_model.layers import rotate_pairs


class InPlaceOperations:
    """GraphOperations that write into the cache they are given."""

    rotate_pairs = staticmethod(rotate_pairs)
    attend = staticmethod(attend_fused)

    @staticmethod
    def write_rows(cache: Tensor, rows: Tensor, position: Tensor) -> Tensor:
        index = position + torch.arange(rows.shape[2], device=rows.device)
        return cache.index_copy_(2, index, rows)


class TorchCompiled:
    """GraphRuntime of compiled modules.

    Compiling takes a minute or more at the first run of each graph, and a C++ compiler on a CPU.

    Args:
        checkpoint: float32 weights; they are moved to `device` and become `dtype`.
        compile_module: torch.compile, or a function that returns the module as it is (the graphs
            then run operation by operation on the same buffers).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        sampler: str,
        num_steps: int,
        compile_module: Callable[[Any], Any] | None = None,
    ) -> None:
        self.device = device
        checkpoint.model.to(device)
        checkpoint.codec.to(device)
        with torch.inference_mode(False), torch.no_grad():
            graphs = build_graphs(checkpoint, InPlaceOperations(), sampler, num_steps, dtype=dtype)
        compiler = compile_module or _compile
        self._step = graphs["step"].spec
        self._graphs = {
            name: DeviceGraph(graph.spec, device, _binder(graph, compiler(graph.module)))
            for name, graph in graphs.items()
        }
        self._dtype = dtype

    @property
    def name(self) -> str:
        kind = str(self._dtype).removeprefix("torch.")
        graphs = " with CUDA graphs" if self.device.type == "cuda" else ""
        return f"torch.compile{graphs}, {kind} on {self.device.type}"

    def allocate_cache(self) -> dict[str, Tensor]:
        return empty_cache(self._step, self.device)

    def run(
        self, graph: str, inputs: Mapping[str, Any], cache: Buffers | None
    ) -> dict[str, Tensor]:
        return self._graphs[graph].run(inputs, cache)


def _compile(module: Any) -> Any:
    return torch.compile(module, fullgraph=True, dynamic=False)


def _binder(graph: Graph, compiled: Any) -> Callable[[Buffers], Launch]:
    aliases = dict(graph.spec.aliases)

    def bind(buffers: Buffers) -> Launch:
        inputs = [buffers[spec.name] for spec in graph.spec.inputs]

        def launch() -> None:
            outputs = compiled(*inputs)
            if isinstance(outputs, Tensor):
                outputs = (outputs,)
            for spec, value in zip(graph.spec.outputs, outputs, strict=True):
                # Caches were written in place.
                if spec.name not in aliases:
                    buffers[spec.name].copy_(value)

        return launch

    return bind
