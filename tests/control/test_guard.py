# SPDX-License-Identifier: Apache-2.0
"""The guard as a machine: it starts disengaged, faults stop it, only a person starts it again.

Chunks start 0.43 s apart (0.4 s and the splice); the arm is a perfect one behind a controller at
1 kHz (guard_rig.py), which takes each trajectory 4 ms after it was sent.
"""

import dataclasses

import numpy as np
import pytest

from par_ros.control.guard import Guard, GuardSettings
from par_ros.control.joint_states import JointSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import Moment
from tests.control.arms import arm, knots
from tests.control.guard_rig import STEADY_BEGIN_NS, TIMES, Rig, S, text


def test_it_starts_disengaged_and_lets_nothing_pass() -> None:
    rig = Rig()
    rig.wait(0.3)
    command = rig.chunk(knots(rig.spec.home, 0.0))
    assert command.arm is None
    assert command.executed is not None
    np.testing.assert_allclose(command.executed.positions[:, :7], np.tile(rig.spec.home, (8, 1)))


def test_a_good_chunk_passes_unchanged_and_the_policy_is_told() -> None:
    """It came 60 ms after its observation and starts at the end of the splice, 30 ms later."""
    rig = Rig().engaged()
    positions = rig.gentle()
    command = rig.chunk(positions, age_s=0.06)
    assert command.arm is not None
    assert command.gripper is not None
    assert command.executed is not None
    np.testing.assert_array_equal(command.executed.positions, positions)
    assert command.executed_stamp_ns == rig.ros_ns - 60_000_000
    assert command.executed.times_s[-1] == pytest.approx(0.49)
    assert command.stamp_ns == rig.ros_ns
    np.testing.assert_array_equal(command.gripper.positions[:, 0], positions[:, 7])
    np.testing.assert_allclose(command.gripper.times_s, TIMES + 0.03)
    rig.wait(0.43)
    np.testing.assert_allclose(rig.controller.reference.positions, positions[-1, :7], atol=1e-6)


def test_chunks_join_smoothly_and_silence_ends_at_rest() -> None:
    """Five chunks 60 ms late each, then none: the tail brings the arm to rest in 0.3 s."""
    rig = Rig().engaged()
    for _ in range(5):
        rig.chunk(rig.gentle(0.3), age_s=0.06)
        rig.wait(0.44)
    rig.assert_rest()
    assert rig.guard.counters["refused"] == 0


def test_a_late_chunk_is_a_hold_that_ends_by_itself() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    events = [text(command) for command in rig.wait(0.7) if command.events]
    assert events == ["no chunk came in time; the arm comes to rest and waits"]
    assert rig.guard.holding == "late"
    assert rig.guard.engaged
    rig.chunk(rig.gentle())
    assert rig.guard.holding == ""
    assert rig.guard.counters["holds"] == 1


def test_a_chunk_for_an_old_observation_is_refused_and_the_arm_stays_engaged() -> None:
    rig = Rig().engaged()
    command = rig.chunk(rig.gentle(), age_s=0.41)
    assert command.arm is None
    assert "0.410 s old" in text(command)
    assert rig.guard.engaged


def test_a_dead_policy_disengages() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(1.6)
    assert not rig.guard.engaged
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "dead_policy"
    rig.assert_rest()


def bad_chunk(kind: str, rig: Rig) -> RequestedChunk:
    positions, names, times = rig.gentle(0.0), rig.spec.joint_names, TIMES
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
    stamp_ns = rig.ros_ns + (S if kind == "future" else 0)
    return RequestedChunk(stamp_ns, names, times, positions)


BAD_KINDS = ("not_finite", "joints", "joint_order", "shape", "times", "jump", "future")


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_a_bad_chunk_in_full_motion_stops_the_arm_and_disengages(kind: str) -> None:
    rig = Rig().engaged().sped_up()
    command = rig.take(rig.guard.on_chunk(bad_chunk(kind, rig), rig.moment))
    assert command.arm is not None
    assert not rig.guard.engaged
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == kind
    assert rig.chunk(rig.gentle()).arm is None
    rig.assert_rest()


def test_stale_joint_states_stop_the_arm() -> None:
    rig = Rig().engaged().sped_up()
    rig.sends_joints = False
    rig.wait(0.25)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_states_stale"
    rig.assert_rest()


