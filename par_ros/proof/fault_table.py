# SPDX-License-Identifier: Apache-2.0
"""Every case of the fault suite."""

from par_ros.proof import fault_actions as do
from par_ros.proof import fault_chunks as chunks
from par_ros.proof.fault_case import Fault
from par_ros.proof.fault_rig import (
    ARM_PROCESS,
    CAMERA_PROCESS,
    POLICY_PROCESS,
    RUNNER_PROCESS,
    SEEING_PROCESS,
)
from par_ros.proof.fault_world import ArmWorld
from par_ros.real_arm_node import NAME as SUPERVISOR
from par_ros.topics import GUARD

# The policy is dead 1 s after the end of its last chunk, of which up to 0.2 s are left; the camera
# is silent after 1 s. The arm rests long before that, by its tail.
_DEAD_S = 0.7
# The swing moves by the 0.1 rad that show a frozen picture within this.
_FROZEN_S = 1.3
_STALE_S = 0.25
# After a clock step nothing is sent: the running motion ends by itself, 0.8 s after its start.
_OWN_END_S = 0.3
_NOT_TAKEN_S = 0.55
# From the loss: the splice, 0.1 s until it is noticed, and the message.
_LOST_S = 0.2
_NO_REFERENCE = ("reference:=none",)
_SAGS = ArmWorld(sag_rad=0.005)


def _chunk(name: str, expected: str, change: chunks.Mangle, *, holds: bool = True) -> Fault:
    words = (expected,) if holds else (expected, "answer_changed")
    return Fault(f"chunk: {name}", words, do.next_chunk(change), holds=holds)


def _camera(name: str, expected: str, act: do.Action, watch_s: float = _DEAD_S) -> Fault:
    return Fault(f"camera: {name}", (expected,), act, watch_s, policy=SEEING_PROCESS)


def _joints(name: str, world: ArmWorld, expected: str, watch_s: float = 0.05) -> Fault:
    return Fault(f"joint states: {name}", (expected,), do.arm(world), watch_s)


def _fine(name: str, world: ArmWorld) -> Fault:
    """Engaged and moved in this world: no fault at all."""
    return Fault(name, (), do.nothing, holds=False, world=world)


def _refused(name: str, world: ArmWorld) -> Fault:
    return Fault(
        f"engage: {name}", ("engage_refused",), do.engage_refused, world=world,
        begins="disengaged",
    )  # fmt: skip


def _clock(name: str, step_s: float) -> Fault:
    return Fault(f"clock: {name}", ("fault_clock",), do.step_clock(step_s), _OWN_END_S)


def _killed(name: str, act: do.Action, watch_s: float = 0.4, *, supervised: bool = False) -> Fault:
    return Fault(name, (), act, watch_s, supervised=supervised, restarted=GUARD)


