# SPDX-License-Identifier: Apache-2.0
"""One small export a session; tests copy it before they break it."""

import shutil

import pytest

from par_model.export.untrained import untrained_checkpoint
from par_model.presets import preset
from tests.backends.runtimes import require_onnx


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory):
    """par_tiny in float32, opset 24, 2 steps."""
    require_onnx()
    from par_model.export.onnx_graphs import FUSED_OPSET, ExportRequest, export_checkpoint

    folder = tmp_path_factory.mktemp("exports") / "tiny"
    checkpoint = untrained_checkpoint(preset("par_tiny"))
    request = ExportRequest(checkpoint, "tiny", "0" * 64, "fp32", FUSED_OPSET, 2)
    export_checkpoint(request, folder, lambda line: None)
    return folder


@pytest.fixture
def export_copy(tiny_export, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_export, folder)
    return folder
