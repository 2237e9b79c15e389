# SPDX-License-Identifier: Apache-2.0
"""An arm that stands at a position limit: the guard plans 5 mrad inside, and engages only there."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.arms import arm
from tests.control.guard_rig import TIMES, Rig, text


def near_a_limit(
    name: str, joint: int, inside_rad: float, *, upper: bool, **more: object
) -> tuple[Rig, np.ndarray]:
    """An arm with one joint so far inside a limit, and a direction [J] that leads away from it."""
    spec = arm(name)
    home, away = spec.home.copy(), np.zeros(len(spec.home))
    limits = spec.limits
    end = (limits.max_position if upper else limits.min_position)[joint]
    away[joint] = -1.0 if upper else 1.0
    home[joint] = end + inside_rad * away[joint]
    rig = Rig(spec=dataclasses.replace(spec, home=home), **more)
    rig.sends_references = bool(more.get("expects_reference", True))
    rig.wait(0.3)
    return rig, away


def leading(rig: Rig, direction: np.ndarray, rad_s: float) -> np.ndarray:
    """Eight knots from what is commanded now."""
    now = rig.guard.commanded_positions(rig.moment)
    assert now is not None
    return np.column_stack((now + rad_s * np.outer(TIMES, direction), np.full(8, 0.04)))


@pytest.mark.parametrize("inside_rad", [0.0, 0.003, 0.0049])
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("expects_reference", [True, False])
def test_nearer_than_the_guard_plans_it_is_not_engaged(
    inside_rad: float, upper: bool, expects_reference: bool
) -> None:
    rig, _ = near_a_limit("panda", 5, inside_rad, upper=upper, expects_reference=expects_reference)
    reply = rig.call("engage")
    assert not reply.success
    assert f"panda_joint6 is {0.005 - inside_rad:.3g} rad nearer to its" in reply.message
    assert reply.message.endswith("move it away from the limit by hand")
    assert not rig.sent


@pytest.mark.parametrize("inside_rad", [0.005, 0.0051, 0.01])
@pytest.mark.parametrize("name", ["panda", "fr3"])
def test_where_the_guard_plans_it_is_engaged_and_led_away(name: str, inside_rad: float) -> None:
    rig, away = near_a_limit(name, 5, inside_rad, upper=True)
    assert rig.call("engage").success
    assert rig.chunk(leading(rig, away, 0.2)).arm is not None
    rig.assert_rest(1.2)


def test_a_measured_joint_may_be_nearer_where_the_reference_is_not() -> None:
    """It sags by 3 mrad towards the limit, and is commanded from the reference."""
    rig, away = near_a_limit("panda", 5, 0.006, upper=True)
    rig.joint_offset = -0.003 * away
    rig.wait(0.5)
    assert rig.call("engage").success
    assert rig.chunk(leading(rig, away, 0.2)).arm is not None


def test_a_controller_that_stands_nearer_later_is_named_by_the_hold() -> None:
    """cmd_timeout: it holds where it measures, 3 mrad nearer; no chunk leads away from there."""
    rig, away = near_a_limit("panda", 5, 0.006, upper=True, first_chunk_timeout_s=60.0)
    assert rig.call("engage").success
    rig.wait(0.2)
    rig.controller.hold(rig.spec.home - 0.003 * away)
    rig.wait(0.1)
    assert rig.guard.engaged
    held = rig.chunk(leading(rig, away, 0.2))
    assert held.arm is None
    assert "chunk held: panda_joint6 is 0.002 rad nearer to its position limit" in text(held)
    rig.call("disengage")
    rig.wait(0.3)
    assert "panda_joint6 is 0.002 rad nearer" in rig.call("engage").message


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["panda", "fr3"]),
    st.integers(0, 6),
    st.booleans(),
    st.floats(0.02, 0.3),
    st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0.06, 0.5)), min_size=1, max_size=4),
)
def test_wherever_the_guard_stopped_an_arm_it_is_engaged_again(
    name: str, joint: int, upper: bool, inside_rad: float, chunks: list[tuple[float, float]]
) -> None:
    """Chunks drive a joint into its limit, and a stop comes at any moment."""
    rig, away = near_a_limit(name, joint, inside_rad, upper=upper)
    assert rig.call("engage").success
    for rad_s, wait_s in chunks:
        rig.chunk(leading(rig, -away, rad_s))
        rig.wait(wait_s)
    rig.call("e_stop")
    rig.wait(1.2)
    rig.guard.reset_stop()
    reply = rig.call("engage")
    assert reply.success, reply.message
    rig.wait(0.1)
    assert rig.chunk(leading(rig, away, 0.0)).arm is not None
