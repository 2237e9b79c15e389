# SPDX-License-Identifier: Apache-2.0
"""The guard as a machine: it starts disengaged, faults stop it, only a person starts it again.

Time is given, not waited for. Chunks start 0.4 s apart from 100 s on; the arm is a perfect one.
"""

import dataclasses

import numpy as np
import pytest

from par_ros.control.guard import Command, Guard, GuardSettings
from par_ros.control.joint_trajectory import FloatArray, Motion, MotionState
from par_ros.control.joint_states import JointSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.proof.fuzz import fuzz_once
from par_ros.proof.limit_oracle import PERIOD_S, ControllerOracle
from tests.control.arms import arm, knots

S = 1_000_000_000
BEGIN_S = 100.0
TIMES = 0.05 * np.arange(1, 9)


class Rig:
    """A guard, and an arm that is where it is commanded to be, judged at 1 kHz."""

    def __init__(self, **settings: object) -> None:
        self.spec = arm("panda")
        self.guard = Guard(self.spec, GuardSettings(**settings))  # type: ignore[arg-type]
        blends = self.guard.settings.lockstep
        self.oracle = ControllerOracle(self.spec, self.spec.home, blends=blends)
        self.now_s = 0.0
        self.sent: list[Command] = []

    @property
    def now_ns(self) -> int:
        return round((BEGIN_S + self.now_s) * S)

    def clocks(self) -> tuple[int, float]:
        return self.now_ns, self.now_s

    def take(self, command: Command) -> Command:
        if command.arm is not None:
            stamp_s = command.stamp_ns / S - BEGIN_S if command.stamp_ns else None
            self.oracle.receive(command.arm, stamp_s, self.now_s)
            self.sent.append(command)
        return command

    def joints(self, offset: FloatArray | float = 0.0) -> Command:
        self.oracle.advance(self.now_s)
        positions = np.append(self.oracle.positions + offset, 0.04)
        velocities = np.append(self.oracle.velocities, 0.0)
        sample = JointSample(self.now_ns, positions, velocities)
        return self.take(self.guard.on_joint_state(sample, *self.clocks()))

    def wait(self, duration_s: float, *, joints: bool = True) -> list[Command]:
        """Joint states and ticks every 20 ms."""
        commands = []
        for _ in range(round(duration_s / 0.02)):
            self.now_s += 0.02
            if joints:
                commands.append(self.joints())
            commands.append(self.take(self.guard.on_tick(1, *self.clocks())))
        return commands

    def chunk(self, positions: FloatArray, stamp_ns: int | None = None) -> Command:
        requested = RequestedChunk(
            self.now_ns if stamp_ns is None else stamp_ns, self.spec.joint_names, TIMES, positions
        )
        return self.take(self.guard.on_chunk(requested, *self.clocks()))

    def gentle(self) -> FloatArray:
        """On from what is commanded, 0.02 rad further."""
        self.oracle.advance(self.now_s)
        ramp = np.outer((np.arange(1, 9) / 8.0) ** 2, np.full(7, 0.02))
        moved = self.oracle.positions + np.outer(TIMES, self.oracle.velocities) + ramp
        return np.column_stack((moved, np.full(8, 0.04)))

    def engaged(self) -> "Rig":
        self.joints()
        reply = self.guard.engage(*self.clocks())
        assert reply.success, reply.message
        return self

    def sped_up(self) -> "Rig":
        """Three chunks later, all joints at over half the panda's speed, a fourth chunk begins."""
        for number in range(4):
            self.oracle.advance(self.now_s)
            moved = knots(self.oracle.positions, 0.0)
            acceleration = np.where(np.abs(self.oracle.velocities) < 1.0, 1.0, 0.0)
            moved[:, :7] += np.outer(TIMES, self.oracle.velocities)
            moved[:, :7] += 0.5 * np.outer(TIMES**2, acceleration)
            self.chunk(moved)
            if number < 3:
                self.wait(0.4)
        return self

    def assert_rest(self, after_s: float = 0.5) -> None:
        """At rest `after_s` from now, and no limit broken since the start."""
        self.oracle.advance(self.now_s + after_s)
        assert not self.oracle.velocities.any()
        assert not self.oracle.findings.num_violations, self.oracle.findings.examples


def text(command: Command) -> str:
    return " ".join(event.text for event in command.events)


