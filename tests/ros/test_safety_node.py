# SPDX-License-Identifier: Apache-2.0
"""The guard as a process over DDS, in front of the loopback arm."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.serialization import serialize_message
from std_msgs.msg import Bool, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectoryPoint

from par_ros import messages, reference_input
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.parameters import read_arm_spec
from par_ros.safety_node import SafetyNode
from par_ros.topics import (
    ACTION_CHUNK,
    CLOCK,
    E_STOP,
    ENGAGE,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    GUARD,
    GUARD_STATE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
    Qos,
    Topic,
)
from tests.ros.guard_rig import KNOT_STEP_S, TIMEOUT_S, GuardRig

pytestmark = pytest.mark.ros

# Of the guard, from a huge message until it has answered it: a busy machine takes longer by the
# clock, not of the processor. An idle guard takes 0.1 to 0.2 s in a second.
MAX_CPU_S = 0.5


@pytest.fixture
def rig(free_domain: str) -> Iterator[GuardRig]:
    with GuardRig() as made:
        made.start("loopback_arm_node", "publish_images:=false")
        yield made


def test_a_chunk_reaches_the_arm_unchanged_and_the_policy_is_told(rig: GuardRig) -> None:
    """Position, velocity and acceleration at every point; the arm ends at rest near knot 8."""
    rig.start_guard()
    rig.engage()
    knots = rig.gentle_knots()
    stamp_ns = rig.publish(knots)
    executed = rig.wait_for_one_more(EXECUTED_ACTIONS)
    assert messages.stamp_ns(executed) == stamp_ns
    np.testing.assert_array_equal(messages.read_joint_trajectory(executed).positions, knots)
    sent = messages.read_joint_trajectory(rig.received[JOINT_TRAJECTORY.name][-1])
    sent.validate(rig.spec.arm_joint_names)
    assert sent.velocities is not None
    assert sent.accelerations is not None
    rig.wait_for(lambda: bool(rig.received[GRIPPER_TRAJECTORY.name]), "gripper_trajectory")
    rig.wait_for(
        lambda: np.allclose(rig.positions()[:7], sent.positions[-1], atol=1e-6), "coming to rest"
    )


def test_a_strangers_message_is_refused_and_stops_the_arm(rig: GuardRig) -> None:
    """Another robot's joints; then a stamp of yesterday on a guard that is engaged again."""
    rig.start_guard()
    rig.engage()
    knots = rig.gentle_knots()
    knots[0, 0] = np.nan
    rig.publish(knots)
    rig.wait_for_state(engaged="false", fault="not_finite")
    assert rig.guard_values()["fault_not_finite"] == "1"
    rig.engage()
    sent = len(rig.received[JOINT_TRAJECTORY.name])
    rig.publish(rig.gentle_knots(), 1_000_000_000)
    rig.wait_for(lambda: rig.guard_values().get("late") == "1", "refusing")
    assert len(rig.received[JOINT_TRAJECTORY.name]) == sent


def test_the_stop_latches_over_services_and_topic(rig: GuardRig) -> None:
    rig.start_guard()
    rig.engage()
    stop = rig.node.create_publisher(Bool, E_STOP.name, E_STOP.writer_qos.profile())
    rig.wait_for(lambda: stop.get_subscription_count() > 0, "the guard's e_stop subscription")

    def is_latched() -> bool:
        # Best effort may lose one; whoever presses presses again.
        stop.publish(Bool(data=False))
        stop.publish(Bool(data=True))
        return rig.is_latched()

    rig.wait_for(is_latched, "latching")
    refused = rig.trigger("engage")
    assert not refused.success
    assert "reset_stop first" in refused.message
    rig.wait_for(
        lambda: rig.trigger("reset_stop").success and not rig.is_latched(),
        "clearing",
    )
    rig.publish(rig.gentle_knots())
    assert (
        np.ptp(
            messages.read_joint_trajectory(rig.wait_for_one_more(EXECUTED_ACTIONS)).positions[:, 0]
        )
        < 1e-9
    )
    # A second press may still have been on its way at reset_stop.
    rig.wait_for(
        lambda: rig.trigger("reset_stop").success and rig.trigger("engage").success, "engage"
    )


