# SPDX-License-Identifier: Apache-2.0
"""The frame codec: shapes, determinism, normalised latents, size, and refusals.

par_small's codec: 128x128 pictures, 16 channels at 16x16.
"""

import dataclasses

import pytest
import torch

from par_model.frame_codec import FrameCodec
from par_model.model import PARModel
from par_model.presets import preset


@pytest.fixture(scope="module")
def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(preset("par_small").codec).eval().requires_grad_(False)


def pictures(count: int, size: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def test_shapes_and_determinism(codec: FrameCodec) -> None:
    images = pictures(2)
    latents = codec.encode(images)
    assert latents.shape == (2, 16, 16, 16)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, codec.encode(images))
    decoded = codec.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.dtype == torch.uint8


def test_statistics_make_unit_variance_and_decode_undoes_them(codec: FrameCodec) -> None:
    images = pictures(4)
    raw, _ = codec.posterior(codec.fold(images))
    before = codec.decode(codec.encode(images))
    codec.set_latent_statistics(raw)
    latents = codec.encode(images)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(16), atol=1e-3, rtol=0)
    after = codec.decode(latents)
    assert (before.int() - after.int()).abs().max() <= 1


def test_model_and_codec_have_at_most_twelve_million_parameters(codec: FrameCodec) -> None:
    model = PARModel(preset("par_small"))
    total = sum(p.numel() for part in (codec, model) for p in part.parameters())
    assert total <= 12_000_000


def test_wrong_pictures_and_numbers_are_refused(codec: FrameCodec) -> None:
    with pytest.raises(ValueError, match="uint8"):
        codec.encode(pictures(1).float())
    with pytest.raises(ValueError, match="stride 8"):
        codec.encode(pictures(1, size=100))
    config = preset("par_small").codec
    with pytest.raises(ValueError, match=r"codec\.stride is 16"):
        FrameCodec(dataclasses.replace(config, stride=16))
    with pytest.raises(ValueError, match="kind 'other'"):
        FrameCodec(dataclasses.replace(config, kind="other"))  # type: ignore[arg-type]
