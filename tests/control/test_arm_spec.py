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


def test_ur5e_s_knuckle_is_0_open_and_0_7929_closed() -> None:
    driver = arm("ur5e").gripper.driver
    assert driver is not None and driver.linkage is not None
    assert driver.linkage.angle(0.0425) == pytest.approx(0.0, abs=1e-9)
    assert driver.linkage.angle(0.0) == 0.7929


@pytest.mark.parametrize("angle_rad", [0.0, 0.2, 0.4, 0.6, 0.78])
def test_the_linkage_undoes_the_urdf_s_kinematics(angle_rad: float) -> None:
    """A crank of (0.0372, 0.0434) m turned about its knuckle, 0.0306 m from the middle;
    the pad stands 0.0253 m inside the crank's end, so that it is 0.0425 m from the middle at 0."""
    driver = arm("ur5e").gripper.driver
    assert driver is not None and driver.linkage is not None
    turned = np.exp(1j * angle_rad) * complex(0.03715750, 0.04342168)
    pad_m = 0.03060114 + turned.real - (0.03060114 + 0.03715750 - 0.0425)
    assert driver.linkage.angle(pad_m) == pytest.approx(angle_rad, abs=1e-9)
    finger_m, per_rad_m = driver.linkage.finger(angle_rad)
    assert finger_m == pytest.approx(pad_m, abs=1e-9)
    further_m, _ = driver.linkage.finger(angle_rad + 1e-6)
    assert per_rad_m == pytest.approx((further_m - finger_m) / 1e-6, abs=1e-6)


def test_fr3_is_driven_by_franka_s_actions_and_the_panda_by_a_controller() -> None:
    driver = arm("fr3").gripper.driver
    assert driver is not None
    assert (driver.kind, driver.action, driver.linkage) == ("franka", "fr3_gripper", None)
    assert arm("panda").gripper.driver is None
    explicit = copy.deepcopy(content("panda"))
    explicit["gripper"]["driver"] = {"kind": "trajectory"}  # type: ignore[index]
    assert ArmSpec.from_mapping("panda", explicit).gripper.driver is None


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("kind", "magnet", "gripper.driver.kind must be one of ('trajectory', 'gripper_command'"),
        ("effort", -1.0, "gripper.driver.effort must be positive"),
        ("dead_band_m", 0.0, "gripper.driver.dead_band_m must be positive"),
        ("epsilon_m", "wide", "epsilon_m must be a number, got wide"),
        ("speed_m_s", 0.0, "gripper.driver.speed_m_s must be positive"),
        ("closed_m", -0.02, "gripper.driver.closed_m must be from -0.0105"),
        ("grasp_below_m", 0.04, "gripper.driver.grasp_below_m must be from 0"),
        ("grasp_below_m", -0.001, "gripper.driver.grasp_below_m must be from 0"),
        ("force", 20.0, "gripper.driver must be among"),
        ("linkage", {}, "gripper.driver must be among"),
        ("action", "", "action must be text"),
    ],
)
def test_a_driver_s_mistake_is_named(entry: str, value: object, sentence: str) -> None:
    broken = copy.deepcopy(content("fr3"))
    broken["gripper"]["driver"][entry] = value  # type: ignore[index]
    with pytest.raises(ValueError) as error:
        ArmSpec.from_mapping("broken", broken)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("open_m", 0.03, "gripper.driver.linkage must be open_m equal to max_target_m 0.0425"),
        ("closed_rad", None, "closed_rad must be a number, got None"),
        ("joint", "robotiq_85_finger_opening", "another name than gripper.joint"),
        ("crank", 1.0, "gripper.driver.linkage must be among"),
    ],
)
def test_a_linkage_s_mistake_is_named(entry: str, value: object, sentence: str) -> None:
    broken = copy.deepcopy(content("ur5e"))
    broken["gripper"]["driver"]["linkage"][entry] = value  # type: ignore[index]
    with pytest.raises(ValueError) as error:
        ArmSpec.from_mapping("broken", broken)
    assert sentence in str(error.value)


def box(**changes: object) -> dict[str, object]:
    """A section `workspace` with `changes`."""
    good = {
        "urdf": "a",
        "tool_frame": "b",
        "min_corner_m": [0, 0, 0],
        "max_corner_m": [1, 1, 1],
    }
    return {**good, **changes}


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
        (("tracking", "lag_s"), -0.1, "lag_s must be 0 or more, got -0.1"),
        (("tracking", "max_eror_rad"), 0.1, "tracking must be among ['lag_s', 'max_error_rad']"),
        (("jump", "max_jump"), 0.1, "jump must be among"),
        (("checks", "velocity"), "none", "checks must be among ['acceleration', 'jerk']"),
        (("workspace",), {"urdf": "a", "tool_frame": "b", "min_corner_m": [1]}, "three numbers"),
        (("workspace",), box(min_corner_m=["a", 0, 0]), "workspace.min_corner_m must be a number"),
        (("workspace",), box(max_corner_m=[None, 1, 1]), "workspace.max_corner_m must be a number"),
        (("workspace",), box(max_corner_m=[float("nan"), 1, 1]), "max_corner_m must be a number"),
        (("workspace",), box(max_corner_m=[1, 1, -1]), "must be min_corner_m below max_corner_m"),
        (("workspace",), box(margin_m=0.1), "workspace must be among"),
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
