# SPDX-License-Identifier: Apache-2.0
"""What an overlapped policy is told against what a controller at 1 kHz was commanded.

A real turn and a real guard; pictures every 50 ms, slots of 8 actions of 0.05 s, horizon 18;
answers take 10 to 700 ms; pictures and the guard's reports are lost, the guard is disengaged and
engaged, chunks come wholly late and are jumps that the guard holds.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.command import Command
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_states import JointReading
from par_ros.control.observation_assembler import AssemblerSettings
from par_ros.control.overlapped_turn import OverlappedTurn, OverlapSettings
from par_ros.control.policy_turn import Question, TurnSettings
from par_ros.control.safety_filter import RequestedChunk
from tests.control.guard_rig import PERIOD_S, ROS_BEGIN_NS, Rig, S

OVERLAP = OverlapSettings(num_actions=8, max_delay_steps=10, step_s=0.05)
STEP_NS = 50_000_000
TIMES_S = 0.05 * np.arange(1, 19)
# Between two points of a report the curve is taken as straight: 15 rad/s^2 make 5 mrad of it.
NEAR_RAD = 0.006


class World:
    """Turn, guard and controller; the policy goes on from what is committed."""

    def __init__(self) -> None:
        self.rig = Rig(
            inference="overlapped",
            chunk_start="observation",
            num_actions=18,
            max_observation_age_s=0.8,
        ).engaged()
        turn_settings = TurnSettings(
            joint_names=self.rig.spec.joint_names,
            chunk_s=0.4,
            lockstep=False,
            assembler=AssemblerSettings(max_image_age_s=OVERLAP.max_image_age_s),
            camera=CameraCheckSettings(max_silence_s=None, max_stall_s=None),
        )
        self.turn: OverlappedTurn = OverlappedTurn(
            turn_settings, OVERLAP, lambda picture, view: picture, lambda picture, view: picture,
            self.rig.moment,
        )  # fmt: skip
        self.turn.activate()
        self.questions: list[Question] = []
        self.loses_report = False
        self._answers: list[tuple[int, Question]] = []
        self._noise = np.random.default_rng(0)
        self.delays_ms = iter([])

    @property
    def now_ns(self) -> int:
        return self.rig.ros_ns

    def pass_step(self, *, loses_picture: bool = False, jumps: bool = False) -> None:
        """50 ms, and the picture at their end."""
        for _ in range(5):
            for command in self.rig.wait(0.01):
                self._report(command)
            self._send_answers(jumps)
        sample = self.rig.sample()
        names = self.rig.spec.joint_names
        reading = JointReading(sample.stamp_ns, names, sample.positions, None)
        self._ask(self.turn.take_joint_state(reading, self.rig.moment))
        if not loses_picture:
            picture = self._noise.integers(80, 100, (8, 8, 3)).astype(np.uint8)
            self._ask(
                self.turn.take_picture(picture, picture.reshape(-1), self.now_ns, self.rig.moment)
            )

    def _ask(self, outcome: object) -> None:
        if isinstance(outcome, Question):
            self.questions.append(outcome)
            due_ns = self.now_ns + next(self.delays_ms, 100) * 1_000_000
            self._answers.append((due_ns, outcome))

    def _send_answers(self, jumps: bool) -> None:
        due = [answer for answer in self._answers if answer[0] <= self.now_ns]
        for answer in due:
            self._answers.remove(answer)
            question = answer[1]
            positions = self._chunk(question, jumps)
            if self.turn.send(question, positions):
                chunk = RequestedChunk(
                    question.pending.stamp_ns, self.rig.spec.joint_names, TIMES_S, positions
                )
                command = self.rig.take(self.rig.guard.on_chunk(chunk, self.rig.moment))
                if not self.loses_report:
                    self._report(command)
                self.loses_report = False
            self._ask(self.turn.free(self.rig.moment))

    def _chunk(self, question: Question, jumps: bool) -> np.ndarray:
        """The committed actions, and on at their speed, which comes and goes."""
        committed = question.committed
        assert committed is not None
        start = question.assembled.measured_joint_positions
        rows = [start, start, *committed]
        speed = np.clip(rows[-1] - rows[-2], -0.02, 0.02)[:7]
        wanted = 0.02 * np.sin(self.now_ns / S + np.arange(7))
        while len(rows) < 20:
            speed = speed + np.clip(wanted - speed, -0.003, 0.003)
            rows.append(np.append(rows[-1][:7] + speed, 0.04))
        chunk = np.stack(rows[2:])
        return chunk + (np.append(np.full(7, 0.3), 0.0) if jumps else 0.0)

    def _report(self, command: Command) -> None:
        if command.executed is None:
            return
        self._ask(
            self.turn.take_executed_actions(
                command.executed_stamp_ns,
                command.executed,
                self.rig.moment,
                holds=command.executed_holds,
            )
        )

    def commanded(self, times_ns: np.ndarray) -> np.ndarray:
        """Arm positions [M, 7] that the controller commanded for these times, one period ahead."""
        cycles = np.round((times_ns - ROS_BEGIN_NS) / S / PERIOD_S).astype(int)
        return np.array(self.rig.commands)[cycles + 1]

    def assert_told_the_truth(self) -> int:
        """Every slot that the policy was told, against the controller; how many there were."""
        previous_ns, count = None, 0
        for question in self.questions:
            stamp_ns = question.pending.stamp_ns
            executed = question.assembled.executed_actions
            if executed is not None:
                assert previous_ns is not None
                assert not question.starts_anew
                assert len(executed) == round((stamp_ns - previous_ns) / STEP_NS)
                times_ns = stamp_ns - STEP_NS * np.arange(len(executed) - 1, -1, -1)
                np.testing.assert_allclose(
                    executed[:, :7], self.commanded(times_ns), atol=NEAR_RAD, rtol=0
                )
                count += 1
            else:
                assert question.starts_anew or previous_ns is None
            previous_ns = stamp_ns
        return count


def test_an_undisturbed_policy_is_asked_a_slot_apart_and_the_arm_never_rests() -> None:
    """200 ms of delay: 4 steps, so 5 are committed; the guard moves them by less than 1 mrad."""
    world = World()
    world.delays_ms = iter([200] * 40)
    for _ in range(80):
        world.pass_step()
    stamps = np.array([question.pending.stamp_ns for question in world.questions])
    assert np.diff(stamps[1:]).tolist() == [8 * STEP_NS] * (len(stamps) - 2)
    assert world.assert_told_the_truth() > 7
    for question in world.questions[3:]:
        assert question.committed is not None
        assert len(question.committed) == 5
        times_ns = question.pending.stamp_ns + STEP_NS * np.arange(1, 6)
        if times_ns[-1] < world.now_ns:
            np.testing.assert_allclose(
                question.committed[:, :7], world.commanded(times_ns), atol=1e-3
            )
    speeds = np.linalg.norm(np.diff(world.rig.commands[1500:], axis=0), axis=1) / PERIOD_S
    assert speeds.min() > 0.01
    world.rig.assert_limits()
    assert world.rig.guard.counters["late"] == 0


EVENTS = st.sampled_from(["", "", "", "", "", "picture", "report", "stop", "engage", "jump"])


@settings(max_examples=25, deadline=None)
@given(
    events=st.lists(EVENTS, min_size=30, max_size=70),
    delays_ms=st.lists(st.integers(10, 700), min_size=5, max_size=30),
)
@pytest.mark.slow
def test_a_policy_is_told_what_happened_whatever_happens(
    events: list[str], delays_ms: list[int]
) -> None:
    world = World()
    world.delays_ms = iter(delays_ms)
    for event in events:
        if event == "stop":
            world._report(world.rig.call("disengage").command)
        elif event == "engage" and not world.rig.guard.engaged:
            world.rig.call("engage")
        elif event == "report":
            world.loses_report = True
        world.pass_step(loses_picture=event == "picture", jumps=event == "jump")
    world.assert_told_the_truth()


def test_a_late_chunk_is_dropped_and_the_next_one_is_followed() -> None:
    """900 ms: nothing of 18 actions is left. The arm has come to rest, and goes on."""
    world = World()
    world.delays_ms = iter([100, 900, 100, 100, 100, 100])
    for _ in range(60):
        world.pass_step()
    assert world.rig.guard.counters["late"] == 1
    assert world.rig.guard.engaged
    assert world.assert_told_the_truth() >= 2
    assert not world.rig.guard.holding
    world.rig.assert_limits()


def test_a_stop_is_told_at_once_and_from_then_on() -> None:
    world = World()
    world.delays_ms = iter([100] * 20)
    for _ in range(20):
        world.pass_step()
    reply = world.rig.call("disengage")
    told = reply.command.executed
    assert told is not None
    world._report(reply.command)
    for _ in range(20):
        world.pass_step()
    assert world.assert_told_the_truth() > 2


@pytest.mark.parametrize("chunk_start", ["arrival", "observation"])
def test_sequential_guards_tell_of_a_chunk_as_before(chunk_start: str) -> None:
    """L points, as the sequential turn expects, and nothing of a stop."""
    rig = Rig(chunk_start=chunk_start).engaged()
    command = rig.chunk(rig.gentle())
    assert command.executed is not None
    assert len(command.executed.positions) == 8
    rig.wait(0.1)
    assert rig.call("disengage").command.executed is None


@pytest.mark.parametrize(
    "wrong",
    [
        GuardSettings(inference="overlapped"),
        GuardSettings(inference="overlapped", chunk_start="observation", lockstep=True),
    ],
)
def test_overlapped_inference_needs_chunks_that_are_timed_from_their_pictures(
    wrong: GuardSettings,
) -> None:
    with pytest.raises(ValueError, match="needs mode realtime and chunk_start observation"):
        wrong.validate()
