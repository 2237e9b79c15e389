# SPDX-License-Identifier: Apache-2.0
"""Times of an episode's chunks, film and guard events, from what its topics carried.

The episode starts at 5 s and has 8 steps of 0.05 s; a chunk is sent at its start and one at its
end, which does not count.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node

from par_model.evaluation.limit_shares import MotionLimits
from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_observer import EpisodeObserver, ObservedEpisode
from par_ros.run_results import GuardChange, GuardEvent, SurpriseValue
from par_ros.topics import GUARD
from par_ros.wire_records import EpisodeState, GuardStatus, Surprise

START_NS, STEP_S = 5_000_000_000, 0.05
LIMITS = MotionLimits(np.full(2, 1e3), np.full(2, 1e5))
CHUNK = JointTrajectory(("a", "b"), STEP_S * np.arange(1, 9), np.zeros((8, 2)))


def after_ns(time_s: float) -> int:
    return START_NS + messages.seconds_to_ns(time_s)


def test_times_are_counted_from_the_episodes_start() -> None:
    state = EpisodeState("PushCube", 1, START_NS, 8, True, True, True, (20.0,), 20.0)
    picture = np.zeros((4, 4, 3), np.uint8)
    episode = ObservedEpisode(
        seed=1,
        pictures={"front": {after_ns(time_s): picture for time_s in (0.1, 0.0)}},
        asked={after_ns(0.0): CHUNK, after_ns(0.4): CHUNK},
        guard_events=[(after_ns(0.15), "hold", "late")],
        surprises={after_ns(0.4): Surprise(after_ns(0.4), 0.25, 0.2, 0.3)},
        state=state,
        applied=(START_NS, CHUNK),
    )
    result = episode.result(
        step_s=STEP_S, limits=LIMITS, policy_seed=0, predicted=False, video="x.mp4"
    )
    assert (result.chunks, result.chunk_times_s) == (1, (0.0,))
    assert result.video_times_s == pytest.approx((0.0, 0.1))
    assert result.surprises == (SurpriseValue(pytest.approx(0.4), 0.25, 0.2, 0.3),)
    assert result.guard_events == (GuardEvent(pytest.approx(0.15), "hold", "late"),)


def test_in_real_time_steps_are_counted_from_the_first_trajectory_on() -> None:
    """Pictures at 0.25 and 0.65 s after the reset, and a delay of 4 steps: the chunks' actions are
    due from 0.5 and from 0.9 s on, and the first of them is the episode's first step. The guard
    changed one number of the second chunk from 0.5 to 1 rad. A third chunk answers a picture before
    the end, which is at 1.45 s."""
    targets = np.column_stack((0.01 * np.arange(20.0) ** 2, np.zeros(20)))
    rows = slice(0, 8), slice(8, 16)
    asked, reports = {}, {}
    for stamp_s, sent in zip((0.25, 0.65), rows, strict=True):
        asked[after_ns(stamp_s)] = JointTrajectory(("a", "b"), CHUNK.times_s, targets[sent])
        reports[after_ns(stamp_s)] = JointTrajectory(
            ("a", "b"), CHUNK.times_s + 0.2, targets[sent].copy()
        )
    asked[after_ns(0.65)].positions[2, 0] = 0.5
    asked[after_ns(1.35)] = CHUNK
    episode = ObservedEpisode(
        seed=1,
        pictures={"front": {}},
        asked=asked,
        executed=reports,
        guard_events=[(after_ns(0.85), "change", "limit")],
        state=EpisodeState("PushCube", 1, START_NS, 20, False, False, True, (), 20.0, 9),
        applied=(START_NS, JointTrajectory(("a", "b"), STEP_S * np.arange(10, 30), targets)),
    )
    result = episode.result(
        step_s=STEP_S, limits=LIMITS, policy_seed=0, predicted=False, video=None
    )
    assert result.idle_s == pytest.approx(0.45)
    assert (result.steps, result.seams, result.chunks) == (20, (9,), 3)
    assert result.guard_changes == (GuardChange(11, "a", 0.5, 1.0),)
    assert result.chunk_times_s == pytest.approx((0.25, 0.65, 1.35))
    assert result.guard_events == (GuardEvent(pytest.approx(0.85), "change", "limit"),)
    # Of 2.5 rad allowed in a step and step: 0.02 all the way, and 1.02 beside the changed number.
    assert [one.acceleration for one in result.limit_shares] == pytest.approx((0.008, 0.408))


@pytest.fixture
def observer(free_domain: str) -> Iterator[EpisodeObserver]:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]))
    node = Node("episode_node", context=context)
    yield EpisodeObserver(node, keeps_pictures=True, views=("front",))
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.ros
def test_each_hold_and_change_of_the_guard_is_an_event(observer: EpisodeObserver) -> None:
    """Counters of holds and changes: 0 and 0, then 1 and 0, then 1 and 1, and the same again."""
    observer.begin(1)
    for number, counts in enumerate(((0, 0), (1, 0), (1, 1), (1, 1))):
        guard = GuardStatus(True, False, "", *counts, f"reason {number}")
        status = messages.Status(GUARD, messages.OK, "", guard.to_values())
        observer._on_diagnostics(messages.diagnostics_message((status,), after_ns(number)))
    assert observer.take().guard_events == [
        (after_ns(1), "hold", "reason 1"),
        (after_ns(2), "change", "reason 2"),
    ]


@pytest.mark.ros
def test_surprise_and_attention_are_kept_by_their_stamps(observer: EpisodeObserver) -> None:
    observer.begin(1)
    found = Surprise(after_ns(0.4), 0.25, 0.2, 0.3)
    status = messages.Status("policy_node", messages.WARN, "unlike", found.to_values())
    observer._on_surprise(messages.status_message(status))
    picture = np.full((4, 4, 3), 7, np.uint8)
    observer._on_attention_image(messages.array_to_image(picture, "rgb8", after_ns(0.4), "camera"))
    episode = observer.take()
    assert episode.surprises == {after_ns(0.4): found}
    np.testing.assert_array_equal(episode.attention[after_ns(0.4)], picture)
