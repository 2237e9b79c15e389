# SPDX-License-Identifier: Apache-2.0
"""The tasks, one file each, and their table. Nothing of ManiSkill is imported before it is used.

To add one: docs/how_to/add_a_task.md.
"""

from par_model.interface import PolicySpec
from par_model.simulation.task import Task
from par_model.simulation.tasks.pick_cube import PICK_CUBE
from par_model.simulation.tasks.pull_cube import PULL_CUBE
from par_model.simulation.tasks.push_cube import PUSH_CUBE
from par_model.simulation.tasks.push_cube_so100 import PUSH_CUBE_SO100
from par_model.simulation.tasks.stack_cube import STACK_CUBE

# Seeds below are demonstrations, then model selection; the final measurement uses
# FIRST_MEASUREMENT_SEED + i (the seeds of RDT's evaluation, which the paper follows).
NUM_DEMONSTRATION_SEEDS = 10_000
FIRST_SELECTION_SEED = 10_000
FIRST_MEASUREMENT_SEED = 20_241_201

# Control step of recorded demonstrations, s; the simulator's default.
CONTROL_STEP_S = 0.05

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        PUSH_CUBE,
        PICK_CUBE,
        STACK_CUBE,
        PULL_CUBE,
        PUSH_CUBE_SO100,
    )
}

# What the paper trains and measures, in the order of its tables; the included policy's tasks.
PAPER_TASKS = ("PushCube", "PickCube", "StackCube")


def tasks_of_policy(spec: PolicySpec) -> list[str]:
    """Names of the tasks that are done with the policy's joints and whose instruction it knows."""
    return [
        name
        for name, found in TASKS.items()
        if found.instruction in spec.instructions and found.robot.joint_names == spec.joint_names
    ]


def task(name: str) -> Task:
    """The task called `name`. Raises ValueError with the list of tasks for an unknown name."""
    if name not in TASKS:
        raise ValueError(
            f"task {name!r} is unknown; the tasks are {', '.join(TASKS)}. Check the spelling."
        )
    return TASKS[name]
