# SPDX-License-Identifier: Apache-2.0
"""What a real controller, clock and network do to the guard; judged by what the arm gets.

Each test is a fault that the guard once had. The controller runs at 1 kHz (guard_rig.py); limits
are compared with finite differences of what the hardware gets over a millisecond.
"""

import dataclasses

import numpy as np
import pytest

from par_ros.control.guard import Guard, GuardSettings, StopLatch
from par_ros.control.joint_states import JointSample
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.timeline import Moment, Timeline
from tests.control.guard_rig import (
    PERIOD_S,
    ROS_BEGIN_NS,
    STEADY_BEGIN_NS,
    TIMES,
    Rig,
    S,
    text,
)
from tests.control.test_guard import pushed_away

NAMES = tuple(f"joint{number}" for number in range(8))


# An emergency stop stops whatever moves.


@pytest.mark.parametrize("service", ["e_stop", "disengage"])
@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3])
def test_a_retreat_is_stopped(service: str, after_s: float) -> None:
    """The arm is pushed 0.2 rad away; the command goes there, and stands 0.25 s after the call."""
    rig = Rig().engaged()
    pushed_away(rig)
    rig.wait(after_s)
    assert np.abs(np.diff(rig.commands[-2:], axis=0)).max() > 0.0
    rig.call(service)
    assert rig.sent[-1] is not rig.sent[-2]
    rig.assert_rest(0.25)
    stopped = rig.commands[-1][0]
    rig.wait(1.0)
    assert rig.commands[-1][0] == stopped
    assert stopped < rig.spec.home[0] + 0.19


def test_engage_waits_for_the_end_of_a_retreat() -> None:
    rig = Rig().engaged()
    pushed_away(rig)
    rig.joint_offset = 0.0
    reply = rig.call("engage")
    assert not reply.success
    assert "still coming to rest" in reply.message
    rig.wait(2.0)
    assert rig.call("engage").success


def test_a_second_stop_while_stopping_changes_nothing() -> None:
    rig = Rig().engaged().sped_up()
    rig.call("e_stop")
    num_sent = len(rig.sent)
    rig.wait(0.02)
    rig.call("e_stop")
    assert len(rig.sent) == num_sent
    rig.assert_rest()


def test_the_latch_outlives_the_guard() -> None:
    latch = StopLatch()
    rig = Rig(latch).engaged()
    rig.call("e_stop")
    again = Rig(latch)
    again.wait(0.3)
    assert not again.call("engage").success
    assert again.guard.stop_latched
    again.guard.reset_stop()
    assert again.call("engage").success


# Engaging begins where the controller holds the arm.


@pytest.mark.parametrize("offset_rad", [1e-5, 1e-3, 5e-3])
def test_engaging_an_arm_that_sags_steps_nothing(offset_rad: float) -> None:
    """Measured and reference differ by the sag; the first chunk departs from the reference."""
    rig = Rig()
    rig.joint_offset = offset_rad
    rig.engaged()
    commanded = rig.guard.commanded_positions(rig.moment)
    np.testing.assert_array_equal(commanded, rig.spec.home)
    rig.chunk(rig.gentle(0.3))
    rig.assert_rest(1.2)


def test_engaging_again_while_engaged_changes_nothing() -> None:
    rig = Rig().engaged().sped_up()
    reply = rig.call("engage")
    assert reply.success
    assert "already" in reply.message
    rig.assert_rest(1.2)


def test_without_a_reference_the_arm_is_led_to_where_it_was_measured() -> None:
    """5 mrad of sag: within 10 % of the limits, chunks are held until then."""
    rig = Rig(expects_reference=False)
    rig.sends_references = False
    rig.joint_offset = 0.005
    rig.engaged()
    assert rig.sent[-1].stamp_ns == rig.ros_ns
    held = rig.chunk(np.column_stack((np.tile(rig.spec.home, (8, 1)), np.full(8, 0.04))))
    assert held.arm is None
    assert rig.guard.holding == "settling"
    rig.joint_offset = 0.0
    rig.wait(1.6)
    assert max(rig.largest_shares().values()) <= 0.1
    np.testing.assert_allclose(rig.commands[-1], rig.spec.home + 0.005, atol=1e-9)
    assert rig.chunk(rig.gentle(0.3)).arm is not None
    rig.assert_rest(1.2)


