# SPDX-License-Identifier: Apache-2.0
"""The disturbance suite: what is counted of made-up episodes, and the command on a random policy.

Thresholds: surprise 1.0, picture change 30. A control step is 0.05 s, an observation every 8.
"""

import json
import shutil
from types import SimpleNamespace

import pytest

from par_model.calibrate import _rollouts as rollouts_of
from par_model.calibrate import main as calibrate
from par_model.evaluate import main
from par_model.evaluation.disturbance_protocol import (
    FIRST_SEED,
    disturbance_content,
    pairs,
    table_lines,
)
from par_model.evaluation.rollouts import Rollout, RolloutResult
from par_model.simulation.disturbances import KINDS
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import TASKS
from par_model.surprise import FILE_NAME, SurpriseCalibration, SurpriseThresholds
from par_model.weights_hash import weights_hash
from tests.evaluation.test_evaluate import checkpoint  # noqa: F401

LIMITS = SurpriseThresholds(0.8, 1.0, 30.0, 40)
CALIBRATION = SurpriseCalibration(
    "", None, {task.instruction: LIMITS for task in TASKS.values()}, {}
)


def episode(kind, at, surprises, changes=(), success=False):
    steps = [8 * (index + 1) for index in range(len(surprises))]
    changes = list(changes) or [0.0] * len(steps)
    watched = {"step": steps, "surprise": list(surprises), "picture_change": changes}
    return RolloutResult(
        "PushCube", 1, 0, success, steps[-1], [9.0],
        disturbance=kind, disturbed_at=at, watched=watched,
    )  # fmt: skip


def test_what_is_noticed_and_when():
    """Disturbed at step 10. The first is noticed at step 16, 0.3 s later; the second at 40, after
    1.5 s, by surprise, and by the pictures at 16; the third had a false alarm at step 8; the fourth
    succeeds unnoticed. An episode that was over before counts nowhere."""
    results = [
        episode(None, None, [0.2, 0.9, 0.3], success=True),
        episode(None, None, [0.2, 1.1, 0.3], success=True),
        episode("cube_moved", 10, [0.1, 1.2, 1.3], success=True),
        episode("cube_moved", 10, [0.1, 0.2, 0.2, 0.2, 1.3], [1, 40, 1, 1, 1]),
        episode("cube_moved", 10, [1.2, 1.2, 0.2]),
        episode("cube_moved", 10, [0.1, 0.2, 0.2], success=True),
        episode("light_changed", None, [0.1], success=True),
    ]
    content = disturbance_content(results, CALIBRATION, 0.05)
    assert content["over_before_the_disturbance"] == 1
    assert list(content["rows"]) == ["undisturbed", "cube_moved", "all"]
    quiet, moved = content["rows"]["undisturbed"], content["rows"]["cube_moved"]

    def count(row, name):
        return row[name]["count"], row[name]["of"]

    assert count(quiet["surprise"], "false_alarms") == (1, 2)
    assert count(quiet["surprise"], "success") == (1, 2)
    ours = moved["surprise"]
    assert count(ours, "noticed") == (2, 4)
    assert count(ours, "noticed_soon") == (1, 4)
    assert count(ours, "false_alarms") == (1, 4)
    assert ours["delay_s_median"] == pytest.approx(0.9)
    assert count(moved, "success_without") == (2, 4)
    assert count(ours, "success") == (1, 4)
    assert count(ours, "good_end") == (3, 4)
    assert ours["good_end_gain"]["mean"] == pytest.approx(0.25)
    assert count(moved["picture_change"], "noticed_soon") == (1, 4)
    assert [row[0] for row in table_lines(content["rows"])] == ["kind", *content["rows"]]


def test_nothing_slips_that_is_not_held():
    jobs = pairs(["PushCube", "PickCube"], 3)
    assert len(set(jobs)) == len(jobs) == 3 * (2 * (1 + len(KINDS)) - 1)
    assert ("PushCube", "gripper_slips", FIRST_SEED) not in jobs


def test_a_policy_without_a_task_cannot_be_calibrated():
    first = Rollout("c", "", 0, 0, 8, None, None, False)
    spec = SimpleNamespace(instructions=("Sing.",), joint_names=())
    with pytest.raises(ValueError, match="of no task of the simulator"):
        rollouts_of(first, spec, 2)
    known = SimpleNamespace(
        instructions=(TASKS["PickCube"].instruction,), joint_names=PANDA.joint_names
    )
    assert [rollout.task for rollout in rollouts_of(first, known, 2)] == ["PickCube"] * 2


@pytest.mark.long
@pytest.mark.sim
def test_the_command_on_a_random_policy(checkpoint, tmp_path, capsys):  # noqa: F811
    """Nothing succeeds, so nothing can be calibrated; with thresholds by hand every kind runs once,
    with the same figures on one process and on two."""
    tiny = tmp_path / "tiny"
    shutil.copytree(checkpoint, tiny)
    words = ["--checkpoint", str(tiny), "--backend", "eager", "--num-workers", "1"]
    assert calibrate([*words, "--episodes", "1"]) == 1
    assert "0 undisturbed episodes are too few" in capsys.readouterr().err
    (tiny / f"{FILE_NAME}.episodes.jsonl").unlink()
    words += ["--protocol", "disturbances", "--task", "PushCube", "--episodes", "1"]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 1
    assert "surprise.json is missing" in capsys.readouterr().err
    of_others = {TASKS["PickCube"].instruction: LIMITS}
    SurpriseCalibration(weights_hash(tiny), None, of_others, {}).write(tiny / FILE_NAME)
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 1
    assert "no surprise thresholds of instruction 'Push" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.json*"))
    SurpriseCalibration(weights_hash(tiny), None, dict(CALIBRATION.thresholds), {}).write(
        tiny / FILE_NAME
    )
    contents = []
    for name, num_workers in (("a.json", "1"), ("b.json", "2")):
        words[words.index("--num-workers") + 1] = num_workers
        assert main([*words, "--json", str(tmp_path / name)]) == 0
        contents.append(json.loads((tmp_path / name).read_text()))
    assert contents[0]["rows"] == contents[1]["rows"]
    kinds = [kind for kind in KINDS if kind != "gripper_slips"]
    assert list(contents[0]["rows"]) == ["undisturbed", *kinds, "all"]
    assert contents[0]["rows"]["all"]["episodes"] == len(kinds)
