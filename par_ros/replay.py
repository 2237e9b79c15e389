# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros replay FILE`: a recording through policy and guard again, compared bit by bit.

The policy is shown the recorded observations, the guard is given the recorded chunks, joint states
and calls at the clocks' recorded times; what they answer now is compared with what was recorded.
Exit code 0: all that was compared is the same to the bit; 1: something differs, or nothing could be
compared. Same machine, same backend, same number of threads: another sum order is another bit.
"""

import dataclasses
import json
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rclpy.serialization import deserialize_message
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from par_model.command_line import default_is, parse
from par_model.interface import Observation, Policy
from par_model.json_file import shown
from par_ros import guard_report, messages
from par_ros.control.command import Command
from par_ros.control.guard import Guard
from par_ros.control.joint_states import JointSample, JointStateSelector
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.reference_watch import ReferenceSample
from par_ros.control.safety_filter import RequestedChunk
from par_ros.control.timeline import Moment
from par_ros.fixed_chunk_node import FixedChunkPolicy
from par_ros.node_graph import checkpoint_folder, manifest_sha256
from par_ros.parameters import (
    PolicyNodeParameters,
    SafetyNodeParameters,
    guard_settings,
    read_guarded_arm,
    validate,
)
from par_ros.process import report_error
from par_ros.recording import Recording, read_recording
from par_ros.topics import (
    ACTION_CHUNK,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    GRIPPER_TRAJECTORY_SHADOW,
    GUARD_INPUTS,
    IMAGE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_SHADOW,
    OBSERVED,
    Topic,
)

_REPLAYED = (
    ACTION_CHUNK, EXECUTED_ACTIONS, GRIPPER_TRAJECTORY, GRIPPER_TRAJECTORY_SHADOW, GUARD_INPUTS,
    IMAGE, JOINT_STATES, JOINT_TRAJECTORY, JOINT_TRAJECTORY_SHADOW, OBSERVED,
)  # fmt: skip
# A stamp's seconds are an int32.
_MAX_STAMP_NS = 2**31 * messages.NANOSECONDS - 1
# Bytes of a serialised message up to the end of its header's stamp.
_STAMP_END = 12
# Processes end one after the other: the last messages may or may not have been recorded.
_MAX_TAIL = 2


@dataclass
class Comparison:
    """One row of the table: what was recorded of a kind, and what came now."""

    name: str
    num_recorded: int = 0
    num_replayed: int = 0
    num_identical: int = 0
    largest_difference: float = 0.0
    first_difference: str = ""

    @property
    def num_compared(self) -> int:
        """The shorter of both."""
        return min(self.num_recorded, self.num_replayed)

    @property
    def is_same(self) -> bool:
        """Every pair is the same to the bit, and none but the last messages is missing."""
        tail = abs(self.num_recorded - self.num_replayed)
        return self.num_identical == self.num_compared and tail <= _MAX_TAIL


@dataclass(frozen=True)
class Replay:
    """The outcome: the rows, and what could not be used or should be known."""

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether there was anything, and all of it is the same."""
        compared = sum(row.num_compared for row in self.comparisons)
        return compared > 0 and all(row.is_same for row in self.comparisons)


class _Fields:
    """The texts of one recorded status; each is read as what it should be, or refused."""

    def __init__(self, topic: str, values: Mapping[str, str]) -> None:
        self._topic = topic
        self._values = values

    def text(self, name: str) -> str:
        if name not in self._values:
            raise ValueError(f"the recording is damaged: a message of {self._topic} lacks {name}.")
        return self._values[name]

    def whole(self, name: str) -> int:
        """A whole number from 0; of nanoseconds, as many as a stamp can hold."""
        return self._whole(name, self.text(name))

    def optional_whole(self, name: str) -> int | None:
        """As `whole`; None for an empty text."""
        return self.whole(name) if self.text(name) else None

    def wholes(self, name: str) -> list[int]:
        """As `whole`, with spaces between."""
        return [self._whole(name, word) for word in self.text(name).split()]

    def moment(self, prefix: str = "") -> Moment:
        """Both clocks, as safety_node notes them."""
        return Moment(self.whole(f"{prefix}ros_ns"), self.whole(f"{prefix}steady_ns"))

    def references(self, num_joints: int) -> list[ReferenceSample]:
        """What the guard heard of the controller."""
        text = self.text("samples")
        try:
            return guard_report.unpack_references(text, num_joints)
        except ValueError:
            raise self._odd("samples", text) from None

    def _whole(self, name: str, text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_STAMP_NS))
        if not is_number or int(text) > _MAX_STAMP_NS:
            raise self._odd(name, text)
        return int(text)

    def _odd(self, name: str, text: str) -> ValueError:
        return ValueError(
            f"the recording is damaged: {name} in a message of {self._topic} is {shown(text)}."
        )


