# SPDX-License-Identifier: Apache-2.0
"""Each arm file is complete, and every mistake in one is named."""

import copy

import numpy as np
import pytest

from par_ros.control.arm_spec import MAX_STOP_TIME_S, ArmSpec
from tests.control.arms import FOLDER, arm, content

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_an_arm_that_stops_in_time(name: str) -> None:
    spec = arm(name)
    assert spec.limits.stop_time_s() <= MAX_STOP_TIME_S
    assert len(spec.source) > 10
    assert spec.joint_names[-1] == spec.gripper.joint_name


def test_panda_has_the_published_limits_and_maniskills_joints() -> None:
    spec = arm("panda")
    assert spec.joint_names == (*(f"panda_joint{i}" for i in range(1, 8)), "panda_finger_joint1")
    np.testing.assert_allclose(spec.limits.max_velocity, [2.175] * 4 + [2.61] * 3)
    np.testing.assert_allclose(spec.limits.max_acceleration, [15, 7.5, 10, 12.5, 15, 20, 20])
    assert (spec.gripper.min_target_m, spec.gripper.max_target_m) == (-0.0105, 0.04)


@pytest.mark.parametrize("name", NAMES)
def test_gripper_mapping_can_be_undone(name: str) -> None:
    gripper = arm(name).gripper
    targets = np.array([gripper.min_target_m, gripper.max_target_m])
    np.testing.assert_allclose(gripper.target(gripper.command(targets)), targets, atol=1e-12)


def test_ur5e_gripper_is_closed_at_the_largest_knuckle_angle() -> None:
    gripper = arm("ur5e").gripper
    assert gripper.command(np.array([0.0]))[0] == pytest.approx(0.7929)
    assert gripper.command(np.array([0.0425]))[0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("joints", "panda_joint1", "max_velocity_rad_s"), -1.0, "max_velocity must be positive"),
        (("joints", "panda_joint1", "max_velocity_rad_s"), "fast", "must be a number, got fast"),
        (("joints", "panda_joint1", "max_velocity_rad_s"), 9.0, "low enough to stop within 0.5 s"),
        (("joints", "panda_joint1", "min_position_rad"), 5.0, "min below max"),
        (("joints", "panda_joint1", "stop_jerk_rad_s3"), 1e6, "at most max_jerk"),
        (("joints", "panda_joint1", "home_rad"), 4.0, "inside the position limits"),
        (("joints",), {}, "joints must be a mapping"),
        (("checks", "jerk"), "sometimes", "checks.jerk must be one of"),
        (("gripper", "max_target_speed_m_s"), 0.0, "a positive speed"),
        (("gripper", "command_scale"), 0.0, "gripper.command_scale must be not 0"),
        (("gripper", "joint"), "panda_joint1", "joint names must be unique"),
        (("source",), "", "source must be text"),
        (("colour",), "red", "entries must be among"),
        (("tracking", "max_error_rad"), float("nan"), "must be a number"),
        (("workspace",), {"urdf": "a", "tool_frame": "b", "min_corner_m": [1]}, "three numbers"),
    ],
)
def test_a_mistake_is_named(path: tuple[str, ...], value: object, sentence: str) -> None:
    broken = copy.deepcopy(content("panda"))
    section = broken
    for key in path[:-1]:
        section = section[key]  # type: ignore[assignment]
    section[path[-1]] = value
    with pytest.raises(ValueError) as error:
        ArmSpec.from_mapping("broken", broken)
    assert sentence in str(error.value)
    assert "arm 'broken'" in str(error.value)
