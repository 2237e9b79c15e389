# SPDX-License-Identifier: Apache-2.0
"""A recording of ours becomes episodes: what was asked for, what the guard sent, who held the arm.

A panda whose joint 1 turns 0.1 rad a second. Joint states at 50 Hz, pictures at 20 Hz, chunks of
0.4 s from 1 s on, each answered 0.1 s after its picture; the guard moves joint 1's targets by
0.01 rad.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message

from par_model.training.lerobot_dataset import open_episodes
from par_ros import messages
from par_ros.__main__ import main
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.timeline import Moment
from par_ros.parameters import read_arm_spec
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_views import RecordedViews
from par_ros.recording import RecordingWriter
from par_ros.topics import (
    ACTION_CHUNK,
    EPISODE_STATE,
    EXECUTED_ACTIONS,
    GUARD_INPUTS,
    IMAGE,
    JOINT_STATES,
    TELEOP_CHUNK,
    TOPICS,
    Topic,
    camera_topics,
)
from par_ros.wire_records import EpisodeState, GuardInput

S = 1_000_000_000
BEGIN_NS = 1_700_000_000 * S
LENGTH_S = 6.0
KNOTS_S = 0.05 * np.arange(1, 9)
MOVED_RAD = 0.01
SPEC = read_arm_spec("panda")
INSTRUCTION = "Push the cube."


def at(time_s: float | np.ndarray) -> np.ndarray:
    """Positions of all joints, gripper last."""
    turned = 0.1 * np.asarray(time_s)
    home = np.append(SPEC.home, 0.04)
    return home + turned[..., None] * np.eye(8)[0]


def ns(time_s: float) -> int:
    return BEGIN_NS + round(time_s * S)


def trajectory(times_s: np.ndarray, positions: np.ndarray, stamp_s: float) -> Any:
    planned = JointTrajectory(SPEC.joint_names, times_s, positions)
    return messages.joint_trajectory_message(planned, ns(stamp_s))


def chunk(topic: Topic, stamp_s: float, lift: float) -> list[tuple[Topic, Any]]:
    """A chunk that starts 0.1 s after its stamp, and what the guard sent of it; joint 2 lifted."""
    asked = at(stamp_s + 0.1 + KNOTS_S) + lift * np.eye(8)[1]
    sent = asked + MOVED_RAD * np.eye(8)[0]
    return [
        (topic, trajectory(KNOTS_S, asked, stamp_s)),
        (EXECUTED_ACTIONS, trajectory(0.1 + KNOTS_S, sent, stamp_s)),
    ]


def sensors() -> list[tuple[Topic, Any]]:
    sent: list[tuple[Topic, Any]] = []
    for time_s in np.arange(round(LENGTH_S * 50)) / 50:
        state = messages.joint_state_message(SPEC.joint_names, at(time_s), np.zeros(8), ns(time_s))
        sent.append((JOINT_STATES, state))
    for time_s in np.arange(round(LENGTH_S * 20)) / 20:
        picture = np.full((64, 64, 3), 100, np.uint8)
        sent.append((IMAGE, messages.array_to_image(picture, "rgb8", ns(time_s), "camera")))
    return sent


def switch(time_s: float, *, held: bool) -> tuple[Topic, Any]:
    given = GuardInput("deadman", Moment(ns(time_s), 0), None, None, 1, held=held)
    status = messages.Status("safety_node", messages.OK, "deadman", given.to_values())
    return GUARD_INPUTS, messages.status_message(status)


def write(
    path: Path,
    sent: list[tuple[Topic, Any]],
    views: RecordedViews | None = None,
    **guard: object,
) -> Path:
    """views: None as in recordings that do not name them."""
    cameras = [pair[0] for pair in camera_topics((views or RecordedViews()).names).values()]
    topics = dict.fromkeys((*TOPICS, *cameras))
    names = {topic.name: topic.name for topic in topics}
    settings = {"arm": "panda", "reference": "topic"} | guard
    policy = {"instruction": INSTRUCTION}
    graph = RecordedGraph(settings, policy, "policy_node", "", "", names, views)
    writer = RecordingWriter(path, graph.to_json())
    channels = {topic: writer.add_topic(topic.name, topic.type_name) for topic in topics}
    for topic, message in sent:
        writer.write(channels[topic], serialize_message(message))
    writer.close()
    return path


def policy_chunks(first_s: float, last_s: float) -> list[tuple[Topic, Any]]:
    stamps_s = np.arange(first_s, last_s, 0.4)
    return [part for stamp_s in stamps_s for part in chunk(ACTION_CHUNK, stamp_s, 0.0)]


def converted(path: Path, *more: str) -> Path:
    out = path.with_suffix("")
    words = ["to_dataset", str(path), "--out", str(out), "--image-size", "64", *more]
    assert main(words) == 0
    return out


def test_what_was_asked_and_what_was_sent_are_apart(tmp_path: Path) -> None:
    """The episode begins at the first picture behind the first chunk's start, 1.1 s."""
    out = converted(write(tmp_path / "plain.mcap", sensors() + policy_chunks(1.0, 5.4)))
    source = open_episodes(out)
    assert source.instructions == (INSTRUCTION,)
    episode = source.read(0, with_frames=False)
    at_s = 1.1 + np.arange(episode.num_steps) / 20
    np.testing.assert_allclose(episode.measured_joint_positions, at(at_s), atol=1e-6)
    np.testing.assert_allclose(episode.actions[:80], at(at_s + 0.05)[:80], atol=1e-6)
    sent = at(at_s + 0.05) + MOVED_RAD * np.eye(8)[0]
    np.testing.assert_allclose(episode.executed_actions[:80], sent[:80], atol=1e-6)
    assert episode.teaches is None
    assert episode.policy_actions is None


