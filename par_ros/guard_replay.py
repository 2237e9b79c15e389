# SPDX-License-Identifier: Apache-2.0
"""The guard once more: what it was given in a recording, at the clocks' recorded times."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from par_ros import messages
from par_ros.control.command import Command
from par_ros.control.guard import Guard
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.settings import validate
from par_ros.control.timeline import Moment
from par_ros.guarded_arm import read_guarded_arm
from par_ros.parameters import SafetyNodeParameters, guard_settings
from par_ros.recorded_messages import Recorded
from par_ros.topics import ACTION_CHUNK, JOINT_STATES, TELEOP_CHUNK
from par_ros.wire_records import GuardInput


class GuardReplay:
    """A guard that is given what the recorded one was given."""

    def __init__(self, recorded: Recorded) -> None:
        settings = recorded.graph.guard
        names = {field.name for field in dataclasses.fields(SafetyNodeParameters)}
        own = {name: value for name, value in settings.items() if name in names}
        self.parameters = SafetyNodeParameters(**own)
        validate(self.parameters, "the recorded guard")
        self._use_sim_time = bool(settings.get("use_sim_time", False))
        self._guard = self._make_guard()
        selector = JointStateSelector(self._guard.spec.joint_names, self.parameters.joint_prefix)
        self._samples = list(joint_samples(recorded, selector))
        self._num_fed = 0
        self._chunks = {
            "chunk": recorded.by_stamp(ACTION_CHUNK),
            "teleop_chunk": recorded.by_stamp(TELEOP_CHUNK),
        }
        # Both clocks at the input before.
        self._before: Moment | None = None
        self.num_unknown = 0

    def _make_guard(self) -> Guard:
        spec = read_guarded_arm(self.parameters)
        return Guard(spec, guard_settings(self.parameters, use_sim_time=self._use_sim_time))

    def published(self, inputs: Iterable[GuardInput]) -> list[Command]:
        """Everything that the guard publishes; what is withdrawn is not published."""
        commands: list[Command] = []
        for given in inputs:
            if given.kind == "withdraw" and self._guard.can_withdraw and commands:
                commands.pop()
            commands.extend(self.take(given))
        return commands

    def take(self, given: GuardInput) -> Iterator[Command]:
        """Everything that the guard sends until it has taken one recorded input."""
        guard = self._guard
        if given.kind == "configure":
            self._guard = self._make_guard()
            self._before = None
            return
        samples = self._samples_until(given.joint_stamp_ns)
        if samples:
            *earlier, last = samples
            assert given.joint_moment is not None
            yield from self._feed(earlier, given.joint_moment)
            yield guard.on_joint_state(last, given.joint_moment)
        if given.kind == "references":
            for sample in given.references:
                self._require_joints(sample)
                yield guard.on_reference(sample, given.moment)
        elif given.kind != "joint_state":
            yield self._given(given)
        self._before = given.moment

    def _require_joints(self, sample: ReferenceSample) -> None:
        if len(sample.positions) != self._guard.spec.num_arm_joints:
            raise ValueError(
                f"the recording is damaged: a reference of {len(sample.positions)} joints, the arm "
                f"has {self._guard.spec.num_arm_joints}."
            )

    def _given(self, given: GuardInput) -> Command:
        guard, moment = self._guard, given.moment
        if given.chunk_stamp_ns is not None:
            return self._chunk(given.kind, given.chunk_stamp_ns, moment)
        if given.kind == "bad_joint_state" and given.reason is not None:
            return guard.on_bad_joint_state(given.reason, moment)
        if given.reason is not None:
            by_operator = given.kind == "bad_teleop_chunk"
            return guard.on_bad_chunk(given.reason, moment, by_operator=by_operator)
        if given.held is not None:
            return guard.on_deadman(given.held, moment)
        if given.kind == "tick":
            return guard.on_tick(given.num_policies, moment)
        if given.last is not None and guard.can_withdraw:
            return guard.withdraw(moment, last=given.last)
        if given.kind == "reset_stop":
            return guard.reset_stop().command
        calls = {"engage": guard.engage, "disengage": guard.disengage, "e_stop": guard.e_stop}
        if given.kind not in calls:
            self.num_unknown += 1
            return Command()
        return calls[given.kind](moment).command

    def _chunk(self, kind: str, stamp_ns: int, moment: Moment) -> Command:
        chunks = self._chunks[kind]
        if not chunks.get(stamp_ns):
            self.num_unknown += 1
            return Command()
        trajectory = messages.read_joint_trajectory(chunks[stamp_ns].pop(0))
        chunk = RequestedChunk(
            stamp_ns, trajectory.joint_names, trajectory.times_s, trajectory.positions
        )
        return self._guard.on_chunk(chunk, moment, by_operator=kind == "teleop_chunk")

    def _samples_until(self, stamp_ns: int | None) -> list[JointSample]:
        """The joint states that the guard had seen by then and has not been given here."""
        if stamp_ns is None:
            return []
        if self._num_fed and self._samples[self._num_fed - 1].stamp_ns == stamp_ns:
            return []
        for index in range(self._num_fed, len(self._samples)):
            if self._samples[index].stamp_ns == stamp_ns:
                samples = self._samples[self._num_fed : index + 1]
                self._num_fed = index + 1
                return samples
        self.num_unknown += 1
        return []

    def _feed(self, samples: Sequence[JointSample], now: Moment) -> Iterator[Command]:
        """Joint states of which only the order is known: at their stamps, between two inputs."""
        before = self._before or now
        for sample in samples:
            ros_ns = int(np.clip(sample.stamp_ns, min(before.ros_ns, now.ros_ns), now.ros_ns))
            passed_ns = now.ros_ns - before.ros_ns
            share = 1.0 if passed_ns == 0 else (ros_ns - before.ros_ns) / passed_ns
            steady_ns = before.steady_ns + round(share * (now.steady_ns - before.steady_ns))
            yield self._guard.on_joint_state(sample, Moment(ros_ns, steady_ns))


def joint_samples(recorded: Recorded, selector: JointStateSelector) -> Iterator[JointSample]:
    """The arm's joint states that can be used, in order."""
    for message in recorded.of(JOINT_STATES):
        try:
            sample = selector.take(messages.read_joint_state(message))
        except ValueError:
            # The guard's own list says what it made of this one.
            continue
        if isinstance(sample, JointSample):
            yield sample
