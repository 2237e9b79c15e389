# SPDX-License-Identifier: Apache-2.0
"""NOVA's autoencoder: 239,189,991 parameters at the published size; folded to 2D it gives the same
latents (1e-12 in float64); all 2D it is diffusers' AutoencoderKL; clips are not causal."""

import diffusers
import pytest
import torch

from par_model.config import FrameCodecConfig
from par_model.frame_codec import FrameCodec
from par_model.opensora_vae import CausalConv3d, OpenSoraVae
from par_model.presets import preset

SMALL = FrameCodecConfig("opensora_plan", 4, 8, 1, (32, 32, 64, 64), 1, 32, 0.18215, 2, 4)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return FrameCodec(SMALL).double().eval().requires_grad_(False)


def frames(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, count, 32, 48, 3), dtype=torch.uint8, generator=generator)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_size():
    with torch.device("meta"):
        vae = OpenSoraVae(preset("par_0_6b").codec)
        folded = FrameCodec(preset("par_0_6b").codec).for_pictures().network
    assert count(vae) == 239_189_991
    assert count(vae.encoder) == 94_399_368
    assert count(vae.decoder) == 144_790_531
    assert round(count(folded.encoder) / 1e6, 1) == 34.2


def test_folded_network_is_equal_for_pictures(codec):
    picture = frames(1)[:, 0]
    folded = codec.for_pictures()
    assert not any(isinstance(module, CausalConv3d) for module in folded.network.modules())
    latent = codec.encode(picture)
    as_clip = codec.encode_clip(picture[:, None])[:, 0]
    assert (latent - folded.encode(picture)).abs().max() < 1e-12
    assert (latent - as_clip).abs().max() < 1e-12
    raw = latent / SMALL.scaling_factor
    assert (codec.reconstruct(raw) - folded.reconstruct(raw)).abs().max() < 1e-12
    # The original still takes clips.
    assert codec.encode_clip(frames(5)).shape == (1, 2, 4, 4, 6)


def test_latent_0_of_a_clip_depends_on_later_frames_and_is_no_picture_latent(codec):
    """GroupNorm spans time: why pictures and clips must not be mixed."""
    clip, changed = frames(5), frames(5).clone()
    changed[:, -1] = 255 - changed[:, -1]
    first, other = codec.encode_clip(clip)[:, 0], codec.encode_clip(changed)[:, 0]
    assert (first - other).abs().max() > 1e-4
    assert (first - codec.encode(clip[:, 0])).abs().max() > 1e-4


def test_long_clips_go_tile_by_tile(codec):
    """33 frames are tiles of 17 that share one frame: 9 latents, and back to 33 frames."""
    clip = frames(33)
    latents = codec.encode_clip(clip)
    assert latents.shape == (1, 9, 4, 4, 6)
    assert torch.equal(latents[:, :5], codec.encode_clip(clip[:, :17]))
    assert torch.equal(latents[:, 5:], codec.encode_clip(clip[:, 16:])[:, 1:])
    assert codec.decode_clip(latents).shape == clip.shape


def test_frames_that_fill_no_latent_are_refused(codec):
    with pytest.raises(ValueError, match="4 k \\+ 1 frames, got 4"):
        codec.encode_clip(frames(4))


def test_without_3d_levels_it_is_diffusers_autoencoder():
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    ).double()
    ours = OpenSoraVae(FrameCodecConfig("opensora_plan", 4, 2, 1, (32, 64), 2, 32, 1.0)).double()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        moments = theirs.encode(pixels).latent_dist.parameters
        assert (ours.quant_conv(ours.encoder(pixels)) - moments).abs().max() < 1e-12
        latent = moments[:, :4]
        decoded = ours.decoder(ours.post_quant_conv(latent))
        assert (decoded - theirs.decode(latent).sample).abs().max() < 1e-12


def test_a_picture_codec_refuses_clips():
    codec = FrameCodec(preset("par_tiny").codec)
    with pytest.raises(ValueError, match="knows single pictures only"):
        codec.encode_clip(frames(5))