def test_a_moving_arm_without_velocities_is_not_engaged() -> None:
    rig = Rig()
    rig.has_velocities = False
    for step in range(20):
        rig.joint_offset = 0.005 * step
        rig.wait(0.02)
    reply = rig.call("engage")
    assert not reply.success
    assert "rad apart" in reply.message
    rig.wait(0.5)
    assert rig.call("engage").success


@pytest.mark.parametrize("age_s", [1_000.0, 0.5, -0.2])
def test_joint_states_with_strange_stamps_do_not_engage(age_s: float) -> None:
    rig = Rig()
    rig.sends_joints = False
    for _ in range(20):
        rig.wait(0.02)
        rig.guard.on_joint_state(rig.sample(age_s), rig.moment)
    reply = rig.call("engage")
    assert not reply.success
    assert "stamped within 0.2 s of now" in reply.message


@pytest.mark.parametrize("age_s", [0.5, -0.2])
def test_stamps_that_become_strange_stop_the_arm(age_s: float) -> None:
    rig = Rig().engaged().sped_up()
    rig.sends_joints = False
    for _ in range(12):
        rig.wait(0.02)
        rig.take(rig.guard.on_joint_state(rig.sample(age_s), rig.moment))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_states_stale"
    assert "stamped within" in rig.guard.last_fault.reason
    rig.assert_rest()


def test_one_sample_is_not_enough_to_engage() -> None:
    rig = Rig()
    rig.wait(0.02)
    reply = rig.call("engage")
    assert not reply.success
    assert "at least 5 joint states over 0.2 s must agree" in reply.message


def test_a_foreign_joint_state_between_ours_is_never_engaged() -> None:
    """A driver and a forgotten joint_state_publisher at zero, in turn."""
    rig = Rig()
    for step in range(30):
        rig.joint_offset = 0.0 if step % 2 else -rig.spec.home
        rig.wait(0.02)
        if step > 10:
            reply = rig.call("engage")
            assert not reply.success
    assert "check for two joint_states publishers" in reply.message


def test_a_foreign_joint_state_stops_the_arm_where_it_is() -> None:
    rig = Rig().engaged().sped_up()
    rig.sends_joints = False
    rig.wait(0.02)
    rig.take(rig.guard.on_joint_state(rig.sample(), rig.moment))
    foreign = JointSample(rig.ros_ns + 1_000_000, np.zeros(8), None)
    rig.take(rig.guard.on_joint_state(foreign, rig.moment))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "joint_jump"
    assert "two joint_states publishers" in rig.guard.last_fault.reason
    rig.assert_rest()


def test_two_sources_that_nearly_agree_are_told_apart() -> None:
    """20 mrad apart in turn: no jump, but no arm moves so."""
    rig = Rig().engaged()
    for step in range(20):
        rig.joint_offset = np.array([0.02 * (step % 2), 0, 0, 0, 0, 0, 0])
        rig.wait(0.02)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "two_sources"
    assert "panda_joint1" in rig.guard.last_fault.reason


def test_a_clock_that_stands_still_is_not_engaged() -> None:
    """use_sim_time without /clock: ROS time is 0."""
    rig = Rig(sim_clock=True, expects_reference=False)
    for number in range(20):
        moment = Moment(0, STEADY_BEGIN_NS + number * 20_000_000)
        sample = JointSample(number - 20, np.append(rig.spec.home, 0.04), np.zeros(8))
        rig.guard.on_joint_state(sample, moment)
    reply = rig.guard.engage(moment)
    assert not reply.success
    assert "the ROS clock must run" in reply.message


@pytest.mark.parametrize("pickup_s", [0.055, 0.08])
def test_a_late_pick_up_of_a_slow_motion_is_noticed(pickup_s: float) -> None:
    """25 and 50 ms after the splice, at up to 0.3 rad/s: steps of about a milliradian."""
    rig = Rig().engaged()
    for _ in range(4):
        rig.chunk(rig.gentle(0.5))
        rig.wait(0.4)
    assert np.abs(rig.controller.reference.velocities).max() > 0.2
    rig.pickup_s = pickup_s
    rig.chunk(rig.gentle(-0.5))
    rig.wait(0.3)
    assert rig.guard.counters["picked_up_late"] + rig.guard.counters["not_taken"] >= 1


