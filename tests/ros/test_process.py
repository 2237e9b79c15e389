# SPDX-License-Identifier: Apache-2.0
"""A transition that fails unexpectedly says so; rclpy alone would say nothing."""

import pytest
from rclpy.lifecycle import TransitionCallbackReturn

from par_ros.process import transition


class Node:
    def get_name(self) -> str:
        return "policy_node"

    @transition
    def on_configure(self, state: object) -> TransitionCallbackReturn:
        if state is None:
            raise RuntimeError("CUDA out of memory")
        return TransitionCallbackReturn.SUCCESS


def test_an_unexpected_error_is_printed_and_the_transition_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert Node().on_configure("unconfigured") is TransitionCallbackReturn.SUCCESS
    assert Node().on_configure(None) is TransitionCallbackReturn.FAILURE
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "error: on_configure of policy_node: CUDA out of memory\n" in printed
