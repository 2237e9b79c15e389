# SPDX-License-Identifier: Apache-2.0
"""One checkpoint, and its export made once a session where a test asks for it."""

import functools

import pytest

from tests.backends.runtimes import NUM_STEPS, require_onnx, small_checkpoint


@pytest.fixture(scope="session")
def checkpoint():
    return small_checkpoint()


@pytest.fixture(scope="session")
def export_folder(checkpoint, tmp_path_factory):
    """A function that gives the folder of the fused float32 export."""

    @functools.cache
    def make():
        require_onnx()
        from par_model.export.onnx_graphs import FUSED_OPSET, ExportRequest, export_checkpoint

        folder = tmp_path_factory.mktemp("exports") / "tiny"
        request = ExportRequest(checkpoint, "tiny", "0" * 64, "fp32", FUSED_OPSET, NUM_STEPS)
        export_checkpoint(request, folder, lambda line: None)
        return folder

    return make