@pytest.mark.parametrize(
    "qos",
    [
        Qos(reliable=False, depth=1),
        Qos(reliable=True, depth=1),
        Qos(reliable=True, depth=1, transient_local=True),
    ],
    ids=str,
)
def test_a_stop_of_every_publisher_latches(rig: GuardRig, qos: Qos) -> None:
    """A reader that asks for reliable delivery hears nothing of a best effort publisher."""
    rig.start_guard()
    rig.engage()
    stop = rig.node.create_publisher(Bool, E_STOP.name, qos.profile())
    rig.wait_for(lambda: stop.get_subscription_count() > 0, "the guard's e_stop subscription")

    def is_latched() -> bool:
        # Best effort may lose one; whoever presses presses again.
        stop.publish(Bool(data=True))
        return rig.is_latched()

    rig.wait_for(is_latched, "latching")
    assert not rig.trigger("engage").success


def test_the_latch_outlives_the_lifecycle(rig: GuardRig) -> None:
    rig.start_guard()
    rig.engage()
    assert rig.trigger("e_stop").success
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ):
        assert rig.change(transition)
    rig.wait_for_state(engaged="false", stop_latched="true")
    rig.wait_for(rig.is_latched, "the latch")
    refused = rig.trigger("engage")
    assert not refused.success
    assert "reset_stop first" in refused.message
    assert rig.trigger("reset_stop").success
    rig.wait_for_state(stop_latched="false")
    rig.engage()


def test_a_stop_before_configure_latches(rig: GuardRig) -> None:
    rig.start("safety_node", "reference:=topic", "max_joint_state_age_s:=2.0")
    stopped = rig.trigger("e_stop")
    assert stopped.success
    assert "not configured" in stopped.message
    rig.bring_up()
    rig.wait_for_state(stop_latched="true")
    assert "reset_stop first" in rig.trigger("engage").message
    assert rig.trigger("reset_stop").success
    rig.engage()


def test_guard_state_is_the_guards_and_says_what_happens(rig: GuardRig) -> None:
    """Engaged, held, a fault, latched; somebody who comes later hears the last of it."""
    rig.start_guard()
    rig.wait_for_state(engaged="false", stop_latched="false", fault="")
    rig.engage()
    rig.wait_for_state(engaged="true", holding="", fault="")
    knots = rig.gentle_knots()
    knots[:, 0] += np.linspace(0.0, 0.9, 8)
    rig.publish(knots)
    rig.wait_for_state(engaged="true", holding="limits")
    knots[3, 2] = np.nan
    rig.publish(knots)
    rig.wait_for_state(engaged="false", fault="not_finite")
    rig.engage()
    rig.wait_for_state(engaged="true", fault="")
    rig.trigger("e_stop")
    rig.wait_for_state(engaged="false", stop_latched="true")
    late: list[Any] = []
    rig.node.create_subscription(
        GUARD_STATE.message_type, GUARD_STATE.name, late.append, GUARD_STATE.reader_qos.profile()
    )
    rig.wait_for(lambda: bool(late), "the last state")
    assert messages.read_status(late[0]).values["stop_latched"] == "true"
    publishers = rig.node.get_publishers_info_by_topic(f"/{GUARD_STATE.name}")
    assert [publisher.node_name for publisher in publishers] == [GUARD]


def test_a_second_publisher_of_joint_states_is_never_engaged(rig: GuardRig) -> None:
    """A forgotten joint_state_publisher at zero, 50 times a second; then it is gone."""
    rig.start_guard()
    foreign = rig.node.create_publisher(
        JOINT_STATES.message_type, JOINT_STATES.name, JOINT_STATES.writer_qos.profile()
    )

    def publish_zeros() -> None:
        now_ns = int(rig.node.get_clock().now().nanoseconds)
        foreign.publish(
            messages.joint_state_message(rig.spec.joint_names, np.zeros(8), np.zeros(8), now_ns)
        )

    timer = rig.node.create_timer(0.02, publish_zeros)
    rig.wait_for(lambda: foreign.get_subscription_count() >= 2, "the guard's subscription")
    for _ in range(15):
        before = len(rig.received[JOINT_STATES.name])
        rig.wait_for(
            lambda before=before: len(rig.received[JOINT_STATES.name]) > before + 10, "joint states"
        )
        # This process may have stood still, and with it the foreign publisher.
        publish_zeros()
        refused = rig.trigger("engage")
        assert not refused.success
    assert "two joint_states publishers" in refused.message
    rig.node.destroy_timer(timer)
    rig.node.destroy_publisher(foreign)
    rig.engage()