@pytest.mark.parametrize("pickup_s", [0.012, 0.02, 0.029])
def test_a_pick_up_within_the_splice_moves_nothing(pickup_s: float) -> None:
    rig = Rig().engaged()
    rig.pickup_s = pickup_s
    rig.sped_up()
    rig.call("e_stop")
    rig.assert_rest()
    assert rig.guard.counters["picked_up_late"] == 0


def test_a_pick_up_after_the_splice_is_noticed() -> None:
    """60 ms: 30 ms too late. References every 20 ms see the motion before until then."""
    rig = Rig().engaged()
    rig.sped_up()
    rig.pickup_s = 0.055
    rig.call("e_stop")
    rig.wait(0.4)
    assert rig.guard.counters["picked_up_late"] == 1


def test_a_chunk_that_took_too_long_is_planned_again() -> None:
    """The guard got no CPU for 25 ms: the curve begins anew from now, and nothing is lost."""
    rig = Rig().engaged().sped_up()
    rig.wait(0.3)
    command = rig.guard.on_chunk(rig.requested(rig.gentle(0.0)), rig.moment)
    assert command.arm is not None
    rig.wait(0.025, computing=True)
    again = rig.take(rig.guard.withdraw(rig.moment))
    assert again.arm is not None and again.executed is not None
    assert again.executed_stamp_ns == command.executed_stamp_ns
    rig.wait(0.1)
    assert rig.guard.counters["holds"] == rig.guard.counters["duplicate"] == 0
    assert rig.guard.counters["picked_up_late"] == rig.guard.counters["not_taken"] == 0
    rig.assert_rest(0.8)
    assert rig.guard.engaged


def test_a_chunk_that_took_too_long_each_time_is_held() -> None:
    """The arm goes on as before."""
    rig = Rig().engaged().sped_up()
    rig.wait(0.3)
    num_sent = len(rig.sent)
    assert rig.guard.on_chunk(rig.requested(rig.gentle(0.0)), rig.moment).arm is not None
    rig.wait(0.025, computing=True)
    assert rig.guard.withdraw(rig.moment).arm is not None
    rig.wait(0.025, computing=True)
    held = rig.take(rig.guard.withdraw(rig.moment, last=True))
    assert held.arm is None
    assert held.executed is not None
    assert "took too long to answer it" in text(held)
    assert len(rig.sent) == num_sent
    rig.assert_rest(0.8)
    assert rig.guard.engaged


def test_a_stop_that_took_too_long_is_planned_again() -> None:
    rig = Rig().engaged().sped_up()
    assert rig.guard.e_stop(rig.moment).command.arm is not None
    rig.wait(0.025, computing=True)
    again = rig.take(rig.guard.withdraw(rig.moment))
    assert again.arm is not None
    rig.assert_rest()


@pytest.mark.parametrize("origin", ["e_stop", "chunk"])
def test_a_clock_that_steps_while_the_guard_computes_is_noticed(origin: str) -> None:
    """What is planned again would be stamped by the new clock, on a motion kept by the old one."""
    rig = Rig().engaged().sped_up()
    if origin == "e_stop":
        assert rig.guard.e_stop(rig.moment).command.arm is not None
    else:
        assert rig.guard.on_chunk(rig.requested(rig.gentle(0.0)), rig.moment).arm is not None
    rig.clock_step_s = 2.095
    rig.wait(0.025, computing=True)
    again = rig.take(rig.guard.withdraw(rig.moment))
    assert again.arm is None
    assert rig.guard.counters["clock_steps"] == 1
    rig.assert_rest(0.8)
    assert not rig.guard.engaged


def test_a_lost_trajectory_is_noticed_and_the_arm_stopped_from_where_it_is() -> None:
    """Within 100 ms of the splice's end; the chunk before is what the arm still follows."""
    rig = Rig(chunk_start="observation").engaged().sped_up()
    rig.wait(0.1)
    rig.loses_trajectories = True
    assert rig.chunk(rig.gentle(-2.0), age_s=0.03).arm is not None
    rig.loses_trajectories = False
    rig.wait(0.13)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "not_taken"
    rig.assert_rest()


def test_a_lost_emergency_stop_is_sent_again() -> None:
    rig = Rig().engaged().sped_up()
    rig.loses_trajectories = True
    rig.call("e_stop")
    rig.loses_trajectories = False
    rig.assert_rest(0.6)
    assert rig.guard.counters["not_taken"] == 1


