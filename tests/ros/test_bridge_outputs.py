# SPDX-License-Identifier: Apache-2.0
"""What the bridge says of an episode in real time, as its reader hears it over DDS.

The episode starts at 5 s; the arm stands for 9 steps of 0.05 s, then the first trajectory comes.
"""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from par_model.simulation.tasks import task
from par_ros.bridge_outputs import BridgeOutputs
from par_ros.episode_observer import EpisodeObserver
from par_ros.simulated_episode import Episode

pytestmark = pytest.mark.ros
TIMEOUT_S = 20.0
START_NS, STEP_S = 5_000_000_000, 0.05
NAMES = ("a", "gripper")


@pytest.fixture
def executor(free_domain: str, ros: None) -> Iterator[SingleThreadedExecutor]:
    made = SingleThreadedExecutor()
    yield made
    for node in made.get_nodes():
        node.destroy_node()
    made.shutdown()


def driven_episode(num_idle: int) -> Episode:
    """Three steps count; what comes behind the last one does not."""
    episode = Episode(task("PushCube"), 1, START_NS, START_NS)
    for step in range(num_idle + 5):
        if step == num_idle:
            episode.note_command(received_s=1.0)
        episode.count_step(np.full(2, 0.1 * step), success=False, max_steps=3)
    return episode


@pytest.mark.parametrize("num_idle", [9, 0])
def test_steps_that_do_not_count_are_told(executor: SingleThreadedExecutor, num_idle: int) -> None:
    bridge, reader = rclpy.create_node("bridge"), rclpy.create_node("episodes")
    for node in (bridge, reader):
        executor.add_node(node)
    observer = EpisodeObserver(reader, keeps_pictures=False, views=("front",))
    outputs = BridgeOutputs(bridge, "camera", STEP_S, ("front",))
    observer.begin(seed=1)
    outputs.publish_state(driven_episode(num_idle))
    outputs.publish_applied_targets(driven_episode(num_idle), NAMES)
    end_s = time.monotonic() + TIMEOUT_S
    while observer.state() is None or observer._episode.applied is None:
        assert time.monotonic() < end_s
        executor.spin_once(timeout_sec=0.05)
    episode = observer.take()
    assert episode.state is not None
    assert (episode.state.step, episode.state.idle_steps) == (3, num_idle)
    assert episode.applied is not None
    stamp_ns, targets = episode.applied
    assert stamp_ns == START_NS
    np.testing.assert_allclose(targets.times_s, STEP_S * (num_idle + np.arange(1, 4)), atol=1e-9)
    np.testing.assert_allclose(targets.positions[:, 0], 0.1 * (num_idle + np.arange(3)))
