# SPDX-License-Identifier: Apache-2.0
"""A recording with overlapped inference becomes what the arm was commanded, and what was asked.

The world of tests/control/test_cache_truth.py (a real turn, a real guard, a controller at 1 kHz) is
written into a recording: pictures and joint states every 50 ms, slots of 8 actions of 0.05 s, a
horizon of 18, answers after 10 to 900 ms. Between two points a report is taken as straight (6
mrad).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from par_model.training.lerobot_dataset import open_episodes
from par_ros import messages
from par_ros.__main__ import main
from par_ros.control.command import Command
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.policy_turn import Question
from par_ros.control.timeline import Moment
from par_ros.dataset.own_streams import OwnStreams
from par_ros.dataset.recorded_files import OwnRecording
from par_ros.dataset.resampling import Rules
from par_ros.dataset.streams import PlannedEpisode, plan_episode
from par_ros.topics import (
    ACTION_CHUNK,
    EXECUTED_ACTIONS,
    GUARD_INPUTS,
    IMAGE,
    JOINT_STATES,
    TELEOP_CHUNK,
    Topic,
)
from par_ros.wire_records import GuardInput
from tests.control.test_cache_truth import NEAR_RAD, STEP_NS, TIMES_S, World
from tests.ros.test_own_recordings import (
    MOVED_RAD,
    at,
    converted,
    ns,
    sensors,
    switch,
    trajectory,
    write,
)

GUARD = {
    "inference": "overlapped",
    "chunk_start": "observation",
    "num_actions": 18,
    "max_observation_age_s": 0.8,
}


class RecordedWorld(World):
    """Remembers what a recorder would hear, in order."""

    def __init__(self, delays_ms: list[int]) -> None:
        super().__init__()
        self.delays_ms = iter(delays_ms)
        self.heard: list[tuple[Topic, Any]] = []
        # When a chunk reached the guard, its stamp, its rows.
        self.chunks: list[tuple[int, int, np.ndarray]] = []

    def pass_step(self, *, loses_picture: bool = False, jumps: bool = False) -> None:
        super().pass_step(loses_picture=loses_picture, jumps=jumps)
        sample, names = self.rig.sample(), self.rig.spec.joint_names
        picture = np.full((64, 64, 3), 90, np.uint8)
        self.heard += [
            (
                JOINT_STATES,
                messages.joint_state_message(names, sample.positions, np.zeros(8), self.now_ns),
            ),
            (IMAGE, messages.array_to_image(picture, "rgb8", self.now_ns, "camera")),
        ]

    def _chunk(self, question: Question, jumps: bool) -> np.ndarray:
        positions = super()._chunk(question, jumps)
        stamp_ns, moment = question.pending.stamp_ns, self.rig.moment
        asked = JointTrajectory(self.rig.spec.joint_names, TIMES_S, positions)
        given = GuardInput("chunk", moment, None, None, 1, chunk_stamp_ns=stamp_ns)
        status = messages.Status("safety_node", messages.OK, "chunk", given.to_values())
        self.heard += [
            (ACTION_CHUNK, messages.joint_trajectory_message(asked, stamp_ns)),
            (GUARD_INPUTS, messages.status_message(status)),
        ]
        self.chunks.append((moment.ros_ns, stamp_ns, positions))
        return positions

    def _report(self, command: Command) -> None:
        super()._report(command)
        if command.executed is not None:
            message = messages.executed_message(
                command.executed, command.executed_stamp_ns, holds=command.executed_holds
            )
            self.heard.append((EXECUTED_ACTIONS, message))

    def pass_time(self, duration_s: float) -> None:
        """No picture comes, and no answer is sent."""
        for command in self.rig.wait(duration_s):
            self._report(command)

    def stop(self) -> None:
        self._report(self.rig.call("disengage").command)

    def asked(self, due_ns: int) -> np.ndarray:
        """[8]: the row that is due then of the newest chunk that had reached the guard before."""
        ahead = [
            (arrived_ns, stamp_ns, rows)
            for arrived_ns, stamp_ns, rows in self.chunks
            if arrived_ns < due_ns <= stamp_ns + len(rows) * STEP_NS
        ]
        _, stamp_ns, rows = ahead[-1]
        return rows[(due_ns - stamp_ns) // STEP_NS - 1]


def planned(world: RecordedWorld, path: Path) -> PlannedEpisode:
    streams = OwnStreams(OwnRecording(write(path, world.heard, **GUARD))).streams()
    (span,) = streams.spans
    return plan_episode(streams, span, Rules(20, 0.2))


def due_ns(episode: PlannedEpisode) -> np.ndarray:
    return episode.begin_ns + STEP_NS * np.arange(1, len(episode.actions) + 1)


def test_what_was_sent_and_what_was_asked_are_apart(tmp_path: Path) -> None:
    """Every answer 200 ms after its picture; the arm never rests."""
    world = RecordedWorld([200] * 40)
    for _ in range(80):
        world.pass_step()
    path = tmp_path / "plain.mcap"
    episode = planned(world, path)
    assert len(episode.actions) > 70
    commanded = world.commanded(due_ns(episode))
    np.testing.assert_allclose(episode.executed[:, :7], commanded, atol=NEAR_RAD)
    # Pictures, reports and steps lie on one grid: nothing is between two points.
    assert np.abs(episode.executed[:, :7] - commanded).max() < 1e-3
    assert np.ptp(commanded, axis=0).max() > 0.1
    asked = np.stack([world.asked(time_ns) for time_ns in due_ns(episode)])
    np.testing.assert_allclose(episode.actions, asked, atol=1e-9)

    out = path.with_suffix("")
    assert main(["to_dataset", str(path), "--out", str(out), "--image-size", "64"]) == 0
    written = open_episodes(out).read(0, with_frames=False)
    np.testing.assert_allclose(written.executed_actions, episode.executed, atol=1e-6)
    np.testing.assert_allclose(written.actions, episode.actions, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_stops_late_chunks_and_jumps_leave_what_the_arm_was_commanded(
    seed: int, tmp_path: Path
) -> None:
    """Disengaged and engaged again off the grid, pictures that are lost, chunks that come wholly
    late and chunks that the guard holds."""
    random = np.random.default_rng(seed)
    world = RecordedWorld(random.choice([10, 60, 200, 430, 700, 900], 60).tolist())
    kinds, shares = ("", "picture", "jump", "stop"), (0.84, 0.06, 0.05, 0.05)
    num_stopped = 0
    for event in ["", *random.choice(kinds, 160, p=shares)]:
        if event == "stop":
            world.pass_time(0.013)
            world.stop()
            world.pass_time(0.037)
        num_stopped = 0 if world.rig.guard.engaged else num_stopped + 1
        if num_stopped > 8:
            world.rig.call("engage")
        world.pass_step(loses_picture=event == "picture", jumps=event == "jump")
    episode = planned(world, tmp_path / "events.mcap")
    commanded = world.commanded(due_ns(episode))
    np.testing.assert_allclose(episode.executed[:, :7], commanded, atol=NEAR_RAD)
    assert np.ptp(commanded, axis=0).max() > 0.02
    counters = world.rig.guard.counters
    assert counters["disengage"] or counters["late"] or counters["refused"], counters


def chunk(topic: Topic, stamp_s: float, lift: float) -> list[tuple[Topic, Any]]:
    """18 rows from the picture on, which reach the guard 0.12 s after it; joint 2 lifted."""
    asked = at(stamp_s + TIMES_S) + lift * np.eye(8)[1]
    kind = "chunk" if topic is ACTION_CHUNK else "teleop_chunk"
    moment = Moment(ns(stamp_s + 0.12), 0)
    given = GuardInput(kind, moment, None, None, 1, chunk_stamp_ns=ns(stamp_s))
    status = messages.Status("safety_node", messages.OK, kind, given.to_values())
    return [
        (topic, trajectory(TIMES_S, asked, stamp_s)),
        (GUARD_INPUTS, messages.status_message(status)),
        (EXECUTED_ACTIONS, trajectory(TIMES_S, asked + MOVED_RAD * np.eye(8)[0], stamp_s)),
    ]


def test_an_operator_s_rows_are_labels_from_when_they_reached_the_guard(tmp_path: Path) -> None:
    """The policy's chunks every 0.4 s; the operator's of 2.2, 2.4, ... 3.0 s, and the switch from
    2.1 s to 4.5 s, so the last labels are the last chunk's, until 3.9 s."""
    sent = sensors()
    for stamp_s in 1.0 + 0.4 * np.arange(11):
        sent += chunk(ACTION_CHUNK, stamp_s, 0.0)
    for stamp_s in 2.2 + 0.2 * np.arange(5):
        sent += chunk(TELEOP_CHUNK, stamp_s, 0.2)
    sent += [switch(2.1 + 0.1 * step, held=True) for step in range(24)]
    sent.append(switch(4.5, held=False))
    out = converted(write(tmp_path / "op.mcap", sent, **GUARD))
    episode = open_episodes(out).read(0, with_frames=False)
    assert episode.teaches is not None
    assert episode.policy_actions is not None
    # The first report begins with the first chunk's picture.
    at_s = 1.0 + np.arange(episode.num_steps) / 20
    labelled = (at_s > 2.3 - 1e-6) & (at_s + 0.05 < 3.9 + 1e-6)
    lifted = episode.actions[:, 1] - at(0.0)[1]
    np.testing.assert_allclose(lifted[labelled], 0.2, atol=1e-6)
    np.testing.assert_array_equal(episode.actions[~labelled], episode.executed_actions[~labelled])
    np.testing.assert_allclose(episode.policy_actions[:, 1] - at(0.0)[1], 0.0, atol=1e-6)
    # A chunk is 18 actions.
    expected = (at_s > 2.3 - 1e-6) & (at_s + 0.9 < 3.9 + 1e-6)
    np.testing.assert_array_equal(episode.teaches, expected)
