# SPDX-License-Identifier: Apache-2.0
"""The judge's own curves: quintics sampled at 1 kHz, each derivative that of the one below."""

import numpy as np

from par_ros.control.joint_trajectory import JointTrajectory
from tests.control.arms import arm
from tests.control.limit_oracle import PERIOD_S, ControllerOracle


def test_samples_are_those_of_the_quintic_and_its_derivatives() -> None:
    """0.1 rad in 0.5 s from rest to rest: 10 u^3 - 15 u^4 + 6 u^5, peak speed 15/8 of the mean."""
    spec = arm("panda")
    oracle = ControllerOracle(spec, spec.home)
    end = np.zeros((1, 7))
    trajectory = JointTrajectory(
        spec.arm_joint_names, np.array([0.5]), spec.home[None] + 0.1, end, end
    )
    oracle.receive(trajectory, 0.0, 0.0)
    positions, velocities = [], []
    for step in range(1, 600):
        oracle.advance(step * PERIOD_S)
        positions.append(oracle.positions[0] - spec.home[0])
        velocities.append(oracle.velocities[0])
    share = np.clip(np.arange(1, 600) * PERIOD_S / 0.5, 0.0, 1.0)
    np.testing.assert_allclose(positions, 0.1 * (10 * share**3 - 15 * share**4 + 6 * share**5),
                               atol=1e-12)  # fmt: skip
    assert np.isclose(max(velocities), 0.2 * 15 / 8)
    np.testing.assert_allclose(
        np.diff(positions)[:480], np.array(velocities)[:480] * PERIOD_S, atol=2e-5
    )
    assert velocities[-1] == 0.0
    assert oracle.findings.num_samples == 599
    assert not oracle.findings.num_violations
    # 10 sqrt(3) / 3 of distance over duration squared.
    peak = 0.1 * 10 / np.sqrt(3) / 0.25
    assert np.isclose(oracle.findings.largest["acceleration"], peak / 7.5, rtol=1e-4)


def test_each_kind_of_broken_limit_is_found() -> None:
    spec = arm("panda")
    limits = spec.limits
    cases = {
        "position": (limits.max_position + 0.01 - spec.home, 3.0),
        "velocity": (np.full(7, 0.5), 0.2),
        "acceleration": (np.full(7, 0.05), 0.1),
        "jerk": (np.full(7, 0.02), 0.03),
    }
    zeros = np.zeros((1, 7))
    for kind, (distance, duration_s) in cases.items():
        oracle = ControllerOracle(spec, spec.home)
        trajectory = JointTrajectory(
            spec.arm_joint_names, np.array([duration_s]), spec.home[None] + distance, zeros, zeros
        )
        oracle.receive(trajectory, 0.0, 0.0)
        oracle.advance(duration_s + 0.5)
        assert oracle.findings.violations[kind] > 0, kind


def test_a_number_that_is_none_is_found() -> None:
    spec = arm("panda")
    oracle = ControllerOracle(spec, spec.home)
    target = spec.home[None].copy()
    target[0, 3] = np.nan
    zeros = np.zeros((1, 7))
    oracle.receive(
        JointTrajectory(spec.arm_joint_names, np.array([0.5]), target, zeros, zeros), 0.0, 0.0
    )
    oracle.advance(1.0)
    assert oracle.findings.violations["finite"] > 0


def test_from_what_an_arm_is_sent_a_first_point_ahead_is_found() -> None:
    spec = arm("panda")
    zeros = np.zeros((1, 7))
    late = JointTrajectory(spec.arm_joint_names, np.array([0.5]), spec.home[None], zeros, zeros)
    found = {}
    for blends in (True, False):
        oracle = ControllerOracle(spec, spec.home, blends=blends)
        oracle.receive(late, 0.0, 0.1)
        oracle.receive(late, None, 0.2)
        found[blends] = dict(oracle.findings.violations)
    assert found == {True: {}, False: {"ahead": 1}}
