# SPDX-License-Identifier: Apache-2.0
"""Demonstrations by the tasks' motion planners, recorded step by step.

One seed makes one demonstration or a reason why there is none, and always the same one. A share of
the demonstrations is disturbed: for blocks of 8 steps the arm is sent the planner's target plus a
constant offset while the planner's target stays the label, so that the data shows the way back.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from par_model.interface import FloatArray, ImageArray
from par_model.simulation.maniskill_env import ManiSkillArm


@dataclass(frozen=True)
class NoiseSettings:
    """How demonstrations are disturbed.

    Attributes:
        share: part of the seeds that is disturbed, 0 to 1.
        sigma_rad: standard deviation of the offset of each arm joint.
        probability: probability that a block is disturbed.
        block_steps: steps for which an offset is held.
    """

    share: float = 0.35
    sigma_rad: float = 0.025
    probability: float = 0.5
    block_steps: int = 8


@dataclass(frozen=True)
class Demonstration:
    """T steps; frame t and state t are what was seen before action t.

    Attributes:
        seed: ManiSkill's reset seed.
        noisy: whether the executed actions were disturbed.
        frames: uint8 [T, H, W, 3].
        measured_joint_positions: float32 [T, J], rad and m.
        actions: float32 [T, J], the planner's joint targets (the label).
        executed_actions: float32 [T, J], the targets that were really sent.
        environment_state: float32 [T, P * 3], positions in the order of Task.position_names.
        success: bool [T], the task's condition after action t.
        num_planned_steps: T without the hold steps at the end.
    """

    seed: int
    noisy: bool
    frames: npt.NDArray[np.uint8]
    measured_joint_positions: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    executed_actions: npt.NDArray[np.float32]
    environment_state: npt.NDArray[np.float32]
    success: npt.NDArray[np.bool_]
    num_planned_steps: int


class FailedDemonstration(Exception):
    """This seed gives no successful demonstration; the message says why."""


def record_demonstration(
    arm: ManiSkillArm, seed: int, noise: NoiseSettings, num_hold_steps: int
) -> Demonstration:
    """Plan and execute seed's demonstration; raises FailedDemonstration where it does not succeed.

    Success means that the task's condition holds at the very end, after the hold steps.
    """
    recorder = _Recorder(arm, Disturbance(seed, noise, arm.robot.num_arm_joints))
    _run_planner(arm, recorder, seed)
    if recorder.num_steps == 0:
        raise FailedDemonstration("the planner found no path")
    num_planned_steps = recorder.num_steps
    recorder.hold(num_hold_steps)
    if not recorder.success[-1]:
        raise FailedDemonstration("the task's condition does not hold at the end")
    return recorder.demonstration(seed, num_planned_steps)


class Disturbance:
    """The offset of each step of one episode, a function of its seed alone."""

    def __init__(self, seed: int, noise: NoiseSettings, num_arm_joints: int) -> None:
        self._noise = noise
        self._num_arm_joints = num_arm_joints
        self._generator = np.random.default_rng([seed, 20_241_122])
        self.noisy = bool(self._generator.random() < noise.share)
        self._offset_rad = np.zeros(num_arm_joints)

    def offset_rad(self, step: int) -> FloatArray:
        """float64 [J]; call with step = 0, 1, 2, ..."""
        if self.noisy and step % self._noise.block_steps == 0:
            disturbed = self._generator.random() < self._noise.probability
            offset_rad = self._generator.normal(0.0, self._noise.sigma_rad, self._num_arm_joints)
            self._offset_rad = offset_rad if disturbed else np.zeros(self._num_arm_joints)
        return self._offset_rad


class _Recorder:
    """Stands where ManiSkill's planners expect a gymnasium environment."""

    def __init__(self, arm: ManiSkillArm, disturbance: Disturbance) -> None:
        self.arm = arm
        self._disturbance = disturbance
        self._frames: list[ImageArray] = []
        self._measured: list[FloatArray] = []
        self._actions: list[npt.NDArray[np.float32]] = []
        self._executed: list[npt.NDArray[np.float32]] = []
        self._environment: list[FloatArray] = []
        self.success: list[bool] = []

    @property
    def unwrapped(self) -> Any:
        return self.arm.maniskill_env

    @property
    def num_steps(self) -> int:
        return len(self.success)

    def reset(self, seed: int) -> None:
        self.arm.reset(seed)

    def step(self, action: FloatArray) -> tuple[None, float, bool, bool, dict[str, bool]]:
        offset_rad = self._disturbance.offset_rad(self.num_steps)
        self._record(self.arm.robot.from_action(action), offset_rad)
        return None, 0.0, False, False, {"success": self.success[-1]}

    def hold(self, num_steps: int) -> None:
        """Repeat the last planned target, undisturbed."""
        target = self._actions[-1].astype(np.float64)
        for _ in range(num_steps):
            self._record(target, np.zeros(self.arm.robot.num_arm_joints))

    def _record(self, joint_targets: FloatArray, offset_rad: FloatArray) -> None:
        if self.num_steps >= self.arm.task.max_demonstration_steps:
            raise FailedDemonstration("the demonstration is too long")
        # What is stored is what was sent: float32, so that a replay gives the same episode.
        label = joint_targets.astype(np.float32)
        executed = label.copy()
        executed[:-1] += offset_rad.astype(np.float32)
        self._frames.append(self.arm.capture())
        self._measured.append(self.arm.read_joints()[0])
        self._environment.append(np.concatenate(list(self.arm.environment_state().values())))
        self._actions.append(label)
        self._executed.append(executed)
        self.success.append(self.arm.step(executed.astype(np.float64)).success)

    def demonstration(self, seed: int, num_planned_steps: int) -> Demonstration:
        return Demonstration(
            seed=seed,
            noisy=self._disturbance.noisy,
            frames=np.stack(self._frames),
            measured_joint_positions=np.stack(self._measured).astype(np.float32),
            actions=np.stack(self._actions),
            executed_actions=np.stack(self._executed),
            environment_state=np.stack(self._environment).astype(np.float32),
            success=np.array(self.success),
            num_planned_steps=num_planned_steps,
        )


def _run_planner(arm: ManiSkillArm, recorder: _Recorder, seed: int) -> None:
    # The planners print their failures; what they return does not always say it.
    with contextlib.redirect_stdout(io.StringIO()):
        arm.task.planner(recorder, seed)
