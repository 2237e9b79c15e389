# SPDX-License-Identifier: Apache-2.0
"""The picture at the end of a chunk: what changes is drawn, the rest is the newest picture."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from par_model.foretold_picture import foretold_picture
from par_model.forward_model import Foretold, ForwardConfig, ForwardModel
from par_model.interface import Observation
from par_model.policy import PARPolicy
from tests.backends.runtimes import make_runtime, small_checkpoint
from tests.model.fixtures import random_observation

DRAWN = 200


class Model:
    """Knows the answer; keeps the question."""

    def __init__(self, change: np.ndarray) -> None:
        self.change = change.astype(np.float32)

    def foretell(self, before: np.ndarray, joints: np.ndarray, later: np.ndarray) -> Foretold:
        self.asked = (before, joints, later)
        return Foretold(before + 1.0, self.change)


class Graphs:
    """Decodes everything to one grey; keeps the latent."""

    def __init__(self, num_views: int) -> None:
        self.config = SimpleNamespace(num_views=num_views)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        self.latent = latent
        return np.full((32 * self.config.num_views, 32, 3), DRAWN, np.uint8)


def seen(num_views: int) -> Observation:
    return Observation(
        image=np.full((32 * num_views, 32, 3), 50, np.uint8),
        measured_joint_positions=np.array([0.1, 0.04]),
        joint_names=("elbow", "gripper"),
        stamp_s=0.0,
    )


def drawn_with(change: np.ndarray, num_views: int = 1) -> np.ndarray:
    latent = np.zeros((4, 4 * num_views, 4), np.float32)
    targets = np.array([[0.2, 0.0], [0.5, 0.0]])
    model, graphs = Model(change), Graphs(num_views)
    picture = foretold_picture(model, graphs, seen(num_views), latent, targets)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(graphs.latent, 1.0)
    np.testing.assert_array_equal(model.asked[1], [0.1, 0.04])
    np.testing.assert_array_equal(model.asked[2], [0.5, 0.0])
    return picture


def test_what_stays_is_the_newest_picture_and_what_changes_is_drawn() -> None:
    assert (drawn_with(np.full((4, 4), 0.19)) == 50).all()
    assert (drawn_with(np.full((4, 4), 0.41)) == DRAWN).all()
    assert (drawn_with(np.full((4, 4), 0.3)) == 125).all()
    left = np.zeros((4, 4))
    left[:, :2] = 1.0
    picture = drawn_with(left)[..., 0]
    assert (picture[:, :8] == DRAWN).all()
    assert (picture[:, -8:] == 50).all()
    assert (np.diff(picture.astype(int), axis=1) <= 0).all()


def test_one_view_does_not_bleed_into_the_next() -> None:
    change = np.zeros((8, 4))
    change[:4] = 1.0
    picture = drawn_with(change, num_views=2)
    assert (picture[:32] == DRAWN).all()
    assert (picture[32:] == 50).all()


@pytest.fixture
def policy() -> PARPolicy:
    """par_tiny with random weights and a forward model that expects no change."""
    checkpoint = small_checkpoint()
    config = checkpoint.config
    sizes = ForwardConfig(
        config.codec.latent_channels, config.latent_height, config.latent_width, config.action_width
    )
    graphs = make_runtime("eager", checkpoint, None)
    model = ForwardModel(sizes).requires_grad_(False).eval()
    return PARPolicy(
        config, checkpoint.statistics, checkpoint.instructions, graphs, forward_model=model
    )


def test_a_policy_foretells_the_end_of_the_chunk_that_it_has_sampled(policy: PARPolicy) -> None:
    """Before `act` nothing is planned, and the frame head draws; so it does after the next
    observation."""
    policy.reset(policy.spec.instructions[0], 0)
    observation = random_observation(np.random.default_rng(0), policy.spec, 0.0)
    policy.observe(observation)
    of_the_head = policy.predict_frame()
    assert not np.array_equal(of_the_head, observation.image)
    chunk = policy.act()
    np.testing.assert_array_equal(policy.predict_frame(), observation.image)
    later = random_observation(np.random.default_rng(1), policy.spec, 0.4, chunk.joint_positions)
    policy.observe(later)
    assert not np.array_equal(policy.predict_frame(), observation.image)
    assert not np.array_equal(policy.predict_frame(), later.image)
    policy.act()
    np.testing.assert_array_equal(policy.predict_frame(), later.image)


@pytest.mark.parametrize("runtime", ["eager", "static"])
def test_a_runtime_decodes_what_it_has_encoded(runtime: str) -> None:
    checkpoint = small_checkpoint()
    graphs = make_runtime(runtime, checkpoint, None)
    size = checkpoint.config.image_height
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
    latent = graphs.encode(image)
    picture = graphs.decode(np.asarray(latent, np.float32)[0])
    assert picture.shape == (size, size, 3)
    expected = checkpoint.codec.decode(checkpoint.codec.encode(torch.from_numpy(image)[None]))[0]
    np.testing.assert_allclose(picture.astype(int), expected.numpy().astype(int), atol=1)
