# SPDX-License-Identifier: Apache-2.0
"""The tasks that PAR is trained and measured on. Plain data: nothing of ManiSkill is imported."""

from dataclasses import dataclass

# Seeds below are demonstrations, then model selection; the final measurement uses
# FIRST_MEASUREMENT_SEED + i (the seeds of RDT's evaluation, which the paper follows).
NUM_DEMONSTRATION_SEEDS = 10_000
FIRST_SELECTION_SEED = 10_000
FIRST_MEASUREMENT_SEED = 20_241_201

# Control step of recorded demonstrations, s; the simulator's default.
CONTROL_STEP_S = 0.05


@dataclass(frozen=True)
class Task:
    """One ManiSkill task.

    Attributes:
        name: what users type (`task:=PushCube`).
        maniskill_id: id for gymnasium.make.
        instruction: the sentence given to the policy, word for word.
        max_demonstration_steps: a demonstration longer than this counts as failed.
        position_names: the named positions (metres, world frame) that describe the scene.
    """

    name: str
    maniskill_id: str
    instruction: str
    max_demonstration_steps: int
    position_names: tuple[str, ...]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="PushCube",
            maniskill_id="PushCube-v1",
            instruction="Push and move a cube to a goal region in front of it.",
            max_demonstration_steps=200,
            position_names=("cube", "goal"),
        ),
        Task(
            name="PickCube",
            maniskill_id="PickCube-v1",
            instruction="Grasp a red cube and move it to a target goal position.",
            max_demonstration_steps=200,
            position_names=("cube", "goal"),
        ),
        Task(
            name="StackCube",
            maniskill_id="StackCube-v1",
            instruction=(
                "Pick up a red cube and stack it on top of a green cube and let go of the cube "
                "without it falling."
            ),
            max_demonstration_steps=200,
            position_names=("cube", "cube_b"),
        ),
    )
}


def task(name: str) -> Task:
    """The task called `name`. Raises ValueError with the list of tasks for an unknown name."""
    if name not in TASKS:
        raise ValueError(
            f"task {name!r} is unknown; the tasks are {', '.join(TASKS)}. Check the spelling."
        )
    return TASKS[name]