@dataclass
class _Recorded:
    """A recording's messages by topic, as ROS messages, in order. ValueError for damaged ones."""

    recording: Recording
    notes: list[str] = field(default_factory=list)

    def of(self, topic: Topic) -> list[Any]:
        return [_decoded(data, topic) for data in self._data(topic)]

    def pictures(self) -> dict[int, bytes]:
        """The pictures as they came, by stamp: to decode all where few are needed is slow."""
        return {_stamp_ns(data): data for data in self._data(IMAGE)}

    def _data(self, topic: Topic) -> Iterator[bytes]:
        name = self.recording.settings["topics"][topic.name]
        for message in self.recording.messages:
            if message.topic != name:
                continue
            if message.type_name != topic.type_name:
                raise ValueError(
                    f"topic {name} of the recording has type {shown(message.type_name)}, expected "
                    f"is {topic.type_name}; was it recorded by another version?"
                )
            yield message.data

    def by_stamp(self, topic: Topic) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = defaultdict(list)
        for message in self.of(topic):
            found[messages.stamp_ns(message)].append(message)
        return found

    def statuses(self, topic: Topic) -> Iterator[_Fields]:
        for message in self.of(topic):
            yield _Fields(topic.name, messages.read_status(message).values)


def replay(recording: Recording, policy: Policy | None) -> Replay:
    """Run everything again. `policy` None: the guard alone.

    Raises ValueError for settings that cannot be used here.
    """
    _require_settings(recording.settings)
    recorded = _Recorded(recording)
    if not recording.is_closed:
        recorded.notes.append("the recording was cut off; what it holds was compared")
    rows = () if policy is None else (_replay_policy(recorded, policy),)
    return Replay((*rows, *_replay_guard(recorded)), tuple(recorded.notes))