FAULTS: tuple[Fault, ...] = (
    _chunk("NaN", "fault_not_finite", chunks.with_positions(chunks.put(2, 3, float("nan")))),
    _chunk("Inf", "fault_not_finite", chunks.with_positions(chunks.put(0, 0, float("inf")))),
    _chunk("NaN gripper", "fault_not_finite",
           chunks.with_positions(chunks.put(5, 7, float("nan")))),
    _chunk("other joints", "fault_joints", chunks.renamed),
    _chunk("a joint missing", "fault_joints", chunks.without_last_joint),
    _chunk("joints in another order", "fault_joint_order", chunks.reversed_joints),
    _chunk("five points", "fault_shape", chunks.five_points),
    _chunk("no points", "fault_shape", chunks.no_points),
    _chunk("ragged points", "fault_shape", chunks.ragged),
    _chunk("100,000 points", "fault_shape", chunks.many_points),
    _chunk("times not increasing", "fault_times", chunks.same_times),
    _chunk("times stretched", "fault_times", chunks.stretched),
    _chunk("jump of 1 rad", "fault_jump", chunks.with_positions(chunks.put(4, 1, 1.5))),
    _chunk("stamp in the future", "fault_future", chunks.stamped(1.0)),
    Fault("chunk: sent twice", ("duplicate",), do.send_again, holds=False),
    Fault("chunk: older than the last", ("reordered",), do.next_chunk(chunks.stamped(-0.3)),
          holds=False),
    _chunk("noise beyond the acceleration", "tracked", chunks.with_positions(chunks.noise),
           holds=False),
    _chunk("beyond the velocity", "refused", chunks.with_positions(chunks.fast), holds=False),
    _chunk("beyond a position limit", "refused", chunks.with_positions(chunks.beyond_position),
           holds=False),
    Fault("policy: silent", ("fault_dead_policy",), do.every_chunk(lambda _: None), _DEAD_S),
    Fault("policy: answers 0.6 s late", ("fault_dead_policy",),
          do.every_chunk(chunks.stamped(-0.6)), _DEAD_S),
    Fault("policy: two of them", ("fault_two_policies",), do.second_policy, 0.4),
    _fine("pick-up: 10 ms after the sending", ArmWorld(pickup_s=(0.01, 0.01))),
    _fine("pick-up: 20 ms after the sending", ArmWorld(pickup_s=(0.02, 0.02))),
    Fault("pick-up: 30 ms after the sending", ("picked_up_late|fault_not_taken|small_step",),
          do.arm(ArmWorld(pickup_s=(0.03, 0.03))), _NOT_TAKEN_S, holds=None, late=True),
    Fault("pick-up: 50 ms after the sending", ("picked_up_late|fault_not_taken|small_step",),
          do.arm(ArmWorld(pickup_s=(0.05, 0.05))), _NOT_TAKEN_S, holds=None, late=True),
    Fault("trajectory: taken 0.15 s late", ("fault_not_taken",), do.late_trajectory,
          _NOT_TAKEN_S, late=True),
    Fault("trajectory: lost", ("fault_not_taken",), do.next_trajectory(ArmWorld(lose_next=1)),
          _LOST_S),
    Fault("trajectories: one in ten lost", ("fault_not_taken",),
          do.until_lost(ArmWorld(lost_share=0.1)), _LOST_S),
    Fault("trajectory: rejected", ("fault_not_taken",),
          do.next_trajectory(ArmWorld(reject_next=1)), _LOST_S),
    _fine("trajectories: each comes twice", ArmWorld(doubled_s=0.04)),
    Fault("controller: silent", ("fault_reference_silent",),
          do.arm(ArmWorld(reference_silent=True)), 0.3),
    Fault("controller: follows somebody else", ("fault_foreign_motion",), do.foreign_motion, 0.8),
    Fault("controller: at half speed, unreported", ("fault_foreign_motion|fault_not_taken",),
          do.arm(ArmWorld(speed=0.5)), 1.2),
    Fault("controller: holds where measured, 5 mrad off", ("adopted_references",),
          do.hold_at_measured, holds=False, world=_SAGS, begins="engaged"),
    _fine("arm: sags by 5 mrad, lags by 40 ms", ArmWorld(sag_rad=0.005, lag_s=0.04)),
    _joints("stopped", ArmWorld(joint_states="stopped"), "fault_joint_states_stale", _STALE_S),
    _joints("a joint missing", ArmWorld(joint_states="missing"),
            "fault_joint_states|fault_joint_states_stale", _STALE_S),
    _joints("NaN", ArmWorld(joint_states="nan"), "fault_joint_states"),
    _joints("a joint jumps", ArmWorld(joint_states="jump"), "fault_joint_jump"),
    _joints("stamped 1 s ago", ArmWorld(joint_states="stale"), "fault_joint_states_stale",
            _STALE_S),
    _joints("stamped 0.2 s ahead", ArmWorld(joint_states="future"), "fault_joint_states_stale",
            _STALE_S),
    _joints("stamps stand still", ArmWorld(joint_states="stalled"), "fault_joint_states_stale",
            _STALE_S),
    _joints("a second source at zero", ArmWorld(joint_states="foreign"),
            "fault_joint_jump|fault_two_sources"),
    _joints("two sources 20 mrad apart", ArmWorld(joint_states="second_source"),
            "fault_two_sources", 0.2),
    _fine("joint states: without velocities", ArmWorld(joint_states="no_velocities")),
    _fine("joint states: arm and gripper apart", ArmWorld(joint_states="split")),
    _fine("joint states: gripper's velocity NaN", ArmWorld(joint_states="gripper_nan")),
    _refused("joint states with a second source at zero", ArmWorld(joint_states="foreign")),
    _refused("two sources 20 mrad apart", ArmWorld(joint_states="second_source")),
    _refused("joint states stamped 1 s ago", ArmWorld(joint_states="stale")),
    _refused("joint states stamped 0.2 s ahead", ArmWorld(joint_states="future")),
    _refused("the controller is silent", ArmWorld(reference_silent=True)),
    Fault("engage: in a retreat", ("engage_refused",), do.engage_in_a_retreat, 2.5),
    Fault("arm: pushed off its command", ("fault_tracking_error",),
          do.arm(ArmWorld(joint_states="pushed")), 1.7),
    Fault("stop: service, start of a chunk", ("e_stops",), do.service(do.STOP_SERVICE),
          phase_s=0.02),
    Fault("stop: service, middle of a chunk", ("e_stops",), do.service(do.STOP_SERVICE)),
    Fault("stop: topic, end of a chunk", ("e_stops",), do.stop_topic, phase_s=0.37),
    Fault("stop: topic, best effort", ("e_stops",), do.stop_best_effort),
    Fault("stop: 0 ms after a chunk", ("e_stops",), do.stop_after_chunk(0.0)),
    Fault("stop: 9 ms after a chunk", ("e_stops",), do.stop_after_chunk(0.009)),
    Fault("stop: 30 ms after a chunk", ("e_stops",), do.stop_after_chunk(0.03)),
    Fault("stop: in a retreat", ("e_stops",), do.in_a_retreat(do.STOP_SERVICE)),
    Fault("stop: its trajectory is lost", ("e_stops", "not_taken"), do.stop_lost, 0.25),
    Fault("stop: latched through the lifecycle",
          ("stop_latched", "engage_refused", "engaged_after_reset"), do.latched),
    Fault("stop: 50 ms after a clock step of 20 ms", ("stop_latched", "fault_clock"),
          do.after_a_step(0.02, 0.05), _OWN_END_S),
    Fault("disengage: in a retreat", ("fault_tracking_error",),
          do.in_a_retreat(do.DISENGAGE_SERVICE)),
    Fault("lifecycle: deactivated in motion", ("deactivated",), do.deactivate, fresh_after=True),
    Fault("clock: 1 ms forward", (), do.step_clock(0.001), holds=False),
    Fault("clock: 1 ms back", (), do.step_clock(-0.001), holds=False),
    _clock("5 ms forward", 0.005),
    _clock("20 ms forward", 0.02),
    _clock("40 ms back", -0.04),
    _clock("0.2 s forward", 0.2),
    _clock("0.2 s back", -0.2),
    _clock("5 s forward", 5.0),
    _clock("5 s back", -5.0),
    Fault("clock: use_sim_time without /clock", ("fault_clock", "engage_refused"), do.sim_time,
          _OWN_END_S, fresh_after=True),
    Fault("policy: killed", ("fault_dead_policy",), do.kill(POLICY_PROCESS), _DEAD_S,
          policy=POLICY_PROCESS, restarted=POLICY_PROCESS),
    Fault("policy: hangs for 2 s", ("fault_dead_policy",), do.policy_hangs, _DEAD_S,
          policy=POLICY_PROCESS),
    _camera("stopped", "camera_silent", do.camera("stopped")),
    _camera("frozen", "camera_frozen", do.camera("frozen"), _DEAD_S + _FROZEN_S),
    _camera("stamps do not go on", "camera_stalled", do.camera("stalled")),
    _camera("black", "camera_black", do.camera("black")),
    _camera("wrong size", "camera_size", do.camera("smaller")),
    _camera("wrong encoding", "camera_encoding", do.camera("encoding")),
    _camera("pictures 0.6 s old", "camera_stale", do.camera("old")),
    Fault("camera: killed", ("camera_silent",), do.kill(CAMERA_PROCESS), _DEAD_S,
          policy=SEEING_PROCESS, restarted=CAMERA_PROCESS),
    Fault("policy_node: killed", ("fault_dead_policy",), do.kill(SEEING_PROCESS), _DEAD_S,
          policy=SEEING_PROCESS, restarted=SEEING_PROCESS),
    Fault("arm: stopped for 1 s (SIGSTOP)", ("fault_joint_states_stale|fault_reference_silent",),
          do.stop_and_continue(ARM_PROCESS, 1.0), _STALE_S, fresh_after=True),
    Fault("arm: killed", ("fault_joint_states_stale|fault_reference_silent",),
          do.kill(ARM_PROCESS), _STALE_S, restarted=ARM_PROCESS),
    Fault("no reference: 5 mrad of sag, chunks after settling", (), do.move_after_settling,
          holds=False, guard=_NO_REFERENCE, world=_SAGS, begins="engaged"),
    Fault("no reference: stop while settling", ("e_stops",), do.service(do.STOP_SERVICE),
          guard=_NO_REFERENCE, world=_SAGS, begins="engaged"),
    Fault("no reference: disengage while settling", ("disengaged",),
          do.service(do.DISENGAGE_SERVICE), guard=_NO_REFERENCE, world=_SAGS, begins="engaged"),
    Fault("guard: killed", (), do.kill(GUARD), 0.4, restarted=GUARD),
    _killed("supervisor: killed", do.kill_child(RUNNER_PROCESS, SUPERVISOR), supervised=True),
    _killed("runner: killed", do.kill(RUNNER_PROCESS), supervised=True),
)  # fmt: skip
