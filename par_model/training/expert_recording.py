# SPDX-License-Identifier: Apache-2.0
"""Episodes in which a task's expert acts, disturbed or not, and labels each of its chunks.
`expert_of` and `recorded` serve the episodes in which a policy acts, too."""

import numpy as np
import numpy.typing as npt

from par_model.evaluation.labelled_episodes import (
    ExpertActs,
    LabelledEpisode,
    run_labelled_episode,
)
from par_model.simulation.demonstrations import Disturbance, FailedDemonstration, NoiseSettings
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.task import Expert
from par_model.simulation.tasks import task
from par_model.training.staged_episodes import Episode

_MAX_STEPS = 200


def require_expert(task_name: str) -> None:
    """Raise ValueError for a task without one."""
    if task(task_name).expert is None:
        raise ValueError(
            f"task {task_name} has no expert to label states; write one in its file "
            "(docs/how_to/add_a_task.md)."
        )


def record_expert(arm: ManiSkillArm, seed: int, noise: NoiseSettings) -> Episode:
    """The expert's episode of a seed, 0.5 to 0.9 s: no path is planned, and only the picture with
    which a chunk of `noise.block_steps` begins is drawn; it stands for all of the chunk.

    Raises:
        FailedDemonstration: the task is not done within 200 steps.
    """
    expert = expert_of(arm)
    arm.reset(seed)
    expert.reset()
    disturbance = Disturbance(seed, noise, arm.robot.num_arm_joints)
    length = noise.block_steps
    actor = ExpertActs(disturbance)
    done = run_labelled_episode(arm, expert, actor, length, _MAX_STEPS, chunk_pictures=True)
    if not done.success[-1]:
        raise FailedDemonstration("the expert did not end the task")
    begins_chunk = np.arange(done.num_steps) % length == 0
    return recorded(arm, done, begins_chunk, seed=seed, noisy=disturbance.noisy)


def recorded(
    arm: ManiSkillArm,
    done: LabelledEpisode,
    teaches: npt.NDArray[np.bool_],
    *,
    seed: int,
    noisy: bool,
) -> Episode:
    """The episode as it is stored."""
    return Episode(
        instruction=arm.task.instruction,
        frames=done.frames,
        measured_joint_positions=done.measured_joint_positions.astype(np.float32),
        actions=done.labels.astype(np.float32),
        executed_actions=done.executed.astype(np.float32),
        environment_state=done.environment_state.astype(np.float32),
        success=done.success,
        seed=seed,
        noisy=noisy,
        teaches=teaches,
    )


# A worker keeps what is slow to make.
_experts: dict[str, tuple[ManiSkillArm, Expert]] = {}


def expert_of(arm: ManiSkillArm) -> Expert:
    """The expert of the arm's task, which has one."""
    if arm.task.name not in _experts or _experts[arm.task.name][0] is not arm:
        assert arm.task.expert is not None
        arm.reset(0)
        _experts[arm.task.name] = arm, arm.task.expert(arm)
    return _experts[arm.task.name][1]
