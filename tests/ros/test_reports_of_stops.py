# SPDX-License-Identifier: Apache-2.0
"""Overlapped inference: a chunk of 8 actions, and the stop that the guard reports under its stamp,
as the results see them over DDS."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_observer import EpisodeObserver
from par_ros.topics import EXECUTED_ACTIONS

pytestmark = pytest.mark.ros
TIMEOUT_S = 20.0
STAMP_NS = 7_000_000_000


@pytest.fixture
def executor(ros: None) -> Iterator[SingleThreadedExecutor]:
    made = SingleThreadedExecutor()
    yield made
    for node in made.get_nodes():
        node.destroy_node()
    made.shutdown()


def test_a_stops_report_does_not_overwrite_the_chunks(executor: SingleThreadedExecutor) -> None:
    """The last chunk of an episode is followed; then the guard is disengaged. A chunk that is held
    from the beginning is known as held."""
    node, guard = rclpy.create_node("episodes"), rclpy.create_node("guard")
    for one in (node, guard):
        executor.add_node(one)
    observer = EpisodeObserver(node, keeps_pictures=False, views=("front",))
    publisher = guard.create_publisher(
        EXECUTED_ACTIONS.message_type, EXECUTED_ACTIONS.name, EXECUTED_ACTIONS.writer_qos.profile()
    )
    end_s = time.monotonic() + TIMEOUT_S
    while publisher.get_subscription_count() == 0 and time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.05)
    observer.begin(seed=3)
    followed = JointTrajectory(("a", "b"), 0.05 * np.arange(1, 9), np.full((8, 2), 0.5))
    stop = JointTrajectory(("a", "b"), 0.25 + 0.05 * np.arange(9), np.full((9, 2), 0.1))
    for report, stamp_ns, holds in (
        (followed, STAMP_NS, False),
        (stop, STAMP_NS, True),
        (stop, STAMP_NS + 1, True),
    ):
        publisher.publish(messages.executed_message(report, stamp_ns, holds=holds))
    while STAMP_NS + 1 not in observer._episode.executed and time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.05)
    episode = observer.take()
    np.testing.assert_array_equal(episode.executed[STAMP_NS].positions, followed.positions)
    assert episode.held == {STAMP_NS + 1}
