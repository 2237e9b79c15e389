# SPDX-License-Identifier: Apache-2.0
"""Runs episodes through the ROS graph and writes their results.

An episode: policy deactivated, guard disengaged, bridge reset (the arm jumps to its start), guard
engaged from the new joint positions, policy told what to do and activated. The bridge says when it
is over. results.json, report.html and the episode's video are written after each episode, so that
what is finished is never lost.
"""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from std_srvs.srv import Trigger

from par_model.evaluation.limit_shares import read_motion_limits
from par_model.output_files import make_folder, written_to_disk
from par_model.simulation.tasks import task as task_by_name
from par_ros.episode_observer import EpisodeObserver
from par_ros.episode_video import write_episode_video
from par_ros.leaving import leave
from par_ros.parameters import EpisodeNodeParameters, declare
from par_ros.process import run_beside_spinning
from par_ros.report import report_page, summary_rows, write_report
from par_ros.resources import resource
from par_ros.run_results import EpisodeResult, RunResults
from par_ros.service_caller import ServiceCaller
from par_ros.topics import (
    BRIDGE,
    DISENGAGE,
    ENGAGE,
    EPISODES,
    GUARD,
    POLICY,
    RESET_EPISODE,
    ServiceEntry,
    view_names,
)

CALL_TIMEOUT_S = 60.0
# Making a scene with ManiSkill for the first time compiles shaders.
RESET_TIMEOUT_S = 180.0
ENGAGE_TIMEOUT_S = 10.0
# In real time the guard also needs joint states over this long at most, which is simulated time.
ENGAGE_SIMULATED_S = 1.0
# How long messages that were sent before an episode's end may take to arrive.
LAST_MESSAGES_S = 3.0
_POLL_S = 0.02
_ANSWER_POLL_S = 0.002
_SERVICES = (
    *((Trigger, entry.client_name) for entry in (RESET_EPISODE, ENGAGE, DISENGAGE)),
    *((SetParameters, f"{name}/set_parameters") for name in (BRIDGE, POLICY)),
    *((GetState, f"{name}/get_state") for name in (GUARD, POLICY)),
    (ChangeState, f"{POLICY}/change_state"),
)


AnswerType = TypeVar("AnswerType")


class RunFailedError(ValueError):
    """The run cannot go on; the text is the sentence for the user."""


