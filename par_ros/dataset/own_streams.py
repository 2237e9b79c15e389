# SPDX-License-Identifier: Apache-2.0
"""A recording of ours (record:=true) as Streams: what the guard let pass, and who asked for it."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from par_model.interface import DEFAULT_VIEWS
from par_ros import messages
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.settings import validate
from par_ros.control.teleoperation import DEADMAN_TIMEOUT_NS
from par_ros.dataset.moments import MomentFinder
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
from par_ros.parameters import PolicyNodeParameters, SafetyNodeParameters
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import header_stamp_ns
from par_ros.recorded_views import RecordedViews
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
    camera_topics,
    further_view,
)
from par_ros.wire_records import EpisodeMark, EpisodeState, GuardInput, Observed

_READ = (
    ACTION_CHUNK, EPISODE_MARKS, EPISODE_STATE, EXECUTED_ACTIONS, GUARD_INPUTS, IMAGE, JOINT_STATES,
    OBSERVED, TELEOP_CHUNK,
)  # fmt: skip


_Parameters = TypeVar("_Parameters", SafetyNodeParameters, PolicyNodeParameters)


@dataclass
class _Read:
    """What has been read so far."""

    joint_times_ns: list[int] = field(default_factory=list)
    joints: list[FloatArray] = field(default_factory=list)
    executed: list[tuple[int, JointTrajectory]] = field(default_factory=list)
    chunks: dict[int, FloatArray] = field(default_factory=dict)
    teleop_chunks: dict[int, FloatArray] = field(default_factory=dict)
    # When a chunk reached the guard, by its stamp, in this order.
    arrivals_ns: dict[int, int] = field(default_factory=dict)
    switch: list[tuple[int, bool]] = field(default_factory=list)
    marks: list[EpisodeMark] = field(default_factory=list)
    # The newest of each start.
    simulated: dict[int, EpisodeState] = field(default_factory=dict)
    # Of each start: the steps done, and the newest joint state then.
    steps_done: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    instructions: list[str] = field(default_factory=list)


class OwnStreams:
    """One recording of ours. Raises ValueError for a dry run, and for what is missing or damaged.

    Attributes:
        instruction: the last one that the policy was given; empty without a policy.
        picture_topics: which view a topic's pictures are of.
    """

    def __init__(self, recording: OwnRecording) -> None:
        self.recording = recording
        self._graph = RecordedGraph.from_json(recording.settings, [topic.name for topic in _READ])
        parameters = _parameters(SafetyNodeParameters, self._graph.guard, "the recorded guard")
        if parameters.dry_run:
            raise ValueError(
                f"{recording.path} was recorded in a dry run, in which the arm follows nothing; "
                "record with dry_run:=false."
            )
        self._lockstep = parameters.mode == "lockstep"
        self._overlapped = parameters.inference == "overlapped"
        self._spec = read_guarded_arm(parameters)
        self._prefix = parameters.joint_prefix
        self._step_ns = messages.seconds_to_ns(parameters.step_s)
        self.arm = self._spec.name
        self.joint_names = self._spec.joint_names
        self.rate_hz = round(1.0 / parameters.step_s)
        self.num_actions = parameters.num_actions
        self.views = self._graph.views or _older_views(self._graph.topics)
        self.picture_topics = self._picture_topics()
        self._moments = MomentFinder(self.views.names, self.picture_topics, self._max_skew_s())
        self._topics = {self._graph.topics[topic.name]: topic for topic in _READ}
        self._read = self._read_all()
        given = self._read.instructions
        self.instruction = given[-1] if given else str(self._graph.policy.get("instruction", ""))

    def _picture_topics(self) -> dict[str, str]:
        found = {}
        for view, (image, _) in camera_topics(self.views.names).items():
            name = self._graph.topics.get(image.name)
            if not isinstance(name, str):
                raise ValueError(
                    f"{self.recording.path} lacks the topic of view {view!r}; record again."
                )
            found |= {name: view, name + COMPRESSED: view}
        return found

    def _max_skew_s(self) -> float:
        """Between two views, as policy_node took it."""
        policy = _parameters(PolicyNodeParameters, self._graph.policy, "the recorded policy")
        return 0.0 if policy.mode == "lockstep" else policy.max_view_skew_s

    def _read_all(self) -> _Read:
        read = _Read()
        selector = JointStateSelector(self.joint_names, self._prefix)
        for message in self.recording.messages({*self._topics, *self.picture_topics}):
            if message.topic in self.picture_topics:
                self._moments.add(message.topic, header_stamp_ns(message.data))
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
            executed = [self._plan(*one) for one in read.executed]
            if self._overlapped:
                executed = executed[:1] + [self._news(*one) for one in read.executed[1:]]
            wanted = self._asked(read.chunks)
            labels = self._asked(read.teleop_chunks)
            # An operator without a policy gives a demonstration.
            is_corrected = bool(labels and wanted)
            asked = [] if is_corrected else labels or wanted
            return Streams(
                name=self.recording.path.name,
                moments=self._moments.moments(),
                unmatched=self._moments.unmatched(),
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

    def _news(self, stamp_ns: int, trajectory: JointTrajectory) -> Series:
        """What a report says that none before it could. With overlapped inference it begins at the
        chunk's picture: until the chunk had reached the guard, earlier reports were followed."""
        plan = self._plan(stamp_ns, trajectory)
        is_news = plan.times_ns > self._read.arrivals_ns.get(stamp_ns, 0)
        return Series(plan.times_ns[is_news], plan.values[is_news]) if is_news.any() else plan

    def _asked(self, chunks: Mapping[int, FloatArray]) -> list[Series]:
        """The chunks to which the guard gave a time, as they were asked for."""
        if self._overlapped:
            return list(self._asked_early(chunks))
        plans = []
        for stamp_ns, trajectory in self._read.executed:
            if stamp_ns in chunks and len(chunks[stamp_ns]) <= len(trajectory.times_s):
                positions = chunks[stamp_ns]
                times_ns = self._plan(stamp_ns, trajectory).times_ns[: len(positions)]
                plans.append(Series(times_ns, positions))
        return plans

    def _asked_early(self, chunks: Mapping[int, FloatArray]) -> Iterator[Series]:
        """The same with overlapped inference: action k is due k steps after the chunk's stamp, and
        counts where it was due after the chunk had reached the guard. Reports of stops have the
        stamp of a chunk, too, so theirs are not the times of its actions."""
        told = {stamp_ns for stamp_ns, _ in self._read.executed}
        for stamp_ns, arrived_ns in self._read.arrivals_ns.items():
            if stamp_ns in told and stamp_ns in chunks:
                positions = chunks[stamp_ns]
                due_ns = stamp_ns + self._step_ns * np.arange(1, len(positions) + 1)
                is_ahead = due_ns > arrived_ns
                if is_ahead.any():
                    yield Series(due_ns[is_ahead], positions[is_ahead])

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
                for start_ns, state in sorted(self._read.simulated.items())
                for begin_ns in (start_ns + self._idle_ns(start_ns, state),)
                if state.step
            )
        return (Span(self._read.joint_times_ns[0], last_ns, success=False, is_marked=False),)

    def _idle_ns(self, start_ns: int, state: EpisodeState) -> int:
        """How long a simulator's arm stood before its first step that counts: in real time until
        the first trajectory, in lockstep not at all. An older recording does not say; topics
        overtake each other, so the median then; a simulator makes whole steps."""
        if state.idle_steps is not None:
            return state.idle_steps * self._step_ns
        idle_steps = [
            (joints_ns - start_ns) / self._step_ns - step
            for step, joints_ns in self._read.steps_done.get(start_ns, ())
        ]
        if self._lockstep or not idle_steps:
            return 0
        return max(0, round(float(np.median(idle_steps)))) * self._step_ns


