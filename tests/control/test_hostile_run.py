# SPDX-License-Identifier: Apache-2.0
"""Short runs of the hostile world: every mode, the same again, and away with one disturbance."""

import json

import pytest

from par_ros.proof.hostile_disturbances import DISTURBANCES, Choice, Disturbances
from par_ros.proof.hostile_run import MODES, hostile_run
from par_ros.proof.hostile_totals import HostileTotals
from tests.control.arms import arm

SPEC = arm("panda")


@pytest.mark.parametrize("mode", MODES)
def test_a_guard_passes_where_nothing_is_hostile_but_the_chunks(mode: str) -> None:
    totals = hostile_run(SPEC, 11, Choice.of(only=("hostile_chunks", "arm_lag")), 25, mode)
    assert totals.passed, (totals.examples, totals.exceptions)
    assert totals.num_chunks == 25
    assert totals.num_outputs > 5


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = (hostile_run(SPEC, 5, Choice.of(), 25) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert json.loads(json.dumps(first.to_json())) is not None
    assert HostileTotals.from_json(first.to_json()).to_json() == first.to_json()


def test_without_one_disturbance_the_others_draw_the_same() -> None:
    whole = Disturbances(Choice.of(), 4)
    part = Disturbances(Choice.of(without=("arm_sag",)), 4)
    assert set(whole.names) - set(part.names) <= {"arm_sag"}
    for name in DISTURBANCES:
        if name != "arm_sag":
            assert [whole.happens(name, 0.5) for _ in range(20)] == [
                part.happens(name, 0.5) for _ in range(20)
            ]


def test_every_disturbance_does_something_in_its_mode() -> None:
    """Each happens within a few runs of its own."""
    counted = (
        "lost_trajectories", "doubled_trajectories", "clock_slews", "lost_chunks", "late_chunks",
        "doubled_chunks", "joint_gaps", "late_joints", "collisions",
    )  # fmt: skip
    for name in counted:
        totals = HostileTotals()
        for seed in range(6):
            totals.add(hostile_run(SPEC, seed, Choice.of(only=(name,)), 8, "arm"))
            if totals.disturbed[name]:
                break
        assert totals.disturbed[name] > 0, name
