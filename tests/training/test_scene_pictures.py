# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes in training: only what is seen is asked for, held-out ones are never drawn, and
a killed run still ends with the same bits.

Random pictures of 32x32 pixels, par_tiny's codec with random weights.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.frame_codec import FrameCodec
from par_model.instruction import code_table
from par_model.model import PARModel, TrainingBatch
from par_model.simulation.tasks import TASKS, task
from par_model.train import main
from par_model.training.batch_loader import BatchLoader, Division
from par_model.training.policy_training import PolicyParts
from par_model.training.scene_pictures import (
    NUM_SCENE_NUMBERS,
    ScenePictureSampler,
    read_scene_pictures,
)
from par_model.training.scene_set import SceneRow, start_scene_set, write_shard
from par_model.training.side_tasks import SideTasks, scene_error_mm
from par_model.training.training_state import load_state
from tests.training.fixtures import LONG_CLIPS, MODEL, record_noise
from tests.training.fixtures import make_sampler as make_clip_sampler
from tests.training.test_policy_training import CONFIG, make_parts, train
from tests.training.test_scene_set import SETTINGS, make_row

BASE_M = np.array(SETTINGS["robot_base_m"])


def silent(done: int, total: int) -> None:
    pass


def write_scenes(folder: Path, num_shards: int = 2, per_shard: int = 20) -> Path:
    """Every second scene's goal is hidden."""
    start_scene_set(folder, SETTINGS)
    for shard in range(num_shards):
        first = shard * per_shard
        rows = [
            make_row(scene, goal_pixels=60 * (scene % 2))
            for scene in range(first, first + per_shard)
        ]
        write_shard(folder, shard, rows)
    return folder


@pytest.fixture
def pictures(tmp_path):
    torch.manual_seed(0)
    codec = FrameCodec(MODEL.codec)
    return read_scene_pictures(
        write_scenes(tmp_path / "s"), codec, tmp_path / "l", ("front",), silent
    )


def make_sampler(parts: PolicyParts, pictures) -> ScenePictureSampler:
    texts = (task("PickCube").instruction,)
    table = code_table(texts, MODEL.num_text_tokens, MODEL.text_width)
    return ScenePictureSampler([pictures], parts.statistics, table, MODEL, 16, 0)


def test_a_scene_s_numbers_are_the_demonstrations_and_hidden_ones_are_nan(pictures):
    """Cube, goal, gripper in the world's frame."""
    rows = [make_row(scene) for scene in range(40)]
    for name, columns in (("cube", slice(0, 3)), ("gripper", slice(6, 9))):
        expected = np.stack([row.positions_m[name] for row in rows]) + BASE_M
        np.testing.assert_allclose(pictures.numbers[:, columns], expected, atol=1e-6)
    assert np.isnan(pictures.numbers[0::2, 3:6]).all()
    assert not np.isnan(pictures.numbers[1::2]).any()
    assert pictures.numbers.shape == (40, NUM_SCENE_NUMBERS)
    assert pictures.held_out.tolist() == [4, 9, 14, 19, 24, 29, 34, 39]


def test_latents_are_encoded_once_and_follow_the_pictures(tmp_path, pictures):
    torch.manual_seed(0)
    codec = FrameCodec(MODEL.codec)
    files = sorted((tmp_path / "l").rglob("*.npy"))
    assert [file.name for file in files] == ["shard_00000.npy", "shard_00001.npy"]
    before = [file.stat().st_mtime_ns for file in files]
    again = read_scene_pictures(tmp_path / "s", codec, tmp_path / "l", ("front",), silent)
    assert [file.stat().st_mtime_ns for file in files] == before
    image = torch.from_numpy(make_row(23).image)[None]
    with torch.no_grad():
        expected = codec.for_pictures().encode(image)[0].half().numpy()
    np.testing.assert_allclose(again.latents[1][3], expected, atol=2e-3)


