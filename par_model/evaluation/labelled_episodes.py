# SPDX-License-Identifier: Apache-2.0
"""Episodes in which an expert labels what somebody does: a policy, or the expert itself.

Shapes: T steps; J joints; L steps of a chunk; H, W pixels. An episode is whole chunks but for the
last one; each chunk has the label of the state in which it began.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_model.interface import FloatArray, ImageArray, Observation, Policy
from par_model.simulation.demonstrations import Disturbance, NoiseSettings
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.task import Expert

# Chunks that the expert plays, disturbed, before a disturbed start: at least and at most.
_START_CHUNKS = (1, 12)
_START_NOISE = NoiseSettings(share=1.0, sigma_rad=0.1, probability=0.5)
_START_STREAM = 20_261_126


@dataclass(frozen=True)
class LabelledEpisode:
    """What was seen, done and should have been done; float64, rad and m.

    Attributes:
        frames: uint8 [T, H, W, 3]; empty where they were not asked for. Where the expert acts, each
            chunk's first picture stands for all its steps.
        measured_joint_positions: [T, J] before each step.
        labels: [T, J], the expert's targets.
        executed: [T, J], what was sent.
        environment_state: [T, P], positions in the order of Task.position_names.
        success: bool [T], the task's condition after each step.
        teaches: bool [T], whether the expert would teach the chunk that begins at this step.
        label_times_s: [chunks], wall time of a label.
    """

    frames: npt.NDArray[np.uint8]
    measured_joint_positions: FloatArray
    labels: FloatArray
    executed: FloatArray
    environment_state: FloatArray
    success: npt.NDArray[np.bool_]
    teaches: npt.NDArray[np.bool_]
    label_times_s: FloatArray

    @property
    def num_steps(self) -> int:
        return len(self.labels)


class ExpertActs:
    """A Policy's part in an episode, played by the expert: its labels, disturbed."""

    def __init__(self, disturbance: Disturbance) -> None:
        self._disturbance = disturbance

    def chunk(self, labels_LJ: FloatArray, first_step: int) -> FloatArray:
        offsets = [self._disturbance.offset_rad(first_step + i) for i in range(len(labels_LJ))]
        sent = labels_LJ.copy()
        sent[:, : len(offsets[0])] += offsets
        return sent


class PolicyActs:
    """A policy in an episode; it sees every chunk's first picture."""

    def __init__(self, arm: ManiSkillArm, policy: Policy, policy_seed: int) -> None:
        self._arm, self._policy = arm, policy
        self._executed: FloatArray | None = None
        policy.reset(arm.task.instruction, policy_seed)

    def chunk(self, image: ImageArray, first_step: int) -> FloatArray:
        observation = Observation(
            image=image,
            views=self._arm.views,
            measured_joint_positions=self._arm.read_joints()[0],
            joint_names=self._arm.joint_names,
            stamp_s=first_step * self._arm.step_s,
            executed_actions=self._executed,
        )
        self._policy.observe(observation)
        self._executed = self._policy.act().joint_positions
        return self._executed


def run_labelled_episode(
    arm: ManiSkillArm,
    expert: Expert,
    actor: ExpertActs | PolicyActs,
    num_actions: int,
    max_steps: int,
    *,
    chunk_pictures: bool = False,
) -> LabelledEpisode:
    """From the arm's present state to the first success, or for `max_steps` steps. Every step's
    picture is kept where a policy acts; `chunk_pictures` keeps each chunk's first where the expert
    does."""
    steps = _Steps()
    label_times_s: list[float] = []
    while steps.num < max_steps and not (steps.success and steps.success[-1]):
        start_s = time.perf_counter()
        teaches = expert.teaches()
        labels = expert.label(num_actions)
        label_times_s.append(time.perf_counter() - start_s)
        image = arm.capture() if isinstance(actor, PolicyActs) or chunk_pictures else None
        if isinstance(actor, PolicyActs):
            assert image is not None
            sent = actor.chunk(image, steps.num)
        else:
            sent = actor.chunk(labels, steps.num)
        for row, (label, target) in enumerate(zip(labels, sent, strict=True)):
            if isinstance(actor, PolicyActs) and row:
                image = arm.capture()
            steps.add(arm, image, label, target, teaches and row == 0)
            if steps.success[-1] or steps.num == max_steps:
                break
    return steps.episode(np.array(label_times_s))


def disturb_start(arm: ManiSkillArm, expert: Expert, seed: int, num_actions: int) -> None:
    """Reset arm and expert, then leave the arm somewhere on the way and the cube perhaps knocked: a
    few chunks of the expert, half of them far off, and none that ends the task. A function of the
    seed."""
    first, last = _START_CHUNKS
    num_chunks = int(np.random.default_rng([seed, _START_STREAM]).integers(first, last + 1))
    while True:
        arm.reset(seed)
        expert.reset()
        if num_chunks == 0:
            return
        actor = ExpertActs(Disturbance(seed, _START_NOISE, arm.robot.num_arm_joints))
        done = run_labelled_episode(arm, expert, actor, num_actions, num_actions * num_chunks)
        if not done.success[-1]:
            return
        num_chunks = (done.num_steps - 1) // num_actions


class _Steps:
    """An episode while it runs."""

    def __init__(self) -> None:
        self.success: list[bool] = []
        self._frames: list[ImageArray] = []
        self._rows: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = []
        self._teaches: list[bool] = []

    @property
    def num(self) -> int:
        return len(self.success)

    def add(
        self,
        arm: ManiSkillArm,
        image: ImageArray | None,
        label: FloatArray,
        target: FloatArray,
        teaches: bool,
    ) -> None:
        if image is not None:
            self._frames.append(image)
        state = np.concatenate(list(arm.environment_state().values()))
        # What is stored is what was sent: float32, so that a replay gives the same episode.
        sent = target.astype(np.float32).astype(np.float64)
        self._rows.append((arm.read_joints()[0], label, sent, state))
        self._teaches.append(teaches)
        self.success.append(arm.step(sent).success)

    def episode(self, label_times_s: FloatArray) -> LabelledEpisode:
        measured, labels, executed, state = (
            np.stack(column) for column in zip(*self._rows, strict=True)
        )
        return LabelledEpisode(
            frames=np.stack(self._frames) if self._frames else np.zeros((0, 0, 0, 3), np.uint8),
            measured_joint_positions=measured,
            labels=labels,
            executed=executed,
            environment_state=state,
            success=np.array(self.success),
            teaches=np.array(self._teaches),
            label_times_s=label_times_s,
        )
