# SPDX-License-Identifier: Apache-2.0
"""ManiSkill as an arm: camera, camera_info, joint_states and /clock out, joint trajectories in.

It follows trajectories by joint_trajectory_controller's own replacement rule, so what works here is
what a controller would do. Control step k of an episode that starts at t0 drives to the
trajectory's sample at t0 + k * 0.05 s.

lockstep: physics waits until arm and gripper trajectories carry the stamp of the last picture, then
runs one chunk. Until the first answer of an episode the first observation is repeated, with the
same stamp, as a camera keeps looking at an arm that stands. realtime: physics never waits.

The main thread simulates and draws; another one spins. Simulation time never goes back: each
episode starts EPISODE_GAP_S after the last one ended.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.interface import FloatArray, ImageArray
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.tasks import CONTROL_STEP_S, Task
from par_model.simulation.tasks import task as task_by_name
from par_ros import messages
from par_ros.control.joint_trajectory import JointTrajectory, MotionState
from par_ros.control.trajectory_follower import TrajectoryFollower
from par_ros.leaving import leave_at_once_when_asked
from par_ros.parameters import ManiSkillBridgeParameters, declare, read
from par_ros.process import run_beside_spinning
from par_ros.topics import (
    APPLIED_TARGETS,
    BRIDGE,
    CAMERA_INFO,
    CLOCK,
    CONTROLLER_REFERENCE,
    DIAGNOSTICS,
    EPISODE_STATE,
    EXECUTED_ACTIONS,
    GRIPPER_TRAJECTORY,
    IMAGE,
    JOINT_STATES,
    JOINT_TRAJECTORY,
    RESET_EPISODE,
)

MakeArm = Callable[[Task, ManiSkillBridgeParameters], ManiSkillArm]

STEP_NS = messages.seconds_to_ns(CONTROL_STEP_S)
# Zero would mean "no time yet" to ROS.
FIRST_TIME_NS = messages.NANOSECONDS
EPISODE_GAP_S = 1.0
REPEAT_PERIOD_S = 0.1
_IDLE_PERIOD_S = 0.5
_DIAGNOSTICS_PERIOD_S = 1.0
NUM_ARM_JOINTS = 7


@dataclass(frozen=True)
class Reading:
    """One reading of the sensors; its picture, if any, is still being drawn."""

    time_ns: int
    positions: FloatArray
    velocities: FloatArray
    # What the arm's controller commands.
    command: MotionState
    with_image: bool


class NoAnswerError(ValueError):
    """Lockstep: an observation got no answer."""


@dataclass(frozen=True)
class ResetRequest:
    """~/reset_episode, on its way from the spinning thread to the simulating one."""

    parameters: ManiSkillBridgeParameters
    done: "Future[None]"


@dataclass(frozen=True)
class Command:
    """A trajectory message for the arm or for the gripper, and when it came (monotonic)."""

    is_gripper: bool
    trajectory: JointTrajectory
    stamp_ns: int
    received_s: float


@dataclass(frozen=True)
class Answered:
    """Realtime: the guard has sent what answers the picture of `stamp_ns`; received (monotonic)."""

    stamp_ns: int
    received_s: float


@dataclass
class Episode:
    """What happens between two resets."""

    task: Task
    seed: int
    start_ns: int
    # Simulation time now.
    time_ns: int
    step: int = 0
    success: bool = False
    success_once: bool = False
    finished: bool = False
    # Lockstep: trajectories that answer the last picture.
    answers: dict[bool, Command] = field(default_factory=dict)
    # When each picture was published (monotonic), by stamp; and how long answers took.
    published_s: dict[int, float] = field(default_factory=dict)
    answer_times_s: list[float] = field(default_factory=list)
    # First command to last step, wall time.
    moving_since_s: float | None = None
    moved_until_s: float | None = None
    applied_targets: list[FloatArray] = field(default_factory=list)


class ManiSkillBridgeNode(Node):
    """The ROS side, and the loop that simulates: `run` blocks the main thread."""

    def __init__(self, make_arm: MakeArm) -> None:
        super().__init__(BRIDGE)
        self._make_arm = make_arm
        self._settings = declare(self, ManiSkillBridgeParameters)
        if self._settings.num_actions % self._settings.image_every:
            raise ValueError(
                f"image_every must divide the {self._settings.num_actions} actions of a chunk, "
                f"so that its end is seen, got {self._settings.image_every}; choose 1, 2, 4 or 8."
            )
        self._events: queue.SimpleQueue[ResetRequest | Command | Answered] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._arm: ManiSkillArm | None = None
        self._episode: Episode | None = None
        self._next_start_ns = FIRST_TIME_NS
        self._late_steps = 0
        self._outputs = {
            topic.name: self.create_publisher(
                topic.message_type, topic.name, topic.writer_qos.profile()
            )
            for topic in (
                IMAGE,
                CAMERA_INFO,
                JOINT_STATES,
                CLOCK,
                EPISODE_STATE,
                APPLIED_TARGETS,
                CONTROLLER_REFERENCE,
                DIAGNOSTICS,
            )
        }
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
        episode = self._episode
        rate = "" if episode is None else _text(_step_rate_hz(episode))
        status = messages.Status(
            messages.status_name(self),
            messages.WARN if self._late_steps else messages.OK,
            f"{self._late_steps} control steps came late" if self._late_steps else "simulating",
            {"step_rate_hz": rate, "late_steps": str(self._late_steps)},
        )
        now_ns = self.get_clock().now().nanoseconds
        self._outputs[DIAGNOSTICS.name].publish(messages.diagnostics_message((status,), now_ns))

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
        if episode.moving_since_s is None:
            episode.moving_since_s = received_s
        self._note_answer(episode, episode.time_ns, received_s)
        episode.answers.clear()
        self._run_chunk(episode)
        self._publish_state(episode)

    def _run_chunk(self, episode: Episode) -> None:
        """Make a chunk's control steps. Physics goes on while the step before is drawn."""
        reading: Reading | None = None
        for _ in range(self._settings.num_actions):
            self._advance(episode)
            picture = self._picture_of(reading)
            previous, reading = reading, self._read_sensors(episode)
            if previous is not None:
                self._publish_observation(episode, previous, picture)
            if episode.finished:
                break
        assert reading is not None
        self._publish_observation(episode, reading, self._picture_of(reading))
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
        period_s = CONTROL_STEP_S / self._settings.real_time_factor
        due_s = time.monotonic() + period_s
        while True:
            episode = self._episode
            remaining_s = due_s - time.monotonic()
            if episode is not None and remaining_s <= 0.0:
                self._step(episode)
                due_s += period_s
                if due_s < time.monotonic():
                    # Late is late: the simulation falls behind, and never hurries after.
                    self._late_steps += 1
                    due_s = time.monotonic()
                continue
            event = self._next_event(_IDLE_PERIOD_S if episode is None else remaining_s)
            if isinstance(event, ResetRequest):
                self._reset(event)
                due_s = time.monotonic() + period_s
            elif isinstance(event, Command) and episode is not None:
                self._follow(event, episode.time_ns)
                if episode.moving_since_s is None:
                    episode.moving_since_s = event.received_s
            elif isinstance(event, Answered) and episode is not None:
                self._note_answer(episode, event.stamp_ns, event.received_s)

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
        self._arm_follower = TrajectoryFollower(names[:NUM_ARM_JOINTS], positions[:NUM_ARM_JOINTS])
        self._gripper_follower = TrajectoryFollower(
            names[NUM_ARM_JOINTS:], positions[NUM_ARM_JOINTS:]
        )
        start_ns = self._next_start_ns
        self._episode = Episode(task, parameters.seed, start_ns, start_ns)
        self._next_start_ns = start_ns + messages.seconds_to_ns(EPISODE_GAP_S)
        self._observe(self._episode)
        self._publish_state(self._episode)
        request.done.set_result(None)

    def _load_arm(self, task: Task, parameters: ManiSkillBridgeParameters) -> ManiSkillArm:
        """The arm in the scene of `task`; kept from one episode to the next."""
        if self._arm is None or self._arm.task != task:
            if self._arm is not None:
                self._arm.close()
            self._arm = self._make_arm(task, parameters)
            self._camera_matrix = self._arm.camera_matrix()
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

    def _note_answer(self, episode: Episode, image_ns: int, received_s: float) -> None:
        if image_ns in episode.published_s and not episode.finished:
            episode.answer_times_s.append(received_s - episode.published_s[image_ns])

    def _step(self, episode: Episode) -> None:
        """One control step, and what the arm's sensors say after it."""
        was_counted = self._advance(episode)
        self._observe(episode)
        self._note_end(episode)
        if was_counted and self._settings.mode == "realtime":
            self._publish_state(episode)

    def _advance(self, episode: Episode) -> bool:
        """One control step of physics; says whether it counts for the episode."""
        assert self._arm is not None
        due_ns = episode.time_ns + STEP_NS
        targets = np.concatenate(
            [
                self._arm_follower.sample(due_ns).positions,
                self._gripper_follower.sample(due_ns).positions,
            ]
        )
        result = self._arm.step(targets)
        episode.time_ns = due_ns
        self._next_start_ns = due_ns + messages.seconds_to_ns(EPISODE_GAP_S)
        is_counted = episode.moving_since_s is not None and not episode.finished
        if is_counted:
            episode.step += 1
            episode.applied_targets.append(targets)
            episode.success = result.success
            episode.success_once = episode.success_once or result.success
            episode.finished = episode.success_once or episode.step >= self._settings.max_steps
        return is_counted

    def _note_end(self, episode: Episode) -> None:
        if episode.finished and episode.moved_until_s is None:
            episode.moved_until_s = time.monotonic()
            self._publish_applied_targets(episode)

    # What the arm publishes

    def _observe(self, episode: Episode) -> None:
        reading = self._read_sensors(episode)
        self._publish_observation(episode, reading, self._picture_of(reading))

    def _read_sensors(self, episode: Episode) -> Reading:
        """The joints now; where a picture is due, the drawing of it begins."""
        assert self._arm is not None
        with_image = episode.step % self._settings.image_every == 0 or episode.finished
        if with_image:
            self._arm.start_capture()
        command = self._arm_follower.command
        return Reading(episode.time_ns, *self._arm.read_joints(), command, with_image)

    def _picture_of(self, reading: Reading | None) -> ImageArray | None:
        """The picture that belongs to the last reading, once it is drawn; None if it has none."""
        assert self._arm is not None
        if reading is None or not reading.with_image:
            return None
        return self._arm.finish_capture()

    def _publish_observation(
        self, episode: Episode, reading: Reading, picture: ImageArray | None
    ) -> None:
        """The clock is published first, so that readers of the other topics have the time."""
        assert self._arm is not None
        time_ns = reading.time_ns
        self._outputs[CLOCK.name].publish(messages.clock_message(time_ns))
        self._outputs[JOINT_STATES.name].publish(
            messages.joint_state_message(
                self._arm.joint_names, reading.positions, reading.velocities, time_ns
            )
        )
        self._outputs[CONTROLLER_REFERENCE.name].publish(
            messages.reference_message(self._arm_follower.joint_names, reading.command, time_ns)
        )
        if picture is None:
            return
        frame_id = self._settings.camera_frame_id
        height, width = picture.shape[:2]
        self._outputs[CAMERA_INFO.name].publish(
            messages.camera_info(self._camera_matrix, height, width, time_ns, frame_id)
        )
        image = messages.array_to_image(picture, "rgb8", time_ns, frame_id)
        # A repeated picture was published when it was first published.
        episode.published_s.setdefault(time_ns, time.monotonic())
        self._outputs[IMAGE.name].publish(image)

    def _publish_state(self, episode: Episode) -> None:
        values = {
            "task": episode.task.name,
            "seed": str(episode.seed),
            "start_ns": str(episode.start_ns),
            "step": str(episode.step),
            "success": str(episode.success).lower(),
            "success_once": str(episode.success_once).lower(),
            "finished": str(episode.finished).lower(),
            "camera_to_trajectory_ms": " ".join(
                f"{time_s * 1e3:.3f}" for time_s in episode.answer_times_s
            ),
            "step_rate_hz": _text(_step_rate_hz(episode)),
        }
        status = messages.Status(
            messages.status_name(self),
            messages.OK,
            "finished" if episode.finished else "running",
            values,
        )
        self._outputs[EPISODE_STATE.name].publish(messages.status_message(status))

    def _publish_applied_targets(self, episode: Episode) -> None:
        assert self._arm is not None
        positions = np.array(episode.applied_targets)
        times_s = CONTROL_STEP_S * np.arange(1, len(positions) + 1)
        trajectory = JointTrajectory(self._arm.joint_names, times_s, positions)
        self._outputs[APPLIED_TARGETS.name].publish(
            messages.joint_trajectory_message(trajectory, episode.start_ns)
        )


def _step_rate_hz(episode: Episode) -> float | None:
    """Control steps a wall second from the first command to the last step."""
    if episode.moving_since_s is None or episode.moved_until_s is None:
        return None
    return episode.step / (episode.moved_until_s - episode.moving_since_s)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def make_maniskill_arm(task: Task, parameters: ManiSkillBridgeParameters) -> ManiSkillArm:
    """The arm that the executable drives."""
    return ManiSkillArm(
        task, image_size=parameters.image_size, light_meshes=parameters.light_meshes
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
    sys.exit(main())