def _require_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError where what was recorded of the graph lacks what a replay needs."""
    for name, kind in (("topics", dict), ("guard", dict), ("policy", dict)):
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"the recording lacks the graph's setting {name}; record again.")
    if not isinstance(settings.get("policy_executable"), str):
        raise ValueError("the recording does not name the policy that ran; record again.")
    topics = settings["topics"]
    for topic in _REPLAYED:
        if not isinstance(topics.get(topic.name), str):
            raise ValueError(f"the recording lacks the name of topic {topic.name}; record again.")


# Policy


def _replay_policy(recorded: _Recorded, policy: Policy) -> Comparison:
    row = Comparison(ACTION_CHUNK.name)
    chunks = recorded.by_stamp(ACTION_CHUNK)
    row.num_recorded = sum(len(same) for same in chunks.values())
    rebuild = _ObservationBuilder(recorded, policy)
    is_lost, num_lost = True, 0
    for values in recorded.statuses(OBSERVED):
        if values.text("reset") == "true":
            policy.reset(values.text("instruction"), values.whole("policy_seed"))
            is_lost = False
        observation = None if is_lost else rebuild.observation(values)
        if observation is None:
            # What the policy remembers is no longer what it remembered then.
            is_lost, num_lost = True, num_lost + 1
            row.num_recorded -= 1
            continue
        policy.observe(observation)
        answer = policy.act()
        row.num_replayed += 1
        stamp_ns = values.whole("stamp_ns")
        for message in chunks.get(stamp_ns, ())[:1]:
            asked = messages.read_joint_trajectory(message)
            _compare(row, asked.positions, answer.joint_positions, f"observation {stamp_ns} ns")
    if num_lost:
        recorded.notes.append(
            f"{num_lost} observations could not be rebuilt (their picture, joint states or "
            "executed actions are not in the recording, or the context before them is not)"
        )
    return row


class _ObservationBuilder:
    """Observations as policy_node put them together, from its own list of stamps."""

    def __init__(self, recorded: _Recorded, policy: Policy) -> None:
        self._spec = policy.spec
        self._images = recorded.pictures()
        self._executed = recorded.by_stamp(EXECUTED_ACTIONS)
        self._joints = {
            sample.stamp_ns: sample
            for sample in _joint_samples(recorded, JointStateSelector(policy.spec.joint_names))
        }

    def observation(self, values: _Fields) -> Observation | None:
        """None where a part is not in the recording."""
        stamp_ns = values.whole("stamp_ns")
        executed_ns = values.optional_whole("executed_stamp_ns")
        recent = values.wholes("recent_stamps_ns")
        sample = self._joints.get(values.whole("joint_stamp_ns"))
        missing = any(stamp not in self._images for stamp in (stamp_ns, *recent))
        if sample is None or missing or (executed_ns and executed_ns not in self._executed):
            return None
        actions = None
        if executed_ns:
            message = self._executed[executed_ns][-1]
            executed = messages.read_joint_trajectory(message)
            actions = executed.reordered(self._spec.joint_names).positions
        return Observation(
            image=self._picture(stamp_ns),
            measured_joint_positions=sample.positions,
            joint_names=self._spec.joint_names,
            stamp_s=stamp_ns / messages.NANOSECONDS,
            executed_actions=actions,
            recent_images=np.stack([self._picture(stamp) for stamp in recent]) if recent else None,
        )

    def _picture(self, stamp_ns: int) -> messages.ImageArray:
        spec = self._spec
        message = _decoded(self._images[stamp_ns], IMAGE)
        picture = messages.image_to_rgb(message)
        fitted = spec.camera_fit.fit(picture, spec.image_height, spec.image_width)
        return np.ascontiguousarray(fitted)


# Guard


def _replay_guard(recorded: _Recorded) -> tuple[Comparison, ...]:
    guard = _GuardReplay(recorded)
    answers = [
        command for values in recorded.statuses(GUARD_INPUTS) for command in guard.take(values)
    ]
    if guard.num_unknown:
        recorded.notes.append(
            f"{guard.num_unknown} inputs of the guard name a message that is not in the recording"
        )
    dry_run = guard.parameters.dry_run
    arm = JOINT_TRAJECTORY_SHADOW if dry_run else JOINT_TRAJECTORY
    gripper = GRIPPER_TRAJECTORY_SHADOW if dry_run else GRIPPER_TRAJECTORY
    sent = {
        EXECUTED_ACTIONS: [(c.executed, c.executed_stamp_ns) for c in answers],
        arm: [(c.arm, c.stamp_ns) for c in answers],
        gripper: [(c.gripper, c.stamp_ns) for c in answers],
    }
    return tuple(_compare_sent(recorded, topic, outputs) for topic, outputs in sent.items())


def _compare_sent(
    recorded: _Recorded, topic: Topic, outputs: Sequence[tuple[JointTrajectory | None, int]]
) -> Comparison:
    then = recorded.of(topic)
    now = [
        messages.joint_trajectory_message(trajectory, stamp_ns)
        for trajectory, stamp_ns in outputs
        if trajectory is not None
    ]
    row = Comparison(topic.name, num_recorded=len(then), num_replayed=len(now))
    for number, (old, new) in enumerate(zip(then, now, strict=False), start=1):
        if old == new:
            row.num_identical += 1
            continue
        row.first_difference = row.first_difference or f"message {number}"
        before, after = (messages.read_joint_trajectory(message) for message in (old, new))
        _note_difference(row, before.positions, after.positions)
    return row


class _GuardReplay:
    """A guard that is given what the recorded one was given."""

    def __init__(self, recorded: _Recorded) -> None:
        settings = recorded.recording.settings["guard"]
        names = {field.name for field in dataclasses.fields(SafetyNodeParameters)}
        own = {name: value for name, value in settings.items() if name in names}
        self.parameters = SafetyNodeParameters(**own)
        validate(self.parameters, "the recorded guard")
        self._use_sim_time = bool(settings.get("use_sim_time", False))
        self._guard = self._make_guard()
        selector = JointStateSelector(self._guard.spec.joint_names)
        self._samples = list(_joint_samples(recorded, selector))
        self._num_fed = 0
        self._chunks = recorded.by_stamp(ACTION_CHUNK)
        # Both clocks at the input before.
        self._before: Moment | None = None
        self.num_unknown = 0

    def _make_guard(self) -> Guard:
        spec = read_guarded_arm(self.parameters)
        return Guard(spec, guard_settings(self.parameters, use_sim_time=self._use_sim_time))

    def take(self, values: _Fields) -> Iterator[Command]:
        """Everything that the guard sends until it has taken one recorded input."""
        moment = values.moment()
        kind, guard = values.text("kind"), self._guard
        if kind == "configure":
            self._guard = self._make_guard()
            self._before = None
            return
        samples = self._samples_until(values.optional_whole("joint_stamp_ns"))
        if samples:
            *earlier, last = samples
            taken = values.moment("joint_")
            yield from self._feed(earlier, taken)
            yield guard.on_joint_state(last, taken)
        if kind == "references":
            for sample in values.references(guard.spec.num_arm_joints):
                yield guard.on_reference(sample, moment)
        elif kind != "joint_state":
            yield self._given(kind, values, moment)
        self._before = moment

    def _given(self, kind: str, values: _Fields, moment: Moment) -> Command:
        guard = self._guard
        if kind == "chunk":
            return self._chunk(values.whole("chunk_stamp_ns"), moment)
        if kind == "bad_chunk":
            return guard.on_bad_chunk(values.text("reason"), moment)
        if kind == "bad_joint_state":
            return guard.on_bad_joint_state(values.text("reason"), moment)
        if kind == "tick":
            return guard.on_tick(values.whole("num_policies"), moment)
        if kind == "withdraw" and self._guard.can_withdraw:
            return guard.withdraw(moment, last=values.text("last") == "true")
        if kind == "reset_stop":
            return guard.reset_stop().command
        calls = {"engage": guard.engage, "disengage": guard.disengage, "e_stop": guard.e_stop}
        if kind not in calls:
            self.num_unknown += 1
            return Command()
        return calls[kind](moment).command

    def _chunk(self, stamp_ns: int, moment: Moment) -> Command:
        if not self._chunks.get(stamp_ns):
            self.num_unknown += 1
            return Command()
        trajectory = messages.read_joint_trajectory(self._chunks[stamp_ns].pop(0))
        chunk = RequestedChunk(
            stamp_ns, trajectory.joint_names, trajectory.times_s, trajectory.positions
        )
        return self._guard.on_chunk(chunk, moment)

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


def _decoded(data: bytes, topic: Topic) -> Any:
    """The ROS message. Raises ValueError for bytes that are none of the topic's type."""
    try:
        return deserialize_message(data, topic.message_type)
    except RuntimeError as error:
        # rclpy's errors have no other base in common.
        raise ValueError(
            f"the recording is damaged: {len(data)} bytes of topic {topic.name} are not a "
            f"{topic.type_name}."
        ) from error


