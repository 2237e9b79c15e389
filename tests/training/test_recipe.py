# SPDX-License-Identifier: Apache-2.0
"""Recipes: what is refused and by which name, what the included ones run, and a tiny one run from
nothing to a measured checkpoint, stopped once on the way.

The tiny one: PushCube, par_tiny, pictures of 32 x 32, two demonstrations (seeds 23 and 24, of which
the second is held out), 5 scenes, 2 training steps a stage, one episode measured.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from par_model import evaluate
from par_model.presets import PRESETS
from par_model.train import main
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.recipe import read_recipe
from par_model.training.recipe_run import open_run
from par_model.worker_options import WorkerOptions

ROOT = Path(__file__).resolve().parents[2]
CAMERA = "tiny=0.6,0.7,0.6:0,0,0.12:0.65:32x32"
TINY = {
    "name": "tiny",
    "tasks": ["PushCube"],
    "seed": 3,
    "common": {"preset": "par_tiny", "variants": 1},
    "stages": [
        {"stage": "collect", "minutes": 0.2, "num_demos": {"PushCube": 2}, "first_seed": 23,
         "noise_share": 0.0, "image_size": 32},
        {"stage": "scenes", "minutes": 0.2, "num_scenes": 5, "scenes_per_shard": 5,
         "cameras": CAMERA},
        {"stage": "codec", "minutes": 0.1, "codec_steps": 2, "frames": 40,
         "num_reset_pictures": 12},
        {"stage": "latents", "minutes": 0.1},
        {"stage": "frames", "minutes": 0.1, "steps": 2, "pictures_per_step": 2},
        {"stage": "policy", "minutes": 0.1, "steps": 2, "evaluation_episodes": 0,
         "shares": {"PushCube": 1.0}},
        {"stage": "on_policy", "name": "round_1", "minutes": 0.2, "num_demos": 1,
         "first_seed": 6000, "max_steps": 24, "disturbed_starts": 1.0, "image_size": 32},
        {"stage": "expert", "minutes": 0.2, "num_demos": 1, "first_seed": 1000, "image_size": 32},
        {"stage": "latents", "name": "latents_1", "minutes": 0.1},
        {"stage": "policy", "name": "policy_1", "minutes": 0.1, "steps": 2,
         "evaluation_episodes": 0, "on_policy_share": 0.5},
        {"stage": "release", "minutes": 0.1, "sampling": "ddim:1"},
        {"stage": "evaluate", "name": "states", "minutes": 0.1, "protocol": "states",
         "task": "PushCube", "episodes": 1, "backend": "eager"},
        {"stage": "card", "minutes": 0.1},
    ],
}  # fmt: skip


def write(folder: Path, recipe: dict) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def changed(number: int, **values: object) -> dict:
    stages = [dict(stage) for stage in TINY["stages"]]
    stages[number] |= values
    return TINY | {"stages": stages}


@pytest.mark.parametrize("name", ["par_small", "pick_two_views", "push_short", "push_so100"])
def test_the_included_recipes_are_read_and_planned(name, tmp_path, capsys):
    file = ROOT / "config" / "recipes" / f"{name}.yaml"
    assert main(["recipe", str(file), "--out", str(tmp_path / "run"), "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "python -m par_model.train policy" in plan
    assert "to do" in plan
    assert not (tmp_path / "run").exists()


def test_the_short_recipe_is_expected_to_end_within_90_minutes(tmp_path):
    file = ROOT / "config" / "recipes" / "push_short.yaml"
    recipe = open_run(file, tmp_path, WorkerOptions(), 2).recipe
    assert sum(stage.minutes for stage in recipe.stages) < 90


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (TINY | {"sed": 1}, "unknown key 'sed'; known are name, tasks, seed"),
        ({k: v for k, v in TINY.items() if k != "seed"}, "missing key 'seed'"),
        (TINY | {"tasks": ["PushTube"]}, "task 'PushTube' is unknown"),
        (changed(5, stpes=3), "stage 'policy': unknown key 'stpes'; known are"),
        (changed(5, steps="many"), "stage 'policy': "),
        (changed(5, data="elsewhere"), "stage 'policy': unknown key 'data'"),
        (changed(0, minutes="long"), "minutes must be a number, got 'long'"),
        (changed(3, stage="bake"), "stage 4: `stage` must be one of collect, scenes"),
        (changed(9, name="policy"), "two stages are called 'policy'"),
        (changed(0, num_demos={"PickCube": 2}), "num_demos says nothing of PushCube"),
        (TINY | {"stages": TINY["stages"][1:]}, "needs a stage `collect` before it"),
        (TINY | {"stages": TINY["stages"][:4] + TINY["stages"][10:]}, "needs a stage `policy`"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(recipe, sentence, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["recipe", str(write(tmp_path, recipe)), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_each_round_is_read_by_what_comes_after_it(tmp_path):
    commands = open_run(write(tmp_path, TINY), tmp_path / "run", WorkerOptions(), 1).commands
    assert str(tmp_path / "run/data/PushCube_round_1") not in commands["policy"][0].words
    second = commands["policy_1"][0].words
    assert str(tmp_path / "run/data/PushCube_round_1") in second
    assert second[second.index("--from") + 1] == str(tmp_path / "run/policy/checkpoint")
    assert second[second.index("--seed") + 1] == "3"
    other = open_run(write(tmp_path, TINY), tmp_path / "run", WorkerOptions(), 1, seed=4).commands
    assert other["policy"][0].words[other["policy"][0].words.index("--seed") + 1] == "4"


@pytest.mark.long
@pytest.mark.sim
def test_a_tiny_recipe_from_nothing_to_a_card(tmp_path, capsys, monkeypatch):
    """The measurement fails at first; the same command goes on with it. Then a step is changed."""
    out = tmp_path / "run"
    words = ["recipe", str(write(tmp_path, TINY)), "--out", str(out)]
    words += ["--num-workers", "1", "--threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "main", lambda words: 1)
        assert main(words) == 1
    assert "stage 'states' ended with an error" in capsys.readouterr().err
    state = json.loads((out / "recipe.json").read_text())
    assert (
        list(state["done"]) == [stage.get("name", stage["stage"]) for stage in TINY["stages"]][:11]
    )
    written = (out / "policy_1/checkpoint/manifest.json").stat().st_mtime_ns

    assert main(words) == 0
    assert (out / "policy_1/checkpoint/manifest.json").stat().st_mtime_ns == written
    card = (out / "checkpoint/README.md").read_text()
    assert "0 of 1 (0.0%)" in card
    assert "on-policy, 100% disturbed starts" in card
    assert main([*words, "--plan"]) == 0
    assert "0 min to do" in capsys.readouterr().out

    write(tmp_path, changed(9, steps=3))
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "another recipe (stage 'policy_1': steps 2, asked for now 3)" in error
    write(tmp_path, changed(9, minutes=300))
    assert main(words) == 0


@pytest.mark.long
@pytest.mark.sim
def test_a_tiny_recipe_through_two_cameras(tmp_path, monkeypatch):
    """Every stage reads and writes both views, from demonstrations to a measured checkpoint."""
    views = ("front", "right")
    two = dataclasses.replace(PRESETS["par_tiny"], views=views)
    monkeypatch.setitem(PRESETS, "par_tiny", two)
    cameras = [CAMERA.replace("tiny", "front"), "right=0,-1,0.45:0,0,0.15:0.62:32x32"]
    added = {
        "collect": {"views": list(views)},
        "expert": {"views": list(views)},
        "on_policy": {"views": list(views)},
        "scenes": {"cameras": cameras},
    }
    stages = [stage | added.get(stage["stage"], {}) for stage in TINY["stages"]]
    out = tmp_path / "run"
    words = ["recipe", str(write(tmp_path, TINY | {"stages": stages})), "--out", str(out)]
    assert main([*words, "--num-workers", "1", "--threads", "1"]) == 0
    config = json.loads((out / "checkpoint/config.json").read_text())
    assert config["views"] == list(views)
    card = (out / "checkpoint/README.md").read_text()
    assert "2 RGB cameras (front, right) of 32x32 pixels each" in card
    assert "--views front right" in card
    round_1 = DemonstrationSet(out / "data/PushCube_round_1")
    assert round_1.views == views


def test_a_file_that_is_not_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"broken.yaml cannot be read \(while parsing") as error:
        read_recipe(path)
    assert "\n" not in str(error.value)