def test_a_motion_that_is_not_the_guards_is_a_fault() -> None:
    rig = Rig().engaged()
    rig.sends_references = False
    away = rig.spec.home.copy()
    for _ in range(5):
        rig.wait(0.02)
        away = away + 0.004
        sample = ReferenceSample(rig.ros_ns, away, np.full(7, 0.2), np.zeros(7))
        rig.take(rig.guard.on_reference(sample, rig.moment))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "foreign_motion"


def test_a_silent_controller_is_a_fault() -> None:
    rig = Rig().engaged().sped_up()
    rig.sends_references = False
    rig.wait(0.23)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "reference_silent"
    rig.assert_rest()


@pytest.mark.parametrize(
    ("scaling", "words"), [(0.5, "50 %; set the speed slider"), (0.0, "0 %: a protective stop")]
)
def test_a_slowed_controller_is_named(scaling: float, words: str) -> None:
    rig = Rig().engaged()
    rig.wait(0.02)
    rig.cycle += 1
    slowed = dataclasses.replace(rig.reference(), speed_scaling=scaling)
    rig.take(rig.guard.on_reference(slowed, rig.moment))
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "speed_scaling"
    assert words in rig.guard.last_fault.reason


def test_a_controller_that_holds_elsewhere_is_followed() -> None:
    """cmd_timeout: after 3 s it holds where it measures, 5 mrad of sag below; then it goes on."""
    rig = Rig(first_chunk_timeout_s=60.0)
    rig.joint_offset = -0.005
    rig.engaged()
    rig.wait(3.0)
    rig.controller.hold(rig.spec.home - 0.005)
    # The step is the controller's own.
    rig.wait(0.1)
    rig.commands = rig.commands[-3:]
    commanded = rig.guard.commanded_positions(rig.moment)
    np.testing.assert_allclose(commanded, rig.spec.home - 0.005)
    assert rig.guard.engaged
    assert rig.chunk(rig.gentle(0.3)).arm is not None
    rig.assert_rest(1.2)


# The clock.


@pytest.mark.parametrize("step_s", [0.005, -0.005, 0.02, -0.04, 0.1, 0.2, -0.2, 5.0, -5.0])
def test_after_a_clock_step_nothing_is_sent_and_the_arm_comes_to_rest(step_s: float) -> None:
    """At half the panda's speed; the running motion ends by itself within 0.8 s."""
    rig = Rig().engaged().sped_up()
    rig.clock_step_s = step_s
    num_sent = len(rig.sent)
    rig.wait(0.02)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "clock"
    stop = rig.call("e_stop")
    assert "ends at rest by itself" in stop.message
    rig.guard.reset_stop()
    assert not rig.call("engage").success
    assert len(rig.sent) == num_sent
    rig.assert_rest(0.8)
    rig.wait(0.4 + max(-step_s, 0.0))
    assert rig.call("engage").success
    rig.chunk(rig.gentle(0.3))
    rig.assert_rest(1.2)


@pytest.mark.parametrize("step_s", [0.001, -0.0015])
def test_a_step_that_is_not_noticed_moves_nothing(step_s: float) -> None:
    """Below 2 ms, between two chunks: each stamp is written by the clocks as they are."""
    rig = Rig(chunk_start="observation").engaged().sped_up()
    rig.wait(0.1)
    rig.clock_step_s = step_s
    rig.wait(0.02)
    assert rig.chunk(rig.gentle(0.0), age_s=0.03).arm is not None
    rig.assert_rest(1.0)
    assert rig.guard.counters["clock_steps"] == 0


def test_slewing_is_no_step() -> None:
    """500 ppm for ten minutes: 0.3 s apart in the end."""
    timeline = Timeline(simulated=False)
    for number in range(30_000):
        steady_ns = STEADY_BEGIN_NS + number * 20_000_000
        moment = Moment(ROS_BEGIN_NS + round(number * 20_000_000 * 1.0005), steady_ns)
        assert timeline.advance(moment) is None
        assert abs(timeline.stamp_ns(steady_ns, moment) - moment.ros_ns) <= 50_000


# What is sent.


