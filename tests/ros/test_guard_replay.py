# SPDX-License-Identifier: Apache-2.0
"""A replayed guard publishes what the recorded one did, also where an answer came too late."""

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from par_ros import messages
from par_ros.control.command import Command
from par_ros.control.guard import Guard
from par_ros.control.joint_states import JointSample
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import Moment
from par_ros.guard_replay import GuardReplay
from par_ros.guarded_arm import read_guarded_arm
from par_ros.parameters import SafetyNodeParameters, guard_settings
from par_ros.topics import ACTION_CHUNK, JOINT_STATES, TELEOP_CHUNK, Topic
from par_ros.wire_records import GuardInput
from tests.control.arms import arm

S = 1_000_000_000
PANDA = arm("panda")


class _Session:
    """What GuardSession does with a guard, with times given; every `too_late`th answer is late."""

    def __init__(self, parameters: SafetyNodeParameters) -> None:
        self.guard = Guard(
            read_guarded_arm(parameters), guard_settings(parameters, use_sim_time=False)
        )
        self.inputs: list[GuardInput] = []
        self.published: list[Command] = []
        self.joint_states: list[Any] = []
        self.chunks: dict[int, list[Any]] = {}
        self._time_ns = 0
        # How many plans of the next ticks come too late.
        self.ticks_late = 0
        self._joints: tuple[int | None, Moment | None] = (None, None)
        self.note("configure")

    @property
    def moment(self) -> Moment:
        return Moment(1_000 * S + self._time_ns, 50 * S + self._time_ns)

    def note(self, kind: str, **details: Any) -> None:
        self.inputs.append(GuardInput(kind, self.moment, *self._joints, 1, **details))

    def wait(self, duration_s: float) -> None:
        """Ticks and joint states every 10 ms; the arm follows exactly.

        Once chunks come, a tick is noted where something came of it, as GuardSession does.
        """
        for _ in range(round(duration_s / 0.01)):
            self._time_ns += S // 100
            positions = self.guard.commanded_positions(self.moment)
            now = np.append(PANDA.home if positions is None else positions, 0.04)
            self.joint_states.append(
                messages.joint_state_message(
                    PANDA.joint_names, now, np.zeros_like(now), self.moment.ros_ns
                )
            )
            self._joints = self.moment.ros_ns, self.moment
            command = self.guard.on_joint_state(
                JointSample(self.moment.ros_ns, now, np.zeros_like(now)), self.moment
            )
            if command != Command():
                self.note("joint_state")
            self.send(command)
            command = self.guard.on_tick(1, self.moment)
            if command != Command() or not self.chunks:
                self.note("tick")
            late = min(self.ticks_late, 3) if command.arm is not None else 0
            self.ticks_late -= late
            self.send(command, late)

    def engage(self) -> None:
        self.note("engage")
        reply = self.guard.engage(self.moment)
        assert reply.success, reply.message
        self.send(reply.command)

    def e_stop(self, times_late: int) -> None:
        self.note("e_stop")
        self.send(self.guard.e_stop(self.moment).command, times_late)

    def chunk(self, by_rad: float, times_late: int) -> None:
        positions = self.guard.commanded_positions(self.moment)
        assert positions is not None
        targets = np.tile(np.append(positions, 0.04), (8, 1))
        targets[:, 0] += by_rad * np.arange(1, 9) / 8
        times_s = 0.05 * np.arange(1, 9)
        stamp_ns = self.moment.ros_ns
        trajectory = JointTrajectory(PANDA.joint_names, times_s, targets)
        self.chunks.setdefault(stamp_ns, []).append(
            messages.joint_trajectory_message(trajectory, stamp_ns)
        )
        self.note("chunk", chunk_stamp_ns=stamp_ns)
        chunk = RequestedChunk(stamp_ns, PANDA.joint_names, times_s, targets)
        self.send(self.guard.on_chunk(chunk, self.moment), times_late)

    def send(self, command: Command, times_late: int = 0) -> None:
        for attempt in range(times_late):
            if command.arm is None:
                break
            self._time_ns += S // 40
            self.note("withdraw", last=attempt == 2)
            command = self.guard.withdraw(self.moment, last=attempt == 2)
        self.published.append(command)


class _Recorded:
    """The parts of a recording that a replayed guard reads."""

    def __init__(self, session: _Session, parameters: SafetyNodeParameters) -> None:
        self.graph = SimpleNamespace(guard=dataclasses.asdict(parameters))
        self._session = session

    def of(self, topic: Topic) -> Iterator[Any]:
        assert topic is JOINT_STATES
        return iter(self._session.joint_states)

    def by_stamp(self, topic: Topic) -> dict[int, list[Any]]:
        if topic is TELEOP_CHUNK:
            return {}
        assert topic is ACTION_CHUNK
        return {stamp_ns: list(chunks) for stamp_ns, chunks in self._session.chunks.items()}


def test_withdrawn_answers_are_not_among_what_a_replay_publishes() -> None:
    parameters = SafetyNodeParameters(reference="none")
    session = _Session(parameters)
    session.wait(0.5)
    session.engage()
    session.wait(3.0)
    for times_late in (0, 1, 3, 2, 0):
        session.chunk(0.01, times_late)
        session.wait(0.35)
    assert session.guard.counters["withdrawn"] == 6
    assert session.guard.counters["unchanged"] + session.guard.counters["tracked"] == 4

    _assert_replayed(session, parameters, at_least=6)


@pytest.mark.parametrize("ticks_late", [0, 1, 5])
def test_a_stop_that_a_tick_sent_is_replayed(ticks_late: int) -> None:
    """Late three times when it was asked for, and then for some ticks."""
    parameters = SafetyNodeParameters(reference="none")
    session = _Session(parameters)
    session.wait(0.5)
    session.engage()
    session.wait(3.0)
    session.chunk(0.05, 0)
    session.wait(0.1)
    session.ticks_late = ticks_late
    session.e_stop(3)
    session.wait(0.5)
    assert session.guard.counters["withdrawn"] == 3 + ticks_late
    assert session.inputs[-1].kind == ("withdraw" if ticks_late else "tick")
    _assert_replayed(session, parameters, at_least=3)


def _assert_replayed(session: _Session, parameters: SafetyNodeParameters, at_least: int) -> None:
    replay = GuardReplay(_Recorded(session, parameters))  # type: ignore[arg-type]
    replayed = [c for c in replay.published(session.inputs) if c.arm or c.executed]
    published = [c for c in session.published if c.arm or c.executed]
    assert len(replayed) == len(published) >= at_least
    for then, now in zip(published, replayed, strict=True):
        assert then.stamp_ns == now.stamp_ns
        for one, other in (
            (then.arm, now.arm),
            (then.gripper, now.gripper),
            (then.executed, now.executed),
        ):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                np.testing.assert_array_equal(one.positions, other.positions)
                np.testing.assert_array_equal(one.times_s, other.times_s)
