# SPDX-License-Identifier: Apache-2.0
"""The act graph as ONNX: one sampling step is traced once and copied as often as there are steps.

Tracing the unrolled module takes time linear in the steps (half a minute for ten); the result
is the same graph. Weights are shared by the copies.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import NodeProto, numpy_helper
from torch import Tensor, nn

from par_model.graphs.act_graph import ActGraph
from par_model.graphs.contract import Graph

# (module, example inputs, input names, output names, file) -> writes the file
ExportModule = Callable[[nn.Module, Sequence[Tensor], Sequence[str], Sequence[str], Path], None]
_SHARED, _ONCE = "shared.", "once."


def export_unrolled(graph: Graph, path: Path, export_module: ExportModule) -> None:
    """Write the graph of an ActGraph as `path`, weights in `path`.data."""
    module = graph.module
    assert isinstance(module, ActGraph)
    context_spec, noise_spec, *prefix_specs = graph.spec.inputs
    context, noise, *prefix = graph.example_inputs()
    given = [spec.name for spec in prefix_specs]
    with torch.no_grad():
        folded = module.context(context)
    folded_names = [f"folded_{index}" for index in range(len(folded))]
    constants = [*module.coefficients[0].unbind(), *module.rows[0].unbind()]
    num_coefficients = module.coefficients.shape[1]
    names = [f"constant_{index}" for index in range(len(constants))]
    coefficients, rows = constants[:num_coefficients], constants[num_coefficients:]
    inputs = [noise, *coefficients, *folded, *prefix, *rows]
    input_names = ["current", *names[:num_coefficients], *folded_names, *given]
    input_names += names[num_coefficients:]
    with tempfile.TemporaryDirectory() as folder:
        once, body = Path(folder) / "once.onnx", Path(folder) / "body.onnx"
        export_module(module.context, [context], [context_spec.name], folded_names, once)
        export_module(module.step, inputs, input_names, ["next"], body)
        model = _join(onnx.load(once), onnx.load(body), module, names, given)
    _rename(model.graph, {"sample": noise_spec.name})
    _rename(model.graph, {f"sample.{len(module.rows)}": graph.spec.outputs[0].name})
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def _join(
    once: onnx.ModelProto,
    body: onnx.ModelProto,
    module: ActGraph,
    names: list[str],
    given: list[str],
) -> onnx.ModelProto:
    """[once; body; body; ...] with each step's constants as initializers; all steps take the
    inputs `given`."""
    model = onnx.ModelProto()
    model.CopyFrom(once)
    kept = {value.name for value in (*once.graph.input, *once.graph.output)}
    _prefix(model.graph, _ONCE, kept)
    del model.graph.output[:]
    weights = {weight.name: _SHARED + weight.name for weight in body.graph.initializer}
    for weight in body.graph.initializer:
        shared = model.graph.initializer.add()
        shared.CopyFrom(weight)
        shared.name = weights[weight.name]
    passed = {value.name for value in body.graph.input} - {"current", *names}
    num_steps = len(module.rows)
    for step in range(num_steps):
        place = weights | {name: name for name in passed}
        place |= {name: f"{name}.{step}" for name in names}
        place["current"] = "sample" if step == 0 else f"sample.{step}"
        place["next"] = f"sample.{step + 1}"
        rows = (*module.coefficients[step].unbind(), *module.rows[step].unbind())
        for name, value in zip(names, rows, strict=True):
            model.graph.initializer.append(_initializer(place[name], value, body, name))
        for node in body.graph.node:
            model.graph.node.append(_moved(node, place, f"step_{step}."))
    sample = next(value for value in body.graph.input if value.name == "current")
    for border, name in (
        (model.graph.input, "sample"),
        (model.graph.output, f"sample.{num_steps}"),
    ):
        border.add().CopyFrom(sample)
        border[-1].name = name
    for name in given:
        model.graph.input.add().CopyFrom(
            next(value for value in body.graph.input if value.name == name)
        )
    return model


def _initializer(name: str, value: Tensor, body: onnx.ModelProto, source: str) -> onnx.TensorProto:
    declared = next(item for item in body.graph.input if item.name == source).type.tensor_type
    kind = onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type)
    array = value.detach().cpu().float().numpy().astype(kind)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(value.shape), name)


def _moved(node: NodeProto, place: dict[str, str], prefix: str) -> NodeProto:
    """A copy of `node` whose values are renamed by `place`, others get `prefix`."""
    moved = NodeProto()
    moved.CopyFrom(node)
    moved.name = prefix + node.name
    for values in (moved.input, moved.output):
        for index, name in enumerate(values):
            values[index] = place.get(name, prefix + name) if name else ""
    return moved


def _prefix(graph: onnx.GraphProto, prefix: str, kept: set[str]) -> None:
    names = {weight.name for weight in graph.initializer}
    names |= {name for node in graph.node for name in (*node.input, *node.output) if name}
    _rename(graph, {name: prefix + name for name in names - kept})
    del graph.value_info[:]


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)