@pytest.mark.parametrize("after_s", np.arange(0.0005, 0.0305, 0.001).round(4).tolist())
def test_a_stop_right_after_a_chunk_keeps_the_limits(after_s: float) -> None:
    """0.5 to 30 ms: the stop begins in the chunk's own splice."""
    rig = Rig().engaged().sped_up()
    rig.wait(0.2)
    rig.chunk(rig.gentle(0.0))
    rig.wait(after_s - 0.0005)
    moment = rig.moment
    now = Moment(moment.ros_ns + 500_000, moment.steady_ns + 500_000)
    rig.take(rig.guard.e_stop(now).command)
    rig.assert_rest(0.6)


def test_what_the_outgoing_check_refuses_is_not_sent() -> None:
    """The planner is broken on purpose: it plans with thrice the limits."""
    rig = Rig()
    faulty = Guard(rig.spec, GuardSettings(limit_share=3.0))
    rig.guard = faulty
    rig.engaged()
    command = rig.chunk(rig.gentle(4.0))
    assert command.arm is None
    assert command.executed is not None
    assert "the outgoing check refused it" in text(command)
    assert faulty.counters["check_refused"] == 1
    assert faulty.engaged


def test_a_stop_that_no_check_lets_pass_latches() -> None:
    rig = Rig().engaged().sped_up()
    rig.guard._authority._commander._check.why_not = lambda *_, **__: "broken on purpose"  # type: ignore[method-assign]
    reply = rig.call("disengage")
    assert reply.command.arm is None
    assert "no stop passed the outgoing check (broken on purpose)" in text(reply.command)
    assert rig.guard.stop_latched
    rig.assert_rest(0.9)


# Simulation.


def simulated(steps: int, factor: float) -> tuple[Guard, list[str]]:
    """A realtime simulation at `factor` of real time that steps 50 ms; ticks every 20 ms of wall.

    It engages after half a second of its own time and says which faults came.
    """
    rig = Rig(sim_clock=True)
    guard, home = rig.guard, rig.spec.home
    faults: list[str] = []
    zeros = np.zeros(7)
    wall_ns = 0
    for step in range(steps):
        ros_ns = S + step * 50_000_000
        for _ in range(max(round(0.05 / factor / 0.02), 1)):
            wall_ns += round(min(0.02, 0.05 / factor) * S)
            guard.on_tick(1, Moment(ros_ns, wall_ns))
        moment = Moment(ros_ns, wall_ns)
        guard.on_joint_state(JointSample(ros_ns, np.append(home, 0.04), np.zeros(8)), moment)
        guard.on_reference(ReferenceSample(ros_ns, home, zeros, zeros), moment)
        if step == 10:
            assert guard.engage(moment).success
        if guard.last_fault is not None:
            faults.append(guard.last_fault.kind)
    return guard, faults


@pytest.mark.parametrize("factor", [0.05, 0.1, 1.0, 2.0])
def test_a_slow_or_fast_simulation_has_its_own_deadlines(factor: float) -> None:
    """Eight seconds of simulated time without a fault; the first chunk is due after ten."""
    guard, faults = simulated(160, factor)
    assert not faults
    assert guard.engaged


def test_a_simulation_that_stops_is_a_fault() -> None:
    """A stopped /clock stops no watch: after ten seconds of wall time."""
    guard, _ = simulated(20, 1.0)
    stopped_ns, wall_ns = S + 19 * 50_000_000, 20 * 40_000_000
    guard.on_tick(1, Moment(stopped_ns, wall_ns + 9 * S))
    assert guard.engaged
    guard.on_tick(1, Moment(stopped_ns, wall_ns + 11 * S))
    assert guard.last_fault is not None
    assert guard.last_fault.kind == "clock"


# Without a reference.


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.6, 0.9])
def test_the_way_to_the_start_is_stopped_too(after_s: float) -> None:
    """The controller goes on from its own reference to where the arm is, at rest within 0.5 s.

    5 mrad of sag. Its only point is ahead, so a cycle of the controller is wrong by the speed times
    a millisecond (docs/how_to/run_on_a_real_arm.md, "Hand-over"): 10 microradian here, within the
    acceleration limit, beyond the jerk limit.
    """
    rig = Rig(expects_reference=False)
    rig.sends_references = False
    rig.joint_offset = 0.005
    rig.engaged()
    rig.wait(after_s)
    num_sent = len(rig.sent)
    rig.call("e_stop")
    rig.call("e_stop")
    assert len(rig.sent) == num_sent + 1
    assert "still coming to rest" in _after_reset(rig)
    rig.wait(0.5)
    assert not np.diff(rig.commands[-3:], axis=0).any()
    shares = rig.largest_shares()
    assert max(shares["velocity"], shares["acceleration"]) <= 1.0
    assert shares["jerk"] <= 4.0