def test_a_joint_state_that_cannot_be_read_stops_the_arm() -> None:
    rig = Rig().engaged().sped_up()
    rig.take(rig.guard.on_bad_joint_state("panda_joint3 is doubled", rig.moment))
    assert not rig.guard.engaged
    rig.assert_rest()


def test_a_jumping_encoder_stops_the_arm() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.1)
    rig.joint_offset = np.array([0, 0, 0.4, 0, 0, 0, 0])
    rig.wait(0.02)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_jump"


def pushed_away(rig: Rig, far_rad: float = 0.2) -> None:
    """The arm is pushed, slowly enough to be no jump, until the guard lets go."""
    for step in range(60):
        rig.joint_offset = np.array([min(far_rad, 0.01 * step), 0, 0, 0, 0, 0, 0])
        rig.wait(0.02)
        if not rig.guard.engaged:
            break
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "tracking_error"


def test_a_tracking_error_retreats_to_the_measured_position() -> None:
    """At no more than a quarter of the velocity limit, at rest within 1.5 s; 0.15 rad allowed."""
    rig = Rig().engaged()
    pushed_away(rig)
    command = rig.sent[-1]
    assert command.arm is not None
    assert command.arm.positions[-1, 0] == pytest.approx(rig.spec.home[0] + 0.2, abs=0.02)
    rig.assert_rest(1.5)
    assert rig.largest_shares()["velocity"] <= 0.25


def test_a_retreat_that_is_too_far_is_a_stop() -> None:
    """The arm moves at half speed and is found 0.9 rad away: it is not chased."""
    rig = Rig().engaged().sped_up()
    before = rig.guard.commanded_positions(rig.moment)
    assert before is not None
    for step in range(20):
        rig.joint_offset = np.array([-0.06 * step, 0, 0, 0, 0, 0, 0])
        rig.wait(0.02)
        if not rig.guard.engaged:
            break
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "tracking_error"
    rig.assert_rest()


def test_two_policies_stop_the_arm() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.take(rig.guard.on_tick(2, rig.moment))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "two_policies"
    rig.wait(1.0)
    rig.take(rig.guard.on_tick(2, rig.moment))
    reply = rig.guard.engage(rig.moment)
    assert not reply.success
    assert "2 policies publish action_chunk" in reply.message


def test_a_duplicate_and_an_older_chunk_change_nothing() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.1)
    assert rig.chunk(rig.gentle(), age_s=0.1).arm is None
    assert rig.chunk(rig.gentle(), age_s=0.1 + 1e-9).arm is None
    assert rig.guard.engaged
    assert rig.guard.counters["duplicate"] == 1
    assert rig.guard.counters["reordered"] == 1


def test_the_stop_latches_until_it_is_reset_and_engaged() -> None:
    rig = Rig().engaged()
    rig.chunk(rig.gentle())
    rig.wait(0.2)
    rig.call("e_stop")
    rig.assert_rest()
    rig.wait(1.0)
    reply = rig.guard.engage(rig.moment)
    assert not reply.success
    assert "reset_stop first" in reply.message
    assert rig.chunk(rig.gentle()).arm is None
    rig.guard.reset_stop()
    assert rig.chunk(rig.gentle()).arm is None
    assert rig.guard.engage(rig.moment).success
    assert rig.chunk(rig.gentle()).arm is not None


@pytest.mark.parametrize("pickup_s", [0.001, 0.03])
def test_a_stop_at_any_phase_of_a_chunk_keeps_the_limits(pickup_s: float) -> None:
    """Every 50 ms from the join to behind the tail, at over half the panda's speed."""
    for phase_s in np.arange(0.0, 0.75, 0.05):
        rig = Rig().engaged().sped_up()
        rig.pickup_s = pickup_s
        rig.wait(float(phase_s))
        rig.call("e_stop")
        rig.assert_rest()


@pytest.mark.parametrize("pickup_s", [0.001, 0.01, 0.02, 0.03])
def test_any_pick_up_within_the_splice_runs_the_same_curve(pickup_s: float) -> None:
    """From rest through hand-overs up to half the panda's speed."""
    rig = Rig(chunk_start="observation")
    rig.pickup_s = pickup_s
    rig.engaged()
    for _ in range(5):
        rig.chunk(rig.gentle(0.8), age_s=0.04)
        rig.wait(0.3)
    assert np.abs(rig.controller.reference.velocities).max() > 0.5
    rig.call("disengage")
    rig.assert_rest()
    assert rig.guard.counters["picked_up_late"] == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("none", "no joint state can be used"),
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
    for _ in range(6):
        rig.cycle += 50
        if change != "none":
            sample = JointSample(rig.ros_ns, positions, velocities)
            rig.guard.on_joint_state(sample, rig.moment)
    reply = rig.guard.engage(rig.moment)
    assert not reply.success
    assert sentence in reply.message


