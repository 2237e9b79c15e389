# SPDX-License-Identifier: Apache-2.0
"""What happens in a simulated scene between two resets, and what its sensors say."""

from dataclasses import dataclass, field

from par_model.interface import FloatArray
from par_model.simulation.task import Task
from par_ros.control.joint_trajectory import JointTrajectory, MotionState


@dataclass(frozen=True)
class Reading:
    """What the sensors said at one moment; the picture, where there is one, is being drawn.

    Attributes:
        positions, velocities: float64 [J], gripper last; rad and m, per second.
        command: what the arm's controller commands.
    """

    time_ns: int
    positions: FloatArray
    velocities: FloatArray
    command: MotionState
    with_image: bool


@dataclass(frozen=True)
class Command:
    """A trajectory message for the arm or for the gripper, and when it came (monotonic)."""

    is_gripper: bool
    trajectory: JointTrajectory
    stamp_ns: int
    received_s: float


@dataclass
class Episode:
    """One scene from its reset on.

    Attributes:
        start_ns, time_ns: simulation time at the reset and now.
        step: control steps since the first trajectory.
        idle_steps: control steps before the first trajectory; they are not counted in `step`. 0 in
            lockstep.
        answers: lockstep: trajectories that answer the last picture, by is_gripper.
        published_s: when each picture was published (monotonic), by stamp.
        answer_times_s: how long answers took.
        moving_since_s, moved_until_s: first command to last step, wall time.
        applied_targets: float64 [J], of each step counted.
    """

    task: Task
    seed: int
    start_ns: int
    time_ns: int
    step: int = 0
    idle_steps: int = 0
    success: bool = False
    success_once: bool = False
    finished: bool = False
    answers: dict[bool, Command] = field(default_factory=dict)
    published_s: dict[int, float] = field(default_factory=dict)
    answer_times_s: list[float] = field(default_factory=list)
    moving_since_s: float | None = None
    moved_until_s: float | None = None
    applied_targets: list[FloatArray] = field(default_factory=list)

    @property
    def step_rate_hz(self) -> float | None:
        """Control steps a wall second from the first command to the last step."""
        if self.moving_since_s is None or self.moved_until_s is None:
            return None
        return self.step / (self.moved_until_s - self.moving_since_s)

    def note_command(self, received_s: float) -> None:
        """A trajectory came; from the first one on steps are counted."""
        if self.moving_since_s is None:
            self.moving_since_s = received_s

    def note_answer(self, image_ns: int, received_s: float) -> None:
        """The picture of this stamp was answered."""
        if image_ns in self.published_s and not self.finished:
            self.answer_times_s.append(received_s - self.published_s[image_ns])

    def count_step(self, targets: FloatArray, *, success: bool, max_steps: int) -> bool:
        """A control step was made towards `targets` [J]; says whether it counts."""
        if self.finished:
            return False
        if self.moving_since_s is None:
            self.idle_steps += 1
            return False
        self.step += 1
        self.applied_targets.append(targets)
        self.success = success
        self.success_once = self.success_once or success
        self.finished = self.success_once or self.step >= max_steps
        return True
