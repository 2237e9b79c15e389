# SPDX-License-Identifier: Apache-2.0
"""What policy_node listens to, and what of it is missing in the graph."""

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros.fitted_subscription import Candidate, FittedSubscription, camera_candidates
from par_ros.messages import Picture
from par_ros.topic_check import loneliness, topic_problem
from par_ros.topics import EXECUTED_ACTIONS, IMAGE, JOINT_STATES, sensor_qos


@dataclass(frozen=True)
class InputState:
    """What was found in the graph, a clause each.

    Attributes:
        camera: why no picture can come; empty where one can.
        missing: why there can be no chunk, the camera's reason first.
        warnings: what may go wrong otherwise.
    """

    camera: str = ""
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class PolicyInputs:
    """The subscriptions of one configured policy."""

    def __init__(
        self,
        node: Node,
        *,
        reliable: bool,
        transport: str,
        on_picture: Callable[[Picture, str], None],
        on_joint_state: Callable[[JointState], None],
        on_executed_actions: Callable[[JointTrajectoryMessage], None],
    ) -> None:
        """on_picture gets the picture and its publisher's name. reliable: lockstep."""
        self._node = node
        self.camera = FittedSubscription(
            node,
            camera_candidates(node, transport),
            on_picture,
            sensor_qos(IMAGE, reliable=reliable),
        )
        joint_states = Candidate(node.resolve_topic_name(JOINT_STATES.name), JointState)
        self._joint_states = FittedSubscription(
            node,
            (joint_states,),
            lambda message, _: on_joint_state(message),
            sensor_qos(JOINT_STATES, reliable=reliable),
        )
        self._executed_actions = node.create_subscription(
            JointTrajectoryMessage,
            EXECUTED_ACTIONS.name,
            on_executed_actions,
            EXECUTED_ACTIONS.reader_qos.profile(),
        )

    def destroy(self) -> None:
        """Stop listening."""
        for fitted in (self.camera, self._joint_states):
            fitted.destroy()
        self._node.destroy_subscription(self._executed_actions)

    def look(self) -> "InputState":
        """What the graph has to offer now; subscribes anew where that is better."""
        guard = topic_problem(
            self._executed_actions.topic_name,
            self._node.get_publishers_info_by_topic(self._executed_actions.topic_name),
            EXECUTED_ACTIONS.type_name,
            self._executed_actions.qos_profile,
        )
        camera, joint_states = self.camera.fit(), self._joint_states.fit()
        lonely = loneliness(self._node) if camera and joint_states and guard else ""
        relaxed = [
            f"{fitted.candidate.topic_name} is published best effort, so a message that is lost is "
            "not sent again, and physics would wait for it"
            for fitted in (self.camera, self._joint_states)
            if fitted.is_relaxed
        ]
        return InputState(
            camera,
            tuple(filter(None, (camera, joint_states, lonely))),
            tuple(filter(None, (guard and f"{guard}: the guard is missing", *relaxed))),
        )
