# SPDX-License-Identifier: Apache-2.0
"""What an overlapped policy is told against what a controller at 1 kHz was commanded.

A real turn and a real guard; pictures every 50 ms, slots of 8 actions of 0.05 s, horizon 18;
answers take 10 to 700 ms; pictures and the guard's reports are lost, the guard is disengaged and
engaged, chunks come wholly late and are jumps that the guard holds, somebody moves the arm that the
disengaged guard held for longer than a slot, the policy is reset in motion.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_model.interface import PolicySpec
from par_model.seam import NUM_BEFORE
from par_ros.control.camera_check import CameraCheckSettings
from par_ros.control.command import Command
from par_ros.control.guard_settings import GuardSettings
from par_ros.control.joint_states import JointReading
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.observation_assembler import AssemblerSettings
from par_ros.control.overlapped_turn import OverlappedTurn, OverlapSettings
from par_ros.control.policy_turn import Question, TurnSettings
from par_ros.control.safety_filter import RequestedChunk
from tests.control.guard_rig import PERIOD_S, ROS_BEGIN_NS, Rig, S

OVERLAP = OverlapSettings(num_actions=8, max_delay_steps=10, step_s=0.05, num_joined=NUM_BEFORE)
SPEC = PolicySpec("panda", ("joint",), 8, 8, 8, 0.05, ("go",), max_delay_steps=10)
STEP_NS = 50_000_000
TIMES_S = 0.05 * np.arange(1, 19)
# Between two points of a report the curve is taken as straight: 15 rad/s^2 make 5 mrad of it.
NEAR_RAD = 0.006
# A stop takes less; somebody moves the arm a slot after it at the earliest, and for so long.
STOP_NS, MOVED_S = 400_000_000, 0.5


@dataclass(frozen=True)
class Joined:
    """What a chunk was joined to when it was sent: positions [M, J] at times [M], all past."""

    times_ns: np.ndarray
    followed: np.ndarray


class World:
    """Turn, guard and controller; the policy goes on from what is committed.

    Attributes:
        moved_ns: when somebody moved the arm, each from and until.
    """

    def __init__(self, *, has_reference: bool = True) -> None:
        self.rig = Rig(
            inference="overlapped",
            chunk_start="observation",
            num_actions=18,
            max_observation_age_s=0.8,
            expects_reference=has_reference,
        )
        self.rig.sends_references = has_reference
        self.rig.engaged()
        turn_settings = TurnSettings(
            joint_names=self.rig.spec.joint_names,
            chunk_s=0.4,
            lockstep=False,
            assembler=AssemblerSettings(max_image_age_s=OVERLAP.max_image_age_s),
            camera=CameraCheckSettings(max_silence_s=None, max_stall_s=None),
            steps_between=SPEC.steps_between,
        )
        self.turn: OverlappedTurn = OverlappedTurn(
            turn_settings, OVERLAP, lambda picture, view: picture, lambda picture, view: picture,
            self.rig.moment,
        )  # fmt: skip
        self.turn.activate()
        self.questions: list[Question] = []
        self.joined: list[Joined] = []
        self.loses_report = False
        self.moved_ns: list[tuple[int, int]] = []
        self._engaged_ns = self.now_ns
        self._answers: list[tuple[int, Question]] = []
        self._noise = np.random.default_rng(0)
        self.delays_ms = iter([])

    @property
    def now_ns(self) -> int:
        return self.rig.ros_ns

    def pass_step(self, *, loses_picture: bool = False, jumps: bool = False) -> None:
        """50 ms, and the picture at their end."""
        if self.rig.guard.engaged:
            self._engaged_ns = self.now_ns
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
            self._join(question)
            if self.turn.send(question, positions):
                chunk = RequestedChunk(
                    question.pending.stamp_ns, self.rig.spec.joint_names, TIMES_S, positions
                )
                command = self.rig.take(self.rig.guard.on_chunk(chunk, self.rig.moment))
                if not self.loses_report:
                    self._report(command)
                self.loses_report = False
            self._ask(self.turn.free(self.rig.moment))

    def _join(self, question: Question) -> None:
        followed = self.turn.followed_until(question, self.rig.moment)
        if followed is not None and self.turn.wants(question):
            stamp_ns = question.pending.stamp_ns
            times_ns = stamp_ns + STEP_NS * np.arange(
                1 - NUM_BEFORE, len(followed) + 1 - NUM_BEFORE
            )
            self.joined.append(Joined(times_ns, followed))

    def move_by_hand(self, by_rad: float) -> bool:
        """Somebody moves the arm that the disengaged guard has held for long enough; False: not
        now."""
        begin_ns, end_ns = self.now_ns, self.now_ns + round((MOVED_S + 0.1) * S)
        held_ns = begin_ns - self._engaged_ns
        is_held = not self.rig.guard.engaged and held_ns > STOP_NS + 8 * STEP_NS + STEP_NS
        if not is_held or self._is_moved(begin_ns, end_ns):
            return False
        start = self.rig.controller.reference.positions
        zeros = np.zeros((2, 7))
        motion = JointTrajectory(
            self.rig.spec.arm_joint_names,
            np.array([0.0, MOVED_S]),
            np.stack((start, start + by_rad)),
            zeros,
            zeros,
        )
        self.rig.controller.take(Command(arm=motion, stamp_ns=begin_ns))
        self.moved_ns.append((begin_ns, end_ns))
        return True

    def _is_moved(self, begin_ns: int, end_ns: int) -> bool:
        """Whether somebody moves the arm between these times."""
        return any(begin <= end_ns and begin_ns <= end for begin, end in self.moved_ns)

    def reset_policy(self) -> None:
        """As ~/reset of policy_node: what is being answered is dropped."""
        self.turn.begin_episode(self.rig.moment)

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
        """Every slot that the policy was told, against the controller; how many there were. And
        what chunks were joined to, but while somebody moved the arm: they are all refused."""
        previous_ns, episode, count = None, 0, 0
        for question in self.questions:
            stamp_ns = question.pending.stamp_ns
            if question.episode != episode:
                previous_ns, episode = None, question.episode
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
        for joined in self.joined:
            if self._is_moved(int(joined.times_ns[0]), int(joined.times_ns[-1])):
                continue
            np.testing.assert_allclose(
                joined.followed[:, :7], self.commanded(joined.times_ns), atol=NEAR_RAD, rtol=0
            )
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


EVENTS = st.sampled_from(
    ["", "", "", "", "", "picture", "report", "stop", "engage", "jump", "move", "reset"]
)


@settings(max_examples=50, deadline=None)
@given(
    events=st.lists(EVENTS, min_size=30, max_size=70),
    delays_ms=st.lists(st.integers(10, 700), min_size=5, max_size=30),
    has_reference=st.booleans(),
)
@pytest.mark.slow
def test_a_policy_is_told_what_happened_whatever_happens(
    events: list[str], delays_ms: list[int], has_reference: bool
) -> None:
    """Chunks, too, are joined to what happened."""
    world = World(has_reference=has_reference)
    world.delays_ms = iter(delays_ms)
    for event in events:
        if event == "stop":
            world._report(world.rig.call("disengage").command)
        elif event == "engage" and not world.rig.guard.engaged:
            world.rig.call("engage")
        elif event == "report":
            world.loses_report = True
        elif event == "move":
            world.move_by_hand(0.05)
        elif event == "reset":
            world.reset_policy()
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


@pytest.mark.parametrize("has_reference", [True, False])
def test_an_arm_that_was_moved_while_disengaged_goes_on_from_where_it_is(
    has_reference: bool,
) -> None:
    """By 0.05 rad, 1 s after it was stopped. While the guard is disengaged every question begins a
    context; the first chunk after engage neither jumps nor leads back."""
    world = World(has_reference=has_reference)
    world.delays_ms = iter([100] * 200)
    for _ in range(20):
        world.pass_step()
    world._report(world.rig.call("disengage").command)
    for _ in range(20):
        world.pass_step()
    assert world.move_by_hand(0.05)
    for _ in range(30):
        world.pass_step()
    num_asked, place = len(world.questions), world.rig.commands[-1]
    reply = world.rig.call("engage")
    assert reply.success, reply.message
    world._report(reply.command)
    num_commands = len(world.rig.commands)
    for _ in range(100):
        world.pass_step()
    assert world.rig.guard.engaged and not world.rig.guard.holding
    assert world.assert_told_the_truth() > 3
    # The last one that begins a context is the first whose chunk is followed.
    last = max(n for n, question in enumerate(world.questions) if question.starts_anew)
    assert num_asked - 2 < last < len(world.questions) - 3
    committed = world.questions[last].committed
    assert committed is not None and len(committed) > 2
    np.testing.assert_allclose(committed[:, :7], np.tile(place, (len(committed), 1)), atol=1e-6)
    early = np.array(world.rig.commands[num_commands : num_commands + 100])
    np.testing.assert_allclose(early, np.tile(place, (100, 1)), atol=NEAR_RAD)


def test_after_an_operator_the_policy_starts_anew() -> None:
    """Who took over for 0.5 s and sent nothing: the arm stands where the policy stopped it."""
    world = World()
    world.delays_ms = iter([100] * 200)
    for _ in range(20):
        world.pass_step()
    for step in range(20):
        world._report(world.rig.take(world.rig.guard.on_deadman(step < 10, world.rig.moment)))
        world.pass_step()
    assert world.rig.guard.teleoperated
    num_asked = len(world.questions)
    assert world.rig.call("engage").success
    for _ in range(20):
        world.pass_step()
    assert not world.rig.guard.teleoperated and not world.rig.guard.holding
    assert any(question.starts_anew for question in world.questions[num_asked:])
    world.assert_told_the_truth()


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
