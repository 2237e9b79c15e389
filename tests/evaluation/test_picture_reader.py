# SPDX-License-Identifier: Apache-2.0
"""A reader of places is fitted to the scenes that are not held out, and says how well it reads."""

import numpy as np
import pytest
import torch

from par_model.evaluation.picture_reader import fit_picture_reader
from par_model.training.scene_set import SceneRow, SceneSet, start_scene_set, write_shard
from tests.backends.runtimes import small_checkpoint

SIZE, PER_SHARD = 32, 50


def row(scene, generator, camera="front"):
    """A cube as a white square of 8 pixels, 1 cm a pixel; a goal that a third of them hide."""
    column, line = generator.integers(0, SIZE - 8, 2)
    image = np.full((SIZE, SIZE, 3), 60, np.uint8)
    image[line : line + 8, column : column + 8] = 255
    cube_m = np.array([0.01 * column, 0.01 * line, 0.02])
    return SceneRow(
        task="PickCube", seed=scene, scene=scene, camera=camera, hand="far", cube_state="placed",
        image=image, joints=np.zeros(8),
        positions_m={"gripper": np.array([0.1, 0.1, 0.3]), "cube": cube_m,
                     "goal": np.array([5.0, 5.0, 5.0]) if scene % 3 else cube_m},
        pixels={"cube": 64, "goal": 0 if scene % 3 else 30},
    )  # fmt: skip


def make_scenes(folder, num_shards, **changes):
    generator = np.random.default_rng(0)
    start_scene_set(folder, {"task": "PickCube"})
    for shard in range(num_shards):
        first = shard * PER_SHARD
        rows = [row(first + n, generator, **changes) for n in range(PER_SHARD)]
        write_shard(folder, shard, rows)
    return SceneSet(folder)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    scenes = make_scenes(tmp_path_factory.mktemp("scenes"), 10)
    checkpoint = small_checkpoint()
    before = [parameter.clone() for parameter in checkpoint.codec.parameters()]
    reader, errors_mm = fit_picture_reader(checkpoint, scenes, 500, 300, 0)
    after = list(checkpoint.codec.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return scenes, checkpoint, reader, errors_mm


def test_it_reads_what_the_pictures_show(fitted):
    """A guess is 90 mm off; where the goal is hidden, it is 5 m away and not learnt."""
    scenes, _, reader, errors_mm = fitted
    assert reader.things == ("gripper", "cube", "goal")
    assert errors_mm["cube"] < 25
    assert errors_mm["goal"] < 40
    table = scenes.read_table()
    read = reader.read(np.concatenate(list(scenes.pictures())))
    assert read.shape == (500, 3, 3)
    held_out = table.is_held_out()
    off_mm = 1000 * np.linalg.norm(read[:, 1] - table.positions_m["cube"], axis=1)
    assert np.median(off_mm[held_out]) == pytest.approx(errors_mm["cube"], abs=0.01)
    assert np.median(off_mm[~held_out]) < np.median(off_mm[held_out])


def test_the_same_seed_reads_the_same(fitted):
    scenes, checkpoint, reader, errors_mm = fitted
    again, errors_again_mm = fit_picture_reader(checkpoint, scenes, 500, 300, 0)
    assert errors_again_mm == errors_mm
    pictures = next(scenes.pictures())
    assert np.array_equal(again.read(pictures), reader.read(pictures))


def test_too_few_scenes_are_refused(tmp_path):
    scenes = make_scenes(tmp_path, 1)
    with pytest.raises(ValueError, match="holds too few scenes to fit a reader; render more"):
        fit_picture_reader(small_checkpoint(), scenes, 3, 10, 0)
