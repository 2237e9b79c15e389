# SPDX-License-Identifier: Apache-2.0
"""Figures: their numbers from made-up episodes, and every command once on a small random policy."""

import dataclasses
import json
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from par_model.attention_map import frame_map, token_kinds
from par_model.checkpoint import save_checkpoint
from par_model.evaluation.rollouts import RolloutResult
from par_model.instruction import code_table
from par_model.presets import preset
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.milestones import Milestones
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import TASKS
from par_model.visualization.attention import shares
from par_model.visualization.failures import by_kind, chosen_failures
from par_model.visualization.moving_picture import (
    FilmedSuccess,
    film_targets,
    write_moving_picture,
)
from par_model.visualization.pictures import PictureRow, draw_sheet, spread
from par_model.visualization.positions import position_figure, thirds
from par_model.visualization.prediction import (
    PredictionRecord,
    prediction_strip,
    record_prediction,
)
from par_model.visualize import TasksOptions, _tasks_of_policy, main
from par_model.weights_hash import weights_hash
from tests.evaluation.scripted_loop import CountingArm, ScriptedPolicy
from tests.model.fixtures import random_checkpoint_parts


def milestones(x=0.0, y=0.0):
    return Milestones(
        initial_positions={"cube": [x, y, 0.02], "goal": [0.1, 0.1, 0.2]},
        final_positions={"cube": [x, y, 0.02], "goal": [0.1, 0.1, 0.2]},
        min_gripper_cube_m=0.01,
        max_cube_moved_m=0.0,
        max_cube_raised_m=0.0,
        first_grasp_step=None,
        num_grasped_steps=0,
        is_grasped_at_end=False,
        min_second_distance_m=0.2,
    )


def result(seed, outcome, policy_seed=0):
    return RolloutResult(
        "PickCube",
        seed,
        policy_seed,
        outcome == "success",
        200,
        [9.0],
        milestones=milestones(x=0.01 * seed),
        outcome=outcome,
    )


RESULTS = [
    result(1, "success"),
    result(2, "success"),
    result(3, "grasped, lost"),
    result(3, "grasped, lost", policy_seed=1),
    result(4, "grasped, lost"),
    result(5, "reached, not grasped"),
]


def test_thirds_of_a_feature():
    """x of the cube is the seed in cm; the two nearest succeed."""
    parts = thirds(RESULTS, TASKS["PickCube"].features["cube: away from the base, x (cm)"])
    expected = [(1.0, 2.0, 2, 2), (3.0, 3.0, 0, 2), (4.0, 5.0, 0, 2)]
    for part, wanted in zip(parts, expected, strict=True):
        assert part == pytest.approx(wanted)
    figure = position_figure(RESULTS)
    assert figure.get_suptitle() == "PickCube: 2 of 6 rollouts succeed"


def test_failures_are_sorted_by_how_far_they_came():
    kinds = by_kind(RESULTS)
    assert list(kinds) == ["reached, not grasped", "grasped, lost"]
    # Of three lost cubes two are shown: two initial states, not one twice.
    assert [(r.seed, r.policy_seed) for r in chosen_failures(RESULTS, 2)] == [
        (5, 0),
        (3, 0),
        (4, 0),
    ]


def test_a_sheet_has_a_place_for_each_picture():
    frames = [np.full((8, 10, 3), value, np.uint8) for value in (50, 150)]
    sheet = np.asarray(draw_sheet([PictureRow("a heading"), PictureRow("a row", frames, ["1 s"])]))
    for value in (50, 150):
        assert (sheet == value).all(axis=-1).sum() >= 80
    assert spread(20, 3) == [0, 10, 19]
    assert spread(2, 8) == [0, 1]


