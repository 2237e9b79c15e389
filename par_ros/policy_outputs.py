# SPDX-License-Identifier: Apache-2.0
"""What policy_node publishes: chunks, what they were computed from, drawn pictures, its status."""

import numpy as np
from rclpy.lifecycle import LifecycleNode
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.interface import ActionChunk, FloatArray, ImageArray, PolicySpec
from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.policy_turn import PendingPicture, Question
from par_ros.drawn_pictures import ATTENTION, PREDICTION, PictureKind
from par_ros.messages import Picture
from par_ros.parameters import PolicyNodeParameters
from par_ros.topics import ACTION_CHUNK, ATTENTION_IMAGE, DIAGNOSTICS, OBSERVED, PREDICTED_IMAGE
from par_ros.wire_records import Observed


class PolicyOutputs:
    """The publishers of one configured policy; those of its answers are silent while inactive."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        # Two arms' policies share /diagnostics.
        self.name = messages.status_name(node)
        self._chunks = node.create_lifecycle_publisher(
            JointTrajectoryMessage, ACTION_CHUNK.name, ACTION_CHUNK.writer_qos.profile()
        )
        self._drawn = {
            kind: node.create_lifecycle_publisher(
                topic.message_type, topic.name, topic.writer_qos.profile()
            )
            for kind, topic in ((PREDICTION, PREDICTED_IMAGE), (ATTENTION, ATTENTION_IMAGE))
        }
        self._observed, self._diagnostics = (
            node.create_publisher(topic.message_type, topic.name, topic.writer_qos.profile())
            for topic in (OBSERVED, DIAGNOSTICS)
        )

    def destroy(self) -> None:
        """Stop publishing."""
        for publisher in (self._chunks, *self._drawn.values()):
            self._node.destroy_lifecycle_publisher(publisher)
        for publisher in (self._observed, self._diagnostics):
            self._node.destroy_publisher(publisher)

    def publish_chunk(
        self,
        chunk: ActionChunk,
        question: Question[Picture],
        parameters: PolicyNodeParameters,
        num_steps: int | None,
        followed: FloatArray | None,
    ) -> None:
        """Send the chunk with the stamp of its picture, and what it was computed from; followed:
        what it was joined to."""
        times_s = chunk.step_s * np.arange(1, len(chunk.joint_positions) + 1)
        trajectory = JointTrajectory(chunk.joint_names, times_s, chunk.joint_positions)
        stamp_ns = question.pending.stamp_ns
        self._chunks.publish(messages.joint_trajectory_message(trajectory, stamp_ns))
        self._publish_observed(question, parameters, num_steps, followed)

    def _publish_observed(
        self,
        question: Question[Picture],
        parameters: PolicyNodeParameters,
        num_steps: int | None,
        followed: FloatArray | None,
    ) -> None:
        """For replay."""
        shown = question.assembled
        observed = Observed(
            stamp_ns=shown.stamp_ns,
            joint_stamp_ns=shown.joint_stamp_ns,
            executed_stamp_ns=question.previous_stamp_ns,
            recent_stamps_ns=shown.recent_stamps_ns,
            reset=shown.executed_actions is None,
            instruction=parameters.instruction,
            policy_seed=parameters.policy_seed,
            executed=None if question.committed is None else shown.executed_actions,
            committed=question.committed,
            view_stamps_ns=question.pending.stamps_ns[1:],
            num_steps=num_steps,
            seam_followed=followed,
            seam_smoothness=parameters.seam_smoothness,
        )
        status = messages.Status(self.name, messages.OK, "observed", observed.to_values())
        self._observed.publish(messages.status_message(status))

    def publish_drawn(
        self,
        picture: ImageArray,
        kind: PictureKind,
        pending: PendingPicture[Picture],
        spec: PolicySpec,
    ) -> None:
        """Of the pictures, uint8 [V H, W, 3], the first view's. A prediction is stamped with the
        end of the chunk's last action, which it shows."""
        stamp_ns = pending.stamp_ns
        if kind == PREDICTION:
            stamp_ns += messages.seconds_to_ns(spec.num_actions * spec.step_s)
        frame_id = pending.pictures[0].header.frame_id
        picture = picture[: spec.image_height]
        self._drawn[kind].publish(messages.array_to_image(picture, "rgb8", stamp_ns, frame_id))

    def publish_status(self, status: messages.Status) -> None:
        """The node's entry in /diagnostics."""
        now_ns = self._node.get_clock().now().nanoseconds
        self._diagnostics.publish(messages.diagnostics_message((status,), now_ns))
