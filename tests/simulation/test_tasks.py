# SPDX-License-Identifier: Apache-2.0
"""Three tasks, their ids and their instructions word for word; an unknown one is refused."""

import pytest

from par_model.simulation.tasks import TASKS, task


def test_names_ids_and_instructions():
    assert {name: (t.maniskill_id, t.instruction) for name, t in TASKS.items()} == {
        "PushCube": ("PushCube-v1", "Push and move a cube to a goal region in front of it."),
        "PickCube": ("PickCube-v1", "Grasp a red cube and move it to a target goal position."),
        "StackCube": (
            "StackCube-v1",
            "Pick up a red cube and stack it on top of a green cube and let go of the cube "
            "without it falling.",
        ),
    }


def test_an_unknown_task_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'PushCub'.*PushCube, PickCube, StackCube"):
        task("PushCub")
