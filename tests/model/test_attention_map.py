# SPDX-License-Identifier: Apache-2.0
"""The picture of what the actions look at."""

from pathlib import Path

import numpy as np
import pytest

from par_model.attention_map import shaded
from par_model.load_policy import load_policy
from tests.model.fixtures import random_observation


def test_what_is_looked_at_most_is_as_bright_as_the_picture() -> None:
    """Four tokens, 10 x 6 pixels."""
    picture = np.full((10, 6, 3), 200, np.uint8)
    shown = shaded(picture, np.array([[0.4, 0.2], [0.0, 0.1]], np.float32))
    assert shown.dtype == np.uint8
    for rows, columns, brightness in (
        (slice(0, 5), slice(0, 3), 200),
        (slice(0, 5), slice(3, 6), 125),
        (slice(5, 10), slice(0, 3), 50),
        (slice(5, 10), slice(3, 6), 88),
    ):
        assert (shown[rows, columns] == brightness).all()


def test_a_picture_that_is_not_looked_at_is_dark() -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    assert shaded(picture, np.full((2, 2), 0.001, np.float32)).max() < 30


def test_a_picture_need_not_be_a_multiple_of_the_tokens() -> None:
    shown = shaded(np.full((7, 5, 3), 80, np.uint8), np.ones((3, 2), np.float32))
    assert (shown == 80).all()


def test_a_policy_shades_the_picture_that_it_answers(
    tiny_checkpoint: Path, rng: np.random.Generator
) -> None:
    policy = load_policy(tiny_checkpoint, backend="eager")
    policy.reset(policy.spec.instructions[0], 0)
    with pytest.raises(ValueError, match="observe first"):
        policy.attention_picture()
    policy.observe(random_observation(rng, policy.spec, 0.0))
    executed = policy.act().joint_positions
    observation = random_observation(rng, policy.spec, 0.4, executed)
    policy.observe(observation)
    shown, picture = policy.attention_picture(), observation.image
    assert shown.shape == picture.shape
    assert shown.dtype == np.uint8
    # By hand: of the context's last slot, frame tokens first.
    config = policy.config
    slot = policy.attention().mean(axis=(0, 1, 2))[-config.slot_length :]
    weights = slot[: config.num_frame_tokens].reshape(config.frame_rows, config.frame_columns)
    height, width = (size // count for size, count in zip(shown.shape, weights.shape, strict=False))
    kept = shown.sum(axis=2) / picture.sum(axis=2, dtype=float).clip(min=1.0)
    by_token = kept.reshape(config.frame_rows, height, config.frame_columns, width)
    np.testing.assert_allclose(
        np.median(by_token, axis=(1, 3)), 0.25 + 0.75 * weights / weights.max(), atol=0.01
    )
