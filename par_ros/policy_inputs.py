# SPDX-License-Identifier: Apache-2.0
"""What policy_node listens to, and what of it is missing in the graph."""

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_ros import messages
from par_ros.fitted_subscription import Candidate, FittedSubscription, camera_candidates
from par_ros.messages import Picture
from par_ros.picture_encodings import is_grey
from par_ros.topic_check import loneliness, topic_problem
from par_ros.topics import EXECUTED_ACTIONS, JOINT_STATES, camera_topics, sensor_qos

_GREY = (
    "the camera's pictures are grey, and a policy that was trained on colour may not see its task; "
    "check which camera topic is mapped, and the driver's encoding"
)


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
        views: tuple[str, ...],
        reliable: bool,
        transport: str,
        on_picture: Callable[[Picture, str, str], None],
        on_joint_state: Callable[[JointState], None],
        on_executed_actions: Callable[[JointTrajectoryMessage], None],
    ) -> None:
        """on_picture gets the picture, its publisher's name and its view. reliable: lockstep."""
        self._node = node
        self._on_picture = on_picture
        # Whether the newest picture of each view is grey.
        self._is_grey = dict.fromkeys(views, False)
        self._cameras = {
            view: FittedSubscription(
                node,
                camera_candidates(node, transport, topic.name),
                lambda message, publisher, view=view: self._take(message, publisher, view),
                sensor_qos(topic, reliable=reliable),
            )
            for view, (topic, _) in camera_topics(views).items()
        }
        joint_states = Candidate.of(node, JOINT_STATES.name, JointState)
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

    def _take(self, message: Picture, publisher: str, view: str) -> None:
        self._is_grey[view] = is_grey(messages.image_encoding(message))
        self._on_picture(message, publisher, view)

    def destroy(self) -> None:
        """Stop listening."""
        for fitted in (*self._cameras.values(), self._joint_states):
            fitted.destroy()
        self._node.destroy_subscription(self._executed_actions)

    def look(self) -> "InputState":
        """What the graph has to offer now; subscribes anew where that is better."""
        guard = topic_problem(
            self._executed_actions.topic_name,
            self._node.get_publishers_info_by_topic(EXECUTED_ACTIONS.name),
            EXECUTED_ACTIONS.type_name,
            self._executed_actions.qos_profile,
        )
        camera, joint_states = self._look_at_cameras(), self._joint_states.fit()
        lonely = loneliness(self._node) if camera and joint_states and guard else ""
        relaxed = [
            f"{fitted.candidate.topic_name} is published best effort, so a message that is lost is "
            "not sent again, and physics would wait for it"
            for fitted in (*self._cameras.values(), self._joint_states)
            if fitted.is_relaxed
        ]
        no_guard = guard and f"{guard}: the guard is missing"
        return InputState(
            camera,
            tuple(filter(None, (camera, joint_states, lonely))),
            tuple(filter(None, (no_guard, *relaxed, *self._grey_views()))),
        )

    def _grey_views(self) -> list[str]:
        """A warning for each view whose newest picture is grey; it names the view where there are
        several."""
        return [
            _GREY if len(self._is_grey) == 1 else f"view {view!r}: {_GREY}"
            for view, is_one in self._is_grey.items()
            if is_one
        ]

    def _look_at_cameras(self) -> str:
        """Why no picture of a view can come; empty where one of each can."""
        problems = {view: fitted.fit() for view, fitted in self._cameras.items()}
        if len(problems) == 1:
            return next(iter(problems.values()))
        return "; ".join(f"view {view!r}: {why}" for view, why in problems.items() if why)
