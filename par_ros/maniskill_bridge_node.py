# SPDX-License-Identifier: Apache-2.0
"""ManiSkill as an arm: camera, camera_info, joint_states and /clock out, joint trajectories in.

It follows trajectories by joint_trajectory_controller's own replacement rule, so what works here is
what a controller would do. Control step k of an episode that starts at t0 drives to the
trajectory's sample at t0 + k * step_s.

lockstep: physics waits until arm and gripper trajectories carry the stamp of the last picture, then
runs one chunk. Until the first answer of an episode the first observation is repeated, with the
same stamp, as a camera keeps looking at an arm that stands. realtime: physics never waits; /clock
shows each control step some time before its target is sampled (control/step_pace.py).

The main thread simulates and draws; another one spins. Simulation time never goes back: each
episode starts at least EPISODE_GAP_S after the last one ended, and later than any motion of the
guard can end: a guard whose motion has not ended does not engage, and the clock stands.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.simulation.further_cameras import DrawnPicture
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.task import Task
from par_model.simulation.tasks import task as task_by_name
from par_ros import messages
from par_ros.bridge_outputs import BridgeOutputs
from par_ros.control.arm_spec import MAX_STOP_TIME_S
from par_ros.control.step_pace import StepPace
from par_ros.control.trajectory_follower import TrajectoryFollower
from par_ros.leaving import leave, leave_at_once_when_asked
from par_ros.parameters import ManiSkillBridgeParameters, declare, read
from par_ros.process import run_beside_spinning
from par_ros.simulated_episode import Command, Episode, Reading
from par_ros.topics import (
    BRIDGE,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    JOINT_TRAJECTORY,
    RESET_EPISODE,
    view_names,
)

MakeArm = Callable[[Task, ManiSkillBridgeParameters], ManiSkillArm]

# Zero would mean "no time yet" to ROS.
FIRST_TIME_NS = messages.NANOSECONDS
EPISODE_GAP_S = 1.0
# After a chunk's end: what a splice takes at most, and the stop.
_REST_S = 0.1 + MAX_STOP_TIME_S
REPEAT_PERIOD_S = 0.1
_IDLE_PERIOD_S = 0.5
_DIAGNOSTICS_PERIOD_S = 1.0


class NoAnswerError(ValueError):
    """Lockstep: an observation got no answer."""


@dataclass(frozen=True)
class ResetRequest:
    """~/reset_episode, on its way from the spinning thread to the simulating one."""

    parameters: ManiSkillBridgeParameters
    done: "Future[None]"


@dataclass(frozen=True)
class Answered:
    """Realtime: the guard has sent what answers the picture of `stamp_ns`; received (monotonic)."""

    stamp_ns: int
    received_s: float


class ManiSkillBridgeNode(Node):
    """The ROS side, and the loop that simulates: `run` blocks the main thread."""

    def __init__(self, make_arm: MakeArm) -> None:
        super().__init__(BRIDGE)
        self._make_arm = make_arm
        self._settings = declare(self, ManiSkillBridgeParameters)
        _require_picture_at_the_end(self._settings)
        self._step_ns = messages.seconds_to_ns(self._settings.step_s)
        motion_s = self._settings.num_actions * self._settings.step_s + _REST_S
        self._gap_ns = messages.seconds_to_ns(max(EPISODE_GAP_S, motion_s))
        self._events: queue.SimpleQueue[ResetRequest | Command | Answered] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._arm: ManiSkillArm | None = None
        self._episode: Episode | None = None
        self._next_start_ns = FIRST_TIME_NS
        self._pace = StepPace(
            self._settings.step_s / self._settings.real_time_factor,
            self._settings.clock_lead_s,
            time.monotonic(),
        )
        self._outputs = BridgeOutputs(
            self,
            self._settings.camera_frame_id,
            self._settings.step_s,
            view_names(self._settings.views),
        )
        for topic, is_gripper in ((JOINT_TRAJECTORY, False), (GRIPPER_TRAJECTORY, True)):
            self.create_subscription(
                JointTrajectoryMessage,
                topic.name,
                lambda message, is_gripper=is_gripper: self._on_trajectory(message, is_gripper),
                topic.reader_qos.profile(),
            )
        if self._settings.mode == "realtime":
            # Trajectories do not say which picture they answer.
            self.create_subscription(
                JointTrajectoryMessage,
                EXECUTED_ACTIONS.name,
                self._on_executed_actions,
                EXECUTED_ACTIONS.reader_qos.profile(),
            )
        self.create_service(Trigger, RESET_EPISODE.private_name, self._on_reset_episode)
        self.create_timer(
            _DIAGNOSTICS_PERIOD_S,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    # Spinning thread

    def _on_trajectory(self, message: JointTrajectoryMessage, is_gripper: bool) -> None:
        received_s = time.monotonic()
        try:
            trajectory = messages.read_joint_trajectory(message)
        except ValueError as error:
            self.get_logger().error(f"trajectory rejected: {error}", throttle_duration_sec=1.0)
            return
        self._events.put(Command(is_gripper, trajectory, messages.stamp_ns(message), received_s))

    def _on_executed_actions(self, message: JointTrajectoryMessage) -> None:
        self._events.put(Answered(messages.stamp_ns(message), time.monotonic()))

    def _on_reset_episode(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            parameters = read(self, ManiSkillBridgeParameters)
            task_by_name(parameters.task)
            done: Future[None] = Future()
            self._events.put(ResetRequest(parameters, done))
            while not wait([done], timeout=_IDLE_PERIOD_S).done:
                if self._ended.is_set():
                    raise ValueError("the simulation is ending.")
            done.result()
            response.success = True
            response.message = f"{parameters.task}, seed {parameters.seed}"
        except ValueError as error:
            response.success = False
            response.message = str(error)
        return response

    def _publish_diagnostics(self) -> None:
        self._outputs.publish_diagnostics(self._episode, self._pace.num_late)

    # Simulating thread

    def run(self) -> None:
        """Simulate until interrupted. Raises NoAnswerError where lockstep waited too long."""
        try:
            self._load_arm(task_by_name(self._settings.task), self._settings)
            if self._settings.mode == "realtime":
                self._realtime()
            while True:
                self._lockstep()
        finally:
            # The simulator goes with the process: closing it first would only cost time.
            self._ended.set()

    def _lockstep(self) -> None:
        """Wait for one event and act on it."""
        episode = self._episode
        if episode is None or episode.finished:
            event = self._next_event(_IDLE_PERIOD_S)
            # Commands here are late ones of an episode that is over.
            if isinstance(event, ResetRequest):
                self._reset(event)
            return
        is_standing = episode.step == 0
        event = self._next_event(REPEAT_PERIOD_S if is_standing else _IDLE_PERIOD_S)
        if isinstance(event, ResetRequest):
            self._reset(event)
        elif isinstance(event, Command):
            self._take_answer(episode, event)
        else:
            self._require_patience(episode)
            if is_standing:
                self._observe(episode)

    def _take_answer(self, episode: Episode, command: Command) -> None:
        """Keep what answers the last picture; with arm and gripper together, run the chunk."""
        if command.stamp_ns != episode.time_ns:
            return
        episode.answers[command.is_gripper] = command
        if len(episode.answers) < len((False, True)):
            return
        for answer in episode.answers.values():
            self._follow(answer, episode.time_ns)
        received_s = max(answer.received_s for answer in episode.answers.values())
        episode.note_command(received_s)
        episode.note_answer(episode.time_ns, received_s)
        episode.answers.clear()
        self._run_chunk(episode)
        self._outputs.publish_state(episode)

    def _run_chunk(self, episode: Episode) -> None:
        """Make a chunk's control steps. Physics goes on while the step before is drawn."""
        reading: Reading | None = None
        for _ in range(self._settings.num_actions):
            self._advance(episode)
            pictures = self._pictures_of(reading)
            previous, reading = reading, self._read_sensors(episode)
            if previous is not None:
                self._publish_observation(episode, previous, pictures)
            if episode.finished:
                break
        assert reading is not None
        self._publish_observation(episode, reading, self._pictures_of(reading))
        self._note_end(episode)

    def _require_patience(self, episode: Episode) -> None:
        waited_s = time.monotonic() - episode.published_s[episode.time_ns]
        if waited_s > self._settings.answer_timeout_s:
            raise NoAnswerError(
                f"no trajectory answered the picture of step {episode.step} within "
                f"{self._settings.answer_timeout_s:g} s; check that policy_node is active and "
                "safety_node engaged, and their logs."
            )

    def _realtime(self) -> None:
        """Act on what comes until the next control step is due, then make it; for ever."""
        self._pace.restart(time.monotonic())
        while True:
            episode = self._episode
            wait_s = _IDLE_PERIOD_S if episode is None else self._pace.wait_s(time.monotonic())
            # What has come already goes first: it is in time for a step that is due.
            event = self._next_event(wait_s)
            if isinstance(event, ResetRequest):
                self._reset(event)
                self._pace.restart(time.monotonic())
            elif episode is None:
                continue
            elif isinstance(event, Command):
                self._follow(event, episode.time_ns)
                episode.note_command(event.received_s)
            elif isinstance(event, Answered):
                episode.note_answer(event.stamp_ns, event.received_s)
            else:
                self._pass_time(episode)

    def _pass_time(self, episode: Episode) -> None:
        """Announce the next control step, or make it; nothing where neither is due."""
        due = self._pace.take(time.monotonic())
        if due == "announce":
            self._outputs.publish_clock(episode.time_ns + self._step_ns)
        elif due == "step":
            self._step(episode)

    def _next_event(self, timeout_s: float) -> ResetRequest | Command | Answered | None:
        try:
            return self._events.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def _reset(self, request: ResetRequest) -> None:
        """Start the episode that `request` asks for, and publish its first observation."""
        try:
            parameters = request.parameters
            task = task_by_name(parameters.task)
            arm = self._load_arm(task, parameters)
            arm.reset(parameters.seed)
        except BaseException as error:
            request.done.set_exception(error)
            raise
        positions, _ = arm.read_joints()
        names = arm.joint_names
        self._arm_follower = TrajectoryFollower(names[:-1], positions[:-1])
        self._gripper_follower = TrajectoryFollower(names[-1:], positions[-1:])
        start_ns = self._next_start_ns
        self._episode = Episode(task, parameters.seed, start_ns, start_ns)
        self._next_start_ns = start_ns + self._gap_ns
        self._observe(self._episode)
        self._outputs.publish_state(self._episode)
        request.done.set_result(None)

    def _load_arm(self, task: Task, parameters: ManiSkillBridgeParameters) -> ManiSkillArm:
        """The arm in the scene of `task`; kept from one episode to the next."""
        if self._arm is None or self._arm.task != task:
            if self._arm is not None:
                self._arm.close()
            self._arm = self._make_arm(task, parameters)
            self._camera_matrices = self._arm.camera_matrices()
        return self._arm

    def _follow(self, command: Command, now_ns: int) -> None:
        follower = self._gripper_follower if command.is_gripper else self._arm_follower
        try:
            follower.follow(command.trajectory, command.stamp_ns, now_ns)
        except ValueError as error:
            # As the controller: a rejected trajectory only logs, the old one goes on.
            self.get_logger().error(f"trajectory rejected: {error}", throttle_duration_sec=1.0)
            return
        follower.pick_up(now_ns)

    def _step(self, episode: Episode) -> None:
        """One control step, and what the arm's sensors say after it."""
        was_counted = self._advance(episode)
        self._observe(episode)
        self._note_end(episode)
        if was_counted and self._settings.mode == "realtime":
            self._outputs.publish_state(episode)

    def _advance(self, episode: Episode) -> bool:
        """One control step of physics; says whether it counts for the episode."""
        assert self._arm is not None
        due_ns = episode.time_ns + self._step_ns
        targets = np.concatenate(
            [
                self._arm_follower.sample(due_ns).positions,
                self._gripper_follower.sample(due_ns).positions,
            ]
        )
        result = self._arm.step(targets)
        episode.time_ns = due_ns
        self._next_start_ns = due_ns + self._gap_ns
        return episode.count_step(
            targets, success=result.success, max_steps=self._settings.max_steps
        )

    def _note_end(self, episode: Episode) -> None:
        if episode.finished and episode.moved_until_s is None:
            episode.moved_until_s = time.monotonic()
            assert self._arm is not None
            self._outputs.publish_applied_targets(episode, self._arm.joint_names)

    # What the arm publishes

    def _observe(self, episode: Episode) -> None:
        reading = self._read_sensors(episode)
        self._publish_observation(episode, reading, self._pictures_of(reading))

    def _read_sensors(self, episode: Episode) -> Reading:
        """The joints now; where a picture is due, the drawing of it begins."""
        assert self._arm is not None
        with_image = episode.step % self._settings.image_every == 0 or episode.finished
        if with_image:
            self._arm.start_capture()
        command = self._arm_follower.command
        return Reading(episode.time_ns, *self._arm.read_joints(), command, with_image)

    def _pictures_of(self, reading: Reading | None) -> dict[str, DrawnPicture] | None:
        """The views' pictures of the last reading, once they are drawn; None if it has none."""
        assert self._arm is not None
        if reading is None or not reading.with_image:
            return None
        return self._arm.drawn_pictures()

    def _publish_observation(
        self, episode: Episode, reading: Reading, pictures: dict[str, DrawnPicture] | None
    ) -> None:
        assert self._arm is not None
        self._outputs.publish_reading(reading, self._arm.joint_names)
        if pictures is not None:
            self._outputs.publish_pictures(
                pictures, self._camera_matrices, episode, reading.time_ns
            )


def _require_picture_at_the_end(settings: ManiSkillBridgeParameters) -> None:
    """Raise ValueError where no picture shows the end of a chunk, which the policy answers."""
    num_actions, image_every = settings.num_actions, settings.image_every
    if num_actions % image_every:
        divisors = ", ".join(str(n) for n in range(1, 9) if num_actions % n == 0)
        raise ValueError(
            f"image_every must divide the {num_actions} actions of a chunk, so that its end is "
            f"seen, got {image_every}; choose one of {divisors}."
        )


def make_maniskill_arm(task: Task, parameters: ManiSkillBridgeParameters) -> ManiSkillArm:
    """The arm that the executable drives."""
    return ManiSkillArm(
        task,
        image_size=parameters.image_size,
        light_meshes=parameters.light_meshes,
        step_s=parameters.step_s,
        views=view_names(parameters.views),
    )


def main() -> int:
    """The executable maniskill_bridge_node."""
    leave_at_once_when_asked()
    code = run_beside_spinning(
        lambda: ManiSkillBridgeNode(make_maniskill_arm), ManiSkillBridgeNode.run
    )
    # Taking the simulator down piece by piece takes seconds, and `ros2 launch` waits for five.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
