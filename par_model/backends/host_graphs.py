# SPDX-License-Identifier: Apache-2.0
"""What the runtimes of ONNX files on the CPU share: one graph a file, caches in host memory."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from par_model.graphs.contract import GraphSpec
from par_model.graphs.manifest import Manifest

Array = np.ndarray[Any, np.dtype[Any]]


class HostGraph(Protocol):
    """A graph that is loaded."""

    def run(self, inputs: Mapping[str, Any], cache: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs without the caches, which are written in place."""


class HostGraphs:
    """The graphs of a manifest.

    Args:
        load: makes one of them.
    """

    def __init__(self, manifest: Manifest, load: Callable[[GraphSpec], HostGraph]) -> None:
        self.manifest = manifest
        self._specs = {spec.name: spec for spec in manifest.graphs}
        self._graphs = {name: load(spec) for name, spec in self._specs.items()}

    def allocate_cache(self) -> dict[str, Array]:
        step = self._specs["step"]
        inputs = {spec.name: spec for spec in step.inputs}
        return {name: np.zeros(inputs[name].shape, inputs[name].dtype) for _, name in step.aliases}

    def run(
        self, graph: str, inputs: Mapping[str, Any], cache: dict[str, Array] | None
    ) -> dict[str, Array]:
        return self._graphs[graph].run(inputs, cache or {})
