# SPDX-License-Identifier: Apache-2.0
"""What passes, what is tracked, what is refused; judged at 1 kHz by code of its own."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.hermite_curve import Nodes, control_points
from par_ros.control.joint_trajectory import FloatArray, MotionState
from par_ros.control.safety_filter import (
    FilteredChunk,
    Join,
    RequestedChunk,
    SafetyFilter,
    arm_trajectory,
)
from tests.control.arms import arm, knots
from tests.control.limit_oracle import ControllerOracle

TIMES = 0.05 * np.arange(1, 9)


def make_filter(spec: ArmSpec | None = None) -> SafetyFilter:
    return SafetyFilter(spec or arm("panda"), num_actions=8, step_s=0.05)


def chunk(positions: FloatArray, /, **changes: object) -> RequestedChunk:
    values: dict[str, object] = {
        "stamp_ns": 1,
        "joint_names": arm("panda").joint_names,
        "times_s": TIMES,
        "positions": positions,
    }
    return RequestedChunk(**{**values, **changes})  # type: ignore[arg-type]


def standing() -> Join:
    return Join(MotionState.at_rest(arm("panda").home))


def judge(spec: ArmSpec, start: MotionState, filtered: FilteredChunk) -> ControllerOracle:
    """The oracle after it has followed the whole motion."""
    oracle = ControllerOracle(spec, start.positions)
    oracle.start_from(start.positions, start.velocities, start.accelerations)
    assert filtered.nodes is not None
    trajectory = arm_trajectory(spec, filtered.nodes)
    trajectory.validate(spec.arm_joint_names)
    oracle.receive(trajectory, 0.0, 0.0)
    oracle.advance(1.0)
    return oracle


def gentle(speed: float = 0.02) -> FloatArray:
    """A quadratic start from home: 0.05 rad in 0.4 s."""
    ramp = np.outer((np.arange(1, 9) / 8.0) ** 2, np.full(7, speed))
    return np.column_stack((arm("panda").home + ramp, np.full(8, 0.04)))


def test_a_gentle_chunk_passes_unchanged_to_the_last_bit() -> None:
    filtered = make_filter().apply(standing(), gentle(), 0.04)
    assert filtered.outcome == "unchanged"
    assert not filtered.changes
    np.testing.assert_array_equal(filtered.knots, gentle())
    assert filtered.nodes is not None
    np.testing.assert_array_equal(filtered.nodes.positions[:8], gentle()[:, :7])
    assert not judge(arm("panda"), standing().start, filtered).findings.num_violations


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_before_any_clamp(number: float) -> None:
    positions = gentle()
    positions[3, 2] = number
    fault = make_filter().check(chunk(positions), arm("panda").home, None)
    assert fault is not None
    assert fault.kind == "not_finite"
    assert "panda_joint3" in fault.reason


def test_a_gripper_of_nan_is_refused_too() -> None:
    positions = gentle()
    positions[0, 7] = np.nan
    fault = make_filter().check(chunk(positions), arm("panda").home, None)
    assert fault is not None
    assert fault.kind == "not_finite"


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"joint_names": ("x",)}, "joints", "got ['x']"),
        ({"joint_names": tuple(reversed(arm("panda").joint_names))}, "joint_order", "this order"),
        ({"positions": np.zeros((5, 8))}, "shape", "8 points of 8 positions"),
        ({"times_s": TIMES[:5]}, "shape", "8 points of 8 positions"),
        ({"times_s": TIMES[::-1].copy()}, "times", "0.05 s apart"),
        ({"times_s": TIMES * 2}, "times", "0.05 s apart"),
        ({"times_s": np.full(8, np.nan)}, "not_finite", "its times"),
    ],
)
def test_wrong_form_is_a_fault_with_a_sentence(
    changes: dict[str, object], kind: str, sentence: str
) -> None:
    fault = make_filter().check(chunk(gentle(), **changes), arm("panda").home, None)
    assert fault is not None
    assert fault.kind == kind
    assert sentence in fault.reason


def test_a_jump_is_a_fault_not_a_motion() -> None:
    """0.3 rad from one target to the next is the panda's limit."""
    home = arm("panda").home
    positions = gentle()
    positions[4:, 1] += 0.31
    fault = make_filter().check(chunk(positions), home, None)
    assert fault is not None
    assert fault.kind == "jump"
    assert "panda_joint2" in fault.reason
    assert "knot 5" in fault.reason
    assert make_filter().check(chunk(gentle()), home, home) is None
    away = make_filter().check(chunk(gentle()), home, home + 0.5)
    assert away is not None
    assert "measured position" in away.reason


