# SPDX-License-Identifier: Apache-2.0
"""The perfect fake arm over DDS: it stands, follows, and shows its joints in its picture."""

from collections.abc import Iterator

import numpy as np
import pytest

from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.loopback_arm_node import JointRange, draw_joints
from par_ros.parameters import read_arm_spec
from par_ros.topics import CAMERA_INFO, IMAGE, JOINT_STATES, JOINT_TRAJECTORY
from tests.ros.guard_rig import GuardRig


@pytest.fixture
def rig(free_domain: str) -> Iterator[GuardRig]:
    with GuardRig() as made:
        made.start("loopback_arm_node")
        yield made


@pytest.mark.ros
def test_it_stands_at_home_and_follows_to_where_it_is_told(rig: GuardRig) -> None:
    spec = rig.spec
    np.testing.assert_allclose(rig.positions(), np.append(spec.home, 0.04))
    arm = rig.node.create_publisher(
        JOINT_TRAJECTORY.message_type,
        JOINT_TRAJECTORY.name,
        JOINT_TRAJECTORY.writer_qos.profile(),
    )
    rig.wait_for(lambda: arm.get_subscription_count() >= 2, "the arm's subscription")
    goal = spec.home + 0.05
    zeros = np.zeros((1, 7))
    trajectory = JointTrajectory(spec.arm_joint_names, np.array([0.3]), goal[None], zeros, zeros)
    arm.publish(messages.joint_trajectory_message(trajectory, 0))
    rig.wait_for(lambda: np.allclose(rig.positions()[:7], goal, atol=1e-9), "arriving")

    def stands() -> bool:
        velocities = messages.read_joint_state(rig.received[JOINT_STATES.name][-1]).velocities
        return velocities is not None and not velocities.any()

    rig.wait_for(stands, "coming to rest")
    np.testing.assert_array_equal(rig.positions()[:7], goal)


@pytest.mark.ros
def test_picture_and_camera_info_carry_one_stamp(rig: GuardRig) -> None:
    pictures: dict[int, object] = {}
    infos: dict[int, object] = {}
    for topic, kept in ((IMAGE, pictures), (CAMERA_INFO, infos)):
        rig.node.create_subscription(
            topic.message_type,
            topic.name,
            lambda message, kept=kept: kept.__setitem__(messages.stamp_ns(message), message),
            topic.reader_qos.profile(),
        )
    rig.wait_for(lambda: bool(pictures.keys() & infos.keys()), "a picture with its camera_info")
    picture = messages.image_to_rgb(pictures[min(pictures.keys() & infos.keys())])
    spec = rig.spec
    expected = draw_joints(np.append(spec.home, 0.04), JointRange.of(spec), 128, 128)
    np.testing.assert_array_equal(picture, expected)


def test_the_picture_depends_on_every_joint() -> None:
    spec = read_arm_spec("panda")
    joint_range = JointRange.of(spec)
    home = np.append(spec.home, 0.02)
    picture = draw_joints(home, joint_range, 128, 128)
    assert picture.dtype == np.uint8
    for joint in range(8):
        moved = home.copy()
        moved[joint] += 0.2 * (joint_range.high - joint_range.low)[joint]
        assert np.any(draw_joints(moved, joint_range, 128, 128) != picture)
