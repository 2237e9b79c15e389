# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime against PyTorch in float32, 50 control steps with cache and rebases: float32 graphs
within 1e-4, float16 graphs by cosine (0.999, actions 0.99) and within 1 % of the actions' range."""

import pytest

from par_model.backends.static_graphs import StaticGraphs
from par_model.backends.torch_eager import TorchEager
from par_model.export.untrained import untrained_checkpoint
from par_model.presets import preset
from tests.backends.runtimes import CPU, require_onnx
from tests.export.exports import full_width_cut

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("opset", [24, 20])
@pytest.mark.parametrize(
    "make",
    [lambda: untrained_checkpoint(preset("par_small")), full_width_cut],
    ids=["par_small", "full width, two layers"],
)
def test_fifty_steps(make, opset, tmp_path):
    found = deviations_over_fifty_steps(make, "fp32", opset, tmp_path / "x")
    assert max(item.max_abs for item in found.values()) < 1e-4


@pytest.mark.timeout(1200)
def test_fifty_steps_in_float16(tmp_path):
    found = deviations_over_fifty_steps(
        lambda: untrained_checkpoint(preset("par_small")), "fp16", 24, tmp_path / "x"
    )
    # It did run in float16.
    assert found["action_context"].max_abs > 1e-4


def deviations_over_fifty_steps(make, precision, opset, folder):
    require_onnx()
    from par_model.backends.onnx import OnnxRuntime
    from par_model.export.check import check_onnx
    from par_model.export.onnx_graphs import ExportRequest, export_checkpoint
    from par_model.export.verify import load_goldens, verify_goldens, verify_rollout

    manifest = export_checkpoint(
        ExportRequest(make(), "x", "0" * 64, precision, opset, 10), folder, print
    )
    check_onnx(folder, manifest, print)
    # The export casts the weights that it is given.
    checkpoint = make()
    eager = TorchEager(checkpoint, CPU, num_steps=10)
    graphs = StaticGraphs(checkpoint, OnnxRuntime(folder), eager)
    verify_goldens(graphs, folder, manifest)
    return verify_rollout(graphs, eager, load_goldens(folder, manifest), precision, print)
