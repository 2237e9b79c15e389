# SPDX-License-Identifier: Apache-2.0
"""The frozen autoencoder between camera frames and latents.

Shapes: B frames; V views of a frame; H, W image size in pixels; C latent channels; h, w = H, W
over the codec's stride; T frames and n latents of a clip.
"""

import copy
import dataclasses
import hashlib
import json

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from par_model.config import FrameCodecConfig
from par_model.diffusers_parts import AutoencoderKL
from par_model.opensora_vae import OpenSoraVae, fold_in_time


class FrameCodec(nn.Module):
    """uint8 RGB pictures to normalised latents and back; deterministic both ways.

    A latent is the posterior's mean, shifted and scaled per channel to about zero mean and unit
    variance over the data that the codec was trained on, times `config.scaling_factor`.
    """

    latent_mean_C: Tensor
    latent_std_C: Tensor

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.network = _network(config)
        self.register_buffer("latent_mean_C", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std_C", torch.ones(config.latent_channels))

    def decoding_parts(self) -> list[nn.Module]:
        """What makes a picture of a latent; no latent depends on it."""
        parts = (self.network.decoder, getattr(self.network, "post_quant_conv", None))
        return [part for part in parts if part is not None]

    def encoding_state(self) -> dict[str, Tensor]:
        """The tensors on which latents depend, by name."""
        others = {
            id(p)
            for part in self.decoding_parts()
            for p in part.state_dict(keep_vars=True).values()
        }
        return {n: t for n, t in self.state_dict(keep_vars=True).items() if id(t) not in others}

    def encode(self, images_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float latents [B, C, h, w], in the dtype of the weights."""
        mean_BChw, _ = self.posterior(self.fold(images_BHWC))
        return self._normalise(mean_BChw)

    def encode_clip(self, images_BTHWC: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3], T = 4 (n - 1) + 1 -> latents [B, n, C, h, w].

        A clip's latents differ from the same frames' own: the video autoencoder's norms span time.

        Raises:
            ValueError: T does not fit, or the codec knows single pictures only.
        """
        vae = self._video_autoencoder()
        pixels = self.fold(images_BTHWC.flatten(0, 1))
        moments = vae.encode_clip(
            rearrange(pixels, "(b t) c h w -> b c t h w", b=len(images_BTHWC))
        )
        return self._normalise(rearrange(moments.chunk(2, dim=1)[0], "b c n h w -> b n c h w"))

    def decode_clip(self, latents_BnChw: Tensor) -> Tensor:
        """Latents [B, n, C, h, w] -> uint8 [B, 4 (n - 1) + 1, H, W, 3]."""
        raw = rearrange(self._raw(latents_BnChw), "b n c h w -> b c n h w")
        return _to_bytes(
            rearrange(self._video_autoencoder().decode_clip(raw), "b c t h w -> b t c h w")
        )

    def for_pictures(self) -> "FrameCodec":
        """The same codec for single pictures only, faster where the network convolves over time.

        It is for inference: it shares memory with this one, and its state dict is another.
        """
        if not isinstance(self.network, OpenSoraVae):
            return self
        codec = copy.copy(self)
        codec._modules = {**self._modules, "network": fold_in_time(self.network)}
        return codec

    def _video_autoencoder(self) -> OpenSoraVae:
        if not isinstance(self.network, OpenSoraVae) or not self.config.num_3d_down_levels:
            raise ValueError(
                f"frame codec {self.config.kind!r} with {self.config.num_3d_down_levels} 3D levels "
                "knows single pictures only; clips need a video autoencoder. Check "
                "observation_mode in the checkpoint's config.json."
            )
        return self.network

    def _normalise(self, mean: Tensor) -> Tensor:
        centred = mean - self.latent_mean_C[:, None, None]
        return centred / self.latent_std_C[:, None, None] * self.config.scaling_factor

    def _raw(self, latents: Tensor) -> Tensor:
        scaled = latents / self.config.scaling_factor * self.latent_std_C[:, None, None]
        return scaled + self.latent_mean_C[:, None, None]

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """float latents [B, C, h, w] -> uint8 [B, H, W, 3]."""
        return _to_bytes(self.reconstruct(self._raw(latents_BChw)))

    def fold(self, images_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float in [-1, 1], pixels folded into channels."""
        if images_BHWC.dtype != torch.uint8 or images_BHWC.shape[-1] != 3:
            raise ValueError(
                f"images must be uint8 [B, H, W, 3], got {images_BHWC.dtype} "
                f"{list(images_BHWC.shape)}; check what feeds the codec."
            )
        height, width = images_BHWC.shape[1:3]
        if height % self.config.stride or width % self.config.stride:
            raise ValueError(
                f"images of {height}x{width} pixels do not fit the codec's stride "
                f"{self.config.stride}; check the camera's size."
            )
        dtype = self.latent_mean_C.dtype
        # Cast first: TensorRT moves no uint8 around. In float32 at least: bfloat16 has 8 bits.
        pixels_BHWC = images_BHWC.to(torch.promote_types(dtype, torch.float32)) / 127.5 - 1.0
        pixels_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(dtype)
        return functional.pixel_unshuffle(pixels_BCHW, self.config.pixel_fold)

    def posterior(self, folded_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, each [B, C, h, w], not normalised."""
        moments = self.network.encoder(folded_BCHW)
        if self.network.quant_conv is not None:
            moments = self.network.quant_conv(moments)
        mean_BChw, log_variance_BChw = moments.chunk(2, dim=1)
        return mean_BChw, log_variance_BChw.clamp(-30.0, 20.0)

    def reconstruct(self, raw_latents_BChw: Tensor) -> Tensor:
        """Not normalised latents -> float pixels [B, 3, H, W], nominally in [-1, 1]."""
        if self.network.post_quant_conv is not None:
            raw_latents_BChw = self.network.post_quant_conv(raw_latents_BChw)
        folded_BCHW = self.network.decoder(raw_latents_BChw)
        return functional.pixel_shuffle(folded_BCHW, self.config.pixel_fold)

    @torch.no_grad()
    def set_latent_statistics(self, raw_latents_BChw: Tensor) -> None:
        """Fit the per-channel shift and scale to a sample of not normalised latents."""
        self.latent_mean_C.copy_(raw_latents_BChw.mean(dim=(0, 2, 3)))
        self.latent_std_C.copy_(raw_latents_BChw.std(dim=(0, 2, 3)).clamp_min(1e-6))


def encode_views(codec: FrameCodec, images_BVHWC: Tensor, num_views: int) -> Tensor:
    """uint8 [B, V H, W, 3] -> latents [B, C, V h, w]: each view by itself, one above the other."""
    if num_views == 1:
        return codec.encode(images_BVHWC)
    images = rearrange(images_BVHWC, "b (v h) w c -> (b v) h w c", v=num_views)
    return rearrange(codec.encode(images), "(b v) c h w -> b c (v h) w", v=num_views)


def decode_views(codec: FrameCodec, latents_BCVhw: Tensor, num_views: int) -> Tensor:
    """Latents [B, C, V h, w] -> uint8 [B, V H, W, 3]."""
    if num_views == 1:
        return codec.decode(latents_BCVhw)
    latents = rearrange(latents_BCVhw, "b c (v h) w -> (b v) c h w", v=num_views)
    return rearrange(codec.decode(latents), "(b v) h w c -> b (v h) w c", v=num_views)


def _to_bytes(pixels: Tensor) -> Tensor:
    """Float [..., 3, H, W] in [-1, 1] -> uint8 [..., H, W, 3]."""
    values = (pixels.clamp(-1.0, 1.0) * 127.5 + 127.5).round()
    return values.to(torch.uint8).movedim(-3, -1).contiguous()


def _network(config: FrameCodecConfig) -> AutoencoderKL | OpenSoraVae:
    if config.kind not in ("autoencoder_kl", "opensora_plan"):
        raise ValueError(
            f"frame codec kind {config.kind!r} is unknown to this version; it knows "
            "'autoencoder_kl' and 'opensora_plan'. Check codec.kind in the checkpoint's "
            "config.json."
        )
    num_levels = len(config.channels)
    stride = config.pixel_fold * 2 ** (num_levels - 1)
    if stride != config.stride:
        raise ValueError(
            f"codec.stride is {config.stride}, but pixel_fold {config.pixel_fold} and {num_levels} "
            f"levels make {stride}; check the codec's numbers."
        )
    if any(channels % config.norm_groups for channels in config.channels):
        raise ValueError(
            f"codec.channels are {list(config.channels)}; each must be a multiple of norm_groups, "
            f"{config.norm_groups}; check the codec's numbers."
        )
    if config.kind == "opensora_plan":
        return OpenSoraVae(config)
    return AutoencoderKL(
        in_channels=3 * config.pixel_fold**2,
        out_channels=3 * config.pixel_fold**2,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        # Attention in the middle would cost more than it gives at this size.
        mid_block_add_attention=False,
    )


def codec_fingerprint(codec: FrameCodec) -> str:
    """First 16 hex digits of the sha256 of the codec's configuration and of the weights on which
    latents depend."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(codec.config), sort_keys=True).encode())
    for name, tensor in sorted(codec.encoding_state().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
