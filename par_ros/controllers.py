# SPDX-License-Identifier: Apache-2.0
"""What a ros2_control installation shows of itself: who listens and publishes on command topics,
whether the controllers are active, and the parameter that must not be wrong."""

import time
from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.supervision import CommandTopics, Supervision
from par_ros.topic_check import topic_problem
from par_ros.topics import (
    CONTROLLER_PARAMETERS_NAME,
    GRIPPER_TRAJECTORY,
    GUARD_STATE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    RECORDER,
)

_LIST_CONTROLLERS = "controller_manager/list_controllers"
# Humble calls it open_loop_control.
_INTERPOLATION = ("interpolate_from_desired_state", "open_loop_control")
# A controller manager that has not answered the third time is reported as missing.
_NUM_PATIENT_ASKS = 3


def command_topics(node: Node, ignored: Iterable[str]) -> CommandTopics:
    """Who is there, named as on /diagnostics; nodes called `ignored` and the recorder only listen.

    The topics have the names that the node's remappings give them.
    """
    only_listen = (*ignored, RECORDER)
    # Asked for by their names in the code: rclpy would remap the name in the graph again.
    commands = {
        node.resolve_topic_name(one.name): one.name
        for one in (JOINT_TRAJECTORY, GRIPPER_TRAJECTORY)
    }
    published = commands | {node.resolve_topic_name(GUARD_STATE.name): GUARD_STATE.name}
    return CommandTopics(
        listeners={
            name: len(_names(node.get_subscriptions_info_by_topic(asked), only_listen))
            for name, asked in commands.items()
        },
        publishers={
            name: _names(node.get_publishers_info_by_topic(asked), only_listen)
            for name, asked in published.items()
        },
        joint_states=topic_problem(
            node.resolve_topic_name(JOINT_STATES.name),
            node.get_publishers_info_by_topic(JOINT_STATES.name),
            JOINT_STATES.type_name,
            JOINT_STATES.reader_qos.profile(),
        ),
    )


def _names(ends: list[TopicEndpointInfo], only_listen: tuple[str, ...]) -> tuple[str, ...]:
    names = (f"{end.node_namespace}/{end.node_name}".lstrip("/") for end in ends)
    return tuple(name for name in names if name.rsplit("/", 1)[-1] not in only_listen)


class ControllerQueries:
    """Asks controller manager and arm controller, where they are, and tells a supervision."""

    def __init__(self, node: Node, spec: ArmSpec, supervision: Supervision) -> None:
        self._node = node
        self._spec = spec
        self._supervision = supervision
        self._list_controllers = self._make_controller_client()
        self._interpolation = node.create_client(GetParameters, CONTROLLER_PARAMETERS_NAME)
        self._interpolation_is_known = False
        self._asked: Any = None
        self._num_asks = 0

    def destroy(self) -> None:
        """Ask no more."""
        self._node.destroy_client(self._interpolation)
        if self._list_controllers is not None:
            self._node.destroy_client(self._list_controllers)

    def ask(self) -> None:
        """Ask both; what they answer comes while the node spins."""
        self._ask_for_interpolation()
        client = self._list_controllers
        if client is None:
            return
        self._num_asks += 1
        if self._num_asks == _NUM_PATIENT_ASKS and not self._supervision.controllers_known:
            self._node.get_logger().warning(
                f"{self._node.resolve_service_name(_LIST_CONTROLLERS)} does not answer: whether "
                "the controllers are active is not known; start the controller manager, or remap "
                f"{_LIST_CONTROLLERS} to its name"
            )
        if self._asked is not None and not self._asked.done():
            client.remove_pending_request(self._asked)
        self._asked = None
        if client.service_is_ready():
            self._asked = client.call_async(self._controllers_request)
            self._asked.add_done_callback(self._on_controllers)

    def _make_controller_client(self) -> Any:
        """A client of controller_manager, or None where its messages are not installed."""
        try:
            from controller_manager_msgs.srv import ListControllers
        except ImportError:
            self._node.get_logger().warning(
                "controller_manager_msgs is not installed: whether the controllers are active is "
                "not known, only whether their topics have subscribers"
            )
            return None
        self._controllers_request = ListControllers.Request()
        return self._node.create_client(ListControllers, _LIST_CONTROLLERS)

    def _ask_for_interpolation(self) -> None:
        """Until the arm's controller has answered."""
        if self._interpolation_is_known or not self._interpolation.service_is_ready():
            return
        request = GetParameters.Request(names=list(_INTERPOLATION))
        self._interpolation.call_async(request).add_done_callback(self._on_interpolation)

    def _on_interpolation(self, future: Any) -> None:
        values = future.result().values
        told = [value.bool_value for value in values if value.type == ParameterType.PARAMETER_BOOL]
        if told:
            self._interpolation_is_known = True
            self._supervision.on_interpolation(any(told))

    def _on_controllers(self, future: Any) -> None:
        states = {controller.name: controller.state for controller in future.result().controller}
        wanted = (self._spec.arm_controller, self._spec.gripper_controller)
        self._supervision.on_controllers(
            {name: states.get(name, "missing") for name in wanted}, time.monotonic()
        )
