# SPDX-License-Identifier: Apache-2.0
"""Checks of exported graphs without a GPU: is each file valid ONNX, does it keep the
contract, does it compute what PyTorch computes, does TensorRT's compiler take it."""

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from par_model.export.build import compile_graph
from par_model.export.onnx_graphs import FUSED_OPSET
from par_model.graphs.contract import GraphSpec, TensorSpec
from par_model.graphs.manifest import Manifest

# Operators that read or make shapes from values: TensorRT would need profiles for them.
_FORBIDDEN = ("NonZero", "If", "Loop", "Scan", "SequenceConstruct")
# Attention's inputs beyond query, key, value and mask. TensorRT refuses past_key and past_value
# and silently ignores nonpad_kv_seqlen.
_ATTENTION_INPUTS = 4
RTX_COMPUTE_CAPABILITY = "SM80"


def check_onnx(folder: Path, manifest: Manifest, report: Callable[[str], None]) -> None:
    """onnx.checker and the contract, for every graph.

    Raises:
        ValueError: naming the graph and what is wrong.
    """
    for spec in manifest.graphs:
        path = folder / f"{spec.name}.onnx"
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ValueError(f"{path} is not valid ONNX: {error}.") from error
        model = onnx.load(path, load_external_data=False)
        check_contract(model, spec, manifest.opset)
        report(
            f"check {spec.name}: onnx.checker full check and contract, "
            f"{len(model.graph.node)} nodes, opset {manifest.opset}"
        )


def check_contract(model: onnx.ModelProto, spec: GraphSpec, opset: int) -> None:
    """Raises ValueError where the graph is not what the contract says."""
    graph = model.graph
    versions = {item.domain: item.version for item in model.opset_import}
    _require(versions.get("") == opset, spec, f"is of opset {versions}, not {opset}")
    _require(set(versions) == {""}, spec, f"uses operators outside ONNX: {sorted(versions)}")
    _require(_border(graph.input) == _specs(spec.inputs), spec, "has other inputs than its spec")
    _require(_border(graph.output) == _specs(spec.outputs), spec, "has other outputs than its spec")
    kinds = Counter(node.op_type for node in graph.node)
    bad = [kind for kind in _FORBIDDEN if kinds[kind]]
    _require(not bad, spec, f"uses {bad}, whose shapes depend on values")
    for node in graph.node:
        if node.op_type == "Attention":
            _check_attention(node, spec)
    if opset == FUSED_OPSET:
        _check_cache_writes(graph, spec)


def _check_attention(node: onnx.NodeProto, spec: GraphSpec) -> None:
    given = [name for name in node.input[_ATTENTION_INPUTS:] if name]
    _require(not given, spec, f"gives Attention {given}, which TensorRT refuses or ignores")
    causal = any(item.name == "is_causal" and item.i for item in node.attribute)
    _require(
        not causal, spec, "uses is_causal on a cache of fixed size; the attention mask must do that"
    )


def _check_cache_writes(graph: onnx.GraphProto, spec: GraphSpec) -> None:
    """Each cache goes from graph input through one TensorScatter to its graph output, or TensorRT
    cannot write it in place."""
    writes = {n.output[0]: n for n in graph.node if n.op_type == "TensorScatter"}
    readers = Counter(name for node in graph.node for name in node.input)
    for output, source in spec.aliases:
        node = writes.get(output)
        direct = node is not None and node.input[0] == source and node.input[2] == "position"
        _require(direct, spec, f"does not write {output} by TensorScatter straight from {source}")
        _require(readers[source] == 1, spec, f"reads {source} beside the TensorScatter")
        mode = {item.name: item for item in node.attribute} if node is not None else {}
        circular = "mode" in mode and mode["mode"].s != b"linear"
        _require(not circular, spec, "writes in circular mode; TensorRT knows linear only")
    _require(len(writes) == len(spec.aliases), spec, "has TensorScatter nodes beside the caches'")


def compile_without_gpu(
    folder: Path,
    manifest: Manifest,
    names: tuple[str, ...],
    report: Callable[[str], None],
) -> bool:
    """Parse and compile graphs by TensorRT-RTX for an A100's architecture, with a layer census.

    Returns False, with a log line, if the optional package is not installed.

    Raises:
        ValueError: a graph is refused, or its caches are not written in place.
    """
    try:
        trt = importlib.import_module("tensorrt_rtx")
    except ImportError:
        report(
            "check compile: left out, TensorRT-RTX is not installed "
            "(pip install tensorrt-rtx==1.7.1.116; it compiles without a GPU)"
        )
        return False
    for name in names:
        spec = manifest.graph(name)
        compiled = compile_graph(
            trt, folder / f"{name}.onnx", manifest.precision, RTX_COMPUTE_CAPABILITY
        )
        check_census(compiled.layers, spec, manifest.opset)
        report(
            f"check compile {name}: TensorRT-RTX {trt.__version__} for {RTX_COMPUTE_CAPABILITY}, "
            f"parsed in {compiled.parse_s:.1f} s, compiled in {compiled.compile_s:.1f} s, "
            f"plan {len(compiled.plan) / 2**20:.1f} MiB, layers "
            + ", ".join(f"{kind} {count}" for kind, count in compiled.layers.most_common())
        )
    return True


def check_census(layers: Counter[str], spec: GraphSpec, opset: int) -> None:
    """Raises ValueError where the parsed network is not made of TensorRT's own layers."""
    plugins = [kind for kind in layers if kind.startswith("PLUGIN")]
    _require(not plugins, spec, f"needs plugins: {plugins}")
    if opset == FUSED_OPSET:
        found = layers["KV_CACHE_UPDATE"]
        expected = len(spec.aliases)
        _require(found == expected, spec, f"has {found} KV_CACHE_UPDATE layers, not {expected}")


def _require(good: bool, spec: GraphSpec, what: str) -> None:
    if not good:
        raise ValueError(f"graph {spec.name!r} {what}; export it again with this version.")


def _border(values: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    border = []
    for value in values:
        kind = value.type.tensor_type
        shape = tuple(dimension.dim_value for dimension in kind.shape.dim)
        border.append((value.name, _dtype_name(kind.elem_type), shape))
    return border


def _specs(tensors: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]


def _dtype_name(elem_type: int) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)))
