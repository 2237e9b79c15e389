# SPDX-License-Identifier: Apache-2.0
"""A stop ends at rest where the closed form says, within acceleration and jerk at 1 kHz."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control import braking
from par_ros.control.joint_trajectory import JointTrajectory, Motion, MotionState
from par_ros.control.safety_filter import arm_trajectory
from tests.control.arms import arm
from tests.control.limit_oracle import ControllerOracle

shares = st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7).map(np.array)


def moving(velocity: np.ndarray, acceleration: np.ndarray) -> MotionState:
    """Shares of the limits that leave the peak speed of a stop inside the velocity limit."""
    limits = arm("panda").limits
    accelerations = acceleration * limits.max_acceleration
    peak = 0.5 * accelerations**2 / limits.stop_jerk
    return MotionState(arm("panda").home, velocity * (limits.max_velocity - peak), accelerations)


@settings(max_examples=150, deadline=None)
@given(shares, shares, st.sampled_from([0.0, 0.3]))
def test_a_stop_keeps_acceleration_and_jerk_and_ends_at_rest(
    velocity: np.ndarray, acceleration: np.ndarray, minimum_s: float
) -> None:
    spec = arm("panda")
    state = moving(velocity, acceleration)
    nodes = braking.stop(state, spec.limits, minimum_s)
    oracle = ControllerOracle(spec, state.positions)
    oracle.start_from(state.positions, state.velocities, state.accelerations)
    oracle.receive(arm_trajectory(spec, nodes), 0.0, 0.0)
    oracle.advance(1.0)
    kinds = set(oracle.findings.violations) - {"position"}
    assert not kinds, oracle.findings.examples
    assert not oracle.velocities.any()
    assert nodes.times_s[-1] <= 0.5


@settings(max_examples=150, deadline=None)
@given(shares, shares)
def test_closed_form_of_the_stopping_position_is_ruckigs(
    velocity: np.ndarray, acceleration: np.ndarray
) -> None:
    spec = arm("panda")
    state = moving(velocity, 0.9 * acceleration)
    nodes = braking.stop(state, spec.limits)
    profiles = braking.StopProfiles.of(
        state.positions[None], state.velocities[None], state.accelerations[None], spec.limits
    )
    np.testing.assert_allclose(nodes.positions[-1], profiles.ends()[0], atol=1e-6)
    np.testing.assert_allclose(profiles.sampled()[0][-1], profiles.ends())
    np.testing.assert_allclose(profiles.sampled()[1][-1], 0.0, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(shares, shares)
def test_samples_of_a_stop_lie_on_ruckigs_curve(
    velocity: np.ndarray, acceleration: np.ndarray
) -> None:
    """Joint by joint: a trajectory has no points within 2 ms of each other, of any joints."""
    state = moving(velocity, 0.9 * acceleration)
    for joint in range(7):
        column = np.array([joint])
        limits, alone = arm("panda").limits.of_joints(column), state.of_joints(column)
        stop = braking.stop(alone, limits)
        motion = Motion(JointTrajectory(("a",), stop.times_s, *stop.states), alone)
        profiles = braking.StopProfiles.of(
            alone.positions[None], alone.velocities[None], alone.accelerations[None], limits
        )
        phases = np.array([profiles.first_s, profiles.plateau_s, profiles.last_s])[:, 0, 0]
        if np.any((phases > 0.0) & (phases < 0.0025)):
            continue
        for shares in ((0.5, 0.0, 0.0), (1.0, 0.3, 0.0), (1.0, 1.0, 0.7)):
            times_s = phases * np.array(shares)
            there = motion.state_at(float(times_s.sum()))
            positions, velocities = profiles.states(*times_s[:, None, None])
            assert positions[0, 0] == pytest.approx(there.positions[0], abs=1e-8)
            assert velocities[0, 0] == pytest.approx(there.velocities[0], abs=1e-6)


def test_a_standing_arm_stays() -> None:
    state = MotionState.at_rest(arm("panda").home)
    nodes = braking.stop(state, arm("panda").limits)
    np.testing.assert_allclose(nodes.positions, np.tile(state.positions, (len(nodes.times_s), 1)))


def test_move_to_rest_arrives() -> None:
    spec = arm("panda")
    state = moving(np.full(7, 0.5), np.zeros(7))
    nodes = braking.move_to_rest(state, spec.home + 0.1, spec.limits)
    np.testing.assert_allclose(nodes.positions[-1], spec.home + 0.1, atol=1e-9)
    oracle = ControllerOracle(spec, state.positions)
    oracle.start_from(state.positions, state.velocities, state.accelerations)
    oracle.receive(arm_trajectory(spec, nodes), 0.0, 0.0)
    oracle.advance(2.0)
    assert not oracle.findings.num_violations, oracle.findings.examples


def test_on_the_way_to_rest_every_wanted_moment_has_its_node() -> None:
    """Up to 0.2 s of a motion that takes longer: the nodes of the motion itself, and no others."""
    spec = arm("panda")
    state = MotionState(spec.home, np.full(7, 0.2), np.full(7, -1.0))
    goal = spec.home + 0.3
    times_s = 0.05 * np.arange(1, 5)
    part = braking.move_towards(state, goal, spec.limits, times_s)
    assert np.isin(times_s, part.times_s).all()
    assert part.times_s[-1] == times_s[-1]
    assert np.diff(part.times_s, prepend=0.0).min() >= 0.002
    whole = braking.move_to_rest(state, goal, spec.limits)
    assert whole.times_s[-1] > times_s[-1]
    motion = Motion(arm_trajectory(spec, whole), state)
    # Points within 2 ms of a node are left out, so the two differ by what that rounds.
    np.testing.assert_allclose(part.positions, motion.sample(part.times_s).positions, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(shares, shares)
def test_no_stop_is_longer_than_the_bound(velocity: np.ndarray, acceleration: np.ndarray) -> None:
    limits = arm("panda").limits
    state = moving(velocity, 0.9 * acceleration)
    rows = (state.velocities[None], state.accelerations[None])
    way = braking.StopProfiles.of(state.positions[None], *rows, limits).ends()[0] - state.positions
    peaks = np.abs(braking.peak_velocities(*rows, limits))[0]
    fastest = np.maximum(peaks, np.abs(state.velocities))
    bound = braking.longest_stop(fastest, np.abs(state.accelerations), limits)
    assert np.all(np.abs(way) <= bound + 1e-12)
