# SPDX-License-Identifier: Apache-2.0
"""What the ManiSkill bridge publishes: clock, sensors, camera, and how far the episode is."""

import time
from collections.abc import Mapping

import numpy as np
from rclpy.node import Node

from par_model.interface import FloatArray
from par_model.simulation.further_cameras import DrawnPicture
from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.simulated_episode import Episode, Reading
from par_ros.topics import (
    APPLIED_TARGETS,
    CLOCK,
    CONTROLLER_REFERENCE,
    DIAGNOSTICS,
    EPISODE_STATE,
    JOINT_STATES,
    camera_topics,
)
from par_ros.wire_records import EpisodeState, rate_text


class BridgeOutputs:
    """The publishers of one bridge."""

    def __init__(
        self, node: Node, camera_frame_id: str, step_s: float, views: tuple[str, ...]
    ) -> None:
        self._node = node
        self._name = messages.status_name(node)
        self._frame_ids = {view: f"{view}_camera_optical_frame" for view in views}
        self._frame_ids[views[0]] = camera_frame_id
        self._cameras = camera_topics(views)
        self._step_s = step_s
        topics = (
            *(topic for pair in self._cameras.values() for topic in pair),
            JOINT_STATES,
            CLOCK,
            EPISODE_STATE,
            APPLIED_TARGETS,
            CONTROLLER_REFERENCE,
            DIAGNOSTICS,
        )
        self._publishers = {
            topic.name: node.create_publisher(
                topic.message_type, topic.name, topic.writer_qos.profile()
            )
            for topic in topics
        }

    def publish_clock(self, time_ns: int) -> None:
        """Simulation time."""
        self._publishers[CLOCK.name].publish(messages.clock_message(time_ns))

    def publish_reading(self, reading: Reading, joint_names: tuple[str, ...]) -> None:
        """Clock first, for whoever reads the rest. J joints, gripper last."""
        self.publish_clock(reading.time_ns)
        self._publishers[JOINT_STATES.name].publish(
            messages.joint_state_message(
                joint_names, reading.positions, reading.velocities, reading.time_ns
            )
        )
        self._publishers[CONTROLLER_REFERENCE.name].publish(
            messages.reference_message(joint_names[:-1], reading.command, reading.time_ns)
        )

    def publish_pictures(
        self,
        pictures: Mapping[str, DrawnPicture],
        camera_matrices: dict[str, FloatArray],
        episode: Episode,
        time_ns: int,
    ) -> None:
        """Of each view RGB, uint8 [H, W, 3], or depth, uint16 [H, W] in mm, and its matrix [3, 3];
        notes in the episode when they were sent."""
        for view, image in pictures.items():
            (image_topic, info_topic), frame_id = self._cameras[view], self._frame_ids[view]
            height, width = image.shape[:2]
            self._publishers[info_topic.name].publish(
                messages.camera_info(camera_matrices[view], height, width, time_ns, frame_id)
            )
            encoding = "rgb8" if image.ndim == 3 else "16UC1"
            message = messages.array_to_image(image, encoding, time_ns, frame_id)
            # A repeated picture was published when it was first published.
            episode.published_s.setdefault(time_ns, time.monotonic())
            self._publishers[image_topic.name].publish(message)

    def publish_state(self, episode: Episode) -> None:
        """How far the episode is."""
        state = EpisodeState(
            task=episode.task.name,
            seed=episode.seed,
            start_ns=episode.start_ns,
            step=episode.step,
            success=episode.success,
            success_once=episode.success_once,
            finished=episode.finished,
            camera_to_trajectory_ms=tuple(1e3 * time_s for time_s in episode.answer_times_s),
            step_rate_hz=episode.step_rate_hz,
            idle_steps=episode.idle_steps,
        )
        text = "finished" if episode.finished else "running"
        status = messages.Status(self._name, messages.OK, text, state.to_values())
        self._publishers[EPISODE_STATE.name].publish(messages.status_message(status))

    def publish_applied_targets(self, episode: Episode, joint_names: tuple[str, ...]) -> None:
        """What each step that counts was driven to, at its time after the reset."""
        positions = np.array(episode.applied_targets)
        times_s = self._step_s * (episode.idle_steps + np.arange(1, len(positions) + 1))
        trajectory = JointTrajectory(joint_names, times_s, positions)
        self._publishers[APPLIED_TARGETS.name].publish(
            messages.joint_trajectory_message(trajectory, episode.start_ns)
        )

    def publish_diagnostics(self, episode: Episode | None, late_steps: int) -> None:
        """How fast the simulation is, and how often too slow."""
        rate = rate_text(None if episode is None else episode.step_rate_hz)
        status = messages.Status(
            self._name,
            messages.WARN if late_steps else messages.OK,
            f"{late_steps} control steps came late" if late_steps else "simulating",
            {"step_rate_hz": rate, "late_steps": str(late_steps)},
        )
        now_ns = self._node.get_clock().now().nanoseconds
        self._publishers[DIAGNOSTICS.name].publish(messages.diagnostics_message((status,), now_ns))
