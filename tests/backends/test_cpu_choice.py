# SPDX-License-Identifier: Apache-2.0
"""Measured times that cannot be read are measured again: nobody is told, nothing breaks."""

import pytest

from par_model.backends.cpu_choice import _kept


def test_times_of_this_cpu_are_kept(tmp_path):
    path = tmp_path / "times.json"
    path.write_text('{"cpu": "mine", "control_step_ms": {"onnx": 1.5}}')
    assert _kept(path, "mine") == {"onnx": 1.5}
    assert _kept(path, "another") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"{}", b"\xff", b'{"cpu": "mine"}', b'{"cpu": "mine", "control_step_ms": [1]}'],
    ids=repr,
)
def test_anything_else_is_measured_again(tmp_path, content):
    path = tmp_path / "times.json"
    path.write_bytes(content)
    assert _kept(path, "mine") is None