def test_acceleration_beyond_the_limit_is_tracked_within_it_and_reported() -> None:
    """Back and forth by 0.04 rad at each knot asks for over 60 rad/s^2 of 15."""
    positions = gentle(0.0)
    positions[:, 0] += 0.04 * np.where(np.arange(8) % 2, 1.0, -1.0)
    filtered = make_filter().apply(standing(), positions, 0.04)
    assert filtered.outcome == "tracked"
    (change,) = filtered.changes
    assert change.joint_name == "panda_joint1"
    assert "acceleration" in change.limits
    assert change.largest == pytest.approx(np.abs(filtered.knots - positions).max())
    # The others were not touched.
    np.testing.assert_array_equal(filtered.knots[:, 1:], positions[:, 1:])
    assert not judge(arm("panda"), standing().start, filtered).findings.num_violations


def test_what_is_smoothed_goes_to_the_limit_not_only_below_it() -> None:
    """The steps between smoothings are coarse; the governor goes back as far as 99.9 % allow."""
    spec = arm("panda")
    positions = gentle(0.0)
    positions[:, 0] += 0.04 * np.where(np.arange(8) % 2, 1.0, -1.0)
    filtered = make_filter().apply(standing(), positions, 0.04)
    assert filtered.nodes is not None
    knots_ahead = filtered.nodes.pick(slice(0, 8)).after(Nodes.at(0.0, standing().start))
    points = [np.abs(values[..., 0]).max() for values in control_points(knots_ahead).arrays()[1:]]
    limits = spec.limits
    shares = np.array(points) / (
        limits.max_velocity[0], limits.max_acceleration[0], limits.max_jerk[0],
    )  # fmt: skip
    assert 0.99 < shares.max() <= 1.0


def test_a_position_limit_is_respected_by_the_curve_and_a_stop() -> None:
    spec = arm("panda")
    start = spec.home.copy()
    start[3] = spec.limits.max_position[3] - 0.05
    positions = knots(start, np.array([0, 0, 0, 0.25, 0, 0, 0]))
    join = Join(MotionState.at_rest(start))
    filtered = make_filter().apply(join, positions, 0.04)
    assert filtered.outcome == "tracked"
    assert filtered.knots[:, 3].max() <= spec.limits.max_position[3]
    assert not judge(spec, join.start, filtered).findings.num_violations


def test_what_cannot_be_tracked_closely_is_refused() -> None:
    positions = knots(arm("panda").home, 5.0)
    filtered = make_filter().apply(standing(), positions, 0.04)
    assert filtered.outcome == "refused"
    assert filtered.nodes is None
    assert "panda_joint1" in filtered.reason


@pytest.mark.parametrize(
    ("velocity", "acceleration", "step"),
    [(0.0, 0.0, -0.15), (0.5, -4.4, -0.11), (-0.6, 3.0, 0.14)],
)
def test_a_step_is_gone_after_as_fast_as_the_limits_allow(
    velocity: float, acceleration: float, step: float
) -> None:
    """From rest, or against the motion: no smoothing follows it, yet the arm gets there in time."""
    spec = arm("panda")
    joint = np.arange(7) == 5
    start = MotionState(spec.home, velocity * joint, acceleration * joint)
    positions = np.column_stack((np.tile(spec.home + step * joint, (8, 1)), np.full(8, 0.04)))
    filtered = make_filter().apply(Join(start), positions, 0.04)
    assert filtered.outcome == "tracked"
    (change,) = filtered.changes
    assert change.joint_name == "panda_joint6"
    # It lags at first, within what is a motion, and arrives.
    assert 0.1 < change.largest < spec.max_jump_rad
    assert abs(filtered.knots[-1, 5] - positions[-1, 5]) < 0.02
    np.testing.assert_array_equal(np.delete(filtered.knots, 5, 1), np.delete(positions, 5, 1))
    findings = judge(spec, start, filtered).findings
    assert not findings.num_violations, findings.examples


def test_a_chunk_that_joins_badly_lags_and_never_runs_ahead() -> None:
    """Joint 2 of a policy's chunk whose first four knots are past: from rest, 0.03 rad away in a
    hundredth of a second, then 0.5 rad/s. On 2026-11-27 the arm went to its last knot at full speed
    instead, up to 0.12 rad ahead of the others."""
    spec = arm("panda")
    assert (spec.acceleration_check, spec.jerk_check) == ("enforce", "enforce")
    asked = np.column_stack((np.tile(spec.home, (18, 1)), np.full(18, 0.04)))
    asked[4:, 1] = (0.422, 0.459, 0.492, 0.519, 0.542, 0.565, 0.588, 0.612, 0.636, 0.661, 0.685,
                    0.708, 0.729, 0.75)  # fmt: skip
    guard = SafetyFilter(spec, num_actions=18, step_s=0.05)
    for joined_at_s in (0.205, 0.225, 0.245):
        filtered = guard.apply(Join(standing().start, joined_at_s), asked, 0.04, first_knot=4)
        assert filtered.outcome == "tracked"
        ahead = filtered.knots[4:, 1] - asked[4:, 1]
        assert ahead.max() < 0.003
        assert ahead.min() > -0.07
        assert np.abs(ahead[-6:]).max() < 0.01