def test_a_chunk_of_100000_points_blocks_nothing(rig: GuardRig) -> None:
    """Made into an object it would cost the guard a second of processor time and more."""
    rig.start_guard()
    rig.engage()
    rig.publish(rig.gentle_knots())
    rig.wait_for_one_more(EXECUTED_ACTIONS)
    huge = JOINT_TRAJECTORY.message_type(joint_names=list(rig.spec.joint_names))
    huge.points = [JointTrajectoryPoint()] * 100_000
    before_s = rig.cpu_s(GUARD)
    rig.chunks.publish(huge)
    rig.wait_for_state(engaged="false", fault="shape")
    assert rig.cpu_s(GUARD) - before_s < MAX_CPU_S
    assert "fault_joint_states_stale" not in rig.guard_values()
    rig.engage()


def test_joint_states_of_a_huge_message_block_nothing_and_disengage(rig: GuardRig) -> None:
    """4,000 joints in 130 KiB: the size is the fault. Sent often: best effort loses some."""
    rig.start_guard()
    rig.engage()
    foreign = rig.node.create_publisher(
        JOINT_STATES.message_type, JOINT_STATES.name, JOINT_STATES.writer_qos.profile()
    )
    rig.wait_for(lambda: foreign.get_subscription_count() >= 2, "the guard's subscription")
    names = tuple(f"joint_{number}" for number in range(4_000))
    zeros = np.zeros(len(names))
    huge = messages.joint_state_message(names, zeros, zeros, 1)
    before_s = rig.cpu_s(GUARD)
    timer = rig.node.create_timer(0.1, lambda: foreign.publish(huge))
    rig.wait_for_state(engaged="false", fault="joint_states")
    assert rig.cpu_s(GUARD) - before_s < MAX_CPU_S
    rig.node.destroy_timer(timer)
    rig.node.destroy_publisher(foreign)
    assert "at most 65536 bytes" in rig.guard_values()["last_hold_reason"]


@pytest.mark.parametrize(
    ("topic", "fault"), [(ACTION_CHUNK, "shape"), (JOINT_STATES, "joint_states")]
)
def test_bytes_that_are_no_message_disengage(rig: GuardRig, topic: Topic, fault: str) -> None:
    """A message that was cut off. Sent often: best effort loses some."""
    rig.start_guard()
    rig.engage()
    foreign = rig.chunks
    if topic is not ACTION_CHUNK:
        # Two publishers of chunks would be a fault of their own.
        foreign = rig.node.create_publisher(
            topic.message_type, topic.name, topic.writer_qos.profile()
        )
    num_readers = rig.node.count_subscribers(topic.name)
    rig.wait_for(lambda: foreign.get_subscription_count() >= num_readers, "the subscriptions")
    # Its frame_id has no end.
    cut_off = serialize_message(topic.message_type(header=Header(frame_id="cut off")))[:20]
    timer = rig.node.create_timer(0.1, lambda: foreign.publish(cut_off))
    rig.wait_for_state(engaged="false", fault=fault)
    rig.node.destroy_timer(timer)
    assert "check the sender" in rig.guard_values()["last_hold_reason"]
    assert rig.processes["safety_node"].poll() is None


def test_simulated_time_that_nobody_publishes_disengages(rig: GuardRig) -> None:
    """use_sim_time set at run time: the clock goes to 0 and stands."""
    rig.start_guard()
    rig.engage()
    value = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True)
    request = SetParameters.Request(parameters=[Parameter(name="use_sim_time", value=value)])
    assert rig.call(SetParameters, f"{GUARD}/set_parameters", request).results[0].successful
    rig.wait_for_state(engaged="false", fault="clock")
    for _ in range(5):
        refused = rig.trigger("engage")
        assert not refused.success
        rig.wait_for_one_more(JOINT_STATES)