class Lockstep:
    """A guard in lockstep: its time is that of the stamps."""

    def __init__(self) -> None:
        self.guard = Guard(arm("panda"), GuardSettings(lockstep=True, expects_reference=False))
        self.home = self.guard.spec.home
        self.now_ns = 1_000 * S

    @property
    def moment(self) -> Moment:
        return Moment(self.now_ns, STEADY_BEGIN_NS)

    def joints(self, positions: "np.typing.NDArray[np.float64]") -> None:
        sample = JointSample(self.now_ns, np.append(positions, 0.04), np.zeros(8))
        self.guard.on_joint_state(sample, self.moment)

    def chunk(self, positions: "np.typing.NDArray[np.float64]"):  # type: ignore[no-untyped-def]
        chunk = RequestedChunk(self.now_ns, self.guard.spec.joint_names, TIMES, positions)
        return self.guard.on_chunk(chunk, self.moment)


def test_in_lockstep_every_chunk_is_answered_at_its_own_time() -> None:
    """Disengaged, refused or faulty: arm, gripper and executed_actions come, with that stamp."""
    world = Lockstep()
    world.joints(world.home)
    good, wild = knots(world.home, 0.02), knots(world.home, 5.0)
    broken = good.copy()
    broken[0, 0] = np.nan
    for number, positions in enumerate((good, wild, broken, good)):
        if number == 1:
            assert world.guard.engage(world.moment).success
        command = world.chunk(positions)
        assert command.arm is not None
        assert command.gripper is not None
        assert command.executed is not None
        assert command.stamp_ns == command.executed_stamp_ns == world.now_ns
        assert command.gripper.times_s[-1] == pytest.approx(0.4)
        world.now_ns += round(0.4 * S)
        world.joints(world.home)
    assert not world.guard.engaged


def test_in_lockstep_the_clock_tells_an_old_chunk_where_joint_states_are_lost() -> None:
    """The bridge has gone on without an answer; one that comes now would not be followed."""
    world = Lockstep()
    world.joints(world.home)
    assert world.guard.engage(world.moment).success
    old = RequestedChunk(world.now_ns, world.guard.spec.joint_names, TIMES, knots(world.home, 0.02))
    world.now_ns += round(0.4 * S)
    command = world.guard.on_chunk(old, world.moment)
    assert command.arm is None
    assert "0.400 s beyond its observation" in command.events[0].text
    world.joints(world.home)
    assert world.chunk(knots(world.home, 0.02)).arm is not None


def test_lockstep_physics_that_is_under_way_is_stopped_by_the_next_answer() -> None:
    """A joint jumps by 0.3 rad 0.1 s into a chunk of 0.4 s.

    The bridge takes answers to its observations only: a stop that it does not follow would leave
    the guard with a wrong idea of what is commanded, and the answer after it with a step.
    """
    world = Lockstep()
    world.joints(world.home)
    world.guard.engage(world.moment)
    world.chunk(knots(world.home, 0.02))
    begin_ns = world.now_ns
    for step in range(1, 8):
        world.now_ns = begin_ns + round(0.05 * step * S)
        sample = JointSample(
            world.now_ns, np.append(world.home + 0.3 * (step >= 2), 0.04), np.zeros(8)
        )
        assert world.guard.on_joint_state(sample, world.moment).arm is None
    world.now_ns = begin_ns + round(0.4 * S)
    world.joints(world.home)
    assert world.guard.last_fault is not None
    assert world.guard.last_fault.kind == "joint_jump"
    assert not world.guard.engaged
    # The answer to the next observation is the stop.
    assert world.chunk(knots(world.home, 0.02)).arm is not None


def test_disengage_forgets_the_arm_so_that_it_may_be_put_elsewhere() -> None:
    world = Lockstep()
    world.joints(world.home)
    assert world.guard.engage(world.moment).success
    world.guard.disengage(world.moment)
    assert not world.guard.engage(world.moment).success
    world.now_ns += S
    world.joints(world.home + 0.3)
    assert world.guard.engage(world.moment).success
    commanded = world.guard.commanded_positions(world.moment)
    np.testing.assert_array_equal(commanded, world.home + 0.3)


