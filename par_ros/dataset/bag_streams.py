# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 of ordinary topics as Streams, by a mapping file.

A message's time is its header's stamp; without one, or with stamp 0, the time at which it was
written into the bag.
"""

from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from par_ros import messages
from par_ros.control.joint_states import (
    JointReading,
    JointSample,
    JointStateSelector,
    MissingJoints,
)
from par_ros.dataset.bag_mapping import NEXT_JOINT_STATE, ActionTopic, BagMapping
from par_ros.dataset.moments import MomentFinder
from par_ros.dataset.recorded_files import Bag, decoded
from par_ros.dataset.resampling import FloatArray, HeldTargets, series
from par_ros.dataset.streams import Span, Streams, spans_of
from par_ros.recorded_messages import header_stamp_ns
from par_ros.recording import RecordedMessage
from par_ros.wire_records import EpisodeMark


class BagStreams:
    """One rosbag2. Raises ValueError for topics that it lacks.

    Attributes:
        picture_topics: which view a topic's pictures are of.
    """

    def __init__(self, bag: Bag, mapping: BagMapping) -> None:
        self.recording = bag
        self._mapping = mapping
        self.picture_topics = dict(zip(mapping.images, mapping.views.names, strict=True))
        actions = [action.topic for action in mapping.actions]
        for topic in (*mapping.images, mapping.joint_states, *actions):
            if topic not in bag.types:
                view = self.picture_topics.get(topic) if len(mapping.images) > 1 else None
                of_view = f" (view {view!r})" if view else ""
                raise ValueError(
                    f"{bag.path} has no topic {topic}{of_view}; it has "
                    f"{', '.join(sorted(bag.types))}. Correct the mapping file."
                )
        self._scale = np.array([joint.scale for joint in mapping.joints])
        self._offset = np.array([joint.offset for joint in mapping.joints])
        self._moments = MomentFinder(
            mapping.views.names, self.picture_topics, mapping.max_view_skew_s
        )
        self._joints: tuple[list[int], list[FloatArray]] = [], []
        self._commands: tuple[list[int], list[FloatArray]] = [], []
        self._marks: list[EpisodeMark] = []
        self._missing = ""

    def streams(self) -> Streams:
        """Raises ValueError, with the bag's name, for what is not there or cannot be used."""
        try:
            self._read_all()
            joints = self._joint_series()
            last_ns = int(joints.times_ns[-1])
            spans = spans_of(self._marks, last_ns) if self._mapping.marks else ()
            whole = Span(int(joints.times_ns[0]), last_ns, success=False, is_marked=False)
            return Streams(
                name=self.recording.path.name,
                moments=self._moments.moments(),
                unmatched=self._moments.unmatched(),
                joints=joints,
                executed=HeldTargets(*self._commands, "commands")
                if self._mapping.actions
                else None,
                asked=None,
                corrections=None,
                spans=spans if self._mapping.marks else (whole,),
            )
        except ValueError as error:
            raise ValueError(f"{self.recording.path}: {error}.") from error

    def _joint_series(self) -> Any:
        if not self._joints[0] and self._missing:
            raise ValueError(self._missing)
        return series(*self._joints, "joint states")

    def _read_all(self) -> None:
        mapping = self._mapping
        selector = JointStateSelector(tuple(joint.state for joint in mapping.joints))
        actions = {action.topic: action for action in mapping.actions}
        topics = {*mapping.images, mapping.joint_states, *actions}
        if mapping.marks:
            topics.add(mapping.marks)
        for message in self.recording.messages(topics):
            if message.topic in self.picture_topics:
                stamp_ns = header_stamp_ns(message.data) or message.time_ns
                self._moments.add(message.topic, stamp_ns)
            if message.topic == mapping.marks:
                values = messages.read_status(decoded(message, DiagnosticStatus)).values
                self._marks.append(EpisodeMark.from_values(values))
            if message.topic == mapping.joint_states:
                self._take_joints(message, selector)
            if message.topic in actions:
                self._take_command(message, actions[message.topic])

    def _take_joints(self, message: RecordedMessage, selector: JointStateSelector) -> None:
        reading = messages.read_joint_state(decoded(message, JointState))
        stamp_ns = reading.stamp_ns or message.time_ns
        sample = selector.take(
            JointReading(stamp_ns, reading.names, reading.positions, reading.velocities)
        )
        if isinstance(sample, MissingJoints):
            self._missing = sample.reason
        if isinstance(sample, JointSample):
            self._joints[0].append(sample.stamp_ns)
            self._joints[1].append(sample.positions * self._scale + self._offset)

    def _take_command(self, message: RecordedMessage, action: ActionTopic) -> None:
        time_ns, named = _command(message, action)
        columns = [named.get(joint.action, np.nan) for joint in self._mapping.joints]
        values = np.array(columns) * self._scale + self._offset
        if np.isnan(values).all():
            return
        self._commands[0].append(time_ns)
        self._commands[1].append(values)


def _command(message: RecordedMessage, action: ActionTopic) -> tuple[int, dict[str, float]]:
    """When it was commanded, and the targets by their names. Raises ValueError, as the caller."""
    found = decoded(message, JointState, JointTrajectory, Float64MultiArray)
    if isinstance(found, Float64MultiArray):
        time_ns, names, positions = message.time_ns, action.joints, found.data
    elif isinstance(found, JointState):
        time_ns, names, positions = messages.stamp_ns(found), found.name, found.position
    else:
        if len(found.points) != 1:
            raise ValueError(
                f"a message of {action.topic} has {len(found.points)} points, and only commands of "
                f"one point are read; give action: {NEXT_JOINT_STATE}"
            )
        time_ns, names = messages.stamp_ns(found), found.joint_names
        positions = found.points[0].positions
    if len(names) != len(positions):
        raise ValueError(
            f"a message of {action.topic} has {len(positions)} numbers for {len(names)} joints; "
            "name its joints in the mapping file's action"
        )
    values = np.array(positions, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"a command of {action.topic} is not finite (NaN or Inf)")
    return time_ns or message.time_ns, dict(zip(names, values.tolist(), strict=True))
