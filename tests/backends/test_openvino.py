# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: what only this runtime does; test_contract.py compares what it computes."""

import dataclasses
import sys

import numpy as np
import pytest

from par_model.backends.static_graphs import StaticGraphs
from par_model.graphs.manifest import Manifest
from tests.backends.runtimes import eager, require_onnx, require_openvino

pytestmark = pytest.mark.slow


def test_importing_it_calls_nobody():
    """OpenVINO sends an event to its makers at import where its telemetry package can be
    imported."""
    require_openvino()
    import par_model.backends.openvino  # noqa: F401

    assert sys.modules["openvino_telemetry"] is None
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_only_the_new_rows_of_a_cache_are_written(export_folder):
    require_openvino()
    from par_model.backends.openvino import OpenVinoRuntime

    runtime = OpenVinoRuntime(export_folder(), num_threads=1)
    step = next(spec for spec in runtime.manifest.graphs if spec.name == "step")
    generator = np.random.default_rng(0)
    inputs = {
        spec.name: generator.standard_normal(spec.shape).astype(spec.dtype)
        for spec in step.inputs
        if spec.dtype == "float32" and "cache" not in spec.name
    }
    cache = runtime.allocate_cache()
    for rows in cache.values():
        rows[:] = 7.0
    index = {"position": np.array([15]), "slot": np.array([1])}
    runtime.run("step", {**inputs, **index}, cache)
    length = runtime.manifest.capacity // runtime.manifest.num_slots
    for rows in cache.values():
        written = np.any(rows != 7.0, axis=(0, 1, 3))
        assert np.flatnonzero(written).tolist() == list(range(15, 15 + length))


def test_int8_is_close_and_says_so(checkpoint, export_folder, monkeypatch):
    """Linear layers in int8: other numbers than float32's, within the bounds of the goldens."""
    require_openvino()
    from par_model.backends.openvino import OpenVinoRuntime
    from par_model.export.verify import verify_goldens

    # par_tiny's matrices are smaller than what is rounded in earnest.
    monkeypatch.setattr("par_model.backends.openvino._LEAST_ROUNDED", 512)
    runtime = OpenVinoRuntime(export_folder(), num_threads=1, precision="int8")
    assert runtime.name.endswith("on cpu, int8")
    graphs = StaticGraphs(checkpoint, runtime, eager(checkpoint))
    found = verify_goldens(graphs, export_folder(), runtime.manifest, "int8")
    assert found["action_context"].max_abs > 1e-3
    with pytest.raises(ValueError, match="allowed is at most 1e-4"):
        verify_goldens(graphs, export_folder(), runtime.manifest)


def test_a_folder_of_another_precision_is_refused(export_folder, tmp_path):
    require_onnx()
    require_openvino()
    from par_model.backends.openvino import OpenVinoRuntime

    manifest = Manifest.read(export_folder())
    dataclasses.replace(manifest, precision="bf16").write(tmp_path)
    with pytest.raises(ValueError, match="holds bf16 graphs, and OpenVINO takes float32 ones"):
        OpenVinoRuntime(tmp_path)


def test_a_file_that_it_cannot_read_is_a_sentence(tmp_path):
    require_onnx()
    require_openvino()
    import onnx

    # Before openvino itself, which it keeps silent.
    from par_model.backends.openvino import CompiledGraph, openvino
    from par_model.graphs.contract import GraphSpec

    value = onnx.helper.make_tensor_value_info
    ends = [value(name, onnx.TensorProto.FLOAT, (1,)) for name in ("given", "same")]
    node = onnx.helper.make_node("Unheard", ["given"], ["same"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 24)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "g.onnx")
    with pytest.raises(ValueError, match=r"cannot run .*g\.onnx .*choose backend 'onnx' or"):
        CompiledGraph(openvino.Core(), tmp_path / "g.onnx", GraphSpec("g", (), ()), {})
