# SPDX-License-Identifier: Apache-2.0
"""Runs episodes through the ROS graph and writes their results.

An episode: policy deactivated, guard disengaged, bridge reset (the arm jumps to its start), guard
engaged from the new joint positions, policy told what to do and activated. The bridge says when it
is over. results.json, report.html and the episode's video are written after each episode, so that
what is finished is never lost.
"""

import datetime
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from std_srvs.srv import Trigger

from par_model.interface import ImageArray
from par_model.simulation.tasks import CONTROL_STEP_S
from par_model.simulation.tasks import task as task_by_name
from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.episode_video import write_video
from par_ros.parameters import EpisodeNodeParameters, declare
from par_ros.process import run_beside_spinning
from par_ros.report import report_page, summary_rows, write_report
from par_ros.run_results import EpisodeResult, GuardChange, RunResults
from par_ros.topics import (
    ACTION_CHUNK,
    APPLIED_TARGETS,
    BRIDGE,
    DIAGNOSTICS,
    DISENGAGE,
    ENGAGE,
    EPISODE_STATE,
    EPISODES,
    EXECUTED_ACTIONS,
    GUARD,
    IMAGE,
    POLICY,
    PREDICTED_IMAGE,
    RESET_EPISODE,
    Topic,
    sensor_qos,
)

CALL_TIMEOUT_S = 60.0
# Making a scene with ManiSkill for the first time compiles shaders.
RESET_TIMEOUT_S = 180.0
ENGAGE_TIMEOUT_S = 10.0
# How long messages that were sent before an episode's end may take to arrive.
LAST_MESSAGES_S = 3.0
_POLL_S = 0.02
# The bridge's most steps an episode; applied_targets has a point for each.
_MOST_STEPS = 100_000
# Two numbers closer than this are the same command.
_SAME_COMMAND = 1e-9


class RunFailedError(ValueError):
    """The run cannot go on; the text is the sentence for the user."""


@dataclass
class Recording:
    """What was heard during the episode of `seed`. Stamps in ns."""

    seed: int | None = None
    pictures: dict[int, ImageArray] = field(default_factory=dict)
    predictions: dict[int, ImageArray] = field(default_factory=dict)
    asked: dict[int, JointTrajectory] = field(default_factory=dict)
    executed: dict[int, JointTrajectory] = field(default_factory=dict)
    policy_latency_ms: list[float] = field(default_factory=list)
    policy_is_quiet: bool = False
    guard_is_quiet: bool = False
    holds: int = 0
    # In the order of their first appearance.
    guard_reasons: dict[str, None] = field(default_factory=dict)
    state: messages.Status | None = None
    applied: tuple[int, JointTrajectory] | None = None


