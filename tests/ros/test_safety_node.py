# SPDX-License-Identifier: Apache-2.0
"""The guard as a process over DDS, in front of the loopback arm."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from std_msgs.msg import Bool

from par_ros import messages
from par_ros.topics import (
    E_STOP,
    E_STOP_STATE,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
)
from tests.ros.guard_rig import GuardRig

pytestmark = pytest.mark.ros


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
    rig.wait_for(lambda: rig.guard_values()["engaged"] == "false", "disengaging")
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
    stop.publish(Bool(data=False))
    stop.publish(Bool(data=True))
    rig.wait_for(lambda: rig.received[E_STOP_STATE.name][-1].data, "latching")
    refused = rig.trigger("engage")
    assert not refused.success
    assert "reset_stop first" in refused.message
    assert rig.trigger("reset_stop").success
    rig.wait_for(lambda: not rig.received[E_STOP_STATE.name][-1].data, "clearing")
    rig.publish(rig.gentle_knots())
    assert (
        np.ptp(
            messages.read_joint_trajectory(rig.wait_for_one_more(EXECUTED_ACTIONS)).positions[:, 0]
        )
        < 1e-9
    )
    rig.engage()


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
    knots = rig.gentle_knots()
    stamp_ns = rig.publish(knots)
    held = rig.wait_for_one_more(JOINT_TRAJECTORY)
    assert messages.stamp_ns(held) == stamp_ns
    positions = messages.read_joint_trajectory(held).positions
    np.testing.assert_allclose(positions, np.tile(rig.positions()[:7], (len(positions), 1)))


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
    rig.start_guard()
    assert rig.guard_values()["engaged"] == "false"


def test_it_goes_through_its_lifecycle_and_ends_well(rig: GuardRig) -> None:
    rig.start_guard()
    assert rig.change(Transition.TRANSITION_DEACTIVATE)
    assert not rig.trigger("engage").success
    assert rig.change(Transition.TRANSITION_CLEANUP)
    assert rig.change(Transition.TRANSITION_CONFIGURE)
    assert rig.change(Transition.TRANSITION_ACTIVATE)
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
    assert process.stderr is not None
    assert "arm 'pandda' is unknown, config/arms holds panda, ur5e" in process.stderr.read()


@pytest.mark.parametrize(
    "module", ["par_ros.safety_node", "par_ros.loopback_arm_node", "par_ros.real_arm_node"]
)
def test_what_commands_the_arm_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'mani_skill' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