@pytest.mark.parametrize("step_s", [0.005, -0.005, 0.5, -0.5])
def test_after_a_clock_step_on_the_way_to_the_start_nothing_is_sent(step_s: float) -> None:
    """The controller is still led there, and the emergency stop says that it cannot end that."""
    rig = Rig(expects_reference=False)
    rig.sends_references = False
    rig.joint_offset = 0.005
    rig.engaged()
    rig.wait(0.3)
    num_sent = len(rig.sent)
    rig.clock_step_s = step_s
    rig.wait(0.02)
    assert not rig.guard.engaged
    assert "ends at rest by itself" in rig.call("e_stop").message
    assert "the clock has stepped; wait" in _after_reset(rig)
    rig.wait(1.3)
    assert len(rig.sent) == num_sent
    assert not np.diff(rig.commands[-3:], axis=0).any()
    rig.wait(0.4 + max(-step_s, 0.0))
    assert rig.call("engage").success


@pytest.mark.parametrize("service", ["e_stop", "disengage"])
def test_a_guard_started_anew_says_that_the_arm_is_still_led(service: str) -> None:
    """It has not measured the arm, so it cannot stop what the guard before it began."""
    latch = StopLatch()
    rig = Rig(latch, expects_reference=False)
    rig.sends_references = False
    rig.joint_offset = 0.005
    rig.engaged()
    rig.wait(0.3)
    rig.guard = Guard(rig.spec, rig.guard.settings, latch)
    reply = rig.call(service)
    assert "the arm is still led to where the guard began, gently, and ends there" in reply.message


def _after_reset(rig: Rig) -> str:
    rig.guard.reset_stop()
    return rig.call("engage").message


def test_an_arm_far_from_its_last_command_is_not_engaged() -> None:
    """It was pushed 0.6 rad away while disengaged: its controller would lead it back there."""
    rig = Rig(expects_reference=False)
    rig.sends_references = False
    rig.engaged()
    rig.wait(1.6)
    rig.call("disengage")
    rig.joint_offset = np.array([0.6, 0, 0, 0, 0, 0, 0])
    rig.wait(0.6)
    reply = rig.call("engage")
    assert not reply.success
    assert "deactivate and activate the controller" in reply.message


def dry_run_whose_shadow_is_away(by_rad: float) -> Rig:
    """The first joint's shadow speeds up to 1.2 rad/s and is at least so far from home; the arm
    stands there."""
    rig = Rig(dry_run=True, expects_reference=False)
    rig.sends_references = False
    rig.loses_trajectories = True
    rig.engaged()
    rig.wait(1.6)
    begin_s = rig.now_s
    while True:
        passed_s = rig.now_s - begin_s + TIMES
        knots = np.column_stack((np.tile(rig.spec.home, (8, 1)), np.full(8, 0.04)))
        knots[:, 0] += np.where(passed_s < 0.4, 1.5 * passed_s**2, 1.2 * passed_s - 0.24)
        assert rig.chunk(knots).arm is not None
        for _ in range(400):
            rig.wait(PERIOD_S)
            if shadow_rad(rig) >= by_rad or not rig.guard.engaged:
                return rig


def shadow_rad(rig: Rig) -> float:
    """How far the commanded positions are from home."""
    shadow = rig.guard.commanded_positions(rig.moment)
    assert shadow is not None
    return float(np.abs(shadow - rig.spec.home).max())


@pytest.mark.parametrize("service", ["disengage", "e_stop", ""])
def test_a_dry_run_is_engaged_again_wherever_its_shadow_rests(service: str) -> None:
    """The shadow rests further from the arm than a tracking error allows.

    No service: the tracking error is noticed, too far away for a retreat.
    """
    rig = dry_run_whose_shadow_is_away(by_rad=0.14 if service else np.inf)
    if service:
        assert rig.guard.engaged
        rig.call(service)
    else:
        assert rig.guard.last_fault is not None
        assert rig.guard.last_fault.kind == "tracking_error"
    rig.wait(1.5)
    assert shadow_rad(rig) > rig.spec.max_tracking_error_rad
    rig.guard.reset_stop()
    reply = rig.call("engage")
    assert reply.success, reply.message