def test_a_batch_is_a_function_of_the_step_and_holds_no_held_out_scene(tmp_path, pictures):
    parts = make_parts(tmp_path)
    sampler = make_sampler(parts, pictures)
    first, again, other = sampler.batch(3), sampler.batch(3), sampler.batch(4)
    torch.testing.assert_close(first.latents_BNchw, again.latents_BNchw)
    assert not torch.equal(first.latents_BNchw, other.latents_BNchw)
    assert not first.action_valid_BNL.any()
    assert not first.frame_valid_BN.any()
    held = {tuple(row) for row in pictures.numbers[pictures.held_out][:, :3]}
    drawn = {
        tuple(row) for step in range(30) for row in sampler.batch(step).scene_BNP[:, 0, :3].numpy()
    }
    assert len(drawn) == 32
    assert not drawn & held
    judged = sampler.held_out_batch(0, 5)
    np.testing.assert_array_equal(
        judged.scene_BNP[:, 0].numpy(), pictures.numbers[pictures.held_out[:5]]
    )
    joints = pictures.joints[pictures.held_out[:5]]
    np.testing.assert_allclose(
        judged.proprio_BNJ[:, 0].numpy(), parts.statistics.normalize_joints(joints), rtol=1e-5
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_step_brings_its_scenes_also_by_workers_and_from_a_later_step(
    tmp_path, pictures, num_workers
):
    clips = dataclasses.replace(LONG_CLIPS, slots_per_batch=24, batches_per_round=3)
    sampler = make_clip_sampler(tmp_path / "clips", [21, 40, 33], clips)
    scenes = make_sampler(make_parts(tmp_path / "parts"), pictures)
    loader = BatchLoader(sampler, Division(8), num_workers, False, scenes, first_step=5)
    for step in range(5, 9):
        first, *others = loader.next().micro
        assert torch.equal(first.pictures.latents_BNchw, scenes.batch(step).latents_BNchw)
        assert first.pictures.action_rows_M is not None
        assert others and all(micro.pictures is None for micro in others)


def test_one_of_several_processes_has_the_scenes(tmp_path, pictures):
    clips = dataclasses.replace(LONG_CLIPS, slots_per_batch=24, batches_per_round=3)
    scenes = make_sampler(make_parts(tmp_path / "parts"), pictures)
    held = []
    for rank in range(2):
        sampler = make_clip_sampler(tmp_path / "clips", [21, 40, 33], clips)
        loader = BatchLoader(sampler, Division(8, rank, 2), 0, False, scenes)
        held.append([m.pictures is not None for _ in range(4) for m in loader.next().micro])
    assert sum(held[0]) == 4
    assert not any(held[1])


def test_pictures_of_several_cameras_are_refused(tmp_path):
    start_scene_set(tmp_path, SETTINGS)
    rows = [make_row(0), dataclasses.replace(make_row(0), camera="left")]
    write_shard(tmp_path, 0, rows)
    with pytest.raises(ValueError, match="cameras front, left; the policy has the views front"):
        read_scene_pictures(tmp_path, FrameCodec(MODEL.codec), tmp_path / "l", ("front",), silent)


def test_the_views_of_a_scene_are_one_picture(tmp_path):
    """Two cameras: the latents stand one above the other, and what one of them shows is known."""
    torch.manual_seed(0)
    codec = FrameCodec(MODEL.codec)
    start_scene_set(tmp_path / "s", SETTINGS)
    rows = [
        dataclasses.replace(make_row(scene, goal_pixels=pixels), camera=view)
        for scene in range(6)
        for view, pixels in (("front", 0), ("right", 60 * (scene % 2)))
    ]
    write_shard(tmp_path / "s", 0, rows)
    views = ("front", "right")
    pictures = read_scene_pictures(tmp_path / "s", codec, tmp_path / "l", views, silent)
    assert len(pictures.joints) == len(pictures.numbers) == 6
    assert np.isnan(pictures.numbers[0::2, 3:6]).all()
    assert not np.isnan(pictures.numbers[1::2]).any()
    model = dataclasses.replace(MODEL, views=views)
    statistics = make_parts(tmp_path).statistics
    table = code_table(("x", task("PickCube").instruction), 3, 16)
    sampler = ScenePictureSampler([pictures], statistics, table, model, 4, 0)
    latents = sampler.held_out_batch(0, 1).latents_BNchw[0, 0]
    scene = int(pictures.held_out[0])
    with torch.no_grad():
        apart = [
            codec.encode(torch.from_numpy(row.image)[None])[0] for row in rows[2 * scene :][:2]
        ]
    torch.testing.assert_close(latents, torch.cat(apart, dim=1), rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match=r"--cameras right front"):
        read_scene_pictures(tmp_path / "s", codec, tmp_path / "l", ("right", "front"), silent)


@pytest.fixture
def parts_with_pictures(tmp_path, pictures):
    parts = make_parts(tmp_path)
    texts = ("Push", task("PickCube").instruction)
    table = code_table(texts, MODEL.num_text_tokens, MODEL.text_width)
    return dataclasses.replace(parts, instructions=table, scene_pictures=(pictures,))


def edge_row(scene: int) -> SceneRow:
    """A picture whose edge tells how far along each axis everything lies: 0 to 0.4 m."""
    column = scene * 7 % 32
    image = np.full((32, 32, 3), 30, dtype=np.uint8)
    image[:, :column] = 220
    along_m = np.full(3, 0.4 * column / 31)
    return dataclasses.replace(
        make_row(scene),
        image=image,
        joints=np.zeros(8),
        positions_m=dict.fromkeys(("gripper", "cube", "goal"), along_m),
    )


def test_positions_are_learnt_through_the_context_and_hold_on_other_pictures(tmp_path):
    """200 steps on edges alone: what a guess misses by 100 mm is read to less than 30, on held-out
    scenes too."""
    parts = make_parts(tmp_path)
    start_scene_set(tmp_path / "edges", SETTINGS)
    write_shard(tmp_path / "edges", 0, [edge_row(scene) for scene in range(80)])
    edges = read_scene_pictures(tmp_path / "edges", parts.codec, tmp_path / "l", ("front",), silent)
    sampler = make_sampler(parts, edges)
    torch.manual_seed(0)
    model, side = PARModel(MODEL), SideTasks(MODEL.transformer.width, NUM_SCENE_NUMBERS, None)
    optimizer = torch.optim.AdamW([*model.parameters(), *side.parameters()], lr=3e-3)

    def loss_of(batch: TrainingBatch) -> torch.Tensor:
        return side.scene_loss(model.training_context(batch), batch)

    first = scene_error_mm(loss_of(sampler.batch(0)).item())
    for step in range(200):
        optimizer.zero_grad()
        loss_of(sampler.batch(step)).backward()
        optimizer.step()
    assert first > 100
    with torch.no_grad():
        assert scene_error_mm(loss_of(sampler.batch(200)).item()) < 30
        assert scene_error_mm(loss_of(sampler.held_out_batch(0, 100)).item()) < 30


def test_a_run_logs_its_pictures_and_what_it_never_draws(tmp_path, parts_with_pictures):
    seen = train(parts_with_pictures, tmp_path / "run", CONFIG)
    assert all(progress.picture_mm > 0 for progress in seen)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    judged = [line for line in lines if line["kind"] == "validation/PickCube/pictures"]
    assert [set(line) for line in judged] == 2 * [{"step", "kind", "picture_mm"}]
    unweighted = dataclasses.replace(CONFIG, picture_weight=0.0)
    other = train(parts_with_pictures, tmp_path / "other", unweighted)
    assert [p.action_loss for p in other] != [p.action_loss for p in seen]
    blind = train(make_parts(tmp_path), tmp_path / "blind", CONFIG)
    assert blind[0].picture_mm is None


def test_a_killed_run_with_pictures_ends_with_the_same_bits(tmp_path, parts_with_pictures):
    config = dataclasses.replace(CONFIG, pictures_per_step=8)
    train(parts_with_pictures, tmp_path / "whole", config)
    train(parts_with_pictures, tmp_path / "killed", config, stop_at=5)
    train(parts_with_pictures, tmp_path / "killed", config)
    first, second = load_state(tmp_path / "whole"), load_state(tmp_path / "killed")
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    fewer = dataclasses.replace(parts_with_pictures, scene_pictures=())
    with pytest.raises(ValueError, match="other settings or other data"):
        train(fewer, tmp_path / "killed", config)


@pytest.mark.long
def test_frames_are_trained_before_the_policy_by_command(tmp_path):
    """2 steps of `frames` change what sees and leave the action head as it was drawn; `policy`
    starts from them, with the scenes beside it."""
    record_noise(tmp_path / "data", {3: 20, 24: 26}, instruction=TASKS["PickCube"].instruction)
    scenes = ["--scenes", str(write_scenes(tmp_path / "scenes"))]
    common = ["--data", str(tmp_path / "data"), "--preset", "par_tiny", "--variants", "1"]
    codec = ["--codec", str(tmp_path / "codec")]
    no_pictures = ["--codec-steps", "2", "--probe-tasks"]
    assert main(["codec", *common, *no_pictures, "--out", str(tmp_path / "codec")]) == 0
    assert main(["latents", *common, *codec]) == 0
    steps = ["--steps", "2", "--steps-after-success", "all", "--pictures-per-step", "4"]
    frames = ["frames", *common, *codec, *scenes, *steps]
    assert main([*frames, "--out", str(tmp_path / "frames")]) == 0
    assert main([*frames, "--out", str(tmp_path / "longer"), "--steps", "4"]) == 0
    two = load_checkpoint(tmp_path / "frames/checkpoint").model
    four = load_checkpoint(tmp_path / "longer/checkpoint").model
    assert all(
        torch.equal(a, b)
        for a, b in zip(two.action_head.parameters(), four.action_head.parameters(), strict=True)
    )
    assert not torch.equal(two.tokenizer.frame_embed.weight, four.tokenizer.frame_embed.weight)
    policy = ["policy", *common, *codec, *scenes, *steps, "--evaluation-episodes", "0"]
    start = ["--from", str(tmp_path / "frames/checkpoint"), "--evaluate-every", "0"]
    assert main([*policy, *start, "--out", str(tmp_path / "policy")]) == 0
    assert load_checkpoint(tmp_path / "policy/checkpoint").config.loss.action_weight == 1.0


def test_frames_without_scenes_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["frames", "--data", "d", "--out", "o", "--steps", "1"])
    assert "--scenes is needed" in capsys.readouterr().err