def test_it_starts_disengaged_and_lets_nothing_pass() -> None:
    rig = Rig()
    rig.joints()
    command = rig.chunk(rig.gentle())
    assert command.arm is None
    assert command.executed is not None
    np.testing.assert_allclose(command.executed.positions[:, :7], np.tile(rig.spec.home, (8, 1)))


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_good_chunk_passes_unchanged_and_the_policy_is_told(lockstep: bool) -> None:
    rig = Rig(lockstep=lockstep).engaged()
    positions = rig.gentle()
    stamp_ns = rig.now_ns
    if not lockstep:
        rig.now_s += 0.06
    command = rig.chunk(positions, stamp_ns)
    assert command.arm is not None
    assert command.gripper is not None
    assert command.executed is not None
    np.testing.assert_array_equal(command.executed.positions, positions)
    assert command.executed_stamp_ns == stamp_ns
    assert command.executed.times_s[-1] == pytest.approx(0.4 if lockstep else 0.46)
    assert command.stamp_ns == rig.now_ns
    np.testing.assert_array_equal(command.gripper.positions[:, 0], positions[:, 7])


def test_chunks_join_smoothly_and_silence_ends_at_rest() -> None:
    """Five chunks 60 ms late each, then none: the tail brings the arm to rest in 0.3 s."""
    rig = Rig().engaged()
    for _ in range(5):
        stamp_ns, positions = rig.now_ns, rig.gentle()
        rig.wait(0.06)
        rig.chunk(positions, stamp_ns)
        rig.wait(0.4)
    rig.assert_rest()
    assert rig.guard.counters["refused"] == 0


def test_a_late_chunk_is_a_hold_that_ends_by_itself() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    events = [text(command) for command in rig.wait(0.6) if command.events]
    assert events == ["no chunk came in time; the arm comes to rest and waits"]
    assert rig.guard.holding == "late"
    assert rig.guard.engaged
    rig.chunk(rig.gentle())
    assert rig.guard.holding == ""
    assert rig.guard.counters["holds"] == 1


def test_a_chunk_for_an_old_observation_is_refused_and_the_arm_stays_engaged() -> None:
    rig = Rig().engaged()
    command = rig.chunk(rig.gentle(), rig.now_ns - round(0.41 * S))
    assert command.arm is None
    assert "0.410 s old" in text(command)
    assert rig.guard.engaged


def test_a_dead_policy_disengages() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(1.5)
    assert not rig.guard.engaged
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "dead_policy"
    rig.assert_rest()


def bad_chunk(kind: str, rig: Rig) -> RequestedChunk:
    positions, names, times = rig.gentle(), rig.spec.joint_names, TIMES
    if kind == "not_finite":
        positions[2, 3] = np.nan
    elif kind == "joints":
        names = (*names[:-1], "other")
    elif kind == "joint_order":
        names = names[::-1]
    elif kind == "shape":
        positions = positions[:5]
    elif kind == "times":
        times = times[::-1].copy()
    elif kind == "jump":
        positions[3, 0] += 0.5
    stamp_ns = rig.now_ns + (S if kind == "future" else 0)
    return RequestedChunk(stamp_ns, names, times, positions)


BAD_KINDS = ("not_finite", "joints", "joint_order", "shape", "times", "jump", "future")


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_a_bad_chunk_in_full_motion_stops_the_arm_and_disengages(kind: str) -> None:
    rig = Rig().engaged()
    for _ in range(4):
        rig.chunk(rig.gentle())
        rig.wait(0.4)
    rig.chunk(rig.gentle())
    rig.wait(0.2)
    command = rig.take(rig.guard.on_chunk(bad_chunk(kind, rig), *rig.clocks()))
    assert command.arm is not None
    assert not rig.guard.engaged
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == kind
    assert rig.chunk(rig.gentle()).arm is None
    rig.assert_rest()


def test_stale_joint_states_stop_the_arm() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.3, joints=False)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_states_stale"
    rig.assert_rest()


def test_a_joint_state_that_cannot_be_read_stops_the_arm() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.take(rig.guard.on_bad_joint_state("panda_joint3 is missing", *rig.clocks()))
    assert not rig.guard.engaged
    rig.assert_rest()


def test_a_jumping_encoder_stops_the_arm() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.1)
    rig.now_s += 0.02
    rig.joints(np.array([0, 0, 0.4, 0, 0, 0, 0]))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_jump"


