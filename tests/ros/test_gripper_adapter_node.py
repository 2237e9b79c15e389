# SPDX-License-Identifier: Apache-2.0
"""The gripper adapter as a node: trajectories over DDS in, goals out, everything amiss reported.

control_msgs and franka_msgs are not on PyPI, so their action classes and the action client are
stand-ins here, with the fields of the real ones; the last test uses the real control_msgs and
rclpy's action server where they are installed.
"""

import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from par_ros import gripper_adapter_node, messages
from par_ros.control.gripper_adapter import Server
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.gripper_adapter_node import GripperAdapterNode
from par_ros.topics import DIAGNOSTICS, GRIPPER_TRAJECTORY, JOINT_STATES
from tests.control.arms import content

pytestmark = pytest.mark.ros

OPEN_M, SQUEEZE_M = 0.04, -0.01
WAIT_S = 20.0
# What a busy machine may add.
BUSY_S = 4.0


def action_class(**fields: Callable[[], Any]) -> Any:
    """A generated action class's Goal, as far as the adapter uses it."""

    class Goal:
        def __init__(self) -> None:
            for name, make in fields.items():
                setattr(self, name, make())

    return SimpleNamespace(Goal=Goal)


def epsilon() -> SimpleNamespace:
    return SimpleNamespace(inner=0.005, outer=0.005)


STAND_INS = {
    "control_msgs": {
        "GripperCommand": action_class(
            command=lambda: SimpleNamespace(position=0.0, max_effort=0.0)
        ),
        "ParallelGripperCommand": action_class(command=lambda: None),
    },
    "franka_msgs": {
        "Grasp": action_class(width=float, epsilon=epsilon, speed=float, force=float),
        "Move": action_class(width=float, speed=float),
    },
}


class Handle:
    """A goal that the stand-in server took, or refused."""

    def __init__(self, accepted: bool) -> None:
        self.accepted = accepted
        self.result: Future = Future()
        self.num_cancels = 0

    def cancel_goal_async(self) -> Future:
        self.num_cancels += 1
        answer: Future = Future()
        answer.set_result(SimpleNamespace(goals_canceling=[self] if Client.knows_goals else []))
        return answer

    def get_result_async(self) -> Future:
        return self.result

    def end(self, status: int, **fields: Any) -> None:
        self.result.set_result(SimpleNamespace(status=status, result=SimpleNamespace(**fields)))


class Client:
    """A WatchedAction before a server that does what the test says."""

    made: dict[str, "Client"]
    server = Server.READY
    knows_goals = True
    accepts = True

    def __init__(self, node: Node, action_type: Any, name: str) -> None:
        self.goals: list[Any] = []
        self.handles: list[Handle] = []
        Client.made[name] = self

    def step(self) -> None:
        return

    def if_unknown(self, handle: Any, call: Callable[[], None]) -> None:
        assert handle in self.handles
        if not Client.knows_goals:
            call()

    def send_goal_async(self, goal: Any) -> Future:
        handle = Handle(Client.accepts)
        self.goals.append(goal)
        self.handles.append(handle)
        answer: Future = Future()
        answer.set_result(handle)
        return answer

    def destroy(self) -> None:
        return


