# SPDX-License-Identifier: Apache-2.0
"""Negative controls: graphs that break the contract are caught before TensorRT sees them."""

import onnx
import pytest
from onnx import helper

from par_model.graphs.manifest import Manifest, sha256_of

pytestmark = pytest.mark.slow


@pytest.fixture
def step(export_copy):
    """(the step graph, its spec, check) of a good export."""
    from par_model.export.check import check_contract

    manifest = Manifest.read(export_copy)
    model = onnx.load(export_copy / "step.onnx", load_external_data=False)
    spec = manifest.graph("step")
    return model, lambda: check_contract(model, spec, manifest.opset)


def node_of(model, kind):
    return next(node for node in model.graph.node if node.op_type == kind)


def test_a_good_export_passes(export_copy):
    from par_model.export.check import check_onnx

    lines = []
    check_onnx(export_copy, Manifest.read(export_copy), lines.append)
    assert [line.split()[1] for line in lines] == [
        "encode:",
        "prefill:",
        "step:",
        "rebase:",
        "act:",
    ]


def test_a_cache_that_is_read_twice(step):
    model, check = step
    model.graph.node.append(helper.make_node("Identity", ["k_cache_0"], ["other"]))
    with pytest.raises(ValueError, match="reads k_cache_0 beside the TensorScatter"):
        check()


def test_a_circular_write(step):
    model, check = step
    node = node_of(model, "TensorScatter")
    mode = next(item for item in node.attribute if item.name == "mode")
    mode.s = b"circular"
    with pytest.raises(ValueError, match="circular mode"):
        check()


def test_a_cache_that_does_not_come_from_its_input(step):
    model, check = step
    node = node_of(model, "TensorScatter")
    model.graph.node.insert(0, helper.make_node("Identity", [node.input[0]], ["copied"]))
    node.input[0] = "copied"
    with pytest.raises(ValueError, match="straight from k_cache_0"):
        check()


def test_lengths_given_to_attention(step):
    """Opset 24's nonpad_kv_seqlen: TensorRT ignores it in silence."""
    model, check = step
    inputs = ["q", "k", "v", "", "", "", "position"]
    model.graph.node.append(helper.make_node("Attention", inputs, ["attended"]))
    with pytest.raises(ValueError, match="which TensorRT refuses or ignores"):
        check()


def test_a_causal_mask_on_a_cache_of_fixed_size(step):
    model, check = step
    node = helper.make_node("Attention", ["q", "k", "v"], ["attended"], is_causal=1)
    model.graph.node.append(node)
    with pytest.raises(ValueError, match="uses is_causal"):
        check()


def test_shapes_that_depend_on_values(step):
    model, check = step
    model.graph.node.append(helper.make_node("NonZero", ["position"], ["where"]))
    with pytest.raises(ValueError, match="NonZero"):
        check()


def test_another_border(step):
    model, check = step
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    with pytest.raises(ValueError, match="other inputs than its spec"):
        check()


def test_another_opset(step):
    model, check = step
    model.opset_import[0].version = 23
    with pytest.raises(ValueError, match="is of opset"):
        check()


def test_invalid_onnx(export_copy):
    from par_model.export.check import check_onnx

    model = onnx.load(export_copy / "encode.onnx", load_external_data=False)
    model.graph.node[-1].input[0] = "nowhere"
    onnx.save(model, export_copy / "encode.onnx")
    with pytest.raises(ValueError, match=r"encode\.onnx is not valid ONNX"):
        check_onnx(export_copy, Manifest.read(export_copy), lambda line: None)


def test_a_changed_file_is_refused_by_the_runtime(export_copy):
    from par_model.backends.onnx import OnnxRuntime

    data = export_copy / "step.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[100] ^= 1
    data.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"step\.onnx\.data is not the file that was exported"):
        OnnxRuntime(export_copy)


def test_other_weights_are_refused_by_the_goldens(export_copy):
    """A file that was changed together with its hash still has to give the golden answers."""
    from par_model.backends.onnx import OnnxRuntime
    from par_model.backends.static_graphs import StaticGraphs
    from par_model.export.untrained import untrained_checkpoint
    from par_model.export.verify import verify_goldens
    from par_model.presets import preset
    from tests.backends.runtimes import eager

    data = export_copy / "step.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[1003] ^= 0x02
    data.write_bytes(bytes(raw))
    manifest = Manifest.read(export_copy)
    manifest.files["step.onnx.data"] = sha256_of(data)
    manifest.write(export_copy)
    checkpoint = untrained_checkpoint(preset("par_tiny"))
    graphs = StaticGraphs(checkpoint, OnnxRuntime(export_copy), eager(checkpoint))
    with pytest.raises(ValueError, match="is off by"):
        verify_goldens(graphs, export_copy, manifest)