def test_a_tracking_error_retreats_to_the_measured_position() -> None:
    """The arm is pushed 0.2 rad away, slowly enough to be no jump; 0.15 is allowed."""
    rig = Rig().engaged()
    for step in range(40):
        rig.now_s += 0.02
        rig.joints(np.array([min(0.2, 0.01 * step), 0, 0, 0, 0, 0, 0]))
        if not rig.guard.engaged:
            break
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "tracking_error"
    command = rig.sent[-1]
    assert command.arm is not None
    assert command.arm.positions[-1, 0] == pytest.approx(rig.spec.home[0] + 0.2, abs=0.02)
    rig.assert_rest()


def test_two_policies_stop_the_arm() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.take(rig.guard.on_tick(2, *rig.clocks()))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "two_policies"
    rig.wait(1.0, joints=True)
    rig.take(rig.guard.on_tick(2, *rig.clocks()))
    reply = rig.guard.engage(*rig.clocks())
    assert not reply.success
    assert "2 policies publish action_chunk" in reply.message


@pytest.mark.parametrize("pickup_delay_s", [0.0, 0.004, 0.01])
@pytest.mark.parametrize("step_s", [-5.0, 5.0])
def test_a_clock_step_stops_the_arm_from_where_it_really_is(
    step_s: float, pickup_delay_s: float
) -> None:
    """At every 40 ms of a chunk, at over half the panda's speed, picked up within 10 ms.

    Nobody knows what a stamp means to a controller whose clock may have stepped, or may not.
    """
    for phase_s in np.arange(0.02, 0.7, 0.04):
        rig = Rig().engaged().sped_up()
        rig.now_s += float(phase_s)
        command = rig.guard.on_tick(1, rig.now_ns + round(step_s * S), rig.now_s)
        assert rig.guard.last_fault is not None
        assert rig.guard.last_fault.kind == "clock"
        assert command.arm is not None
        assert command.stamp_ns == 0
        rig.oracle.receive(command.arm, None, rig.now_s + pickup_delay_s)
        rig.assert_rest()


@pytest.mark.parametrize("service", ["e_stop", "disengage"])
def test_a_stop_that_finds_a_clock_step_still_stops(service: str) -> None:
    rig = Rig().engaged().sped_up()
    rig.now_s += 0.1
    reply = getattr(rig.guard, service)(rig.now_ns - 5 * S, rig.now_s)
    assert reply.command.arm is not None
    rig.take(reply.command)
    rig.assert_rest()
    assert not rig.guard.engaged


def test_lockstep_physics_that_is_under_way_is_stopped_by_the_next_answer() -> None:
    """A joint jumps by 0.3 rad 0.1 s into a chunk of 0.4 s.

    The bridge takes answers to its observations only: a stop that it does not follow would leave
    the guard with a wrong idea of what is commanded, and the answer after it with a step.
    """
    rig = Rig(lockstep=True).engaged()
    rig.chunk(rig.gentle())
    for step in range(1, 8):
        rig.now_s = 0.05 * step
        assert rig.joints(offset=0.3 if step >= 2 else 0.0).arm is None
    rig.now_s = 0.4
    rig.joints()
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_jump"
    assert not rig.guard.engaged
    # The answer to the next observation is the stop.
    assert rig.chunk(rig.gentle()).arm is not None
    rig.assert_rest()


def test_a_splice_that_reaches_the_first_action_is_refused() -> None:
    with pytest.raises(ValueError, match="splice_s must end"):
        Guard(arm("panda"), GuardSettings(step_s=0.01, splice_s=0.01))


def test_a_duplicate_and_an_older_chunk_change_nothing() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.1)
    stamp_ns = rig.now_ns - round(0.1 * S)
    assert rig.chunk(rig.gentle(), stamp_ns).arm is None
    assert rig.chunk(rig.gentle(), stamp_ns - 1).arm is None
    assert rig.guard.engaged
    assert rig.guard.counters["duplicate"] == 1
    assert rig.guard.counters["reordered"] == 1


