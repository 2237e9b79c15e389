# SPDX-License-Identifier: Apache-2.0
"""Limits of whole curves; velocity limits that depend on the position, with the FR3's numbers.

Towards the end of its range FR3's first joint may run at -0.30 + sqrt(12 * (2.7501 - q)) rad/s:
1.43 at 2.5 rad, 0.48 at 2.7 rad.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control import braking
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.curve_limits import LIMIT_NAMES, CurveLimits
from par_ros.control.hermite_curve import CurvePoints, Nodes, control_points
from par_ros.control.joint_trajectory import FloatArray, Motion, MotionState
from par_ros.control.safety_filter import FilteredChunk, Join, SafetyFilter, arm_trajectory
from tests.control.arms import arm, knots

FR3 = arm("fr3")
# Where a stop reaches its deceleration within 2 ms, its trajectory takes longer to.
_STOP_ROUNDING = 1e-3


def without_position_dependence(spec: ArmSpec) -> ArmSpec:
    limits = dataclasses.replace(spec.limits, position_dependent_velocity=None)
    return dataclasses.replace(spec, limits=limits)


def make_filter(spec: ArmSpec) -> SafetyFilter:
    return SafetyFilter(spec, num_actions=8, step_s=0.05)


def at(joint1: float, speed: float = 0.0) -> MotionState:
    """Home, but for the first joint."""
    positions, velocities = FR3.home.copy(), np.zeros(7)
    positions[0], velocities[0] = joint1, speed
    return MotionState(positions, velocities, np.zeros(7))


def excess(motion: Motion, times_s: FloatArray) -> float:
    """By how much the curve is faster than its positions allow, rad/s."""
    samples = motion.sample(times_s)
    low, high = FR3.limits.velocity_bounds(samples.positions)
    return float(np.maximum(samples.velocities - high, low - samples.velocities).max())


def excess_of_stop(state: MotionState) -> float:
    stop = braking.stop(state, FR3.limits)
    return excess(Motion(arm_trajectory(FR3, stop), state), np.linspace(0.0, stop.times_s[-1], 300))


def judge(start: MotionState, filtered: FilteredChunk) -> tuple[float, float]:
    """The excess of the motion itself and of stops from 12 moments of it."""
    assert filtered.nodes is not None
    motion = Motion(arm_trajectory(FR3, filtered.nodes), start)
    times_s = np.linspace(0.0, filtered.nodes.times_s[-1], 800)
    stops = max(excess_of_stop(motion.state_at(float(time_s))) for time_s in times_s[::67])
    return excess(motion, times_s), stops


def test_the_first_broken_limit_is_named() -> None:
    """One piece, 0.1 s, from rest to rest: 0.5 rad of way is a peak of 9.4 rad/s."""
    limits = CurveLimits(arm("panda").limits, np.ones(5, np.bool_))
    home = arm("panda").home
    states = np.zeros((3, 2, 7))
    states[0] = home
    assert not limits.broken(control_points(Nodes.of_states(np.array([0.0, 0.1]), states))).any()
    states[0, 1, 2] += 0.5
    broken = limits.broken(control_points(Nodes.of_states(np.array([0.0, 0.1]), states)))
    assert not np.delete(broken, 2, axis=1).any()
    assert set(np.array(LIMIT_NAMES)[broken[:, 2]]) >= {"velocity", "acceleration", "jerk"}


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_is_within_no_limit(number: float) -> None:
    limits = CurveLimits(arm("panda").limits, np.ones(5, np.bool_))
    states = np.zeros((3, 2, 7))
    states[0] = arm("panda").home
    states[0, 1, 4] = number
    with np.errstate(all="ignore"):
        broken = limits.broken(control_points(Nodes.of_states(np.array([0.0, 0.1]), states)))
    assert broken[:4, 4].all()


def accelerating_to(
    spec: ArmSpec, joint: int, position: float, velocity: float, acceleration: float
) -> Nodes:
    """50 ms of constant acceleration that end in this state of one joint; home elsewhere."""
    times_s = np.array([0.0, 0.05])
    states = np.zeros((3, 2, spec.num_arm_joints))
    states[0] = spec.home
    back_s = times_s[1] - times_s
    states[2, :, joint] = acceleration
    states[1, :, joint] = velocity - acceleration * back_s
    states[0, :, joint] = position - velocity * back_s + 0.5 * acceleration * back_s**2
    return Nodes.of_states(times_s, states)


@pytest.mark.parametrize("side", [-1, 1])
def test_beyond_either_end_of_the_range_and_too_near_to_stop(side: int) -> None:
    """At 1 rad/s the panda's second joint needs 0.1 rad to stop."""
    spec = arm("panda")
    limits = CurveLimits(spec.limits, np.ones(5, np.bool_))
    end = (spec.limits.max_position if side > 0 else spec.limits.min_position)[1]
    for inside_rad, broken in ((-1e-4, {"position"}), (0.02, {"stop"}), (0.2, set())):
        speed = 0.0 if "position" in broken else side * 1.0
        nodes = accelerating_to(spec, 1, end - side * inside_rad, speed, 0.0)
        found = limits.broken(control_points(nodes))
        assert set(np.array(LIMIT_NAMES)[found[:, 1]]) == broken
        assert not np.delete(found, 1, axis=1).any()


