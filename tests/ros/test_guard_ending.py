# SPDX-License-Identifier: Apache-2.0
"""The guard's process ends, mostly while the arm moves: by a signal or an error.

The arm is at the beginning of a motion of eight seconds; it rests where the stop says, short of the
chunk's end.
"""

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from std_msgs.msg import Bool

from par_ros import messages
from par_ros.control.joint_trajectory import FloatArray
from par_ros.topics import JOINT_TRAJECTORY
from tests.ros.guard_rig import TIMEOUT_S, GuardRig
from tests.ros.processes import shared_segments

pytestmark = pytest.mark.ros

_TRIES = 5
# A motion so long that no busy machine is too late to end it.
STEP_S = 0.2
LONG_MOTION = ("num_actions:=40", f"step_s:={STEP_S}")
# The executable. Its last stop may take longer than 0.3 s to an arm that a busy machine starves.
PATIENT_GUARD = (
    "from par_ros import safety_node\n"
    "safety_node._LAST_STOP_S = 10.0\n"
    "safety_node.leave(safety_node.main())\n"
)
# The same with one subscription more, whose callback fails.
FAILING_GUARD = (
    "import sys\n"
    "from std_msgs.msg import Bool\n"
    "from par_ros.process import run_node\n"
    "from par_ros import safety_node\n"
    "from par_ros.safety_node import SafetyNode\n"
    "safety_node._LAST_STOP_S = 10.0\n"
    "class Failing(SafetyNode):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.create_subscription(Bool, 'fail', self._fail, 1)\n"
    "    def _fail(self, message):\n"
    "        raise IndexError('an error of a callback')\n"
    "sys.exit(run_node(Failing, before_end=Failing.leave))\n"
)


@pytest.fixture
def rig(free_domain: str) -> Iterator[GuardRig]:
    with GuardRig() as made:
        made.start("loopback_arm_node", "publish_images:=false")
        yield made


def moving(rig: GuardRig) -> FloatArray:
    """Engage, send a chunk of eight seconds, and wait until the arm moves; its last knot.

    Again after a stop: a busy machine's arm may take a trajectory too late.
    """
    for _ in range(_TRIES):
        rig.engage()
        rig.wait_for_state(engaged="true")
        here = rig.positions()
        knots = here + np.outer((np.arange(1, 41) / 40.0) ** 2, np.append(np.full(7, 0.4), 0.0))
        rig.publish(knots, step_s=STEP_S)

        def moves(begin: FloatArray = here) -> bool:
            return bool((rig.positions()[:7] > begin[:7] + 0.005).all())

        rig.wait_for(
            lambda moves=moves: moves() or rig.state()["engaged"] == "false", "moving or a stop"
        )
        if rig.state()["engaged"] == "true":
            return knots[-1]
    raise AssertionError("the guard did not stay engaged")


def assert_stopped(rig: GuardRig, num_sent: int, last_knot: FloatArray) -> None:
    """The process ends with a trajectory more, and its last state is disengaged."""
    rig.wait_for(lambda: len(rig.received[JOINT_TRAJECTORY.name]) > num_sent, "the stop")
    stop = messages.read_joint_trajectory(rig.received[JOINT_TRAJECTORY.name][-1])
    rig.wait_for(
        lambda: np.allclose(rig.positions()[:7], stop.positions[-1], atol=1e-6), "coming to rest"
    )
    assert (stop.positions[-1] < last_knot[:7] - 0.05).all()
    rig.wait_for_state(engaged="false")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_guard_that_is_asked_to_end_stops_the_arm(rig: GuardRig, number: signal.Signals) -> None:
    rig.start_guard(*LONG_MOTION, program=PATIENT_GUARD)
    last_knot = moving(rig)
    num_sent = len(rig.received[JOINT_TRAJECTORY.name])
    process = rig.processes["safety_node"]
    process.send_signal(number)
    assert process.wait(TIMEOUT_S) == 0
    assert_stopped(rig, num_sent, last_knot)


def test_nothing_stays_in_shared_memory(free_domain: str) -> None:
    """What a process leaves there takes memory until the next boot."""
    with GuardRig() as rig:
        ours = shared_segments(os.getpid())
        rig.start("loopback_arm_node", "publish_images:=false")
        rig.start_guard()
        rig.engage()
        processes = rig.processes.values()
        theirs = set().union(*(shared_segments(process.pid) for process in processes)) - ours
        for process in processes:
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0
        assert theirs
        assert [path for path in theirs if path.exists()] == []


def test_a_guard_whose_callback_fails_stops_the_arm_first(rig: GuardRig) -> None:
    rig.start_guard(*LONG_MOTION, program=FAILING_GUARD)
    fail = rig.node.create_publisher(Bool, "fail", 1)
    rig.wait_for(lambda: fail.get_subscription_count() > 0, "the failing subscription")
    last_knot = moving(rig)
    num_sent = len(rig.received[JOINT_TRAJECTORY.name])
    fail.publish(Bool())
    assert rig.processes["safety_node"].wait(TIMEOUT_S) == 1
    assert "IndexError: an error of a callback" in rig.log_of("safety_node")
    assert_stopped(rig, num_sent, last_knot)


def test_an_error_at_the_end_hides_no_other(rig: GuardRig) -> None:
    """The callback's error is printed, and that the stop has failed."""
    leave = "    def leave(self):\n        raise ValueError('an error at the end')\n"
    rig.start_guard(program=FAILING_GUARD.replace("sys.exit", leave + "sys.exit"))
    fail = rig.node.create_publisher(Bool, "fail", 1)
    rig.wait_for(lambda: fail.get_subscription_count() > 0, "the failing subscription")
    fail.publish(Bool())
    assert rig.processes["safety_node"].wait(TIMEOUT_S) == 1
    log = rig.log_of("safety_node")
    assert "IndexError: an error of a callback" in log
    assert "safety_node could not do what it does at its end" in log