def test_after_a_step_back_it_waits_until_the_clock_has_caught_up() -> None:
    rig = Rig().engaged()
    rig.clock_step_s = -2.0
    rig.wait(1.0)
    assert "until it has caught up in 1.0 s" in rig.call("engage").message
    rig.wait(1.3)
    assert rig.call("engage").success


def test_after_a_step_back_it_waits_for_what_the_controller_has_left_to_run_too() -> None:
    """Humble's controller stands until its clock has caught up, and then ends its motion."""
    rig = Rig().engaged().sped_up()
    rig.chunk(rig.gentle(0.3))
    rig.wait(0.05)
    rig.clock_step_s = -1.0
    # By now the clock is where it was, and the chunk had more than 0.3 s left.
    rig.wait(1.1)
    assert "until it has caught up" in rig.call("engage").message
    rig.wait(1.0)
    assert rig.call("engage").success


def test_a_sample_on_neither_motion_after_the_splice_is_a_late_pick_up() -> None:
    """Taken late, the controller goes from the motion before to the next point of the new one."""
    rig = Rig().engaged()
    rig.sped_up()
    rig.chunk(rig.gentle(-0.3))
    rig.wait(0.032)
    on_the_way = rig.reference()
    rig.guard.on_reference(
        dataclasses.replace(on_the_way, positions=on_the_way.positions + 9e-4), rig.moment
    )
    rig.wait(0.2)
    assert rig.guard.counters["picked_up_late"] == 1
    assert rig.guard.engaged


def test_a_late_pick_up_shows_in_a_fifth_of_what_is_a_fault() -> None:
    """0.3 ms behind along the motion: too little for a fault, too much for a reading of a clock."""
    rig = Rig().engaged()
    rig.sped_up()
    rig.chunk(rig.gentle(-0.3))
    rig.wait(0.032)
    on_the_way = rig.reference()
    behind = on_the_way.positions - 3e-4 * on_the_way.velocities
    assert np.abs(behind - on_the_way.positions).max() > 5e-5
    rig.guard.on_reference(dataclasses.replace(on_the_way, positions=behind), rig.moment)
    assert rig.guard.counters["picked_up_late"] == 1
    rig.wait(0.2)
    assert rig.guard.engaged


def test_a_stop_in_the_same_lump_of_a_simulated_clock_as_a_chunk() -> None:
    """Both are sent at one moment of the timeline; the arm moves."""
    rig = Rig(sim_clock=True).engaged().sped_up()
    rig.wait(0.1)
    rig.chunk(rig.gentle(0.0))
    assert rig.call("e_stop").command.arm is not None
    assert rig.guard.counters["failed_stops"] == 0
    rig.assert_rest()


def test_after_a_motion_that_is_not_the_guards_no_stop_begins_on_its_own_curve() -> None:
    """A chunk is lost while the controller holds 66 microradian elsewhere: neither is followed.

    The controller stands; a stop from where the lost chunk would be now is a step of centimetres.
    """
    rig = Rig(chunk_start="observation").engaged()
    rig.wait(0.1)
    rig.loses_trajectories = True
    assert rig.chunk(rig.gentle(2.0)).arm is not None
    rig.loses_trajectories = False
    rig.wait(0.01)
    rig.controller.hold(rig.spec.home + 6.6e-5)
    rig.wait(0.3)
    rig.commands = rig.commands[-3:]
    assert rig.guard.last_fault is not None
    rig.call("e_stop")
    rig.assert_rest()
    np.testing.assert_allclose(rig.commands[-1], rig.spec.home + 6.6e-5, atol=1e-9)


def test_a_guard_that_was_started_anew_sends_no_stop_of_what_it_has_not_sent() -> None:
    """The one before moved the arm when it was killed; that motion ends at rest by itself."""
    rig = Rig().engaged().sped_up()
    rig.guard = Guard(rig.spec, GuardSettings())
    rig.wait(0.05)
    held = rig.chunk(np.column_stack((np.tile(rig.spec.home, (8, 1)), np.full(8, 0.04))))
    assert held.arm is None
    rig.wait(0.02)
    assert rig.call("disengage").command.arm is None
    rig.assert_rest(0.9)
