# SPDX-License-Identifier: Apache-2.0
"""Each disturbance changes what it names, once, and nothing before; equal seeds disturb equally."""

import contextlib

import numpy as np
import pytest

from par_model.simulation.demonstrations import (
    FailedDemonstration,
    NoiseSettings,
    record_demonstration,
)
from par_model.simulation.disturbances import (
    FIRST_STEP,
    KINDS,
    LAST_STEP,
    Disturbance,
    DisturbedArm,
)
from par_model.simulation.maniskill_env import ManiSkillArm

pytestmark = pytest.mark.sim
NUM_STEPS = LAST_STEP + 2


@pytest.fixture(scope="module")
def arm():
    with DisturbedArm("PickCube") as made:
        yield made


def still(arm, kind, seed=10000):
    """(the picture before, the picture after, how far the cube went) while the arm stands."""
    arm.disturbance = None if kind is None else Disturbance(kind, seed)
    arm.reset(seed)
    target = arm.read_joints()[0]
    before, cube_m = arm.capture(), arm.environment_state()["cube"]
    for _ in range(NUM_STEPS):
        arm.step(target)
    return before, arm.capture(), np.linalg.norm(arm.environment_state()["cube"] - cube_m)


def test_without_a_disturbance_it_is_a_maniskill_arm(arm):
    before, after, _ = still(arm, None)
    assert arm.began_at is None
    with ManiSkillArm("PickCube") as plain:
        plain.reset(10000)
        np.testing.assert_array_equal(plain.capture(), before)
        target = plain.read_joints()[0]
        for _ in range(NUM_STEPS):
            plain.step(target)
        np.testing.assert_array_equal(plain.capture(), after)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gripper_slips"])
def test_each_kind_changes_what_it_names(arm, kind):
    undisturbed, after_undisturbed, _ = still(arm, None)
    before, after, moved_m = still(arm, kind)
    np.testing.assert_array_equal(before, undisturbed)
    assert FIRST_STEP <= arm.began_at <= LAST_STEP
    change = np.abs(after.astype(int) - after_undisturbed).max(axis=-1) > 20
    cube_moves = {"cube_moved": (0.03, 0.08), "cube_taken_away": (1.0, 100.0)}
    low, high = cube_moves.get(kind, (-1e-3, 2e-3))
    assert low - 5e-3 <= moved_m <= high + 5e-3
    if kind == "picture_frozen":
        for _ in range(5):
            arm.step(arm.read_joints()[0] + 0.1)
        np.testing.assert_array_equal(arm.capture(), after)
    else:
        assert change.sum() >= 10
    if kind in ("cube_moved", "cube_recoloured", "cube_taken_away", "unknown_object"):
        assert change.mean() < 0.1
    _, again, _ = still(arm, kind)
    np.testing.assert_array_equal(again, after)


def test_what_is_held_slips(arm, monkeypatch):
    """The planner closes the gripper on the cube; 3 steps later it opens, whatever it is told."""
    arm.disturbance = Disturbance("gripper_slips", 10000)
    opened_m = []
    step = arm.step

    def stepped(target):
        result = step(target)
        if arm.began_at is not None:
            opened_m.append(arm.read_joints()[0][-1])
        return result

    monkeypatch.setattr(arm, "step", stepped)
    with contextlib.suppress(FailedDemonstration):
        record_demonstration(arm, 10000, NoiseSettings(share=0.0), num_hold_steps=0)
    assert max(opened_m[:9]) > 0.03


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'earthquake' is unknown; the kinds are cube_moved"):
        Disturbance("earthquake", 0)
