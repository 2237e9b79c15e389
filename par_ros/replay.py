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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage
from tyro.conf import Positional, arg

from par_model.command_line import default_is, output_file, parse
from par_model.interface import Observation, Policy, stack_views
from par_model.output_files import write_text
from par_ros import messages
from par_ros.control.joint_states import JointStateSelector
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.control.settings import validate
from par_ros.fixed_chunk_node import FixedChunkPolicy
from par_ros.guard_replay import GuardReplay, joint_samples
from par_ros.joined_chunk import joined
from par_ros.node_graph import checkpoint_folder, manifest_sha256
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_source import checkpoint_policy, chunk_form
from par_ros.process import report_error
from par_ros.recorded_graph import RecordedGraph
from par_ros.recorded_messages import Recorded, decoded_picture
from par_ros.recording import Recording, read_recording
from par_ros.timed_policy import act
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
    camera_topics,
)
from par_ros.view_reader import ViewReader
from par_ros.wire_records import GuardInput, Observed

_REPLAYED = (
    ACTION_CHUNK, EXECUTED_ACTIONS, GRIPPER_TRAJECTORY, GRIPPER_TRAJECTORY_SHADOW, GUARD_INPUTS,
    IMAGE, JOINT_STATES, JOINT_TRAJECTORY, JOINT_TRAJECTORY_SHADOW, OBSERVED,
)  # fmt: skip
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


def replay(recording: Recording, policy: Policy | None) -> Replay:
    """Run everything again. `policy` None: the guard alone.

    Raises ValueError for settings that cannot be used here.
    """
    recorded = Recorded(recording, _graph(recording))
    if not recording.is_closed:
        recorded.notes.append("the recording was cut off; what it holds was compared")
    rows = () if policy is None else (_replay_policy(recorded, policy),)
    return Replay((*rows, *_replay_guard(recorded)), tuple(recorded.notes))


def _graph(recording: Recording) -> RecordedGraph:
    return RecordedGraph.from_json(recording.settings, [topic.name for topic in _REPLAYED])


# Policy


def _replay_policy(recorded: Recorded, policy: Policy) -> Comparison:
    row = Comparison(ACTION_CHUNK.name)
    chunks = recorded.by_stamp(ACTION_CHUNK)
    row.num_recorded = sum(len(same) for same in chunks.values())
    rebuild = _ObservationBuilder(recorded, policy)
    is_lost, num_lost = True, 0
    for observed in recorded.records(OBSERVED, Observed.from_values):
        if observed.reset:
            policy.reset(observed.instruction, observed.policy_seed)
            is_lost = False
        observation = None if is_lost else rebuild.observation(observed)
        if observation is None:
            # What the policy remembers is no longer what it remembered then.
            is_lost, num_lost = True, num_lost + 1
            row.num_recorded -= 1
            continue
        policy.observe(observation)
        answer = act(policy, observed.committed, observed.num_steps)
        answer = joined(answer, observed.seam_followed, observed.seam_smoothness)
        row.num_replayed += 1
        stamp_ns = observed.stamp_ns
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

    def __init__(self, recorded: Recorded, policy: Policy) -> None:
        self._spec = policy.spec
        self._reader = ViewReader.of(policy.spec)
        self._images = {
            view: recorded.pictures(image)
            for view, (image, _) in camera_topics(policy.spec.views).items()
        }
        self._executed = recorded.by_stamp(EXECUTED_ACTIONS)
        prefix = str(recorded.graph.policy.get("joint_prefix", ""))
        selector = JointStateSelector(policy.spec.joint_names, prefix)
        self._joints = {sample.stamp_ns: sample for sample in joint_samples(recorded, selector)}

    def observation(self, observed: Observed) -> Observation | None:
        """None where a part is not in the recording."""
        stamp_ns, recent = observed.stamp_ns, observed.recent_stamps_ns
        overlapped = observed.committed is not None
        executed_ns = None if overlapped else observed.executed_stamp_ns
        sample = self._joints.get(observed.joint_stamp_ns)
        stamps_ns = (stamp_ns, *observed.view_stamps_ns)
        first, views = self._images[self._spec.views[0]], self._spec.views
        missing = len(stamps_ns) != len(views) or any(stamp not in first for stamp in recent)
        missing = missing or any(
            stamp not in self._images[view] for view, stamp in zip(views, stamps_ns, strict=True)
        )
        if sample is None or missing or (executed_ns and executed_ns not in self._executed):
            return None
        actions = observed.executed
        if executed_ns:
            message = self._executed[executed_ns][-1]
            executed = messages.read_joint_trajectory(message)
            actions = executed.reordered(self._spec.joint_names).positions
        return Observation(
            image=stack_views(
                {view: self._picture(view, ns) for view, ns in zip(views, stamps_ns, strict=True)},
                views,
            ),
            views=views,
            measured_joint_positions=sample.positions,
            joint_names=self._spec.joint_names,
            stamp_s=stamp_ns / messages.NANOSECONDS,
            executed_actions=actions,
            recent_images=np.stack([self._picture(views[0], stamp) for stamp in recent])
            if recent
            else None,
        )

    def _picture(self, view: str, stamp_ns: int) -> messages.ImageArray:
        message = decoded_picture(self._images[view][stamp_ns])
        return self._reader.fit(self._reader.read(message, view), view)


