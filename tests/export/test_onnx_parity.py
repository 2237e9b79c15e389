# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime against PyTorch, float32, 50 control steps with cache and rebases: 1e-4 max abs."""

import pytest

from par_model.backends.static_graphs import StaticGraphs
from par_model.backends.torch_eager import TorchEager
from par_model.config import preset
from par_model.export.untrained import untrained_checkpoint
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
    require_onnx()
    from par_model.backends.onnx import OnnxRuntime
    from par_model.export.check import check_onnx
    from par_model.export.onnx_graphs import ExportRequest, export_checkpoint
    from par_model.export.verify import load_goldens, verify_goldens, verify_rollout

    checkpoint = make()
    request = ExportRequest(checkpoint, "x", "0" * 64, "fp32", opset, 10)
    manifest = export_checkpoint(request, tmp_path / "x", print)
    check_onnx(tmp_path / "x", manifest, print)
    eager = TorchEager(checkpoint, CPU, num_steps=10)
    graphs = StaticGraphs(checkpoint, OnnxRuntime(tmp_path / "x"), eager)
    verify_goldens(graphs, tmp_path / "x", manifest)
    goldens = load_goldens(tmp_path / "x", manifest)
    found = verify_rollout(graphs, eager, goldens, "fp32", print)
    assert max(item.max_abs for item in found.values()) < 1e-4
