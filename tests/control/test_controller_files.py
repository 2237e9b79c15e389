# SPDX-License-Identifier: Apache-2.0
"""Each arm has an example controllers file that names its controllers and joints, in its order."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from par_ros.control import joint_watch
from tests.control.arms import FOLDER, arm

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "template")


def parameters(name: str) -> dict[str, Any]:
    path: Path = FOLDER.parent / "controllers" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {node: section["ros__parameters"] for node, section in content.items()}


@pytest.mark.parametrize("name", NAMES)
def test_joints_and_settings_are_those_that_the_guard_counts_on(name: str) -> None:
    spec, controllers = arm(name), parameters(name)
    controller = controllers[spec.arm_controller]
    assert tuple(controller["joints"]) == spec.arm_joint_names
    assert controller["interpolate_from_desired_state"] is True
    assert controller["allow_nonzero_velocity_at_trajectory_end"] is False
    # Longer than a chunk and its tail, and than goal_time, or the controller holds too early.
    assert controller["cmd_timeout"] > max(0.8, controller["constraints"]["goal_time"])
    # The controller must not hold before the guard does: it would stand elsewhere than the guard's
    # curve, and the guard's next trajectory throws it back.
    velocities = spec.limits.max_velocity
    wait_s = spec.tracking_lag_s + joint_watch.TRACKING_ERROR_TIME_S
    for joint, velocity in zip(spec.arm_joint_names, velocities, strict=False):
        tolerance = controller["constraints"][joint]["trajectory"]
        assert tolerance > spec.max_tracking_error_rad + wait_s * velocity
    # The second line: what the guard lets pass by mistake is clipped.
    assert controllers["controller_manager"]["enforce_command_limits"] is True
    rate_hz = controllers["joint_state_broadcaster"]["update_rate"]
    assert 1.0 / rate_hz < spec.tracking_lag_s / 4
    for controller_name in (spec.arm_controller, spec.gripper_controller):
        assert "type" in controllers["controller_manager"][controller_name]


@pytest.mark.parametrize("name", NAMES)
def test_the_gripper_s_controller_is_what_its_driver_needs(name: str) -> None:
    spec, controllers = arm(name), parameters(name)
    gripper, driver = spec.gripper, spec.gripper.driver
    if driver is None:
        assert controllers[spec.gripper_controller]["joints"] == [gripper.command_joint_name]
    elif driver.kind == "franka":
        assert spec.gripper_controller == spec.arm_controller
    else:
        assert driver.action == f"{spec.gripper_controller}/gripper_cmd"
        settings = controllers[spec.gripper_controller]
        assert settings["joint"] and settings["allow_stalling"] is True