class EpisodeNode(Node):
    """Runs the episodes: `run` blocks the calling thread while another one spins."""

    def __init__(self) -> None:
        super().__init__(EPISODES)
        self.parameters = declare(self, EpisodeNodeParameters)
        self._observer = EpisodeObserver(
            self,
            keeps_pictures=self.parameters.video,
            views=view_names(self.parameters.views),
        )
        self._robot = task_by_name(self.parameters.task).robot
        self._limits = read_motion_limits(resource(f"config/arms/{self._robot.name}.yaml"))
        self._console = Console()
        self._folder = Path(self.parameters.report)
        self._caller = ServiceCaller(self, _wait_until, _SERVICES)

    # Episodes

    def run(self) -> RunResults:
        """Run all episodes. Raises RunFailedError if a node fails or does not answer in time."""
        parameters = self.parameters
        instruction = instruction_of(parameters)
        make_folder("the report folder", self._folder)
        results = RunResults(
            task=parameters.task,
            instruction=instruction,
            mode=parameters.mode,
            checkpoint=parameters.checkpoint,
            command=parameters.command,
            started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            episodes_asked=parameters.episodes,
            step_s=parameters.step_s,
            gripper_unit=self._robot.gripper_unit,
            episodes=(),
        )
        # The first page takes plotly a second, which is free while the others start.
        report_page(results)
        self._wait_until_ready()
        for index in range(parameters.episodes):
            result = self._run_episode(index, instruction)
            results = RunResults(**(vars(results) | {"episodes": (*results.episodes, result)}))
            try:
                # First, since the results name it.
                self._write_video(result)
            except ValueError:
                # The disk refuses the video; the results need little room.
                self._write(results)
                raise
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
        result = self._result(seed, policy_seed, predicted)
        outcome = "[green]success[/]" if result.success else "[red]failure[/]"
        self._console.print(f"{title}  {outcome} after {result.steps} steps", highlight=False)
        return result

    def _start_episode(
        self, seed: int, policy_seed: int, instruction: str, predicted: bool
    ) -> None:
        self._deactivate_policy()
        self._call_trigger(DISENGAGE, CALL_TIMEOUT_S)
        self._set(BRIDGE, task=self.parameters.task, seed=seed)
        self._observer.begin(seed)
        self._call_trigger(RESET_EPISODE, RESET_TIMEOUT_S)
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
                state = self._observer.state()
                if state is not None and state.step != step:
                    step, moved_s = state.step, time.monotonic()
                    progress.update(bar, completed=step)
                if state is not None and state.finished:
                    return
                if time.monotonic() - moved_s > self.parameters.stall_timeout_s:
                    raise RunFailedError(
                        f"{title} did not move for {self.parameters.stall_timeout_s:g} s at step "
                        f"{max(step, 0)}; look at the logs of {GUARD} and {POLICY}."
                    )
                time.sleep(_POLL_S)

    def _end_episode(self) -> None:
        """Quiet the policy, then wait for what was sent before."""
        self._observer.await_quiet()
        self._deactivate_policy()
        self._call_trigger(DISENGAGE, CALL_TIMEOUT_S)
        deadline_s = time.monotonic() + LAST_MESSAGES_S
        while not self._observer.is_complete:
            if time.monotonic() > deadline_s:
                raise RunFailedError(
                    "the last diagnostics of policy and guard, or the bridge's applied_targets, "
                    f"did not come within {LAST_MESSAGES_S:g} s; check for another run in this "
                    "ROS domain."
                )
            time.sleep(_POLL_S)

    def _result(self, seed: int, policy_seed: int, predicted: bool) -> EpisodeResult:
        self._episode = self._observer.take()
        return self._episode.result(
            step_s=self.parameters.step_s,
            limits=self._limits,
            policy_seed=policy_seed,
            predicted=predicted,
            video=f"episode_{seed}.mp4" if self.parameters.video else None,
        )

    def _write_video(self, result: EpisodeResult) -> None:
        """The episode's video. Raises ValueError where the disk refuses it."""
        if result.video is None:
            return
        path, episode = self._folder / result.video, self._episode
        with written_to_disk("the video", path):
            write_episode_video(
                path,
                episode.pictures,
                episode.predictions,
                episode.attention,
                f"seed {result.seed}",
            )

    # Other nodes

    def _wait_until_ready(self) -> None:
        """Until every service is there and guard and policy are active."""
        deadline_s = time.monotonic() + self.parameters.start_timeout_s
        for service_type, name in _SERVICES:
            left_s = deadline_s - time.monotonic()
            if not self._caller.wait_for_service(service_type, name, left_s):
                self._require_time(deadline_s, f"service {name} is not available")
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
        state = self._caller.lifecycle_state(name, CALL_TIMEOUT_S)
        return self._answered(state, f"{name}/get_state", CALL_TIMEOUT_S)

    def _deactivate_policy(self) -> None:
        if self._state(POLICY) == State.PRIMARY_STATE_ACTIVE:
            self._change_policy_state(Transition.TRANSITION_DEACTIVATE, "deactivated")

    def _change_policy_state(self, transition: int, label: str) -> None:
        succeeded = self._caller.change_state(POLICY, transition, CALL_TIMEOUT_S)
        if not self._answered(succeeded, f"{POLICY}/change_state", CALL_TIMEOUT_S):
            raise RunFailedError(f"{POLICY} could not be {label}; its log says why.")

    def _engage_guard(self) -> None:
        """Engage needs joint states from after the reset; those may still be on their way."""
        deadline_s = time.monotonic() + engage_timeout_s(self.parameters)
        while True:
            response = self._trigger(ENGAGE.client_name, CALL_TIMEOUT_S)
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
        service = f"{name}/set_parameters"
        response = self._caller.call(SetParameters, service, request, CALL_TIMEOUT_S)
        for result in self._answered(response, service, CALL_TIMEOUT_S).results:
            if not result.successful:
                raise RunFailedError(result.reason)

    def _call_trigger(self, service: ServiceEntry, timeout_s: float) -> None:
        response = self._trigger(service.client_name, timeout_s)
        if not response.success:
            raise RunFailedError(f"{service.client_name} refused: {response.message}")

    def _trigger(self, name: str, timeout_s: float) -> Trigger.Response:
        return self._answered(self._caller.trigger(name, timeout_s), name, timeout_s)

    @staticmethod
    def _answered(answer: AnswerType | None, service: str, timeout_s: float) -> AnswerType:
        """The answer itself; RunFailedError where there is none."""
        if answer is None:
            raise RunFailedError(
                f"service {service} gave no answer within {timeout_s:g} s; look at the log of its "
                "node."
            )
        return answer


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Sleep until it holds, while another thread spins; False after the time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_ANSWER_POLL_S)
    return True


def instruction_of(parameters: EpisodeNodeParameters) -> str:
    """What the policy is told in each episode."""
    return parameters.instruction or task_by_name(parameters.task).instruction


def engage_timeout_s(parameters: EpisodeNodeParameters) -> float:
    """Longest wall time until the guard engages after a reset, in seconds."""
    if parameters.mode == "lockstep":
        return ENGAGE_TIMEOUT_S
    return ENGAGE_TIMEOUT_S + ENGAGE_SIMULATED_S / parameters.real_time_factor


def _table(results: RunResults) -> Table:
    table = Table(title=f"{results.task}, {results.mode}", show_header=False)
    for what, value in summary_rows(results):
        table.add_row(what, value)
    return table


def main() -> int:
    """The executable episode_node: code 0 when all episodes ran, whatever their success."""
    return run_beside_spinning(EpisodeNode, EpisodeNode.run)


if __name__ == "__main__":
    leave(main())