class Rig:
    """The node, active, and another node that publishes trajectories and hears diagnostics."""

    def __init__(self, arm: str) -> None:
        self.node = adapter_node(arm)
        self.peer = Node("peer")
        self.statuses: list[messages.Status] = []
        self.peer.create_subscription(
            DiagnosticArray, DIAGNOSTICS.name, self._hear, DIAGNOSTICS.reader_qos.profile()
        )
        self.publisher = self.peer.create_publisher(
            GRIPPER_TRAJECTORY.message_type,
            GRIPPER_TRAJECTORY.name,
            GRIPPER_TRAJECTORY.writer_qos.profile(),
        )
        self.executor = SingleThreadedExecutor()
        for node in (self.node, self.peer):
            self.executor.add_node(node)

    def activate(self) -> "Rig":
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        self.wait_for(lambda: self.peer.count_publishers(DIAGNOSTICS.name) > 0)
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self.wait_for(lambda: self.publisher.get_subscription_count() > 0)
        return self

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.peer.destroy_node()

    def send(self, *targets_m: float, name: str = "fr3_finger_joint1") -> None:
        """Eight targets, 0.05 s apart from now on; one stands for all."""
        rows = np.array(targets_m if len(targets_m) > 1 else targets_m * 8, dtype=np.float64)
        points = JointTrajectory((name,), 0.05 * np.arange(1, len(rows) + 1), rows[:, None])
        stamp_ns = self.peer.get_clock().now().nanoseconds
        self.publisher.publish(messages.joint_trajectory_message(points, stamp_ns))

    def send_until(
        self, condition: Callable[[], Any], target_m: float, name: str = "fr3_finger_joint1"
    ) -> None:
        """Send it as the guard does, again and again, until the condition holds: targets that were
        due 0.5 s ago are not carried out, and a busy machine may stand still for longer."""
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, "it did not happen"
            self.send(target_m, name=name)
            next_s = time.monotonic() + 0.4
            while not condition() and time.monotonic() < next_s:
                self.executor.spin_once(timeout_sec=0.02)

    def spin(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.02)

    def wait_for(self, condition: Callable[[], Any]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, "it did not happen"
            self.executor.spin_once(timeout_sec=0.02)

    def problem_with(self, text: str, within_s: float) -> messages.Status:
        """The first warning with `text`, heard within `within_s`."""
        since_s = time.monotonic()
        self.statuses.clear()
        self.wait_for(lambda: any(text in status.message for status in self.statuses))
        assert time.monotonic() - since_s <= within_s + BUSY_S
        status = next(status for status in self.statuses if text in status.message)
        assert status.level == messages.WARN
        return status

    def _hear(self, message: DiagnosticArray) -> None:
        self.statuses += messages.read_diagnostics(message)


def adapter_node(arm: str) -> GripperAdapterNode:
    """The node, driving the gripper of `arm`."""
    return GripperAdapterNode(parameter_overrides=[Parameter("arm", value=arm)])


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, classes in STAND_INS.items():
        module = ModuleType(f"{package}.action")
        for name, action in classes.items():
            setattr(module, name, action)
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.action", module)
    monkeypatch.setattr(gripper_adapter_node, "WatchedAction", Client)
    monkeypatch.setattr(Client, "made", {}, raising=False)
    for name, value in (("server", Server.READY), ("knows_goals", True), ("accepts", True)):
        monkeypatch.setattr(Client, name, value)


@pytest.fixture
def rigs(ros: None) -> Iterator[Callable[[str], Rig]]:
    made: list[Rig] = []

    def make(arm: str) -> Rig:
        made.append(Rig(arm))
        return made[-1].activate()

    yield make
    for rig in made:
        rig.close()


def file_with_driver(folder: Path, arm: str, **driver: Any) -> str:
    """A copy of an arm file with another gripper.driver."""
    mapping = copy.deepcopy(content(arm))
    mapping["gripper"]["driver"] = driver  # type: ignore[index]
    path = folder / f"{arm}.yaml"
    path.write_text(yaml.safe_dump(mapping, sort_keys=False))
    return str(path)


def test_franka_s_hand_is_moved_and_grasps(stand_ins: None, rigs: Callable[[str], Rig]) -> None:
    rig = rigs("fr3")
    grasp, move = Client.made["fr3_gripper/grasp"], Client.made["fr3_gripper/move"]
    rig.send_until(lambda: move.goals, OPEN_M)
    assert (move.goals[0].width, move.goals[0].speed) == (0.08, 0.1)
    move.handles[0].end(GoalStatus.STATUS_SUCCEEDED, success=True, error="")
    rig.send_until(lambda: grasp.goals, SQUEEZE_M)
    goal = grasp.goals[0]
    assert (goal.width, goal.speed, goal.force) == (0.0, 0.1, 20.0)
    assert (goal.epsilon.inner, goal.epsilon.outer) == (0.08, 0.08)
    for _ in range(3):
        rig.send(SQUEEZE_M)
        rig.spin(0.4)
    assert (len(grasp.goals), len(move.goals)) == (1, 1)


def test_a_robotiq_is_given_its_knuckle_s_angle(
    stand_ins: None, rigs: Callable[[str], Rig]
) -> None:
    rig = rigs("ur5e")
    client = Client.made["robotiq_gripper_controller/gripper_cmd"]
    rig.send_until(lambda: client.goals, 0.0, "robotiq_85_finger_opening")
    command = client.goals[0].command
    assert (command.position, command.max_effort) == (0.7929, 40.0)


def test_a_knuckle_s_joint_state_is_said_in_metres_with_its_stamp(
    stand_ins: None, rigs: Callable[[str], Rig]
) -> None:
    """0.4 rad of the 2F-85 are 0.0425 + 0.0372 (cos 0.4 - 1) - 0.0434 sin 0.4 = 0.02266 m."""
    rig = rigs("ur5e")
    heard: list[Any] = []
    topic = JOINT_STATES
    rig.peer.create_subscription(
        topic.message_type, topic.name, heard.append, topic.writer_qos.profile()
    )
    driver = rig.peer.create_publisher(topic.message_type, topic.name, topic.writer_qos.profile())
    rig.wait_for(lambda: driver.get_subscription_count() == 2)
    rig.wait_for(lambda: rig.peer.count_publishers(topic.name) == 2)
    names = ("elbow_joint", "robotiq_85_left_knuckle_joint")
    driver.publish(
        messages.joint_state_message(names, np.array([1.0, 0.4]), np.array([0.1, -0.5]), 7)
    )
    rig.wait_for(lambda: len(heard) == 2)
    finger = next(message for message in heard if len(message.name) == 1)
    sample = messages.read_joint_state(finger)
    assert (sample.names, sample.stamp_ns) == (("robotiq_85_finger_opening",), 7)
    assert sample.positions[0] == pytest.approx(0.022658, abs=1e-6)
    assert sample.velocities is not None
    assert sample.velocities[0] == pytest.approx(0.5 * 0.054463, abs=1e-5)
    for bad in (float("inf"), float("nan")):
        driver.publish(
            messages.joint_state_message(names, np.array([1.0, bad]), np.array([0.1, 0.0]), 8)
        )
    driver.publish(messages.joint_state_message(names, np.array([1.0, 0.4]), np.empty(0), 9))
    rig.wait_for(lambda: len(heard) >= 6)
    rig.spin(0.2)
    assert len(heard) == 6
    fingers = [message for message in heard if list(message.name) == list(finger.name)]
    last = messages.read_joint_state(fingers[-1])
    assert (last.stamp_ns, last.velocities) == (9, None)


def test_a_parallel_gripper_controller_is_given_joint_speed_and_effort(
    stand_ins: None, rigs: Callable[[str], Rig], tmp_path: Path
) -> None:
    rig = rigs(
        file_with_driver(
            tmp_path, "panda", kind="parallel_gripper_command", action="hand/gripper_cmd",
            grasp_below_m=0.0, dead_band_m=0.002, closed_m=0.0, effort=15.0, speed_m_s=0.05,
        )
    )  # fmt: skip
    client = Client.made["hand/gripper_cmd"]
    rig.send_until(lambda: client.goals, SQUEEZE_M, "panda_finger_joint1")
    command = client.goals[0].command
    assert list(command.name) == ["panda_finger_joint1"]
    assert (list(command.position), list(command.velocity), list(command.effort)) == (
        [0.0], [0.05], [15.0],
    )  # fmt: skip


def test_a_missing_package_is_reported_and_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, rigs: Callable[[str], Rig]
) -> None:
    monkeypatch.setitem(sys.modules, "franka_msgs", None)
    rig = rigs("fr3")
    status = rig.problem_with("action franka_msgs/action/Grasp of gripper.driver", 1.5)
    assert "install ros-<distro>-franka-msgs" in status.message
    rig.send(SQUEEZE_M)
    rig.spin(0.3)
    assert rig.node._adapter.goal is None


