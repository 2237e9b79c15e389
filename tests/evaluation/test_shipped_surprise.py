# SPDX-License-Identifier: Apache-2.0
"""The included policy and its forward model in the simulator: a cube that is moved, recoloured or
taken away is noticed in the next pictures, and nothing is where nothing happens.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from par_model.evaluation.direct_loop import arm_for, run_episode
from par_model.evaluation.observation_watcher import ObservationWatcher
from par_model.load_policy import load_policy
from par_model.policy import PARPolicy
from par_model.simulation.disturbances import Disturbance, DisturbedArm
from par_model.surprise import SurpriseCalibration

pytestmark = pytest.mark.sim

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints/par_small"
SEED = 10200
# A second after the latest beginning.
MAX_STEPS = 64
SOON_STEPS = 20


@pytest.fixture(scope="module")
def policy() -> PARPolicy:
    return load_policy(CHECKPOINT, backend="eager", device="cpu")


@pytest.fixture(scope="module")
def arm(policy: PARPolicy) -> Iterator[DisturbedArm]:
    with arm_for("StackCube", policy.spec, DisturbedArm) as made:
        yield made


def alarms(arm: DisturbedArm, policy: PARPolicy, kind: str | None) -> list[int]:
    """Control steps at which an observation was above the second threshold."""
    arm.disturbance = None if kind is None else Disturbance(kind, SEED)
    watcher = ObservationWatcher(arm, policy)
    run_episode(arm, policy, SEED, MAX_STEPS, watchers=(watcher,))
    limit = SurpriseCalibration.read(CHECKPOINT).of(arm.task.instruction).second
    steps = zip(watcher.watched["step"], watcher.watched["surprise"], strict=True)
    return [int(step) for step, value in steps if value > limit]


def test_an_undisturbed_episode_has_no_alarm(arm: DisturbedArm, policy: PARPolicy) -> None:
    assert alarms(arm, policy, None) == []


@pytest.mark.parametrize("kind", ["cube_moved", "cube_recoloured", "cube_taken_away"])
def test_what_happens_to_the_cube_is_noticed_soon(
    arm: DisturbedArm, policy: PARPolicy, kind: str
) -> None:
    first = alarms(arm, policy, kind)[0]
    assert arm.began_at is not None
    assert arm.began_at <= first <= arm.began_at + SOON_STEPS