def test_an_operator_s_chunks_are_labels_while_the_switch_was_held(tmp_path: Path) -> None:
    """The operator's chunks are of 2.2, 2.6 and 3.0 s; the last ends at 3.5 s, and the switch is
    released at 3.3 s. The policy's chunks go on, and are held."""
    sent = sensors() + policy_chunks(1.0, 5.4)
    for stamp_s in (2.2, 2.6, 3.0):
        sent += chunk(TELEOP_CHUNK, stamp_s, 0.2)
    sent += [switch(2.1 + 0.1 * step, held=True) for step in range(12)]
    sent.append(switch(3.3, held=False))
    episode = open_episodes(converted(write(tmp_path / "op.mcap", sent))).read(0, with_frames=False)
    assert episode.teaches is not None
    assert episode.policy_actions is not None
    at_s = 1.1 + np.arange(episode.num_steps) / 20
    # Eight steps of 0.05 s from the step on lie between the chunk's start and the release.
    expected = (at_s > 2.3 - 1e-6) & (at_s + 0.4 < 3.3 + 1e-6)
    np.testing.assert_array_equal(episode.teaches, expected)
    labelled = (at_s > 2.3 - 1e-6) & (at_s + 0.05 < 3.3 + 1e-6)
    lifted = episode.actions[:, 1] - at(0.0)[1]
    np.testing.assert_allclose(lifted[labelled], 0.2, atol=1e-6)
    wanted = episode.policy_actions[:, 1] - at(0.0)[1]
    np.testing.assert_allclose(wanted, 0.0, atol=1e-6)
    np.testing.assert_array_equal(episode.actions[~labelled], episode.executed_actions[~labelled])


def test_an_operator_without_a_policy_gives_a_demonstration(tmp_path: Path) -> None:
    sent = sensors()
    for stamp_s in np.arange(1.0, 5.4, 0.4):
        sent += chunk(TELEOP_CHUNK, stamp_s, 0.2)
    episode = open_episodes(converted(write(tmp_path / "demo.mcap", sent))).read(0)
    assert episode.teaches is None
    assert episode.policy_actions is None
    np.testing.assert_allclose(episode.actions[:80, 1] - at(0.0)[1], 0.2, atol=1e-6)
    moved = episode.executed_actions[:80, 0] - episode.actions[:80, 0]
    np.testing.assert_allclose(moved, MOVED_RAD, atol=1e-6)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_simulator_s_episodes_need_no_marks(is_old: bool, tmp_path: Path) -> None:
    """Two: a success and a failure of 20 steps each. In real time the first one's arm stands for
    0.3 s before steps are counted: 1.5 s to 2.5 s, and 3 s to 4 s. The bridge says so, also where
    its states come long after the joints; of an old recording the joints tell it."""
    late_s = 0.001 if is_old else 0.151
    timed: list[tuple[float, tuple[Topic, Any]]] = [
        (messages.stamp_ns(one[1]) / S - BEGIN_NS / S, one)
        for one in sensors() + policy_chunks(1.0, 5.4)
    ]
    for start_s, begin_s, idle, success in ((1.2, 1.5, 6, True), (3.0, 3.0, 0, False)):
        for step in range(21):
            is_over = step == 20
            state = EpisodeState(
                "PushCube", 1, ns(start_s), step, False, success and is_over, is_over, (), None,
                idle,
            )  # fmt: skip
            texts = state.to_values()
            if is_old:
                del texts["idle_steps"]
            status = messages.Status("bridge", messages.OK, "", texts)
            time_s = begin_s + step / 20 + late_s
            timed.append((time_s, (EPISODE_STATE, messages.status_message(status))))
    sent = [one for _, one in sorted(timed, key=lambda one: one[0])]
    source = open_episodes(converted(write(tmp_path / "sim.mcap", sent)))
    episodes = [source.read(index, with_frames=False) for index in range(len(source))]
    assert [(e.num_steps, bool(e.success[-1])) for e in episodes] == [(20, True), (20, False)]
    for episode, begin_s in zip(episodes, (1.5, 3.0), strict=True):
        np.testing.assert_allclose(episode.measured_joint_positions[0], at(begin_s), atol=3e-3)


@pytest.mark.parametrize(
    ("sent", "guard", "sentence"),
    [
        (sensors(), {}, "nothing was recorded of executed actions; check the topic"),
        (sensors() + policy_chunks(1.0, 2.0), {"dry_run": True}, "was recorded in a dry run"),
        (policy_chunks(1.0, 2.0), {}, "nothing was recorded of joint states"),
    ],
)
def test_what_holds_no_episode_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sent: list[tuple[Topic, Any]],
    guard: dict[str, object],
    sentence: str,
) -> None:
    path = write(tmp_path / "odd.mcap", sent, **guard)
    assert main(["to_dataset", str(path), "--out", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_a_recording_that_was_cut_off_gives_what_it_holds(tmp_path: Path) -> None:
    whole = sensors() + policy_chunks(1.0, 5.4)
    path = write(tmp_path / "whole.mcap", sorted(whole, key=lambda one: messages.stamp_ns(one[1])))
    data = path.read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data[: len(data) // 2])
    steps = [open_episodes(converted(one)).read(0).num_steps for one in (path, cut)]
    assert 0 < steps[1] < steps[0]