def test_the_stop_latches_until_it_is_reset_and_engaged() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.2)
    rig.take(rig.guard.e_stop(*rig.clocks()).command)
    rig.assert_rest()
    rig.wait(1.0)
    reply = rig.guard.engage(*rig.clocks())
    assert not reply.success
    assert "reset_stop first" in reply.message
    assert rig.chunk(rig.gentle()).arm is None
    rig.guard.reset_stop()
    assert rig.chunk(rig.gentle()).arm is None
    assert rig.guard.engage(*rig.clocks()).success
    assert rig.chunk(rig.gentle()).arm is not None


def test_a_stop_at_any_phase_of_a_chunk_keeps_the_limits() -> None:
    """Every 30 ms from the join to behind the tail, at over half the panda's speed."""
    for phase_s in np.arange(0.0, 0.75, 0.03):
        rig = Rig().engaged()
        rig.sped_up()
        rig.now_s += float(phase_s)
        rig.oracle.advance(rig.now_s)
        rig.take(rig.guard.e_stop(*rig.clocks()).command)
        rig.assert_rest()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("none", "no complete joint state"),
        ("moving", "must stand still"),
        ("outside", "outside the position limits"),
    ],
)
def test_it_does_not_engage_an_arm_that_is_not_ready(change: str, sentence: str) -> None:
    rig = Rig()
    positions, velocities = np.append(rig.spec.home, 0.04), np.zeros(8)
    if change == "moving":
        velocities[1] = 0.3
    if change == "outside":
        positions[3] = 0.2
    if change != "none":
        sample = JointSample(rig.now_ns, positions, velocities)
        rig.guard.on_joint_state(sample, *rig.clocks())
    reply = rig.guard.engage(*rig.clocks())
    assert not reply.success
    assert sentence in reply.message


def test_in_lockstep_every_chunk_is_answered_at_its_own_time() -> None:
    """Disengaged, refused or faulty: arm, gripper and executed_actions come, with that stamp."""
    rig = Rig(lockstep=True)
    rig.joints()
    good, wild = rig.gentle(), knots(rig.spec.home, 5.0)
    broken = good.copy()
    broken[0, 0] = np.nan
    for number, positions in enumerate((good, wild, broken, good)):
        if number == 1:
            rig.guard.engage(*rig.clocks())
        command = rig.chunk(positions)
        assert command.arm is not None
        assert command.gripper is not None
        assert command.executed is not None
        assert command.stamp_ns == command.executed_stamp_ns == rig.now_ns
        assert command.gripper.times_s[-1] == pytest.approx(0.4)
        rig.now_s += 0.4
        rig.joints()
    assert not rig.guard.engaged


def test_disengage_forgets_the_arm_so_that_it_may_be_put_elsewhere() -> None:
    rig = Rig(lockstep=True).engaged()
    rig.guard.disengage(*rig.clocks())
    assert not rig.guard.engage(*rig.clocks()).success
    elsewhere = np.append(rig.spec.home + 0.3, 0.04)
    rig.now_s += 1.0
    sample = JointSample(rig.now_ns, elsewhere, np.zeros(8))
    rig.guard.on_joint_state(sample, *rig.clocks())
    assert rig.guard.engage(*rig.clocks()).success
    commanded = rig.guard.commanded_positions(rig.now_ns)
    np.testing.assert_array_equal(commanded, elsewhere[:7])


def test_timed_from_the_observation_past_actions_are_what_was_being_sent() -> None:
    rig = Rig(chunk_start="observation").engaged()
    positions = rig.gentle()
    stamp_ns = rig.now_ns
    rig.wait(0.1)
    command = rig.chunk(positions, stamp_ns)
    assert command.executed is not None
    # Actions 1 and 2 were due at 0.05 and 0.1 s: the arm stood at home then.
    np.testing.assert_array_equal(
        command.executed.positions[:2, :7], np.tile(rig.spec.home, (2, 1))
    )
    np.testing.assert_array_equal(command.executed.positions[2:], positions[2:])
    # Three tenths of a second to the last action, as many for the tail.
    rig.assert_rest(0.61)


@pytest.mark.parametrize("seed", range(6))
def test_hostile_chunks_break_no_limit(seed: int) -> None:
    """Forty chunks each of the fuzzer's kinds; the million is `python -m par_ros fuzz`."""
    totals = fuzz_once(arm("panda"), seed, 40)
    assert totals.passed, (totals.findings.examples, totals.exceptions)
    assert totals.num_outputs > 0
    assert totals.outcomes["refused"] > 0