def test_errors_are_those_of_the_pixels_that_changed():
    """Of 4 pixels one changes by 100 in each of 2 chunks; the prediction is 30 off there, and 200
    off where nothing changes, which does not count."""
    first = np.zeros((2, 2, 3), np.uint8)
    executed = np.stack((first, first))
    executed[0, 0, 0] = executed[1, 0, 0] = 100
    executed[1, 1, 1] = 100
    predicted = executed.copy()
    predicted[0, 0, 0], predicted[1, 1, 1], predicted[1, 0, 1] = 70, 130, 200
    record = PredictionRecord("PushCube", 3, True, 16, 0.4, first, executed, {1: predicted})
    assert record.errors() == {
        "share_of_pixels_changed": 0.25,
        "predicted": 30.0,
        "repeated": 100.0,
    }
    assert prediction_strip(record).width > 200


def test_a_prediction_further_ahead_stands_at_its_time():
    """Three chunks; two chunks ahead the second and third are predicted, and nothing the first."""
    grey = [np.full((2, 2, 3), value, np.uint8) for value in (0, 40, 80, 120)]
    further = np.stack((grey[2], grey[3])) + np.array([5, 0, 0], np.uint8)
    record = PredictionRecord("PushCube", 3, False, 24, 0.4, grey[0], np.stack(grey[1:]),
                              {1: np.stack(grey[1:]), 2: further})  # fmt: skip
    assert record.errors(2) == {
        "share_of_pixels_changed": 1.0,
        "predicted": 1.67,
        "repeated": 80.0,
    }
    assert record.errors(1)["predicted"] == 0.0
    sheet = np.asarray(prediction_strip(record))
    for value in (80, 120):
        assert (sheet == (value + 5, value, value)).all(axis=-1).sum() == 4


class Foresight(ScriptedPolicy):
    """Expects the picture that a CountingArm shows one chunk later."""

    def predict_frame(self):
        return self.observations[-1].image + np.uint8(8)


def test_a_prediction_stands_beside_the_picture_at_the_end_of_its_chunk():
    """Two whole chunks; the third is cut short after 4 steps and has no picture."""
    policy = Foresight(np.zeros((20, 8)))
    record = record_prediction(CountingArm(), policy, seed=0, max_steps=20)
    assert (record.first == 0).all()
    assert record.executed[:, 0, 0, 0].tolist() == [8, 16]
    np.testing.assert_array_equal(record.predicted[1], record.executed)
    assert record.errors()["predicted"] == 0.0


def filmed(task, *values):
    frames = np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])
    return FilmedSuccess(task, 1, 2 * (len(values) - 1), (), frames, 0.05)


def test_a_moving_picture_runs_in_real_time_and_keeps_the_end_of_the_shorter_episode(tmp_path):
    """Two and three pictures: at the third, the first episode shows its second again."""
    episodes = [filmed("A", 50, 100), filmed("B", 150, 200, 250)]
    path = write_moving_picture(episodes, tmp_path / "new" / "tasks.webp")
    picture, shown, durations_ms = Image.open(path), [], []
    assert picture.n_frames == 3
    for index in range(3):
        picture.seek(index)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        shown.append([pixels[-4, 4, 0], pixels[-4, -4, 0]])
        durations_ms.append(picture.info["duration"])
    assert np.abs(np.array(shown) - [[50, 150], [100, 200], [100, 250]]).max() <= 4
    assert durations_ms[:2] == [100, 100]
    assert picture.size == (8 + 4 + 8, 22 + 8)


@pytest.mark.sim
def test_joint_targets_are_filmed_at_another_size():
    """Five steps: pictures of steps 0, 2, 4 and 5, of 16 pixels, and of what the targets did."""
    with ManiSkillArm("PushCube", image_size=16) as arm:
        arm.reset(3)
        targets = np.tile(arm.read_joints()[0], (5, 1))
        targets[:, 0] += 0.3
        frames, success = film_targets(arm, 3, targets)
    assert not success
    assert frames.shape == (4, 16, 16, 3)
    assert (frames[0] != frames[-1]).any()