# Guard


def _replay_guard(recorded: Recorded) -> tuple[Comparison, ...]:
    guard = GuardReplay(recorded)
    inputs = recorded.records(GUARD_INPUTS, GuardInput.from_values)
    answers = guard.published(inputs)
    if guard.num_unknown:
        recorded.notes.append(
            f"{guard.num_unknown} inputs of the guard name a message that is not in the recording"
        )
    dry_run = guard.parameters.dry_run
    arm = JOINT_TRAJECTORY_SHADOW if dry_run else JOINT_TRAJECTORY
    gripper = GRIPPER_TRAJECTORY_SHADOW if dry_run else GRIPPER_TRAJECTORY
    prefix = str(recorded.graph.guard.get("joint_prefix", ""))
    told = [
        messages.executed_message(c.executed, c.executed_stamp_ns, holds=c.executed_holds)
        for c in answers
        if c.executed is not None
    ]
    sent = {
        EXECUTED_ACTIONS: told,
        arm: _commands([(c.arm, c.stamp_ns) for c in answers], prefix),
        gripper: _commands([(c.gripper, c.stamp_ns) for c in answers], prefix),
    }
    return tuple(_compare_sent(recorded, topic, outputs) for topic, outputs in sent.items())


def _commands(
    sent: Sequence[tuple[JointTrajectory | None, int]], prefix: str
) -> list[JointTrajectoryMessage]:
    return [
        messages.joint_trajectory_message(trajectory, stamp_ns, joint_prefix=prefix)
        for trajectory, stamp_ns in sent
        if trajectory is not None
    ]


def _compare_sent(
    recorded: Recorded, topic: Topic, now: Sequence[JointTrajectoryMessage]
) -> Comparison:
    then = recorded.of(topic)
    row = Comparison(topic.name, num_recorded=len(then), num_replayed=len(now))
    for number, (old, new) in enumerate(zip(then, now, strict=False), start=1):
        if old == new:
            row.num_identical += 1
            continue
        row.first_difference = row.first_difference or f"message {number}"
        before, after = (messages.read_joint_trajectory(message) for message in (old, new))
        _note_difference(row, before.positions, after.positions)
    return row


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
    json: Annotated[Path | None, output_file()] = None


def main(words: list[str]) -> int:
    """The command `replay`; gives the exit code."""
    options = parse(ReplayOptions, "python -m par_ros replay", __doc__, words)
    try:
        recording = read_recording(options.file)
        graph = _graph(recording)
        settings = {**graph.policy} | {
            name: value
            for name, value in (
                ("backend", options.backend), ("checkpoint", options.checkpoint),
            )
            if value
        }  # fmt: skip
        parameters = _policy_parameters(settings)
        differing = tuple(_differing_settings(graph, parameters.checkpoint))
        policy = None if options.guard_only else _load(graph, parameters)
        outcome = replay(recording, policy)
    except ValueError as error:
        return report_error(error)
    notes = (*differing, *outcome.notes)
    _print(Replay(outcome.comparisons, notes), options.file)
    if options.json is not None:
        rows = [dataclasses.asdict(row) | {"same": row.is_same} for row in outcome.comparisons]
        content = {"same": outcome.is_same, "comparisons": rows, "notes": notes}
        try:
            write_text("the result", options.json, json.dumps(content, indent=1) + "\n")
        except ValueError as error:
            return report_error(error)
    return 0 if outcome.is_same else 1


def _policy_parameters(settings: Mapping[str, Any]) -> PolicyNodeParameters:
    """The recorded policy's. Raises ValueError for values that no policy can have."""
    names = {field.name for field in dataclasses.fields(PolicyNodeParameters)}
    known = {name: value for name, value in settings.items() if name in names}
    parameters = PolicyNodeParameters(**known)
    validate(parameters, "the recorded policy")
    return parameters


def _load(graph: RecordedGraph, parameters: PolicyNodeParameters) -> Policy:
    if graph.policy_executable == "fixed_chunk_node":
        return FixedChunkPolicy(*chunk_form(parameters))
    return checkpoint_policy(parameters)


def _differing_settings(graph: RecordedGraph, checkpoint: str) -> Iterator[str]:
    """What may explain a difference."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads != graph.omp_num_threads:
        yield (
            f"OMP_NUM_THREADS was {graph.omp_num_threads or 'not set'} and is "
            f"{threads or 'not set'} now: sums come in another order; set it as it was"
        )
    if checkpoint and manifest_sha256(checkpoint_folder(checkpoint)) != graph.checkpoint_sha256:
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