def test_a_dry_run_sends_nothing_to_the_controllers(rig: GuardRig) -> None:
    rig.start_guard("dry_run:=true")
    rig.engage()
    rig.publish(rig.gentle_knots())
    rig.wait_for(lambda: bool(rig.received[JOINT_TRAJECTORY_SHADOW.name]), "the shadow trajectory")
    assert not rig.received[JOINT_TRAJECTORY.name]
    assert rig.node.count_publishers(f"/{JOINT_TRAJECTORY.name}") == 0


def test_in_lockstep_a_disengaged_guard_answers_with_a_hold(rig: GuardRig) -> None:
    rig.start_guard("mode:=lockstep")
    rig.wait_for(lambda: rig.guard_values()["num_policies"] == "1", "seeing this policy")
    # It engages only once it has heard of the arm.
    rig.engage()
    assert rig.trigger("disengage").success
    # The loopback arm's physics waits for nobody: a chunk stamped now may be late already.
    stamp_ns = int(rig.node.get_clock().now().nanoseconds) + 10 * 10**9
    rig.publish(rig.gentle_knots(), stamp_ns)
    held = rig.wait_for_one_more(JOINT_TRAJECTORY)
    while messages.stamp_ns(held) != stamp_ns:
        held = rig.wait_for_one_more(JOINT_TRAJECTORY)
    positions = messages.read_joint_trajectory(held).positions
    np.testing.assert_allclose(positions, np.tile(rig.positions()[:7], (len(positions), 1)))


def test_joints_that_came_before_a_chunk_are_read_before_it(free_domain: str) -> None:
    """The guard gets no CPU while eight joint states and then the chunk arrive, as in lockstep on
    a busy machine: the executor alone would take the chunk first."""
    parameters = ("mode:=lockstep", "late_after_s:=5.0", "use_sim_time:=true", "reference:=none")
    words = [word for parameter in parameters for word in ("-p", parameter)]
    rclpy.init(args=["--ros-args", *words])
    executor = SingleThreadedExecutor()
    try:
        guard, arm = SafetyNode(), rclpy.create_node("arm")
        states, chunks, clock = (
            arm.create_publisher(topic.message_type, topic.name, topic.writer_qos.profile())
            for topic in (JOINT_STATES, ACTION_CHUNK, CLOCK)
        )
        executed: list[Any] = []
        arm.create_subscription(
            EXECUTED_ACTIONS.message_type, EXECUTED_ACTIONS.name, executed.append,
            EXECUTED_ACTIONS.reader_qos.profile(),
        )  # fmt: skip
        assert guard.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert guard.trigger_activate() == TransitionCallbackReturn.SUCCESS
        executor.add_node(guard)
        executor.add_node(arm)

        spec = read_arm_spec("panda")
        home = np.array([0.0, 0.4, 0.0, -2.0, 0.0, 2.4, 0.8, 0.04])
        start_ns = 10**9

        def publish_state(stamp_ns: int) -> None:
            clock.publish(messages.clock_message(stamp_ns))
            states.publish(
                messages.joint_state_message(spec.joint_names, home, np.zeros(8), stamp_ns)
            )

        engage = arm.create_client(Trigger, f"{GUARD}/{ENGAGE.name}")
        ready = (
            engage.service_is_ready,
            chunks.get_subscription_count,
            states.get_subscription_count,
            clock.get_subscription_count,
            lambda: guard.count_publishers(ACTION_CHUNK.name),
        )
        spin_until(executor, lambda: all(is_ready() for is_ready in ready))
        publish_state(start_ns)
        assert states.wait_for_all_acked(Duration(seconds=TIMEOUT_S))
        answer = engage.call_async(Trigger.Request())
        spin_until(executor, answer.done)
        assert answer.result().success, answer.result().message

        executor.remove_node(guard)
        for step in range(1, 9):
            publish_state(start_ns + step * 100_000_000)
        chunk = JointTrajectory(
            spec.joint_names, KNOT_STEP_S * np.arange(1, 9), np.tile(home, (8, 1))
        )
        chunks.publish(messages.joint_trajectory_message(chunk, start_ns + 800_000_000))
        for writer in (states, chunks):
            assert writer.wait_for_all_acked(Duration(seconds=TIMEOUT_S))
        executor.add_node(guard)
        spin_until(executor, lambda: executed)
        assert messages.stamp_ns(executed[0]) == start_ns + 800_000_000
    finally:
        executor.shutdown()
        rclpy.try_shutdown()