def test_an_absent_server_is_reported_within_a_second_and_so_is_its_loss(
    stand_ins: None, rigs: Callable[[str], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "server", Server.ABSENT)
    rig = rigs("fr3")
    rig.problem_with("action server fr3_gripper is not available", 1.5)
    monkeypatch.setattr(Client, "server", Server.READY)
    rig.wait_for(lambda: rig.statuses[-1].level == messages.OK)
    monkeypatch.setattr(Client, "server", Server.ABSENT)
    status = rig.problem_with("action server fr3_gripper is not available", 1.0)
    assert status.values["server"] == "absent"


@pytest.mark.parametrize("noticed_by", ["silence", "cancel"])
def test_a_server_that_was_started_anew_gets_the_grasp_again(
    stand_ins: None,
    rigs: Callable[[str], Rig],
    monkeypatch: pytest.MonkeyPatch,
    noticed_by: str,
) -> None:
    rig = rigs("fr3")
    grasp = Client.made["fr3_gripper/grasp"]
    rig.send_until(lambda: grasp.goals, SQUEEZE_M)
    monkeypatch.setattr(Client, "knows_goals", False)
    if noticed_by == "silence":
        monkeypatch.setattr(Client, "server", Server.SILENT)
        rig.problem_with("action server fr3_gripper does not answer", 1.0)
        monkeypatch.setattr(Client, "server", Server.READY)
    else:
        rig.send_until(lambda: grasp.handles[0].num_cancels, OPEN_M)
    rig.problem_with("goal 1 (grasp to 0.0000 m) was lost with fr3_gripper", 1.0)

    def grasps_again() -> bool:
        rig.send(SQUEEZE_M, SQUEEZE_M - 0.0001)
        rig.spin(0.2)
        return len(grasp.goals) == 2

    rig.wait_for(grasps_again)
    assert len(grasp.goals) == 2


def test_rejected_and_aborted_goals_are_reported_within_a_second(
    stand_ins: None, rigs: Callable[[str], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs("fr3")
    monkeypatch.setattr(Client, "accepts", False)
    move = Client.made["fr3_gripper/move"]
    rig.send_until(lambda: move.goals, OPEN_M)
    rig.problem_with("goal 1 (move to 0.0400 m) was rejected by fr3_gripper", 1.0)
    monkeypatch.setattr(Client, "accepts", True)
    grasp = Client.made["fr3_gripper/grasp"]
    rig.send_until(lambda: grasp.goals, SQUEEZE_M)
    grasp.handles[0].end(GoalStatus.STATUS_ABORTED, success=False, error="no object")
    rig.problem_with("goal 2 (grasp to 0.0000 m) was aborted (no object)", 1.0)
    assert len(grasp.goals) == 1


def test_a_stall_aborts_a_grasp_without_a_fault(
    stand_ins: None, rigs: Callable[[str], Rig]
) -> None:
    """gripper_action_controller with allow_stalling false: aborted, stalled."""
    rig = rigs("ur5e")
    client = Client.made["robotiq_gripper_controller/gripper_cmd"]
    rig.send_until(lambda: client.goals, 0.0, "robotiq_85_finger_opening")
    client.handles[0].end(GoalStatus.STATUS_ABORTED, stalled=True, reached_goal=False)
    rig.statuses.clear()
    # One a second: the first one may be from before.
    rig.wait_for(lambda: len(rig.statuses) >= 2)
    assert all(status.level == messages.OK for status in rig.statuses)


def test_deactivation_and_shutdown_keep_the_goal(
    stand_ins: None, rigs: Callable[[str], Rig]
) -> None:
    rig = rigs("fr3")
    grasp, move = Client.made["fr3_gripper/grasp"], Client.made["fr3_gripper/move"]
    rig.send_until(lambda: grasp.goals, SQUEEZE_M)
    assert rig.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    rig.send(0.02, OPEN_M)
    rig.spin(0.5)
    assert rig.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    rig.spin(0.5)
    assert rig.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert rig.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert (len(grasp.goals), move.goals, grasp.handles[0].num_cancels) == (1, [], 0)


def test_a_release_cancels_the_running_grasp_and_opens_once_it_has_ended(
    stand_ins: None, rigs: Callable[[str], Rig]
) -> None:
    rig = rigs("fr3")
    grasp, move = Client.made["fr3_gripper/grasp"], Client.made["fr3_gripper/move"]
    rig.send_until(lambda: grasp.goals, SQUEEZE_M)
    rig.send_until(lambda: grasp.handles[0].num_cancels, OPEN_M)
    rig.spin(0.1)
    assert move.goals == []
    grasp.handles[0].end(GoalStatus.STATUS_CANCELED, success=False, error="")
    rig.send_until(lambda: move.goals, OPEN_M)
    assert grasp.handles[0].num_cancels == 1


def test_what_is_no_trajectory_of_the_gripper_is_refused_and_counted(
    stand_ins: None, rigs: Callable[[str], Rig]
) -> None:
    rig = rigs("fr3")
    rig.send(float("nan"))
    rig.send(OPEN_M, name="panda_finger_joint1")
    rig.publisher.publish(GRIPPER_TRAJECTORY.message_type(joint_names=["fr3_finger_joint1"]))
    rig.wait_for(lambda: rig.statuses and rig.statuses[-1].values["trajectories_refused"] == "3")
    assert "at least one point" in rig.statuses[-1].values["last_refusal"]
    assert Client.made["fr3_gripper/move"].goals == []


def test_an_arm_whose_gripper_has_a_controller_is_refused(
    ros: None, capsys: pytest.CaptureFixture[str]
) -> None:
    node = adapter_node("panda")
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "arm 'panda' has no gripper.driver" in capsys.readouterr().err
    node.destroy_node()


def test_a_real_action_server_is_given_one_goal_at_a_time(
    rigs: Callable[[str], Rig],
) -> None:
    """Over DDS: open, squeeze, squeeze, open; the server takes 0.3 s a goal."""
    action = pytest.importorskip("control_msgs.action", reason="control_msgs is not installed")
    from rclpy.action import ActionServer
    from rclpy.callback_groups import ReentrantCallbackGroup

    rig = rigs("ur5e")
    done: list[float] = []

    def execute(handle: Any) -> Any:
        time.sleep(0.3)
        done.append(handle.request.command.position)
        handle.succeed()
        return action.GripperCommand.Result(reached_goal=True)

    ActionServer(
        rig.peer, action.GripperCommand, "robotiq_gripper_controller/gripper_cmd", execute,
        callback_group=ReentrantCallbackGroup(),
    )  # fmt: skip
    rig.wait_for(lambda: rig.statuses and rig.statuses[-1].level == messages.OK)
    for target_m in (0.0425, 0.0, 0.0, 0.0425):
        for _ in range(2):
            rig.send(target_m, name="robotiq_85_finger_opening")
            rig.spin(0.4)
    np.testing.assert_allclose(done, [0.0, 0.7929, 0.0], atol=1e-9)
