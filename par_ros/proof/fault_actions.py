# SPDX-License-Identifier: Apache-2.0
"""Faults for a moving arm: each function takes the rig, and acts once."""

import signal
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.proof.fault_chunks import Mangle
from par_ros.proof.fault_processes import SuiteError
from par_ros.proof.fault_rig import POLICY_PROCESS, FaultRig
from par_ros.proof.fault_world import ArmWorld, CameraWorld
from par_ros.topics import (
    ACTION_CHUNK,
    DISENGAGE,
    E_STOP,
    ENGAGE,
    GUARD,
    JOINT_TRAJECTORY,
    RESET_STOP,
    STOP,
)

Action = Callable[[FaultRig], None]

_NOTICE_TIMEOUT_S = 3.0
_LOSS_TIMEOUT_S = 15.0
_SETTLING_TIMEOUT_S = 5.0
_BRAKED_S = 0.3
_FOREIGN_RAD = 0.05
_FOREIGN_S = 0.6
_LIFECYCLE = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)


# Chunks and the policy.


def next_chunk(change: Mangle) -> Action:
    """Publish one changed chunk now, and regular ones after it."""

    def act(rig: FaultRig) -> None:
        rig.mangle_chunk = change
        rig.publish_chunk()
        rig.mangle_chunk = None
        rig.injected = rig.last_message

    return act


def every_chunk(change: Mangle) -> Action:
    """From now on."""

    def act(rig: FaultRig) -> None:
        rig.mangle_chunk = change

    return act


def send_again(rig: FaultRig) -> None:
    """Send the last chunk again."""
    assert rig.last_message is not None
    rig.chunks.publish(rig.last_message)


def second_policy(rig: FaultRig) -> None:
    """Another publisher on action_chunk, until it is noticed."""
    second = rig.create_publisher(
        JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
    )
    _wait_for_fault(rig, "two_policies")
    rig.destroy_publisher(second)


def policy_hangs(rig: FaultRig) -> None:
    """Stop the policy for 2 s, then let it continue."""
    rig.processes.signal(POLICY_PROCESS, signal.SIGSTOP)
    rig.spin_for(2.0)
    rig.processes.signal(POLICY_PROCESS, signal.SIGCONT)


# Processes.


def kill(name: str) -> Action:
    """SIGKILL."""
    return lambda rig: rig.processes.signal(name, signal.SIGKILL)


def kill_child(name: str, child: str) -> Action:
    """SIGKILL to a child of a runner."""
    return lambda rig: rig.processes.kill_child_of(name, child)


def stop_and_continue(name: str, duration_s: float) -> Action:
    """SIGSTOP, and SIGCONT after a while."""

    def act(rig: FaultRig) -> None:
        rig.processes.signal(name, signal.SIGSTOP)
        rig.spin_for(duration_s)
        rig.processes.signal(name, signal.SIGCONT)
        rig.spin_for(0.2)

    return act


# The arm, its controller and the camera.


def camera(world: CameraWorld) -> Action:
    """From now on."""
    return lambda rig: rig.camera.publish(String(data=world))


def arm(world: ArmWorld) -> Action:
    """From now on."""
    return lambda rig: rig.set_world(world)


def next_trajectory(world: ArmWorld) -> Action:
    """Use this world until one more trajectory was taken, lost or rejected; then a good one."""

    def act(rig: FaultRig) -> None:
        before = len(rig.pick_ups)
        rig.set_world(world)
        if not rig.spin_until(lambda: len(rig.pick_ups) > before, 2.0):
            raise SuiteError("no trajectory was sent to the arm.")
        rig.mark()
        rig.set_world(ArmWorld())

    return act


def until_lost(world: ArmWorld) -> Action:
    """Use this world until a trajectory is lost."""

    def act(rig: FaultRig) -> None:
        rig.set_world(world)
        lost = rig.spin_until(
            lambda: any(one.kind == "lost" for one in rig.pick_ups), _LOSS_TIMEOUT_S
        )
        rig.mark()
        rig.set_world(ArmWorld())
        if not lost:
            raise SuiteError("no trajectory was lost.")

    return act


def late_trajectory(rig: FaultRig) -> None:
    """The controller takes the next trajectory 0.15 s after it was sent."""
    rig.set_world(ArmWorld(pickup_s=(0.15, 0.15)))
    sent = rig.num_chunks
    rig.spin_until(lambda: rig.num_chunks > sent, 1.0)
    rig.spin_for(0.1)
    rig.set_world(ArmWorld())


def foreign_motion(rig: FaultRig) -> None:
    """Another publisher moves the controller slowly to another position."""
    publisher = rig.create_publisher(
        JointTrajectoryMessage, JOINT_TRAJECTORY.name, JOINT_TRAJECTORY.writer_qos.profile()
    )
    rig.spin_until(lambda: publisher.get_subscription_count() > 0, 2.0)
    rig.spin_for(0.1)
    here = rig.positions()
    assert here is not None
    zeros = np.zeros((1, len(here)))
    trajectory = JointTrajectory(
        rig.spec.arm_joint_names,
        np.array([_FOREIGN_S]),
        here[None] + _FOREIGN_RAD,
        zeros,
        zeros,
    )
    rig.pause_policy()
    publisher.publish(messages.joint_trajectory_message(trajectory, rig.now_ns()))
    _wait_for_fault(rig, "foreign_motion")
    rig.destroy_publisher(publisher)


def hold_at_measured(rig: FaultRig) -> None:
    """cmd_timeout at a standstill; then the policy goes on."""
    rig.spin_for(0.3)
    rig.set_world(replace(rig.world, holds_measured=True))
    rig.spin_for(0.3)
    rig.set_world(replace(rig.world, holds_measured=False))
    rig.start_policy("")