@pytest.mark.parametrize("side", [-1, 1])
def test_a_curve_within_its_velocity_from_which_a_stop_is_not(side: int) -> None:
    """Joint 2 may run at 1.03 rad/s at 1.5 rad; at 5 rad/s^2 it gets faster for 12 ms more."""
    nodes = accelerating_to(FR3, 1, side * 1.5, side * 1.02, side * 5.0)
    found = CurveLimits(FR3.limits, np.ones(5, np.bool_)).broken(control_points(nodes))
    assert set(np.array(LIMIT_NAMES)[found[:, 1]]) == {"stop"}
    plain = CurveLimits(without_position_dependence(FR3).limits, np.ones(5, np.bool_))
    assert not plain.broken(control_points(nodes)).any()
    faster = accelerating_to(FR3, 1, side * 1.5, side * 1.04, 0.0)
    found = CurveLimits(FR3.limits, np.ones(5, np.bool_)).broken(control_points(faster))
    assert found[1, 1]


@pytest.mark.parametrize("side", [-1, 1])
def test_the_largest_share_of_a_step_keeps_the_velocity_of_its_position(side: int) -> None:
    """From standing at 1.5 rad towards 2 rad/s there, where 1.03 rad/s are allowed: about half."""
    limits = CurveLimits(FR3.limits, np.ones(5, np.bool_))
    safe = control_points(accelerating_to(FR3, 1, side * 1.5, 0.0, 0.0))
    wanted = control_points(accelerating_to(FR3, 1, side * 1.5, side * 2.0, 0.0))
    step = wanted.values - safe.values
    share = limits.largest_share(safe, step)
    assert 0.45 < share[1] < 0.52
    assert not limits.broken(CurvePoints(safe.values + share * step), is_stop=True).any()


def test_in_the_middle_of_the_range_nothing_changes() -> None:
    start = at(0.0, 1.0)
    wanted = knots(start.positions, start.velocities)
    filtered = make_filter(FR3).apply(Join(start), wanted, 0.04)
    assert filtered.outcome == "unchanged"
    np.testing.assert_array_equal(filtered.knots, wanted)


def test_what_is_too_fast_for_its_position_is_tracked_and_reported_as_velocity() -> None:
    """0.85 rad/s from 2.35 rad on; at the last knot, at 2.69 rad, 0.55 rad/s are allowed."""
    start = at(2.35, 0.85)
    wanted = knots(start.positions, start.velocities)
    plain = make_filter(without_position_dependence(FR3)).apply(Join(start), wanted, 0.04)
    assert plain.outcome == "unchanged"
    assert judge(start, plain)[0] > 0.05
    filtered = make_filter(FR3).apply(Join(start), wanted, 0.04)
    assert filtered.outcome == "tracked"
    (change,) = filtered.changes
    assert change.joint_name == "fr3_joint1"
    assert "velocity" in change.limits
    assert max(judge(start, filtered)) < _STOP_ROUNDING


def test_away_from_the_end_it_may_be_fast() -> None:
    start = at(2.6, -1.0)
    wanted = knots(start.positions, start.velocities)
    assert make_filter(FR3).apply(Join(start), wanted, 0.04).outcome == "unchanged"


def test_standing_at_the_end_of_the_range_is_allowed() -> None:
    """Where the published curve is 0, and beyond it."""
    start = MotionState.at_rest(FR3.limits.max_position - 1e-6)
    wanted = knots(start.positions, np.zeros(7))
    assert make_filter(FR3).apply(Join(start), wanted, 0.04).outcome == "unchanged"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_near_the_ends_no_motion_and_no_stop_is_too_fast_for_its_position(seed: int) -> None:
    """All joints in the last eighth of their range, ramps with noise of up to 3 mrad."""
    random = np.random.default_rng(seed)
    limits = FR3.limits
    share = random.uniform(0.0, 0.12, 7)
    share = np.where(random.random(7) < 0.5, share, 1.0 - share)
    positions = limits.min_position + share * (limits.max_position - limits.min_position)
    bounds = np.where(random.random(7) < 0.5, *limits.velocity_bounds(positions))
    moving = random.random(7) < 0.6
    start = MotionState(positions, 0.8 * random.random() * bounds * moving, np.zeros(7))
    if excess_of_stop(start) > 0.0:
        return
    wanted = knots(positions, start.velocities + 0.3 * random.random() * bounds)
    wanted[:, :7] += random.normal(0.0, random.choice([0.0, 0.0005, 0.003]), (8, 7))
    filtered = make_filter(FR3).apply(Join(start), wanted, 0.04)
    if filtered.nodes is not None:
        motion, stops = judge(start, filtered)
        assert motion < 1e-6
        assert stops < _STOP_ROUNDING