def spin_until(executor: SingleThreadedExecutor, condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s
        executor.spin_once(timeout_sec=0.05)


def test_a_restarted_guard_starts_disengaged(rig: GuardRig) -> None:
    """SIGKILL in motion: the arm ends at rest by its tail; the new guard passes nothing."""
    rig.start_guard()
    rig.engage()
    rig.publish(rig.gentle_knots())
    rig.wait_for_one_more(EXECUTED_ACTIONS)
    sent = messages.read_joint_trajectory(rig.received[JOINT_TRAJECTORY.name][-1])
    rig.processes["safety_node"].kill()
    rig.processes["safety_node"].wait()
    rig.wait_for(
        lambda: np.allclose(rig.positions()[:7], sent.positions[-1], atol=1e-6), "coming to rest"
    )
    num_sent = len(rig.received[JOINT_TRAJECTORY.name])
    rig.start_guard()
    rig.wait_for_state(engaged="false")
    num_answers = len(rig.received[EXECUTED_ACTIONS.name])

    def answers_a_chunk() -> bool:
        # The dead guard's subscription is matched for a while: chunks go nowhere until then.
        rig.publish(rig.gentle_knots())
        return len(rig.received[EXECUTED_ACTIONS.name]) > num_answers

    rig.wait_for(answers_a_chunk, EXECUTED_ACTIONS.name)
    assert len(rig.received[JOINT_TRAJECTORY.name]) == num_sent


def test_it_goes_through_its_lifecycle_and_ends_well(rig: GuardRig) -> None:
    rig.start_guard()
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    refused = rig.trigger("engage")
    assert not refused.success
    assert "not active" in refused.message
    assert rig.change(Transition.TRANSITION_CLEANUP)
    assert rig.change(Transition.TRANSITION_CONFIGURE)
    assert not rig.change(Transition.TRANSITION_CONFIGURE)
    assert rig.change(Transition.TRANSITION_ACTIVATE)
    assert not rig.change(Transition.TRANSITION_ACTIVATE)
    rig.engage()
    process = rig.processes["safety_node"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_an_unknown_arm_is_one_sentence(rig: GuardRig) -> None:
    rig.start("safety_node", "arm:=pandda")
    assert not rig.change(Transition.TRANSITION_CONFIGURE)
    process = rig.processes["safety_node"]
    process.send_signal(signal.SIGINT)
    process.wait(20)
    text = rig.log_of("safety_node")
    assert "arm 'pandda' is unknown, config/arms holds fr3, panda, so100" in text


def test_after_a_failed_configure_the_emergency_stop_latches(
    free_domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """control_msgs is not installed: the guard is refused, the stop is heard all the same."""

    def refuse() -> Any:
        raise ValueError("control_msgs is not installed")

    monkeypatch.setattr(reference_input, "controller_state_type", refuse)
    rclpy.init(args=["--ros-args", "-p", "reference:=controller_state"])
    try:
        node = SafetyNode()
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        reply = node._on_stop(Trigger.Request(), Trigger.Response())
        assert reply.message == "latched; the guard is not configured, nothing moves by it"
        assert node._latch.is_set
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


@pytest.mark.parametrize(
    "module",
    [
        "par_ros.safety_node",
        "par_ros.loopback_arm_node",
        "par_ros.real_arm_node",
        "par_ros.gripper_adapter_node",
    ],
)
def test_what_commands_the_arm_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'mani_skill' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
