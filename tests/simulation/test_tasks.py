# SPDX-License-Identifier: Apache-2.0
"""The table of tasks: the paper's ids and sentences word for word, and what all tasks state."""

import pytest

from par_model.simulation.task import SUCCESS
from par_model.simulation.tasks import PAPER_TASKS, TASKS, task


def test_names_ids_and_instructions_of_the_papers_tasks():
    assert {name: (TASKS[name].maniskill_id, TASKS[name].instruction) for name in PAPER_TASKS} == {
        "PushCube": ("PushCube-v1", "Push and move a cube to a goal region in front of it."),
        "PickCube": ("PickCube-v1", "Grasp a red cube and move it to a target goal position."),
        "StackCube": (
            "StackCube-v1",
            "Pick up a red cube and stack it on top of a green cube and let go of the cube "
            "without it falling.",
        ),
    }


def test_instructions_tell_the_tasks_apart():
    """The instruction is all that tells a policy which task it does."""
    assert len({found.instruction for found in TASKS.values()}) == len(TASKS)


@pytest.mark.parametrize("found", TASKS.values(), ids=list(TASKS))
def test_a_task_describes_the_cube_and_one_other_object(found):
    """Milestones and the map of initial positions read these two."""
    assert found.position_names[0] == "cube"
    assert len(found.position_names) == 2
    assert found.max_demonstration_steps > 0
    assert len(set(found.failure_kinds)) == len(found.failure_kinds) > 0
    assert SUCCESS not in found.failure_kinds


def test_an_unknown_task_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'PushCub'.*PushCube, PickCube, StackCube"):
        task("PushCub")