def test_no_first_point_is_ahead_when_a_moving_arm_is_taken_over() -> None:
    """Else a controller that blends from its last command, a cycle late, runs on by that cycle."""
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.1)
    _assert_begins_as_the_arm_moves(rig, rig.chunk(rig.gentle()))
    rig.wait(0.1)
    _assert_begins_as_the_arm_moves(rig, rig.take(rig.guard.e_stop(*rig.clocks()).command))
    rig.assert_rest(1.0)


def _assert_begins_as_the_arm_moves(rig: Rig, command: Command) -> None:
    assert command.arm is not None
    assert command.arm.velocities is not None
    assert command.stamp_ns == rig.now_ns
    assert command.arm.times_s[0] == 0.0
    np.testing.assert_allclose(command.arm.positions[0], rig.oracle.positions, atol=1e-9)
    np.testing.assert_allclose(command.arm.velocities[0], rig.oracle.velocities, atol=1e-9)
    assert np.abs(command.arm.velocities[0]).max() > 0.01


def test_a_stamp_a_little_ahead_of_the_clock_starts_now() -> None:
    rig = Rig(chunk_start="observation").engaged()
    rig.now_s += 0.1
    command = rig.chunk(rig.gentle(), rig.now_ns + 8_000_000)
    assert command.arm is not None
    command.arm.validate(rig.spec.arm_joint_names)
    assert command.stamp_ns == rig.now_ns
    assert command.arm.times_s[0] == 0.0


def test_the_oracle_sees_what_breaks_a_limit() -> None:
    """The judge is judged: a step of 0.01 rad in 50 ms needs more than the panda's acceleration."""
    rig = Rig().engaged()
    command = rig.chunk(rig.gentle())
    assert command.arm is not None
    positions = command.arm.positions.copy()
    positions[1:] += 0.02
    faulty = dataclasses.replace(command.arm, positions=positions)
    oracle = ControllerOracle(rig.spec, rig.spec.home)
    oracle.receive(faulty, 0.0, 0.0)
    oracle.advance(1.0)
    assert oracle.findings.violations["acceleration"] > 0


class _Controller:
    """joint_trajectory_controller's update() at 1 kHz: what it commands at each cycle.

    Read from ros2_controllers: on the way to a first point that is ahead it blends from the last
    command. Jazzy and later command the state a cycle ahead and store it with this cycle's time;
    Humble commands the state of now, and begins at this cycle.
    """

    def __init__(self, positions: FloatArray, *, jazzy: bool) -> None:
        self.jazzy = jazzy
        self.last, self.last_s = MotionState.at_rest(positions), 0.0
        self.motion: Motion | None = None
        self.start_s = 0.0

    def take(self, command: Command, cycle_s: float) -> None:
        assert command.arm is not None
        self.start_s = command.stamp_ns / S - BEGIN_S
        before_s = self.last_s if self.jazzy else cycle_s
        self.motion = Motion(command.arm, self.last, before_s - self.start_s)

    def cycle(self, cycle_s: float) -> FloatArray:
        if self.motion is not None:
            ahead_s = PERIOD_S if self.jazzy else 0.0
            self.last = self.motion.state_at(cycle_s + ahead_s - self.start_s)
        self.last_s = cycle_s
        return self.last.positions


@pytest.mark.parametrize("jazzy", [True, False])
def test_a_controller_of_either_kind_runs_through_hand_overs_without_a_step(jazzy: bool) -> None:
    """From rest through four hand-overs up to over half the panda's speed, each picked up late."""
    rig = Rig().engaged().sped_up()
    rig.wait(0.2)
    rig.chunk(rig.gentle())
    controller = _Controller(rig.spec.home, jazzy=jazzy)
    waiting = list(rig.sent)
    commands = []
    for cycle_s in PERIOD_S * np.arange(1, round((rig.now_s + 0.3) / PERIOD_S)):
        if waiting and cycle_s > waiting[0].stamp_ns / S - BEGIN_S + 0.0025:
            controller.take(waiting.pop(0), cycle_s)
        commands.append(controller.cycle(cycle_s))
    assert not waiting
    accelerations = np.abs(np.diff(commands, n=2, axis=0)) / PERIOD_S**2
    assert np.all(accelerations <= 1.001 * rig.spec.limits.max_acceleration)
