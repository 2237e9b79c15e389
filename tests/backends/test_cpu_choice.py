# SPDX-License-Identifier: Apache-2.0
"""Measured times that cannot be read are measured again: nobody is told, nothing breaks."""

import numpy as np
import pytest

from par_model.backends.cpu_choice import _kept, control_step_ms


def test_times_of_this_cpu_are_kept(tmp_path):
    path = tmp_path / "times.json"
    path.write_text('{"cpu": "mine", "control_step_ms": {"onnx": 1.5}}')
    assert _kept(path, "mine") == {"onnx": 1.5}
    assert _kept(path, "another") is None


def test_an_environment_with_a_runtime_less_takes_the_times_of_the_others(tmp_path):
    """Nothing is measured: the candidates here cannot run."""
    path = tmp_path / "control_step_ms.json"
    written = '{"cpu": "mine", "control_step_ms": {"openvino": 1.0, "onnx": 1.5, "eager": 3.0}}'
    path.write_text(written)
    candidates = {"onnx": None, "eager": None}
    times = control_step_ms(candidates, np.zeros(1), tmp_path, "mine")
    assert times == {"onnx": 1.5, "eager": 3.0}
    assert path.read_text() == written


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"{}", b"\xff", b'{"cpu": "mine"}', b'{"cpu": "mine", "control_step_ms": [1]}'],
    ids=repr,
)
def test_anything_else_is_measured_again(tmp_path, content):
    path = tmp_path / "times.json"
    path.write_bytes(content)
    assert _kept(path, "mine") is None
