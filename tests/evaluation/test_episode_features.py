# SPDX-License-Identifier: Apache-2.0
"""A policy's features along demonstrations: a row a slot, the first without history, the others
with it; held-out demonstrations are judged.

Two recordings of random pictures, 20 and 30 steps (3 and 4 slots), keys 3 and 24 (held out).
"""

import numpy as np
import pytest
import torch

from par_model.checkpoint import Checkpoint
from par_model.evaluation.context_readout import single_observation
from par_model.evaluation.episode_features import read_episode_features
from par_model.instruction import code_table
from par_model.simulation.tasks import TASKS, task
from par_model.training.demonstrations_on_disk import DemonstrationSet
from tests.model.fixtures import random_checkpoint_parts
from tests.training.fixtures import record_noise

BASE_M = np.array([-0.615, 0.0, 0.0])


@pytest.fixture
def checkpoint():
    parts = random_checkpoint_parts("par_tiny")
    config = parts["config"]
    texts = tuple(each.instruction for each in TASKS.values())
    table = code_table(texts, config.num_text_tokens, config.text_width)
    del parts["card"]
    return Checkpoint(**parts | {"instructions": table})


@pytest.fixture
def demonstrations(tmp_path):
    record_noise(tmp_path, {3: 20, 24: 30}, instruction=task("StackCube").instruction)
    return DemonstrationSet(tmp_path)


def test_each_slot_is_a_row_with_the_history_before_it(checkpoint, demonstrations):
    """The recordings say success at once, so each is cut after its third step: one slot; as a
    whole they would have 3 and 4."""
    read = read_episode_features(checkpoint, demonstrations, steps_after_success=None)
    assert read.table.scenes.tolist() == [3] * 3 + [24] * 4
    assert read.judged.tolist() == [False] * 3 + [True] * 4
    assert len(read.features.context) == len(read.features.latents) == 7
    cut = read_episode_features(checkpoint, demonstrations)
    assert cut.table.scenes.tolist() == [3, 24]

    config = checkpoint.config
    shape = (config.codec.latent_channels, config.latent_height, config.latent_width)
    latents = read.features.latents.reshape(7, *shape)
    joints = read.table.joints.astype(np.float64)
    proprio = torch.from_numpy(checkpoint.statistics.normalize_joints(joints)).float()
    text = checkpoint.instructions.embedding(task("StackCube").instruction)
    with torch.no_grad():
        alone, tokens = single_observation(checkpoint.model.eval(), text, latents, proprio)
    same = [
        bool(torch.allclose(a, b, atol=1e-4))
        for a, b in zip(alone.flatten(1), read.features.context, strict=True)
    ]
    assert same == [True, False, False, True, False, False, False]
    torch.testing.assert_close(tokens[0].flatten(), read.features.tokens[0], atol=1e-4, rtol=1e-3)


def test_positions_are_in_the_robots_frame(checkpoint, demonstrations):
    """The recorded cubes lie at the world's origin, 0.615 m before the base."""
    table = read_episode_features(checkpoint, demonstrations).table
    np.testing.assert_allclose(table.positions_m["cube"], [[0.615, 0, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(table.positions_m["cube_b"], [[0.615, 0, 0]] * 2, atol=1e-6)
    assert np.isnan(table.positions_m["goal"]).all()
    assert np.isfinite(table.positions_m["gripper"]).all()


def test_data_of_no_task_is_refused(checkpoint, tmp_path):
    record_noise(tmp_path, {3: 20}, instruction=task("PickCube").instruction)
    data = DemonstrationSet(tmp_path)
    data.instructions = ("fold the towel",)
    with pytest.raises(ValueError, match="of none of the tasks PushCube"):
        read_episode_features(checkpoint, data)
