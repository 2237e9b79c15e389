# SPDX-License-Identifier: Apache-2.0
"""A recording of ours (record:=true) as Streams: what the guard let pass, and who asked for it."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from par_ros import messages
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.settings import validate
from par_ros.control.teleoperation import DEADMAN_TIMEOUT_NS
from par_ros.dataset.recorded_files import OwnRecording, decoded
from par_ros.dataset.resampling import (
    FloatArray,
    Intervals,
    PlannedTargets,
    Series,
    series,
)
from par_ros.dataset.streams import Corrections, Span, Streams, spans_of
from par_ros.fitted_subscription import COMPRESSED
from par_ros.guarded_arm import read_guarded_arm
from par_ros.parameters import SafetyNodeParameters
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import header_stamp_ns
from par_ros.recording import RecordedMessage
from par_ros.topics import (
    ACTION_CHUNK,
    EPISODE_MARKS,
    EPISODE_STATE,
    EXECUTED_ACTIONS,
    GUARD_INPUTS,
    IMAGE,
    JOINT_STATES,
    OBSERVED,
    TELEOP_CHUNK,
    Topic,
)
from par_ros.wire_records import EpisodeMark, EpisodeState, GuardInput, Observed

_READ = (
    ACTION_CHUNK, EPISODE_MARKS, EPISODE_STATE, EXECUTED_ACTIONS, GUARD_INPUTS, IMAGE, JOINT_STATES,
    OBSERVED, TELEOP_CHUNK,
)  # fmt: skip
_FURTHER_VIEW = re.compile(r"camera/[^/]+/image_raw")


@dataclass
class _Read:
    """What has been read so far."""

    pictures_ns: list[int] = field(default_factory=list)
    joint_times_ns: list[int] = field(default_factory=list)
    joints: list[FloatArray] = field(default_factory=list)
    executed: list[tuple[int, JointTrajectory]] = field(default_factory=list)
    chunks: dict[int, FloatArray] = field(default_factory=dict)
    teleop_chunks: dict[int, FloatArray] = field(default_factory=dict)
    switch: list[tuple[int, bool]] = field(default_factory=list)
    marks: list[EpisodeMark] = field(default_factory=list)
    # The newest of each start.
    simulated: dict[int, EpisodeState] = field(default_factory=dict)
    instructions: list[str] = field(default_factory=list)


class OwnStreams:
    """One recording of ours. Raises ValueError for a dry run, and for what is missing or damaged.

    Attributes:
        instruction: the last one that the policy was given; empty without a policy.
    """

    def __init__(self, recording: OwnRecording) -> None:
        self.recording = recording
        self._graph = RecordedGraph.from_json(recording.settings, [topic.name for topic in _READ])
        names = {field.name for field in dataclasses.fields(SafetyNodeParameters)}
        own = {name: value for name, value in self._graph.guard.items() if name in names}
        parameters = SafetyNodeParameters(**own)
        validate(parameters, "the recorded guard")
        if parameters.dry_run:
            raise ValueError(
                f"{recording.path} was recorded in a dry run, in which the arm follows nothing; "
                "record with dry_run:=false."
            )
        if parameters.inference == "overlapped":
            raise ValueError(
                f"{recording.path} was recorded with inference:=overlapped, whose chunks are not "
                "converted yet; record with inference:=sequential."
            )
        further = [name for name in self._graph.topics if _FURTHER_VIEW.fullmatch(name)]
        if further:
            raise ValueError(
                f"{recording.path} has further cameras ({', '.join(further)}), which are not "
                "converted yet; record with a policy of one camera."
            )
        self._spec = read_guarded_arm(parameters)
        self._prefix = parameters.joint_prefix
        self._step_ns = messages.seconds_to_ns(parameters.step_s)
        self.arm = self._spec.name
        self.joint_names = self._spec.joint_names
        self.rate_hz = round(1.0 / parameters.step_s)
        self.num_actions = parameters.num_actions
        name = self._graph.topics[IMAGE.name]
        self.picture_topics = (name, name + COMPRESSED)
        self._topics = {self._graph.topics[topic.name]: topic for topic in _READ}
        self._read = self._read_all()
        given = self._read.instructions
        self.instruction = given[-1] if given else str(self._graph.policy.get("instruction", ""))

    def _read_all(self) -> _Read:
        read = _Read()
        selector = JointStateSelector(self.joint_names, self._prefix)
        for message in self.recording.messages({*self._topics, *self.picture_topics}):
            if message.topic in self.picture_topics:
                read.pictures_ns.append(header_stamp_ns(message.data))
                continue
            topic = self._topics[message.topic]
            if topic is JOINT_STATES:
                self._take_joints(message, selector, read)
            elif topic in (ACTION_CHUNK, TELEOP_CHUNK, EXECUTED_ACTIONS):
                self._take_trajectory(message, topic, read)
            else:
                _take_status(message, topic, read)
        return read

    def _take_joints(
        self, message: RecordedMessage, selector: JointStateSelector, read: _Read
    ) -> None:
        found = messages.read_joint_state(decoded(message, JOINT_STATES.message_type))
        try:
            sample = selector.take(found)
        except ValueError:
            # As the guard: what cannot be used is no sample. Its gap is judged.
            return
        if isinstance(sample, JointSample):
            read.joint_times_ns.append(sample.stamp_ns)
            read.joints.append(sample.positions)

    def _take_trajectory(self, message: RecordedMessage, topic: Topic, read: _Read) -> None:
        found = decoded(message, topic.message_type)
        try:
            trajectory = messages.read_joint_trajectory(found).reordered(self.joint_names)
        except ValueError:
            # The guard refused it.
            return
        stamp_ns = messages.stamp_ns(found)
        if topic is EXECUTED_ACTIONS:
            read.executed.append((stamp_ns, trajectory))
        elif np.isfinite(trajectory.positions).all():
            chunks = read.chunks if topic is ACTION_CHUNK else read.teleop_chunks
            chunks[stamp_ns] = trajectory.positions

    def streams(self) -> Streams:
        """Raises ValueError, with the recording's name, for what is not there."""
        read = self._read
        try:
            joints = series(read.joint_times_ns, read.joints, "joint states")
            pictures_ns = np.array(read.pictures_ns, np.int64)
            executed = [self._plan(*one) for one in read.executed]
            wanted = self._asked(read.chunks)
            labels = self._asked(read.teleop_chunks)
            # An operator without a policy gives a demonstration.
            is_corrected = bool(labels and wanted)
            asked = [] if is_corrected else labels or wanted
            return Streams(
                name=self.recording.path.name,
                pictures_ns=pictures_ns,
                joints=joints,
                executed=PlannedTargets(executed, self._step_ns, "executed actions"),
                asked=self._targets(asked) if asked else None,
                corrections=self._corrections(labels, wanted) if is_corrected else None,
                spans=self._spans(int(joints.times_ns[-1])),
            )
        except ValueError as error:
            raise ValueError(f"{self.recording.path}: {error}.") from error

    def _plan(self, stamp_ns: int, trajectory: JointTrajectory) -> Series:
        times_ns = stamp_ns + np.round(trajectory.times_s * messages.NANOSECONDS).astype(np.int64)
        return Series(times_ns, trajectory.positions)

    def _asked(self, chunks: Mapping[int, FloatArray]) -> list[Series]:
        """The chunks to which the guard gave a time, as they were asked for."""
        plans = []
        for stamp_ns, trajectory in self._read.executed:
            if stamp_ns in chunks and len(chunks[stamp_ns]) <= len(trajectory.times_s):
                positions = chunks[stamp_ns]
                times_ns = self._plan(stamp_ns, trajectory).times_ns[: len(positions)]
                plans.append(Series(times_ns, positions))
        return plans

    def _targets(self, plans: list[Series]) -> PlannedTargets:
        return PlannedTargets(plans, self._step_ns, "chunks")

    def _corrections(self, labels: list[Series], wanted: list[Series]) -> Corrections:
        begins = np.array([plan.times_ns[0] - self._step_ns for plan in labels])
        planned = Intervals(begins, np.array([plan.times_ns[-1] for plan in labels]))
        return Corrections(
            labels=self._targets(labels),
            labelled=planned.within(_held(self._read.switch)),
            wanted=self._targets(wanted),
        )

    def _spans(self, last_ns: int) -> tuple[Span, ...]:
        """As marked; without marks the simulator's episodes, or the whole recording as one."""
        if self._read.marks:
            return spans_of(self._read.marks, last_ns)
        if self._read.simulated:
            return tuple(
                Span(begin_ns, begin_ns + state.step * self._step_ns, state.success_once)
                for begin_ns, state in sorted(self._read.simulated.items())
                if state.step
            )
        return (Span(self._read.joint_times_ns[0], last_ns, success=False, is_marked=False),)


def _take_status(message: RecordedMessage, topic: Topic, read: _Read) -> None:
    values = messages.read_status(decoded(message, topic.message_type)).values
    if topic is EPISODE_MARKS:
        read.marks.append(EpisodeMark.from_values(values))
    elif topic is EPISODE_STATE:
        state = EpisodeState.from_values(values)
        read.simulated[state.start_ns] = state
    elif topic is OBSERVED:
        read.instructions.append(Observed.from_values(values).instruction)
    elif topic is GUARD_INPUTS and values.get("kind") == "deadman":
        given = GuardInput.from_values(values)
        read.switch.append((given.moment.ros_ns, bool(given.held)))


def _held(switch: list[tuple[int, bool]]) -> Intervals:
    """While the operator held the switch: from a true message until a false one or its timeout."""
    begins, ends = [], []
    for index, (time_ns, held) in enumerate(switch):
        if held:
            next_ns = switch[index + 1][0] if index + 1 < len(switch) else time_ns
            begins.append(time_ns)
            ends.append(min(max(next_ns, time_ns), time_ns + DEADMAN_TIMEOUT_NS))
    return Intervals(np.array(begins, np.int64), np.array(ends, np.int64))
