# SPDX-License-Identifier: Apache-2.0
"""Two joints, steps of 0.05 s; limits of 10 and 20 rad/s^2, and 1,000 rad/s^3: per step 0.025 and
0.05 rad of second differences, and 0.125 rad of third ones."""

from pathlib import Path

import numpy as np
import pytest

from par_model.evaluation.limit_shares import (
    MotionLimits,
    chunks_shares,
    read_motion_limits,
    share_beyond,
)

LIMITS = MotionLimits(np.array([10.0, 20.0]), np.array([1000.0, 1000.0]))


def shares(first_joint: np.ndarray, begins: tuple[int, ...]):
    """The second joint stands."""
    positions = np.column_stack((first_joint, np.zeros(len(first_joint))))
    return chunks_shares(positions, 0.05, begins, LIMITS)


def test_a_seam_counts_to_the_chunk_that_takes_over():
    """At constant velocity up to step 8, then twice as fast, each without any acceleration inside:
    from rest 0.02 rad a step make 8 rad/s^2, 0.8 of the limit; and 0.02 more at the seam too."""
    line = np.concatenate((0.02 * np.arange(9.0), 0.16 + 0.04 * np.arange(1, 9)))
    first, second = shares(line, (0, 8))
    assert first.acceleration == pytest.approx(0.8)
    assert second.acceleration == pytest.approx(0.8)
    assert second.jerk == pytest.approx(0.02 / 0.125)
    third = shares(line, (0, 12))[1]
    assert third.acceleration == pytest.approx(0.0, abs=1e-9)


def test_the_stop_behind_a_chunk_counts_to_it():
    """Sequential inference: 8 actions of 0.03 rad, then the arm stands for 4 steps."""
    line = np.concatenate((0.03 * np.arange(9.0), np.full(4, 0.24), 0.24 + 0.001 * np.arange(1, 9)))
    first, second = shares(line, (0, 12))
    assert first.is_beyond
    assert first.acceleration == pytest.approx(1.2)
    assert second.acceleration == pytest.approx(0.04)


def test_each_joint_has_its_own_limit_and_jerk_counts_alone():
    """To and fro by 0.02 rad: second differences of 0.04 (16 rad/s^2: 0.8 of the second joint's
    20), third ones of 0.08 (640 rad/s^3)."""
    line = 0.01 * (-1.0) ** np.arange(12)
    both = np.column_stack((np.zeros(12), line))
    (chunk,) = chunks_shares(both, 0.05, (3,), LIMITS)
    assert chunk.acceleration == pytest.approx(0.8)
    assert chunk.jerk == pytest.approx(0.64)
    strict = MotionLimits(LIMITS.max_acceleration_rad_s2, np.array([1000.0, 500.0]))
    (chunk,) = chunks_shares(both, 0.05, (3,), strict)
    assert chunk.is_beyond
    assert share_beyond([chunk]) == {
        "num_chunks": 1, "beyond": 1.0, "beyond_acceleration": 0.0, "beyond_jerk": 1.0
    }  # fmt: skip
    assert share_beyond([])["beyond"] is None


def test_the_limits_are_the_arm_files(tmp_path: Path):
    limits = read_motion_limits(Path("config/arms/panda.yaml"))
    assert limits.max_acceleration_rad_s2.tolist() == [15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]
    assert limits.max_jerk_rad_s3[0] == 7500.0
    with pytest.raises(ValueError, match=r"cannot be read .*--arm-file"):
        read_motion_limits(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("joints: 3")
    with pytest.raises(ValueError, match=r"has no joints with max_acceleration_rad_s2"):
        read_motion_limits(tmp_path / "bad.yaml")
