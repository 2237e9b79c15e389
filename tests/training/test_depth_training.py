# SPDX-License-Identifier: Apache-2.0
"""Training on a depth view: the data set says the range, the checkpoint takes it over, and data of
another range, or with colours under that name, is refused. Two episodes as in test_recorded_views.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from par_model.checkpoint import load_checkpoint
from par_model.depth_view import DepthView
from par_model.presets import PRESETS
from par_model.train import main
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.lerobot_writer import assemble
from par_model.training.staged_episodes import Episode, stage_episode, start_staging
from tests.training.test_lerobot_dataset import SETTINGS
from tests.training.test_recorded_views import LENGTHS, SECOND, pictures_of

VIEWS = ("front", "front_depth")


def record(folder: Path, range_m: list[float] | None) -> Path:
    """A finished data set whose second view is depth of that range (None: colours)."""
    depth = SECOND | {"name": "front_depth"}
    depth |= {} if range_m is None else {"depth_range_m": range_m}
    start_staging(folder, SETTINGS | {"image_size": 32, "further_cameras": [depth]})
    for seed, length in LENGTHS.items():
        numbers = np.zeros((length, 8), np.float32)
        episode = Episode(
            "Push the cube.", pictures_of(seed), numbers, numbers, numbers, numbers[:, :3],
            np.ones(length, np.bool_), seed, False,
        )  # fmt: skip
        stage_episode(folder, episode, 20, VIEWS)
    assemble(folder, list(LENGTHS))
    return folder


@pytest.mark.long
def test_a_checkpoint_takes_the_range_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record(tmp_path / "Push", [0.3, 1.8])
    depth = (DepthView("front_depth", 0.3, 1.8),)
    demonstrations = DemonstrationSet(data)
    assert demonstrations.depth_of(VIEWS) == depth
    assert demonstrations.depth_of(("front",)) == ()
    two = dataclasses.replace(PRESETS["par_tiny"], views=VIEWS)
    monkeypatch.setitem(PRESETS, "par_tiny", two)

    def train(stage: str, folder: Path, *words: str) -> int:
        common = ["--data", str(folder), "--codec", str(tmp_path / "codec"), "--variants", "1"]
        return main([stage, *common, *words])

    tiny = ("--preset", "par_tiny")
    policy = ["--steps", "1", "--evaluation-episodes", "0", "--evaluate-every", "0"]
    policy += ["--scene-weight", "0", "--steps-after-success", "all"]
    codec = ("--codec-steps", "1", "--probe-tasks", "--out", str(tmp_path / "codec"))
    assert train("codec", data, *tiny, *codec) == 0
    assert train("latents", data, *tiny) == 0
    assert train("policy", data, *tiny, *policy, "--out", str(tmp_path / "run")) == 0
    checkpoint = tmp_path / "run" / "checkpoint"
    assert load_checkpoint(checkpoint).config.depth_views == depth
    assert "front_depth (depth, 0.3 to 1.8 m)" in (checkpoint / "README.md").read_text()

    for name, range_m, found in (
        ("Wide", [0.3, 3.0], "depth of 0.3 to 3 m"),
        ("Colours", None, "colour"),
    ):
        other = record(tmp_path / name, range_m)
        tuned = ("--finetune", str(checkpoint))
        assert train("latents", other, *tuned) == 0
        assert train("policy", other, *tuned, *policy, "--out", str(tmp_path / "tuned")) == 1
        said = capsys.readouterr().err
        assert f"view 'front_depth' is {found} and the policy takes depth of 0.3 to 1.8 m" in said
