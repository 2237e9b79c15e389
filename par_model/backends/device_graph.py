# SPDX-License-Identifier: Apache-2.0
"""One graph of the contract on torch buffers of fixed addresses, replayed as a CUDA graph on a GPU.

Shared by the runtimes whose memory is torch's: torch.compile and TensorRT.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from par_model.graphs.contract import GraphSpec, TensorSpec

Buffers = Mapping[str, Tensor]
# Enqueues one run on the current stream: reads the input buffers, writes the output buffers.
Launch = Callable[[], None]
# Prepares a graph for buffers at these addresses (a cache's among them), once per set.
Bind = Callable[[Buffers], Launch]
_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class _Kept:
    """What runs a graph on one set of buffers, and what must live as long.

    Attributes:
        replay: runs it.
        launch: owns what the replay works on without owning it: a CUDA graph stores addresses, of
            TensorRT's execution context and its memory among them.
        cache: kept, so that its id stays its own.
    """

    replay: Launch
    launch: Launch
    cache: Buffers | None


class DeviceGraph:
    """Copies inputs in, runs, copies outputs out.

    A run may be repeated: it writes the same rows again. That is what allows the warm-up before a
    capture to run on the real cache.

    Args:
        bind: see Bind; called once for every cache that the graph meets.
    """

    def __init__(self, spec: GraphSpec, device: torch.device, bind: Bind) -> None:
        self._spec, self._device, self._bind = spec, device, bind
        aliases = dict(spec.aliases)
        self._inputs = [s for s in spec.inputs if s.name not in aliases.values()]
        self._outputs = [s for s in spec.outputs if s.name not in aliases]
        self._buffers = {s.name: empty(s, device) for s in (*self._inputs, *self._outputs)}
        self._staging: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            cpu = torch.device("cpu")
            self._staging = {s.name: empty(s, cpu).pin_memory() for s in self._inputs}
            self._copied = torch.cuda.Event()
        self._launches: dict[int, _Kept] = {}

    def run(self, inputs: Mapping[str, Any], cache: Buffers | None) -> dict[str, Tensor]:
        """Values are numpy arrays or tensors. Does not wait for the device."""
        with torch.inference_mode():
            self._copy_in(inputs)
            self._launch(cache)()
            return {spec.name: self._buffers[spec.name].clone() for spec in self._outputs}

    def _copy_in(self, inputs: Mapping[str, Any]) -> None:
        if self._copied is not None:
            # The previous run's copies may still read the pinned buffers.
            self._copied.synchronize()
        for spec in self._inputs:
            value = inputs[spec.name]
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(np.ascontiguousarray(value))
                if self._copied is not None:
                    value = self._staging[spec.name].copy_(value)
            self._buffers[spec.name].copy_(value, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _launch(self, cache: Buffers | None) -> Launch:
        key = 0 if cache is None else id(cache)
        if key not in self._launches:
            launch = self._bind({**self._buffers, **(cache or {})})
            self._launches[key] = _Kept(_replay(launch, self._device), launch, cache)
        return self._launches[key].replay


def empty(spec: TensorSpec, device: torch.device) -> Tensor:
    """Zeros of a spec: nothing that was never written may be NaN."""
    return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device=device)


def empty_cache(spec: GraphSpec, device: torch.device) -> dict[str, Tensor]:
    """The buffers of one cache, as `spec` (of the step graph) takes them."""
    inputs = {tensor.name: tensor for tensor in spec.inputs}
    return {name: empty(inputs[name], device) for _, name in spec.aliases}


def _replay(launch: Launch, device: torch.device) -> Launch:
    """`launch` as one CUDA graph on a GPU, and itself on a CPU. It runs first on a side stream, so
    that lazy initialisation and autotuning happen outside the capture."""
    if device.type != "cuda":
        return launch
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph.replay