def move_after_settling(rig: FaultRig) -> None:
    """The policy begins when the arm has been led to where the guard begins."""
    rig.spin_for(0.1)
    if not rig.spin_until(lambda: rig.speed_rad_s() == 0.0, _SETTLING_TIMEOUT_S):
        raise SuiteError("the arm did not settle.")
    rig.spin_for(0.2)
    rig.start_policy("")


def nothing(rig: FaultRig) -> None:
    """Inject nothing: the arm's world has the fault."""


# Engaging.


def engage_refused(rig: FaultRig) -> None:
    """Call engage for a second; every call must fail."""
    end_s = time.monotonic() + 1.0
    answers = []
    while time.monotonic() < end_s:
        answers.append(bool(rig.trigger(ENGAGE.client_name).success))
        rig.spin_for(0.05)
    rig.seen.add("engaged" if any(answers) else "engage_refused")


def engage_in_a_retreat(rig: FaultRig) -> None:
    """The arm is pushed away; the guard retreats; engage is asked for."""
    _retreat(rig)
    moving = rig.speed_rad_s() > 0.0
    response = rig.trigger(ENGAGE.client_name)
    if not moving:
        raise SuiteError("the retreat was over before engage was asked for.")
    rig.seen.add("engaged" if response.success else "engage_refused")


# Stops.


def service(name: str) -> Action:
    """Call e_stop or disengage."""
    return lambda rig: _ask(rig, name)


def stop_topic(rig: FaultRig) -> None:
    """A true on topic e_stop, with the QoS of the topic table."""
    rig.stop_topic.publish(Bool(data=True))


def stop_best_effort(rig: FaultRig) -> None:
    """A best-effort publisher of true on e_stop, ten times a second."""
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = rig.create_publisher(Bool, E_STOP.name, profile)
    rig.spin_until(lambda: publisher.get_subscription_count() > 0, 2.0)
    rig.mark()
    for _ in range(5):
        publisher.publish(Bool(data=True))
        rig.spin_for(0.1)
    rig.destroy_publisher(publisher)


def stop_after_chunk(after_s: float) -> Action:
    """Send a chunk, and the emergency stop right after it."""

    def act(rig: FaultRig) -> None:
        rig.pause_policy()
        rig.publish_chunk()
        rig.spin_for(after_s)
        rig.mark()
        stop_topic(rig)

    return act


def in_a_retreat(name: str) -> Action:
    """The arm is pushed away, the guard retreats, and a service is called in the middle of it."""

    def act(rig: FaultRig) -> None:
        _retreat(rig)
        if rig.speed_rad_s() == 0.0:
            raise SuiteError("the retreat was over before it could be stopped.")
        rig.mark()
        _ask(rig, name)

    return act


def after_a_step(step_s: float, after_s: float) -> Action:
    """The clock is set, and the emergency stop comes behind it."""

    def act(rig: FaultRig) -> None:
        rig.step_clock(step_s)
        rig.spin_for(after_s)
        stop_topic(rig)

    return act


def stop_lost(rig: FaultRig) -> None:
    """The stop's own trajectory is lost on its way."""
    rig.pause_policy()
    rig.set_world(ArmWorld(lose_next=1))
    rig.mark()
    stop_topic(rig)
    rig.spin_until(lambda: any(one.kind == "lost" for one in rig.pick_ups), 2.0)


def latched(rig: FaultRig) -> None:
    """Emergency stop, through the whole lifecycle, and engage."""
    _ask(rig, STOP.client_name)
    rig.pause_policy()
    rig.spin_for(0.6)
    for transition in _LIFECYCLE:
        if not rig.change_state(GUARD, transition):
            raise SuiteError(f"the guard refused transition {transition}.")
    rig.spin_for(0.5)
    if rig.reports.stop_latched:
        rig.seen.add("stop_latched")
    engage_refused(rig)
    rig.trigger(RESET_STOP.client_name)
    if rig.spin_until(lambda: bool(rig.trigger(ENGAGE.client_name).success), 5.0):
        rig.seen.add("engaged_after_reset")


def deactivate(rig: FaultRig) -> None:
    """Deactivate the guard in full motion."""
    if rig.change_state(GUARD, Transition.TRANSITION_DEACTIVATE):
        rig.seen.add("deactivated")


# Clocks.


def step_clock(step_s: float) -> Action:
    """The clock of all processes is set."""
    return lambda rig: rig.step_clock(step_s)


def sim_time(rig: FaultRig) -> None:
    """use_sim_time at run time, without a publisher of /clock; then engage."""
    value = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True)
    parameter = Parameter(name="use_sim_time", value=value)
    rig.call(
        SetParameters, f"{GUARD}/set_parameters", SetParameters.Request(parameters=[parameter])
    )
    rig.spin_for(1.0)
    engage_refused(rig)


def _retreat(rig: FaultRig) -> None:
    """Until it has braked and is on its way back, for which it takes a second."""
    rig.set_world(ArmWorld(joint_states="pushed"))
    _wait_for_fault(rig, "tracking_error")
    rig.spin_for(_BRAKED_S)


def _wait_for_fault(rig: FaultRig, kind: str) -> None:
    if not rig.spin_until(lambda: rig.reports.fault == kind, _NOTICE_TIMEOUT_S):
        raise SuiteError(
            f"the guard did not see the fault {kind}, but {rig.reports.fault or 'none'}."
        )


def _ask(rig: FaultRig, name: str) -> None:
    """Send the request without waiting: the arm is watched from the fault on."""
    rig.caller.send(Trigger, name, Trigger.Request())


STOP_SERVICE = STOP.client_name
DISENGAGE_SERVICE = DISENGAGE.client_name
