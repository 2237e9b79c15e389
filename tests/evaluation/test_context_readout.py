# SPDX-License-Identifier: Apache-2.0
"""What is in a policy's features is read, what is not is not, and only held-out scenes count."""

import numpy as np
import pytest
import torch

from par_model.checkpoint import Checkpoint
from par_model.evaluation.context_readout import (
    READERS,
    SOURCES,
    Features,
    judge,
    places,
    read_features,
    single_observation,
)
from par_model.instruction import code_table
from par_model.perception import main
from par_model.simulation.tasks import task
from par_model.training.scene_set import SceneTable
from tests.model.fixtures import random_checkpoint_parts

NUM = 600


def make_table(num: int = NUM) -> SceneTable:
    """PickCube: every third goal is hidden, every fourth cube held."""
    generator = np.random.default_rng(0)
    cube_m = generator.uniform(0.4, 0.7, (num, 3)).astype(np.float32)
    gripper_m = (cube_m + np.where(np.arange(num) % 2, 0.03, 0.2)[:, None]).astype(np.float32)
    goal_m = generator.uniform(0.4, 0.7, (num, 3)).astype(np.float32)
    states = np.where(np.arange(num) % 4 == 0, "held", "placed")
    goal_pixels = np.where(np.arange(num) % 3 == 0, 5, 60).astype(np.int32)
    missing = np.full((num, 3), np.nan, np.float32)
    return SceneTable(
        task="PickCube",
        scenes=np.arange(num),
        cameras=np.full(num, "front"),
        hands=np.full(num, "near"),
        cube_states=states,
        joints=np.zeros((num, 8), np.float32),
        positions_m={"gripper": gripper_m, "cube": cube_m, "cube_b": missing, "goal": goal_m},
        pixels={
            "cube": np.full(num, 70, np.int32),
            "cube_b": np.zeros(num, np.int32),
            "goal": goal_pixels,
        },
    )


def linear(values: np.ndarray, noise_m: float = 0.0) -> torch.Tensor:
    """12 numbers that are a fixed linear function of [N, 3], with noise."""
    generator = np.random.default_rng(1)
    weights = generator.normal(size=(3, 12))
    noisy = values + noise_m * generator.normal(size=values.shape)
    return torch.from_numpy(noisy @ weights).float()


@pytest.fixture(scope="module")
def tiny_checkpoint():
    """par_tiny with random weights, which knows PickCube's sentence."""
    parts = random_checkpoint_parts("par_tiny")
    config = parts["config"]
    texts = (task("PickCube").instruction,)
    return Checkpoint(
        config=config,
        model=parts["model"],
        codec=parts["codec"],
        statistics=parts["statistics"],
        instructions=code_table(texts, config.num_text_tokens, config.text_width),
        training={},
    )


@pytest.fixture(scope="module")
def errors():
    """The context holds the cube to 2 mm an axis, the tokens the goal, the latents nothing."""
    table = make_table()
    features = Features(
        context=linear(table.positions_m["cube"], 0.002),
        tokens=linear(table.positions_m["goal"]),
        latents=torch.from_numpy(np.random.default_rng(2).normal(size=(NUM, 12))).float(),
    )
    rows = judge(features, table, table.is_held_out(), mlp_steps=400)
    return {(e.source, e.reader, e.thing, e.where): e for e in rows}


def test_each_reader_finds_what_a_source_holds(errors):
    """3D error of 2 mm an axis: 3.1 mm in the median; of a guess: more than 80 mm."""
    for reader, most_mm in (("ridge", 4.5), ("mlp", 15.0)):
        assert errors["context", reader, "cube", "all"].median_mm < most_mm
        assert errors["tokens", reader, "goal", "all"].median_mm < most_mm
        assert errors["context", reader, "goal", "all"].median_mm > 80
        assert errors["latents", reader, "cube", "all"].median_mm > 80
    assert {key[0] for key in errors} == set(SOURCES)
    assert {key[1] for key in errors} == set(READERS)


def test_errors_are_of_held_out_scenes_and_visible_things(errors):
    """120 of 600 are held out (4, 9, 14, ...); a third of the goals is hidden; no cube_b."""
    assert errors["context", "ridge", "cube", "all"].num == 120
    assert errors["context", "ridge", "goal", "all"].num == 80
    assert not [key for key in errors if key[2] == "cube_b"]


def test_the_hands_places_are_disjoint_and_complete():
    table = make_table()
    rows = places(table)
    assert rows["held"].sum() == NUM / 4
    np.testing.assert_array_equal(
        rows["near"].astype(int) + rows["held"] + rows["far"], np.ones(NUM)
    )
    assert rows["all"].all()


def test_the_features_are_what_the_policy_itself_computes(tiny_checkpoint):
    """par_tiny: the context equals the one of its cached pass, and follows the joints."""
    checkpoint = tiny_checkpoint
    model = checkpoint.model.eval()
    text = checkpoint.instructions.embedding(checkpoint.instructions.texts[0])
    config = checkpoint.config
    torch.manual_seed(0)
    size = (2, config.codec.latent_channels, config.latent_height, config.latent_width)
    latents, proprio = torch.randn(size), torch.randn(2, config.proprio_width)
    with torch.no_grad():
        context, tokens = single_observation(model, text, latents, proprio)
        text_BTC = text.expand(2, -1, -1)
        cached, _ = model.extend(
            model.prefill(text_BTC), text_BTC, latents[:, None],
            torch.zeros(2, 1, config.num_actions, config.action_width),
            proprio[:, None], 0, True,
        )  # fmt: skip
        moved, _ = single_observation(model, text, latents, proprio + 1)
    torch.testing.assert_close(context, cached.action_BNZC[:, 0], atol=1e-5, rtol=1e-4)
    assert tokens.shape == (2, config.num_frame_tokens, config.transformer.width)
    assert not torch.allclose(moved, context)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, capsys):
    words = ["readout", "--checkpoint", str(tmp_path), "--scenes", str(tmp_path)]
    assert main([*words, "--json", str(tmp_path / "r.json")]) == 1
    assert "par_model.perception: " in capsys.readouterr().err


def test_features_of_as_many_pictures_as_rows(tiny_checkpoint):
    table = make_table(70)
    size = tiny_checkpoint.config.image_height
    pictures = (np.zeros((n, size, size, 3), np.uint8) for n in (50, 20))
    features = read_features(tiny_checkpoint, table, pictures)
    assert len(features.context) == len(features.tokens) == len(features.latents) == 70