class EpisodeNode(Node):
    """Runs the episodes: `run` blocks the calling thread while another one spins."""

    def __init__(self) -> None:
        super().__init__(EPISODES)
        self.parameters = declare(self, EpisodeNodeParameters)
        self._lock = threading.Lock()
        self._recording = Recording()
        # The guard's counters of holds and changed chunks, since it was configured.
        self._guard_counts = (0, 0)
        self._console = Console()
        self._folder = Path(self.parameters.report)
        for topic, callback in (
            (IMAGE, self._on_image),
            (PREDICTED_IMAGE, self._on_predicted_image),
            (ACTION_CHUNK, self._on_action_chunk),
            (EXECUTED_ACTIONS, self._on_executed_actions),
            (EPISODE_STATE, self._on_episode_state),
            (APPLIED_TARGETS, self._on_applied_targets),
            (DIAGNOSTICS, self._on_diagnostics),
        ):
            self.create_subscription(topic.message_type, topic.name, callback, _reader_qos(topic))
        self._reset_episode = self.create_client(Trigger, RESET_EPISODE.client_name)
        self._engage = self.create_client(Trigger, ENGAGE.client_name)
        self._disengage = self.create_client(Trigger, DISENGAGE.client_name)
        self._states = {
            name: self.create_client(GetState, f"{name}/get_state") for name in (GUARD, POLICY)
        }
        self._change_policy = self.create_client(ChangeState, f"{POLICY}/change_state")
        self._parameter_clients = {
            name: self.create_client(SetParameters, f"{name}/set_parameters")
            for name in (BRIDGE, POLICY)
        }

    # Spinning thread

    def _on_image(self, message: Any) -> None:
        self._keep_picture(self._recording.pictures, message)

    def _on_predicted_image(self, message: Any) -> None:
        self._keep_picture(self._recording.predictions, message)

    def _keep_picture(self, pictures: dict[int, ImageArray], message: Any) -> None:
        stamp_ns = messages.stamp_ns(message)
        if self.parameters.video and stamp_ns not in pictures:
            picture = messages.image_to_rgb(message)
            with self._lock:
                pictures[stamp_ns] = picture

    def _on_action_chunk(self, message: Any) -> None:
        with self._lock:
            self._recording.asked[messages.stamp_ns(message)] = messages.read_joint_trajectory(
                message
            )

    def _on_executed_actions(self, message: Any) -> None:
        with self._lock:
            self._recording.executed[messages.stamp_ns(message)] = messages.read_joint_trajectory(
                message
            )

    def _on_episode_state(self, message: Any) -> None:
        state = messages.read_status(message)
        with self._lock:
            # The last episode's state may still be on its way.
            if state.values["seed"] == str(self._recording.seed):
                self._recording.state = state

    def _on_applied_targets(self, message: Any) -> None:
        trajectory = messages.read_joint_trajectory(message, _MOST_STEPS)
        with self._lock:
            self._recording.applied = (messages.stamp_ns(message), trajectory)

    def _on_diagnostics(self, message: Any) -> None:
        for status in messages.read_diagnostics(message):
            with self._lock:
                if status.name == self._beside(POLICY):
                    self._note_policy(status.values)
                elif status.name == self._beside(GUARD):
                    self._note_guard(status.values)

    def _beside(self, name: str) -> str:
        """How node `name` of this graph calls itself on /diagnostics, which all graphs share."""
        return messages.status_name(self).removesuffix(self.get_name()) + name

    def _note_policy(self, values: Mapping[str, str]) -> None:
        """Under the lock."""
        self._recording.policy_latency_ms += _numbers(values["new_latency_ms"])
        self._recording.policy_is_quiet = values["active"] == "false"

    def _note_guard(self, values: Mapping[str, str]) -> None:
        """Under the lock."""
        counts = (int(values["holds"]), int(values["changes"]))
        if counts != self._guard_counts:
            self._recording.holds += counts[0] - self._guard_counts[0]
            self._recording.guard_reasons[values["last_hold_reason"]] = None
        self._guard_counts = counts
        self._recording.guard_is_quiet = values["engaged"] == "false"

    # Running thread

    def run(self) -> RunResults:
        """Run all episodes. Raises RunFailedError if a node fails or does not answer in time."""
        parameters = self.parameters
        instruction = parameters.instruction or task_by_name(parameters.task).instruction
        self._folder.mkdir(parents=True, exist_ok=True)
        results = RunResults(
            task=parameters.task,
            instruction=instruction,
            mode=parameters.mode,
            checkpoint=parameters.checkpoint,
            command=parameters.command,
            started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            episodes_asked=parameters.episodes,
            episodes=(),
        )
        # The first page takes plotly a second, which is free while the others start.
        report_page(results)
        self._wait_until_ready()
        for index in range(parameters.episodes):
            result = self._run_episode(index, instruction)
            results = RunResults(**(vars(results) | {"episodes": (*results.episodes, result)}))
            self._write(results)
        self._console.print(_table(results))
        self._console.print(f"report: {self._folder / 'report.html'}", soft_wrap=True)
        return results

    def _write(self, results: RunResults) -> None:
        """results.json and report.html; Ctrl-C comes after both."""
        try:
            results.write(self._folder)
            write_report(results, self._folder)
        except KeyboardInterrupt:
            results.write(self._folder)
            write_report(results, self._folder)
            raise

    def _run_episode(self, index: int, instruction: str) -> EpisodeResult:
        parameters = self.parameters
        seed = parameters.first_seed + index
        policy_seed = parameters.policy_seed
        predicted = index < parameters.predict_episodes
        title = f"episode {index + 1}/{parameters.episodes}  seed {seed}"
        self._start_episode(seed, policy_seed, instruction, predicted)
        self._follow_progress(title)
        self._end_episode()
        result = self._result(seed, policy_seed, predicted, title)
        outcome = "[green]success[/]" if result.success else "[red]failure[/]"
        self._console.print(f"{title}  {outcome} after {result.steps} steps", highlight=False)
        return result

    def _start_episode(
        self, seed: int, policy_seed: int, instruction: str, predicted: bool
    ) -> None:
        self._deactivate_policy()
        self._call_trigger(self._disengage, CALL_TIMEOUT_S)
        self._set(BRIDGE, task=self.parameters.task, seed=seed)
        with self._lock:
            self._recording = Recording(seed)
        self._call_trigger(self._reset_episode, RESET_TIMEOUT_S)
        self._engage_guard()
        self._set(
            POLICY, instruction=instruction, policy_seed=policy_seed, predict_images=predicted
        )
        self._change_policy_state(Transition.TRANSITION_ACTIVATE, "activated")

    def _follow_progress(self, title: str) -> None:
        """Show the steps until the bridge says that the episode is over."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            bar = progress.add_task(title, total=self.parameters.max_steps)
            step, moved_s = -1, time.monotonic()
            while True:
                with self._lock:
                    state = self._recording.state
                values = {} if state is None else state.values
                if values and int(values["step"]) != step:
                    step, moved_s = int(values["step"]), time.monotonic()
                    progress.update(bar, completed=step)
                if values.get("finished") == "true":
                    return
                if time.monotonic() - moved_s > self.parameters.stall_timeout_s:
                    raise RunFailedError(
                        f"{title} did not move for {self.parameters.stall_timeout_s:g} s at step "
                        f"{max(step, 0)}; look at the logs of {GUARD} and {POLICY}."
                    )
                time.sleep(_POLL_S)

    def _end_episode(self) -> None:
        """Quiet the policy, then wait for what was sent before."""
        with self._lock:
            self._recording.policy_is_quiet = False
            self._recording.guard_is_quiet = False
        self._deactivate_policy()
        self._call_trigger(self._disengage, CALL_TIMEOUT_S)
        deadline_s = time.monotonic() + LAST_MESSAGES_S
        while not self._is_complete():
            if time.monotonic() > deadline_s:
                raise RunFailedError(
                    "the last diagnostics of policy and guard, or the bridge's applied_targets, "
                    f"did not come within {LAST_MESSAGES_S:g} s; check for another run in this "
                    "ROS domain."
                )
            time.sleep(_POLL_S)

    def _is_complete(self) -> bool:
        with self._lock:
            recording = self._recording
            if recording.state is None or recording.applied is None:
                return False
            start_ns = int(recording.state.values["start_ns"])
            quiet = recording.policy_is_quiet and recording.guard_is_quiet
            return quiet and recording.applied[0] == start_ns

    def _result(self, seed: int, policy_seed: int, predicted: bool, title: str) -> EpisodeResult:
        with self._lock:
            recording = self._recording
            self._recording = Recording()
        assert recording.state is not None
        assert recording.applied is not None
        values = recording.state.values
        start_ns, applied = recording.applied
        video = None
        if self.parameters.video:
            video = f"episode_{seed}.mp4"
            write_video(
                self._folder / video, recording.pictures, recording.predictions, f"seed {seed}"
            )
        steps = int(values["step"])
        end_ns = start_ns + messages.seconds_to_ns(steps * CONTROL_STEP_S)
        rate = values["step_rate_hz"]
        return EpisodeResult(
            seed=seed,
            policy_seed=policy_seed,
            success=values["success_once"] == "true",
            steps=steps,
            joint_names=applied.joint_names,
            joint_targets=applied.positions.tolist(),
            chunks=sum(stamp_ns < end_ns for stamp_ns in recording.asked),
            holds=recording.holds,
            guard_changes=tuple(
                change for change in _changes(recording, start_ns) if change.step <= steps
            ),
            guard_reasons=tuple(recording.guard_reasons),
            policy_latency_ms=tuple(recording.policy_latency_ms),
            camera_to_trajectory_ms=tuple(_numbers(values["camera_to_trajectory_ms"])),
            predicted=predicted,
            step_rate_hz=float(rate) if rate else None,
            video=video,
        )

    # Other nodes

    def _wait_until_ready(self) -> None:
        """Until every service is there and guard and policy are active."""
        clients = [self._reset_episode, self._engage, self._disengage, self._change_policy]
        clients += [*self._states.values(), *self._parameter_clients.values()]
        deadline_s = time.monotonic() + self.parameters.start_timeout_s
        for client in clients:
            while not client.service_is_ready():
                self._require_time(deadline_s, f"service {client.srv_name} is not available")
                time.sleep(_POLL_S)
        for name in (GUARD, POLICY):
            while self._state(name) != State.PRIMARY_STATE_ACTIVE:
                self._require_time(deadline_s, f"{name} is not active")
                time.sleep(_POLL_S)

    def _require_time(self, deadline_s: float, what: str) -> None:
        if time.monotonic() > deadline_s:
            raise RunFailedError(
                f"{what} after {self.parameters.start_timeout_s:g} s; check that all nodes of the "
                "graph run, in this ROS domain and namespace, and look at their logs."
            )

    def _state(self, name: str) -> int:
        response = self._call(self._states[name], GetState.Request(), CALL_TIMEOUT_S)
        return int(response.current_state.id)

    def _deactivate_policy(self) -> None:
        if self._state(POLICY) == State.PRIMARY_STATE_ACTIVE:
            self._change_policy_state(Transition.TRANSITION_DEACTIVATE, "deactivated")

    def _change_policy_state(self, transition: int, label: str) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        if not self._call(self._change_policy, request, CALL_TIMEOUT_S).success:
            raise RunFailedError(f"{POLICY} could not be {label}; its log says why.")

    def _engage_guard(self) -> None:
        """Engage needs joint states from after the reset; those may still be on their way."""
        deadline_s = time.monotonic() + ENGAGE_TIMEOUT_S
        while True:
            response = self._call(self._engage, Trigger.Request(), CALL_TIMEOUT_S)
            if response.success:
                return
            if time.monotonic() > deadline_s:
                raise RunFailedError(f"{GUARD} did not engage: {response.message}")
            time.sleep(_POLL_S)

    def _set(self, name: str, **values: Any) -> None:
        request = SetParameters.Request(
            parameters=[
                Parameter(key, value=value).to_parameter_msg() for key, value in values.items()
            ]
        )
        for result in self._call(self._parameter_clients[name], request, CALL_TIMEOUT_S).results:
            if not result.successful:
                raise RunFailedError(result.reason)

    def _call_trigger(self, client: "Client[Any, Any]", timeout_s: float) -> None:
        response = self._call(client, Trigger.Request(), timeout_s)
        if not response.success:
            raise RunFailedError(f"{client.srv_name} refused: {response.message}")

    def _call(self, client: "Client[Any, Any]", request: Any, timeout_s: float) -> Any:
        """Call from the running thread while the other one spins."""
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(timeout_s):
            raise RunFailedError(
                f"service {client.srv_name} gave no answer within {timeout_s:g} s; look at the "
                "log of its node."
            )
        return future.result()


def _reader_qos(topic: Topic) -> Any:
    return sensor_qos(topic, reliable=True) if topic is IMAGE else topic.reader_qos.profile()


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _changes(recording: Recording, start_ns: int) -> list[GuardChange]:
    """Every number of every chunk that was sent otherwise than asked."""
    changes = []
    for stamp_ns, executed in sorted(recording.executed.items()):
        asked = recording.asked.get(stamp_ns)
        if asked is None:
            continue
        sent = executed.reordered(asked.joint_names).positions
        first_step = (stamp_ns - start_ns) / messages.NANOSECONDS / asked.times_s[0]
        for row, column in np.argwhere(np.abs(sent - asked.positions) > _SAME_COMMAND):
            changes.append(
                GuardChange(
                    step=round(first_step) + int(row) + 1,
                    joint=asked.joint_names[column],
                    asked=float(asked.positions[row, column]),
                    sent=float(sent[row, column]),
                )
            )
    return changes


def _table(results: RunResults) -> Table:
    table = Table(title=f"{results.task}, {results.mode}", show_header=False)
    for what, value in summary_rows(results):
        table.add_row(what, value)
    return table


def main() -> int:
    """The executable episode_node: code 0 when all episodes ran, whatever their success."""
    return run_beside_spinning(EpisodeNode, EpisodeNode.run)


if __name__ == "__main__":
    sys.exit(main())
