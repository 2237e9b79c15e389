# SPDX-License-Identifier: Apache-2.0
"""The convolutions before a picture's tokens."""

import dataclasses

import pytest
import torch

from par_model.physical_tokenizer import PhysicalTokenizer
from par_model.presets import PRESETS, preset


def _frame_patches(stem_channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of two latents and of their sum."""
    torch.manual_seed(0)
    config = dataclasses.replace(preset("par_tiny"), frame_stem_channels=stem_channels)
    tokenizer = PhysicalTokenizer(config)
    shape = (config.codec.latent_channels, config.latent_height, config.latent_width)
    first, second = torch.randn(2, *shape)
    with torch.no_grad():
        tokens = tokenizer.frame_patches(torch.stack((first, second, first + second)))
        tokens = tokens - tokenizer.frame_patches(torch.zeros(1, *shape))
    assert tokens.shape == (3, config.num_frame_tokens, config.transformer.width)
    return tokens[0], tokens[1], tokens[2]


def test_without_a_stem_tokens_are_linear_in_the_latents() -> None:
    first, second, both = _frame_patches(stem_channels=0)
    torch.testing.assert_close(first + second, both, rtol=0, atol=1e-5)


def test_with_a_stem_they_are_not_and_a_picture_is_not_lost_on_the_way() -> None:
    first, second, both = _frame_patches(stem_channels=8)
    assert (first + second - both).abs().max() > 0.05
    # As loud as what a linear layer makes of it, within a factor of ten.
    linear, _, _ = _frame_patches(stem_channels=0)
    assert 0.1 < float(first.std() / linear.std()) < 10.0


def test_an_odd_patch_is_refused() -> None:
    config = dataclasses.replace(preset("par_tiny"), frame_patch=1, image_patch=1)
    with pytest.raises(ValueError, match="with a frame stem, which halves the picture"):
        config.validate()


def test_nova_has_none() -> None:
    assert {
        name for name, config in PRESETS.items() if config.frame_stem_channels
    } == {
        "par_small", "par_small_overlap", "par_small_two_views", "par_small_depth",
        "par_small_noar",
        "par_small_discrete", "par_tiny",
    }  # fmt: skip
