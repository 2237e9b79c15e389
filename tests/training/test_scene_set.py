# SPDX-License-Identifier: Apache-2.0
"""Scenes on disk: what is written is read, bit for bit, and settings are not mixed."""

import numpy as np
import pytest

from par_model.training.scene_set import SceneRow, SceneSet, start_scene_set, write_shard

SETTINGS = {"task": "PickCube", "robot_base_m": [-0.615, 0.0, 0.0], "cameras": ["front"]}


def make_row(scene: int, task: str = "PickCube", goal_pixels: int = 30) -> SceneRow:
    generator = np.random.default_rng(scene)
    return SceneRow(
        task=task,
        seed=scene % 10_000,
        scene=scene,
        camera="front",
        hand="near",
        cube_state="held",
        image=generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        joints=np.arange(8) * 0.1 + scene,
        positions_m={name: 0.1 * generator.normal(size=3) for name in ("gripper", "cube", "goal")},
        pixels={"cube": 50 + scene, "goal": goal_pixels},
    )


def test_what_is_written_is_read_in_order_and_the_pictures_without_loss(tmp_path):
    """120 scenes in shards of 60, each read in parts of 50 and 10."""
    rows = [make_row(scene) for scene in range(120)]
    start_scene_set(tmp_path, SETTINGS)
    write_shard(tmp_path, 1, rows[60:])
    write_shard(tmp_path, 0, rows[:60])

    scenes = SceneSet(tmp_path)
    table = scenes.read_table()
    np.testing.assert_array_equal(table.scenes, np.arange(120))
    np.testing.assert_array_equal(
        np.concatenate(list(scenes.pictures())), np.stack([row.image for row in rows])
    )
    for name in ("gripper", "cube", "goal"):
        expected = np.stack([row.positions_m[name] for row in rows]).astype(np.float32)
        np.testing.assert_array_equal(table.positions_m[name], expected)
    np.testing.assert_allclose(table.joints, [row.joints for row in rows], rtol=1e-6)
    np.testing.assert_array_equal(table.pixels["cube"], 50 + np.arange(120))
    assert set(table.cube_states) == {"held"}
    np.testing.assert_array_equal(scenes.robot_base_m, [-0.615, 0.0, 0.0])


@pytest.mark.parametrize("count", [1, 50, 55, 75, 200])
def test_the_first_rows_and_their_pictures_are_as_many(tmp_path, count):
    start_scene_set(tmp_path, SETTINGS)
    for shard in range(2):
        write_shard(tmp_path, shard, [make_row(60 * shard + i) for i in range(60)])
    scenes = SceneSet(tmp_path)
    expected = min(count, 120)
    assert len(scenes.read_table(count).scenes) == expected
    assert sum(len(part) for part in scenes.pictures(count)) == expected


def test_a_thing_that_the_task_lacks_is_nan_and_never_visible(tmp_path):
    start_scene_set(tmp_path, SETTINGS)
    write_shard(tmp_path, 0, [make_row(0, goal_pixels=19), make_row(1, goal_pixels=20)])
    table = SceneSet(tmp_path).read_table()
    assert np.isnan(table.positions_m["cube_b"]).all()
    assert not table.is_visible("cube_b").any()
    np.testing.assert_array_equal(table.is_visible("goal"), [False, True])
    assert table.is_visible("gripper").all()


def test_other_settings_and_empty_folders_are_refused(tmp_path):
    start_scene_set(tmp_path, SETTINGS)
    start_scene_set(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match=r"other settings \(cameras\)"):
        start_scene_set(tmp_path, SETTINGS | {"cameras": ["left"]})
    with pytest.raises(ValueError, match="holds no scenes"):
        SceneSet(tmp_path)