@pytest.mark.long
@pytest.mark.sim
def test_a_policy_that_never_succeeds_is_not_filmed(tmp_path, capsys):
    checkpoint = tmp_path / "tiny"
    save_tiny(checkpoint)
    arguments = ["tasks", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "f")]
    arguments += ["--task", "PushCube", "--seed", "7", "--most-seeds", "2", "--max-steps", "8"]
    assert main([*arguments, "--backend", "eager"]) == 1
    error = capsys.readouterr().err
    assert "PushCube: the policy fails within 8 steps at each of the seeds 7, 8;" in error


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"num_successes": 3}, "holds no rollouts"),
        ({"episodes": [{"seed": 1, "mode": "lockstep"}]}, "holds episodes of another kind"),
        (
            {
                "episodes": [
                    {
                        "task": "PushCube",
                        "seed": 1,
                        "policy_seed": 0,
                        "success": True,
                        "steps": 60,
                        "chunk_latencies_ms": [9.0],
                    }
                ]
            },
            "written before positions were recorded",
        ),
    ],
)
def test_results_without_positions_are_refused(content, sentence, tmp_path, capsys):
    file = tmp_path / "e.json"
    file.write_text(json.dumps(content))
    assert main(["positions", "--evaluation", str(file), "--out", str(tmp_path / "f")]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def stored(path, *results, **content):
    path.parent.mkdir(exist_ok=True)
    entries = {"episodes": [result.to_json() for result in results]}
    path.write_text(json.dumps(content | entries))
    return str(path)


def push(seed):
    return dataclasses.replace(result(seed, "success"), task="PushCube")


def test_figures_of_two_results_have_names_of_their_own(tmp_path, capsys):
    """PickCube is in both results, PushCube in one; two results of one name are refused."""
    out = tmp_path / "figures"
    first = stored(tmp_path / "paper.json", *RESULTS, push(1))
    second = stored(tmp_path / "states.json", *RESULTS[:2])
    assert main(["positions", "--evaluation", first, second, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    names = ["PickCube_paper", "PickCube_states", "PushCube"]
    files = sorted(path.name for path in out.iterdir())
    assert files == [f"positions_{name}.png" for name in names]
    assert all(printed.count(name) == 1 for name in files)
    same = stored(tmp_path / "other" / "paper.json", *RESULTS)
    for again in (same, first):
        assert main(["positions", "--evaluation", first, again, "--out", str(tmp_path / "f")]) == 1
        error = capsys.readouterr().err
        assert "_paper.png; give each result once, and two of one name with" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("content", "changes"),
    [
        ({"protocol": "delay"}, {}),
        ({"protocol": "disturbances"}, {}),
        ({}, {"inference": "overlapped", "policy_delay_s": 0.2}),
        ({}, {"disturbance": "push"}),
    ],
)
@pytest.mark.parametrize("figure", ["positions", "failures"])
def test_results_of_several_conditions_are_refused(figure, content, changes, tmp_path, capsys):
    changed = dataclasses.replace(result(2, "success"), **changes)
    file = stored(tmp_path / "e.json", result(1, "success"), changed, **content)
    assert main([figure, "--evaluation", file, "--out", str(tmp_path / "f")]) == 1
    error = capsys.readouterr().err
    assert "holds rollouts with different delays or disturbances" in error
    assert error.count("\n") == 1


def test_tasks_that_the_policy_does_not_know_are_left_out():
    """The included policy knows the paper's tasks; a task of the table that it never saw has no
    episode to show."""
    options = TasksOptions(out="figures", checkpoint="c")
    known = (TASKS["StackCube"].instruction, "of someone else")
    spec = SimpleNamespace(instructions=known, joint_names=PANDA.joint_names)
    policy = SimpleNamespace(spec=spec)
    assert _tasks_of_policy(options, policy) == ["StackCube"]
    named = dataclasses.replace(options, task="PushCube")
    assert _tasks_of_policy(named, policy) == ["PushCube"]


def save_tiny(checkpoint):
    """A random par_tiny that knows the instructions of all tasks."""
    parts = random_checkpoint_parts("par_tiny")
    config = parts["config"]
    texts = tuple(task.instruction for task in TASKS.values())
    parts["instructions"] = code_table(texts, config.num_text_tokens, config.text_width)
    save_checkpoint(checkpoint, **parts)


@pytest.mark.long
@pytest.mark.sim
def test_every_figure_of_a_random_policy(tmp_path, capsys):
    """par_tiny, 20 steps: two whole chunks and a half; its failure is filmed at 0, 8 and 16."""
    from par_model.evaluation.rollouts import Rollout, run_rollout

    checkpoint, out = tmp_path / "tiny", tmp_path / "figures"
    save_tiny(checkpoint)
    rollout = Rollout(str(checkpoint), "PushCube", 10000, 0, 20, None, None, False, backend="eager")
    failed = run_rollout(rollout)
    assert not failed.success
    settings = {
        "checkpoint": str(checkpoint),
        "weights_sha256": weights_hash(checkpoint),
        "max_steps": 20,
        "backend": "eager",
    }
    evaluation = tmp_path / "e.json"
    evaluation.write_text(json.dumps(settings | {"episodes": [failed.to_json()]}))
    arguments = [
        *["all", "--checkpoint", str(checkpoint), "--evaluation", str(evaluation)],
        *["--out", str(out), "--task", "PushCube", "--seed", "10000", "--max-steps", "20"],
        *["--backend", "eager"],
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"1 of 1 rollouts of e.json: {failed.outcome} 1." in shown
    assert "ended otherwise" not in shown
    names = {path.name for path in out.iterdir()}
    assert names == {
        "prediction_PushCube_10000.png",
        "prediction_PushCube_10000.mp4",
        "positions_PushCube.png",
        "failures_PushCube.png",
        "figures.html",
    }
    with av.open(str(out / "prediction_PushCube_10000.mp4")) as film:
        frames = list(film.decode(video=0))
    assert len(frames) == 2
    assert frames[0].height == 2 * 32
    assert Image.open(out / "failures_PushCube.png").width > 230 + 3 * 32
    page = (out / "figures.html").read_text()
    assert all(name in page for name in names - {"figures.html"})


def test_weights_are_shared_out_by_kind_of_token_and_by_place():
    """par_tiny: 3 tokens of text, slots of 4 frame and 8 action tokens; three slots. One
    head has all weight on the newest frame's second token."""
    config = preset("par_tiny")
    weights_YHS = np.zeros((1, 2, 3 + 3 * 12), np.float32)
    weights_YHS[0, 0, 3 + 24 + 1] = 1.0
    weights_YHS[0, 1, [0, 3, 3 + 12 + 5, -1]] = (0.1, 0.2, 0.3, 0.4)
    kinds = token_kinds(config, 39)
    assert [(kinds == kind).sum() for kind in range(5)] == [3, 8, 16, 4, 8]
    expected = [[0, 0, 0, 1, 0], [0.1, 0.2, 0.3, 0, 0.4]]
    np.testing.assert_allclose(shares(weights_YHS, config)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(frame_map(weights_YHS, config)[0, 0], [[0, 1], [0, 0]])


@pytest.mark.sim
def test_an_attention_figure_of_a_random_policy(tmp_path, capsys):
    """par_tiny, 20 steps: chunks 0 to 2, so there is no chunk 3."""
    checkpoint = tmp_path / "tiny"
    save_tiny(checkpoint)
    arguments = [
        *["attention", "--checkpoint", str(checkpoint), "--out", str(tmp_path), "--backend"],
        *["eager", "--task", "PushCube", "--seed", "10000", "--max-steps", "20", "--chunk"],
    ]
    assert main([*arguments, "2"]) == 0
    assert "no success after 20 steps. Mean weight" in capsys.readouterr().out
    assert Image.open(tmp_path / "attention_PushCube.png").width > 200
    assert main([*arguments, "3"]) == 1
    assert "has chunks 0 to 2 and --chunk 3 was asked for" in capsys.readouterr().err