def test_timed_from_the_observation_past_actions_are_what_was_being_sent() -> None:
    rig = Rig(chunk_start="observation", inference="overlapped").engaged()
    positions = rig.gentle(0.2)
    rig.wait(0.1)
    command = rig.chunk(positions, age_s=0.1)
    assert command.executed is not None
    # Actions 1 to 3 are due at 0.05 to 0.15 s, the chunk takes over at 0.13 s and needs 20 ms.
    np.testing.assert_array_equal(
        command.executed.positions[:3, :7], np.tile(rig.spec.home, (3, 1))
    )
    np.testing.assert_array_equal(command.executed.positions[3:8], positions[3:])
    # A quarter of a second to the last action, 0.3 s for the tail.
    rig.assert_rest(0.62)
    # It is told of until the rest.
    np.testing.assert_allclose(command.executed.positions[-1, :7], rig.commands[-1], atol=1e-12)


def test_past_actions_of_a_moving_arm_are_those_of_their_moments() -> None:
    """The second chunk answers a picture of 0.2 s later; its first three actions fall on the fifth
    to seventh of the first chunk, which ran meanwhile."""
    rig = Rig(chunk_start="observation").engaged()
    first = rig.gentle(0.2)
    second = first.copy()
    second[:, :7] = rig.spec.home + 0.1 * (0.2 + 0.05 * np.arange(1, 9)[:, None]) ** 2
    rig.wait(0.1)
    rig.chunk(first, age_s=0.1)
    rig.wait(0.2)
    executed = rig.chunk(second, age_s=0.1).executed
    assert executed is not None
    np.testing.assert_allclose(executed.positions[:3], first[4:7], atol=1e-6)
    np.testing.assert_array_equal(executed.positions[3:8], second[3:])


def test_a_stamp_a_little_ahead_of_the_clock_starts_now() -> None:
    rig = Rig(chunk_start="observation").engaged()
    command = rig.chunk(rig.gentle(), age_s=-0.008)
    assert command.arm is not None
    command.arm.validate(rig.spec.arm_joint_names)
    assert command.stamp_ns == rig.ros_ns
    assert command.arm.times_s[0] == 0.0


def test_the_rig_sees_what_breaks_a_limit() -> None:
    """The judge is judged: a step of 0.02 rad needs more than the panda's acceleration."""
    rig = Rig().engaged()
    command = rig.guard.on_chunk(rig.requested(rig.gentle()), rig.moment)
    assert command.arm is not None
    positions = command.arm.positions.copy()
    positions[3:] += 0.02
    faulty = dataclasses.replace(command, arm=dataclasses.replace(command.arm, positions=positions))
    rig.take(faulty)
    rig.wait(0.3)
    assert rig.largest_shares()["acceleration"] > 1.0


def test_a_lower_share_of_the_limits_is_kept() -> None:
    """limit_share 0.3: chunks that ask for more are tracked below three tenths of each limit."""
    rig = Rig(limit_share=0.3).engaged()
    for _ in range(3):
        rig.chunk(rig.gentle(3.0))
        rig.wait(0.43)
    rig.assert_rest(0.6)
    assert max(rig.largest_shares().values()) <= 0.301


def test_a_splice_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"splice_s must be above 0 and at most 0\.1 s"):
        Guard(arm("panda"), GuardSettings(splice_s=0.11))


def test_a_splice_may_be_longer_than_a_control_step() -> None:
    rig = Rig(splice_s=0.1)
    rig.pickup_s = 0.1
    rig.engaged()
    for _ in range(4):
        command = rig.chunk(rig.gentle(0.3))
        assert command.arm is not None
        rig.wait(0.3)
    rig.call("disengage")
    rig.assert_rest(0.6)


def test_in_lockstep_a_stop_at_the_answer_s_own_time_waits_for_the_next_answer() -> None:
    """The clock has not moved since the answer was sent, and physics takes no second one."""
    world = Lockstep()
    world.joints(world.home)
    assert world.guard.engage(world.moment).success
    assert world.chunk(knots(world.home, 0.02)).arm is not None
    assert world.guard.e_stop(world.moment).command.arm is None
    world.now_ns += round(0.4 * S)
    world.joints(world.home)
    assert world.chunk(knots(world.home, 0.02)).arm is not None