def _stamp_ns(data: bytes) -> int:
    """Header stamp of a serialised message that begins with a header."""
    if len(data) < _STAMP_END:
        raise ValueError(f"the recording is damaged: a message of {len(data)} bytes has no stamp.")
    # CDR: four bytes of encapsulation, of which the second's lowest bit is the byte order.
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(order + "iI", data, 4)
    return int(seconds) * messages.NANOSECONDS + int(nanoseconds)


def _joint_samples(recorded: _Recorded, selector: JointStateSelector) -> Iterator[JointSample]:
    """The arm's joint states that can be used, in order."""
    for message in recorded.of(JOINT_STATES):
        if not set(message.name) & set(selector.joint_names):
            continue
        try:
            raw = messages.read_joint_state(message)
            sample = selector.take(raw.stamp_ns, raw.joint_names, raw.positions, raw.velocities)
        except ValueError:
            # The guard's own list says what it made of this one.
            continue
        if sample is not None:
            yield sample


def _compare(row: Comparison, then: Any, now: Any, where: str) -> None:
    if then.shape == now.shape and then.tobytes() == now.tobytes():
        row.num_identical += 1
        return
    row.first_difference = row.first_difference or where
    _note_difference(row, then, now)


def _note_difference(row: Comparison, then: Any, now: Any) -> None:
    difference = float("inf")
    if then.shape == now.shape:
        difference = float(np.abs(then - now).max())
    row.largest_difference = max(row.largest_difference, difference)


