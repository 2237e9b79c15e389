# SPDX-License-Identifier: Apache-2.0
"""Each arm file's loopback arm is brought up and moved, with its own joints and limits; a table
in the file is not touched."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from par_ros import messages
from par_ros.topics import GRIPPER_TRAJECTORY, JOINT_STATES, JOINT_TRAJECTORY
from tests.control.arms import FOLDER
from tests.control.test_collision_check import gap_to_table, planar_content, write_urdf
from tests.ros.guard_rig import GuardRig

pytestmark = pytest.mark.ros

NAMES = sorted(
    file.stem for file in FOLDER.glob("*.yaml") if file.stem not in ("panda", "template")
)


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_is_moved_within_its_own_limits(name: str, free_domain: str) -> None:
    """A gentle chunk is followed to 0.02 rad in each joint, where it rests; then one asks the first
    joint for three times its velocity limit: the joint states show no more than the limit."""
    with GuardRig(name) as rig:
        spec = rig.spec
        rig.start("loopback_arm_node", f"arm:={name}")
        rig.start_guard()
        rig.engage()
        # It rests at the last two knots: a state on the way may come late, or not at all.
        share = np.minimum(np.arange(1, 9) / 6.0, 1.0)
        way = np.append(np.full(spec.num_arm_joints, 0.02), 0.0)
        gentle = rig.positions() + np.outer(3.0 * share**2 - 2.0 * share**3, way)
        rig.follow(
            gentle,
            lambda: np.allclose(rig.positions()[:-1], gentle[-1, :-1], atol=1e-3),
            "moving",
        )
        last = rig.positions()
        ask = np.tile(last, (8, 1))
        way_rad = 3 * spec.limits.max_velocity[0] * 0.05 * np.arange(1, 9)
        ask[:, 0] += np.minimum(way_rad, 0.8 * spec.max_jump_rad)
        far = 0.7 * spec.max_jump_rad
        rig.follow(ask, lambda: rig.positions()[0] - last[0] > far, "the fast chunk")
        states = [messages.read_joint_state(each) for each in rig.received[JOINT_STATES.name]]
        fastest = np.max([np.abs(state.velocities[:-1]) for state in states], axis=0)
        assert (fastest <= spec.limits.max_velocity + 1e-9).all()
        asked = [messages.read_joint_trajectory(m) for m in rig.received[JOINT_TRAJECTORY.name]]
        assert max(np.abs(each.velocities[:, 0]).max() for each in asked) > (
            0.3 * spec.limits.max_velocity[0]
        )
        assert tuple(rig.received[JOINT_STATES.name][-1].name) == spec.joint_names
        sent = rig.received[JOINT_TRAJECTORY.name][-1]
        assert tuple(sent.joint_names) == spec.arm_joint_names
        gripper = rig.received[GRIPPER_TRAJECTORY.name][-1]
        assert list(gripper.joint_names) == [spec.gripper.command_joint_name]
        assert rig.guard_values()["collisions"] == "off: the arm file has no section collision"


def test_a_table_of_the_arm_file_is_not_touched(free_domain: str, tmp_path: Path) -> None:
    """Chunks turn the planar arm's first joint down until one is refused; it then stands."""
    path = tmp_path / "planar.yaml"
    path.write_text(yaml.safe_dump(planar_content(write_urdf(tmp_path / "arm.urdf"))))
    with GuardRig(str(path)) as rig:
        rig.start("loopback_arm_node", f"arm:={path}")
        rig.start_guard()
        rig.engage()
        assert rig.guard_values()["collisions"].startswith("on: 4 bodies, 4 pairs")
        ramp = np.outer((np.arange(1, 9) / 8.0) ** 2, [0.1, 0.0, 0.0, 0.0])
        while not rig.state()["holding"]:
            before = rig.positions()
            rig.publish(before + ramp)
            far = before[0] + 0.099
            rig.wait_for(
                lambda far=far: rig.positions()[0] > far or rig.state()["holding"] != "", "an end"
            )
        reason = rig.guard_values()["last_hold_reason"]
        assert "three and table would be" in reason
        assert 0.0 < gap_to_table(rig.positions()[:-1]) < 0.15
