# SPDX-License-Identifier: Apache-2.0
"""A stop that a busy machine could not send in time: what is answered, and when it is sent.

A session on a clock that the test moves: as slow as a machine that takes 21 ms to plan.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.control.guard import StopLatch
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.timeline import Moment
from par_ros.guard_session import GuardSession
from par_ros.parameters import SafetyNodeParameters
from par_ros.topics import JOINT_TRAJECTORY
from tests.control.arms import arm

pytestmark = pytest.mark.ros
S = 1_000_000_000
PANDA = arm("panda")
SLOW_NS = 21_000_000


class SlowClock:
    """Both clocks; `num_slow` readings, behind the next one, come 21 ms later each. `ros_step_ns`
    is what the ROS clock steps by between the next reading and the one after it."""

    def __init__(self) -> None:
        self.time_ns = 0
        self.ros_ns = 1_000 * S
        self.ros_step_ns = 0
        self.num_slow = 0
        self._is_first = True

    def slow(self, num: int) -> None:
        self.num_slow, self._is_first = num, True

    def now(self) -> Moment:
        if self.num_slow and not self._is_first:
            self.num_slow -= 1
            self.time_ns += SLOW_NS
        self._is_first = False
        moment = Moment(self.ros_ns + self.time_ns, 50 * S + self.time_ns)
        self.ros_ns, self.ros_step_ns = self.ros_ns + self.ros_step_ns, 0
        return moment


class SessionRig:
    """A session, engaged without a reference, and what it publishes for the arm."""

    def __init__(self) -> None:
        self.node = Node("late_stops")
        self.clock = SlowClock()
        self.sent: list[JointTrajectoryMessage] = []
        self.session = GuardSession(
            self.node, SafetyNodeParameters(reference="none"), StopLatch(),
            self.clock, lambda: None,  # type: ignore[arg-type]
        )  # fmt: skip
        self.node.create_subscription(
            JointTrajectoryMessage, JOINT_TRAJECTORY.name, self.sent.append,
            JOINT_TRAJECTORY.reader_qos.profile(),
        )  # fmt: skip
        self.session.is_active = True
        self.wait(0.5)
        assert self.session.engage().success
        self.wait(2.0)
        self.session._on_chunk(self.chunk(), by_operator=False)
        self.wait(0.1)
        self.received()

    def received(self) -> int:
        """How many trajectories have come by now."""
        for _ in range(20):
            rclpy.spin_once(self.node, timeout_sec=0.02)
        return len(self.sent)

    def wait(self, duration_s: float) -> None:
        """Joint states and ticks every 20 ms; the arm follows exactly."""
        for _ in range(round(duration_s / 0.02)):
            self.clock.time_ns += S // 50
            self.joint_state()
            self.session.tick()

    def positions(self) -> np.ndarray:
        now = self.session._guard.commanded_positions(self.clock.now())
        return np.append(PANDA.home if now is None else now, 0.04)

    def joint_state(self) -> None:
        positions, moment = self.positions(), self.clock.now()
        message = messages.joint_state_message(
            PANDA.joint_names, positions, np.zeros_like(positions), moment.ros_ns
        )
        self.session._on_joint_state(serialize_message(message))

    def chunk(self) -> bytes:
        targets = np.tile(self.positions(), (8, 1))
        targets[:, 0] += 0.05 * (np.arange(1, 9) / 8) ** 2
        trajectory = JointTrajectory(PANDA.joint_names, 0.05 * np.arange(1, 9), targets)
        stamp_ns = self.clock.now().ros_ns
        return serialize_message(messages.joint_trajectory_message(trajectory, stamp_ns))


@pytest.fixture
def rig(ros: None) -> Iterator[SessionRig]:
    made = SessionRig()
    yield made
    made.session.destroy()
    made.node.destroy_node()


def test_an_emergency_stop_that_is_late_thrice_is_sent_by_the_next_tick(rig: SessionRig) -> None:
    before = rig.received()
    rig.clock.slow(3)
    reply = rig.session.e_stop()
    assert not reply.success
    assert "latched, but no stop could be sent yet" in reply.message
    assert rig.received() == before
    rig.wait(0.02)
    assert rig.received() == before + 1
    last = messages.read_joint_trajectory(rig.sent[-1])
    assert last.velocities is not None
    assert np.abs(last.velocities[0]).max() > 1e-3
    assert rig.session.e_stop().message == "was stopped already"
    rig.wait(1.0)
    assert rig.received() == before + 1


def test_an_emergency_stop_that_is_late_twice_is_answered_as_sent(rig: SessionRig) -> None:
    before = rig.received()
    rig.clock.slow(2)
    reply = rig.session.e_stop()
    assert reply.success
    assert reply.message.startswith("stopped")
    assert rig.received() == before + 1


@pytest.mark.parametrize("step_s", [-5.6, 5.6])
def test_a_stop_is_not_sent_with_a_stamp_of_before_a_clock_step(
    rig: SessionRig, step_s: float
) -> None:
    """As after every step of the clock, the chunk that runs ends at rest by itself."""
    before = rig.received()
    rig.clock.ros_step_ns = round(step_s * S)
    reply = rig.session.e_stop()
    assert reply.message.startswith("latched; after a clock step nothing can be sent")
    assert rig.received() == before
    assert rig.session._guard.counters["clock_steps"] == 1


def test_disengaging_says_so_too(rig: SessionRig) -> None:
    rig.clock.slow(3)
    reply = rig.session.disengage()
    assert reply.success
    assert "disengaged, but no stop could be sent yet" in reply.message


@pytest.mark.parametrize("way", ["deactivated", "ended"])
def test_a_session_that_ends_tries_again_before(rig: SessionRig, way: str) -> None:
    """Its timer ticks no more. 5 s instead of 0.3: the machine may be busy."""
    before = rig.received()
    rig.clock.slow(7)
    if way == "ended":
        rig.session.leave(5.0)
    else:
        rig.session.let_go(5.0)
    assert rig.received() == before + 1
    assert not rig.session.is_active