# Command line


@dataclass(frozen=True)
class ReplayOptions:
    """The command line."""

    # a file of record:=true
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    # runtime of the network
    backend: Annotated[str | None, default_is("as recorded")] = None
    # folder of the policy
    checkpoint: Annotated[str | None, arg(metavar="DIR"), default_is("as recorded")] = None
    # leave the policy out
    guard_only: bool = False
    # write the table as JSON, too
    json: Annotated[Path | None, arg(metavar="FILE")] = None


def main(words: list[str]) -> int:
    """The command `replay`; gives the exit code."""
    options = parse(ReplayOptions, "python -m par_ros replay", __doc__, words)
    try:
        recording = read_recording(options.file)
        _require_settings(recording.settings)
        settings = recording.settings["policy"] | {
            name: value
            for name, value in (
                ("backend", options.backend), ("checkpoint", options.checkpoint),
            )
            if value
        }  # fmt: skip
        parameters = _policy_parameters(settings)
        differing = tuple(_differing_settings(recording.settings, parameters.checkpoint))
        policy = None if options.guard_only else _load(recording.settings, parameters)
        outcome = replay(recording, policy)
    except ValueError as error:
        return report_error(error)
    notes = (*differing, *outcome.notes)
    _print(Replay(outcome.comparisons, notes), options.file)
    if options.json is not None:
        rows = [dataclasses.asdict(row) | {"same": row.is_same} for row in outcome.comparisons]
        content = {"same": outcome.is_same, "comparisons": rows, "notes": notes}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if outcome.is_same else 1


def _policy_parameters(settings: Mapping[str, Any]) -> PolicyNodeParameters:
    """The recorded policy's. Raises ValueError for values that no policy can have."""
    names = {field.name for field in dataclasses.fields(PolicyNodeParameters)}
    known = {name: value for name, value in settings.items() if name in names}
    parameters = PolicyNodeParameters(**known)
    validate(parameters, "the recorded policy")
    return parameters


def _load(recorded: Mapping[str, Any], parameters: PolicyNodeParameters) -> Policy:
    if recorded["policy_executable"] == "fixed_chunk_node":
        return FixedChunkPolicy()
    # Here, not above: a recording of fixed chunks needs no torch.
    from par_model.load_policy import load_policy

    return load_policy(
        Path(parameters.checkpoint),
        backend=parameters.backend,
        num_steps=parameters.num_steps,
        device=parameters.device,
        engines=Path(parameters.engines) if parameters.engines else None,
    )


def _differing_settings(recorded: Mapping[str, Any], checkpoint: str) -> Iterator[str]:
    """What may explain a difference."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads != recorded.get("omp_num_threads", ""):
        yield (
            f"OMP_NUM_THREADS was {recorded.get('omp_num_threads') or 'not set'} and is "
            f"{threads or 'not set'} now: sums come in another order; set it as it was"
        )
    if checkpoint and manifest_sha256(checkpoint_folder(checkpoint)) != recorded.get(
        "checkpoint_sha256"
    ):
        yield "the checkpoint is not the recorded one: its manifest differs"


def _print(outcome: Replay, path: Path) -> None:
    console = Console()
    table = Table(title=f"replay of {path.name}")
    table.add_column("what", no_wrap=True)
    for column in ("recorded", "replayed", "identical", "largest difference"):
        table.add_column(column, justify="right")
    table.add_column("first")
    for row in outcome.comparisons:
        largest = f"{row.largest_difference:.3g}" if row.largest_difference else "0"
        table.add_row(
            row.name, str(row.num_recorded), str(row.num_replayed),
            f"{row.num_identical} of {row.num_compared}", largest, row.first_difference or "-",
        )  # fmt: skip
    console.print(table)
    for note in outcome.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if outcome.is_same:
        console.print("the same to the bit")
    elif not any(row.num_compared for row in outcome.comparisons):
        console.print("nothing could be compared")
    else:
        console.print("not the same")