def _take_status(message: RecordedMessage, topic: Topic, read: _Read) -> None:
    values = messages.read_status(decoded(message, topic.message_type)).values
    if topic is EPISODE_MARKS:
        read.marks.append(EpisodeMark.from_values(values))
    elif topic is EPISODE_STATE:
        state = EpisodeState.from_values(values)
        read.simulated[state.start_ns] = state
        if state.step and read.joint_times_ns:
            done = read.steps_done.setdefault(state.start_ns, [])
            done.append((state.step, read.joint_times_ns[-1]))
    elif topic is OBSERVED:
        read.instructions.append(Observed.from_values(values).instruction)
    elif topic is GUARD_INPUTS and values.get("kind") == "deadman":
        given = GuardInput.from_values(values)
        read.switch.append((given.moment.ros_ns, bool(given.held)))
    elif topic is GUARD_INPUTS and values.get("kind") in ("chunk", "teleop_chunk"):
        given = GuardInput.from_values(values)
        if given.chunk_stamp_ns is not None:
            read.arrivals_ns.setdefault(given.chunk_stamp_ns, given.moment.ros_ns)


def _parameters(kind: type[_Parameters], values: Mapping[str, Any], owner: str) -> _Parameters:
    """Those of a recorded node. Raises ValueError for values that it cannot have."""
    names = {field.name for field in dataclasses.fields(kind)}
    parameters = kind(**{name: value for name, value in values.items() if name in names})
    validate(parameters, owner)
    return parameters


def _older_views(topics: Mapping[str, Any]) -> RecordedViews:
    """Of recordings that do not name their views: colours, and the first one is the default."""
    further = filter(None, map(further_view, topics))
    return RecordedViews((*DEFAULT_VIEWS, *further))


def _held(switch: list[tuple[int, bool]]) -> Intervals:
    """While the operator held the switch: from a true message until a false one or its timeout."""
    begins, ends = [], []
    for index, (time_ns, held) in enumerate(switch):
        if held:
            next_ns = switch[index + 1][0] if index + 1 < len(switch) else time_ns
            begins.append(time_ns)
            ends.append(min(max(next_ns, time_ns), time_ns + DEADMAN_TIMEOUT_NS))
    return Intervals(np.array(begins, np.int64), np.array(ends, np.int64))