def test_a_step_that_lags_too_far_or_does_not_arrive_is_refused() -> None:
    spec = arm("panda")
    joint = np.arange(7) == 0
    far = np.column_stack((np.tile(spec.home, (8, 1)), np.full(8, 0.04)))
    far[:, :7] += np.outer(0.29 * np.arange(1, 9), joint)
    refused = make_filter().apply(standing(), far, 0.04)
    assert refused.outcome == "refused"
    assert "at the last knot" in refused.reason
    lagging = dataclasses.replace(spec, max_jump_rad=0.05)
    step = np.column_stack((np.tile(spec.home + 0.15 * joint, (8, 1)), np.full(8, 0.04)))
    assert make_filter(lagging).apply(standing(), step, 0.04).outcome == "refused"


def test_a_warning_only_limit_passes_and_is_reported() -> None:
    spec = dataclasses.replace(arm("panda"), acceleration_check="warn", jerk_check="none")
    positions = gentle(0.0)
    positions[:, 0] += 0.01 * np.where(np.arange(8) % 2, 1.0, -1.0)
    filtered = make_filter(spec).apply(standing(), positions, 0.04)
    assert filtered.outcome == "unchanged"
    assert filtered.warnings == ("acceleration limit exceeded by panda_joint1",)


def test_the_gripper_is_clamped_to_its_targets_and_says_so() -> None:
    positions = gentle()
    positions[:, 7] = [0.04, 0.05, -0.01, -0.02, -0.01003, 0.0, 0.0, 0.0]
    filtered = make_filter().apply(standing(), positions, 0.04)
    # Knot 5: closed, as a sampled policy says it.
    np.testing.assert_array_equal(
        filtered.knots[:, 7], [0.04, 0.04, -0.01, -0.0105, -0.01003, 0.0, 0.0, 0.0]
    )
    (change,) = filtered.changes
    assert change.knots == (2, 4)
    assert change.limits == ("position",)


def test_a_gripper_target_may_cross_its_range_in_one_step() -> None:
    positions = gentle()
    positions[:, 7] = [0.04, -0.0105, 0.04, -0.0105, 0.04, -0.0105, 0.04, -0.01]
    filtered = make_filter().apply(standing(), positions, 0.04)
    assert filtered.outcome == "unchanged"
    np.testing.assert_array_equal(filtered.knots, positions)


shares = st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7).map(np.array)


@settings(max_examples=120, deadline=None)
@given(
    shares,
    shares,
    st.sampled_from([0.0, 0.01]),
    st.floats(0.0, 0.08),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["panda", "ur5e"]),
)
def test_whatever_passes_keeps_every_limit_at_every_millisecond(
    speed: FloatArray,
    acceleration: FloatArray,
    splice_s: float,
    sigma: float,
    seed: int,
    name: str,
) -> None:
    """Random states of motion, random noise on the knots, two arms."""
    spec = arm(name)
    limits, num = spec.limits, spec.num_arm_joints
    random = np.random.default_rng(seed)
    accelerations = 0.9 * acceleration[:num] * limits.max_acceleration
    peak = 0.5 * accelerations**2 / limits.stop_jerk
    velocities = 0.9 * speed[:num] * (limits.max_velocity - peak)
    share = random.uniform(0.3, 0.7, num)
    middle = limits.min_position + share * (limits.max_position - limits.min_position)
    start = MotionState(middle, velocities, accelerations)
    wanted = knots(middle, random.uniform(0.0, 1.2) * velocities)
    wanted[:, :-1] += random.normal(0.0, sigma, (8, num))
    filtered = make_filter(spec).apply(Join(start, splice_s), wanted, 0.02)
    if filtered.nodes is None:
        return
    oracle = ControllerOracle(spec, middle)
    oracle.start_from(start.positions, start.velocities, start.accelerations)
    oracle.receive(arm_trajectory(spec, filtered.nodes), -splice_s, 0.0)
    oracle.advance(1.0)
    assert not oracle.findings.num_violations, oracle.findings.examples
    assert not oracle.velocities.any()


def test_a_chunk_of_absurd_speed_is_no_exception() -> None:
    """Knots 0.3 rad apart, to and fro: the exact curve ends at tens of rad/s."""
    spec = arm("panda")
    signs = np.where(np.arange(8) % 2, 1.0, -1.0)
    wild = spec.home + 12.0 * np.outer(signs, np.ones(7))
    filtered = make_filter(spec).apply(
        Join(MotionState.at_rest(spec.home)), np.column_stack((wild, np.full(8, 0.02))), 0.02
    )
    assert filtered.outcome != "unchanged"
