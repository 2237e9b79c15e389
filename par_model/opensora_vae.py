# SPDX-License-Identifier: Apache-2.0
"""The video autoencoder of NOVA's weights: Open-Sora-Plan's causal 3D VAE, by its own key names.

Fine levels convolve each frame alone, coarse levels convolve over time too, looking only back
(the first frame is repeated before the start). Latent 0 holds frame 0, each later latent four
frames. A level is 2D or 3D by the configuration; all 2D it is diffusers' AutoencoderKL.

A single picture stands for itself repeated in time, so every 3D kernel may be summed over time:
`fold_in_time` makes the exactly equal 2D network, which costs about half. GroupNorm of the 3D
levels spans time, so a clip's first latent changes with its later frames: encodings of pictures
and of clips must not be mixed.

Shape letters: B batch, T frames, C channels, H W pixels, h w latent pixels. "Pictures" are
[B, C, H, W], "clips" [B, C, T, H, W]; every module takes both.
"""

import copy

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from par_model.config import FrameCodecConfig

# frames and latents of one tile of a long clip, and the frames (latents) that tiles share
TILE_FRAMES, TILE_LATENTS, TILE_OVERLAP = 17, 5, 1
FRAMES_PER_LATENT = 4


class CausalConv3d(nn.Conv3d):
    """Convolution over time and space; in time it sees the current and earlier frames."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: tuple[int, int, int], stride: int = 1
    ) -> None:
        # A stride of 2 comes with padding at the far edge only, done by the caller.
        side = (kernel[-1] - 1) // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding=(0, side, side))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return functional.conv2d(
                x, self.weight.sum(dim=2), self.bias, self.stride[1:], self.padding[1:]
            )
        past = self.kernel_size[0] - 1
        padded = functional.pad(x, (0, 0, 0, 0, past, 0), mode="replicate") if past else x
        return super().forward(padded)

    def folded(self) -> nn.Conv2d:
        """The equal 2D convolution for a single picture."""
        flat = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size[1:],
            self.stride[1:],
            self.padding[1:],
            device="meta",
        )
        flat.weight = nn.Parameter(self.weight.detach().sum(dim=2), requires_grad=False)
        assert self.bias is not None
        flat.bias = nn.Parameter(self.bias.detach(), requires_grad=False)
        return flat


def _conv(
    is_3d: bool, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1
) -> nn.Module:
    if is_3d:
        return CausalConv3d(channels_in, channels_out, (kernel, kernel, kernel), stride)
    padding = (kernel - 1) // 2 if stride == 1 else 0
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, groups: int, is_3d: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=1e-6)
        self.conv1 = _conv(is_3d, channels_in, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=1e-6)
        self.conv2 = _conv(is_3d, channels_out, channels_out)
        if channels_in != channels_out:
            self.conv_shortcut = _conv(is_3d, channels_in, channels_out, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class FrameAttention(nn.Module):
    """Single-head self-attention over the pixels of each frame, with its residual.

    Attributes:
        attend: (queries, keys, values) to what is attended to; static graphs put another here.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.attend = functional.scaled_dot_product_attention

    def forward(self, x: Tensor) -> Tensor:
        normed = self.group_norm(x)
        num_frames = x.shape[2] if x.ndim == 5 else 1
        if x.ndim == 5:
            normed = rearrange(normed, "b c t h w -> (b t) c h w")
        tokens = rearrange(normed, "b c h w -> b 1 (h w) c")
        attended = self.attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        out = rearrange(
            self.to_out[0](attended), "b 1 (h w) c -> b c h w", h=x.shape[-2], w=x.shape[-1]
        )
        if x.ndim == 5:
            out = rearrange(out, "(b t) c h w -> b c t h w", t=num_frames)
        return x + out


class Downsample(nn.Module):
    """Halves height and width, and with a 3D convolution the number of frames after the first."""

    def __init__(self, channels: int, is_3d: bool) -> None:
        super().__init__()
        self.conv = _conv(is_3d, channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width, and with `in_time` the frames after the first too.

    Levels that double the frames interpolate linearly, the others repeat pixels, as the weights
    were trained.
    """

    def __init__(self, channels: int, is_3d: bool, in_time: bool) -> None:
        super().__init__()
        self.in_time = in_time
        if is_3d and not in_time:
            self.conv: nn.Module = CausalConv3d(channels, channels, (1, 3, 3))
        else:
            self.conv = _conv(is_3d, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self._larger(x))

    def _larger(self, x: Tensor) -> Tensor:
        if not self.in_time:
            return x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        if x.ndim == 4:
            return functional.interpolate(x, scale_factor=2, mode="bilinear")
        first = functional.interpolate(x[:, :, :1], scale_factor=(1, 2, 2), mode="trilinear")
        if x.shape[2] == 1:
            return first
        later = functional.interpolate(x[:, :, 1:], scale_factor=(2, 2, 2), mode="trilinear")
        return torch.cat((first, later), dim=2)


class MiddleBlock(nn.Module):
    def __init__(self, channels: int, groups: int, is_3d: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(channels, channels, groups, is_3d) for _ in range(2)
        )
        self.attentions = nn.ModuleList([FrameAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownLevel(nn.Module):
    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        config: FrameCodecConfig,
        is_3d: bool,
        next_is_3d: bool | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(
                channels_in if index == 0 else channels_out, channels_out, config.norm_groups, is_3d
            )
            for index in range(config.layers_per_block)
        )
        self.downsamplers = nn.ModuleList()
        if next_is_3d is not None:
            self.downsamplers.append(Downsample(channels_out, next_is_3d))

    def forward(self, x: Tensor, num_frames: int | None) -> Tensor:
        """`num_frames` of a clip whose frames are still in the batch dimension, else None."""
        for resnet in self.resnets:
            x = resnet(x)
        for downsample in self.downsamplers:
            is_3d = isinstance(downsample.conv, CausalConv3d)
            if num_frames is not None and is_3d and x.ndim == 4:
                x = rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)
            x = downsample(x)
        return x


class Encoder(nn.Module):
    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        channels, num_levels = config.channels, len(config.channels)
        is_3d = [level >= num_levels - config.num_3d_down_levels for level in range(num_levels)]
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownLevel(
                channels[max(0, level - 1)],
                channels[level],
                config,
                is_3d[level],
                is_3d[level + 1] if level + 1 < num_levels else None,
            )
            for level in range(num_levels)
        )
        self.mid_block = MiddleBlock(channels[-1], config.norm_groups, is_3d[-1])
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[-1], eps=1e-6)
        self.conv_out = _conv(is_3d[-1], channels[-1], 2 * config.latent_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures or clips in [-1, 1] to the posterior's moments."""
        num_frames = pixels.shape[2] if pixels.ndim == 5 else None
        x = rearrange(pixels, "b c t h w -> (b t) c h w") if num_frames is not None else pixels
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x, num_frames)
        if num_frames is not None and x.ndim == 4:
            x = rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)
        x = self.mid_block(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class UpLevel(nn.Module):
    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        config: FrameCodecConfig,
        is_3d: bool,
        upsample: Upsample | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(
                channels_in if index == 0 else channels_out, channels_out, config.norm_groups, is_3d
            )
            for index in range(config.layers_per_block + 1)
        )
        self.upsamplers = nn.ModuleList([] if upsample is None else [upsample])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class Decoder(nn.Module):
    """All levels 2D or all 3D: what else a file may ask for is refused when it is read."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        channels, num_levels = config.channels[::-1], len(config.channels)
        is_3d = config.num_3d_up_levels > 0
        self.conv_in = _conv(is_3d, config.latent_channels, channels[0])
        self.mid_block = MiddleBlock(channels[0], config.norm_groups, is_3d)
        self.up_blocks = nn.ModuleList(
            UpLevel(
                channels[max(0, level - 1)],
                channels[level],
                config,
                is_3d,
                Upsample(channels[level], is_3d, in_time=is_3d and level < num_levels - 2)
                if level < num_levels - 1
                else None,
            )
            for level in range(num_levels)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[-1], eps=1e-6)
        self.conv_out = _conv(is_3d, channels[-1], 3)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents of pictures or clips to pixels, nominally in [-1, 1]."""
        x = self.mid_block(self.conv_in(latents))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class OpenSoraVae(nn.Module):
    """Encoder and decoder with their 1x1 convolutions. State-dict names are the files' own.

    Raises:
        ValueError: the numbers of 3D levels are not ones that were ever trained.
    """

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        if config.num_3d_up_levels not in (0, len(config.channels)):
            raise ValueError(
                f"codec.num_3d_up_levels is {config.num_3d_up_levels}; the decoder's levels must "
                f"be all 2D (0) or all 3D ({len(config.channels)})."
            )
        is_3d = config.num_3d_up_levels > 0
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        moments = 2 * config.latent_channels
        self.quant_conv = _conv(is_3d, moments, moments, kernel=1)
        self.post_quant_conv = _conv(
            is_3d, config.latent_channels, config.latent_channels, kernel=1
        )

    def encode_clip(self, pixels_BCTHW: Tensor) -> Tensor:
        """[B, 3, T, H, W] to moments [B, 2c, n, h, w]; long clips tile by tile, as trained.

        Raises:
            ValueError: T is not 4 (n - 1) + 1.
        """
        num_frames = pixels_BCTHW.shape[2]
        if num_frames % FRAMES_PER_LATENT != 1:
            raise ValueError(
                f"a clip must have 4 k + 1 frames, got {num_frames}; cut it or add frames."
            )
        tiles = []
        step = TILE_FRAMES - TILE_OVERLAP
        for start in range(0, max(1, num_frames - TILE_OVERLAP), step):
            tile = self.quant_conv(self.encoder(pixels_BCTHW[:, :, start : start + TILE_FRAMES]))
            tiles.append(tile[:, :, TILE_OVERLAP if start else 0 :])
        return torch.cat(tiles, dim=2)

    def decode_clip(self, latents_BcThw: Tensor) -> Tensor:
        """[B, c, n, h, w] to pixels [B, 3, 4 (n - 1) + 1, H, W], tile by tile."""
        tiles = []
        step = TILE_LATENTS - TILE_OVERLAP
        for start in range(0, max(1, latents_BcThw.shape[2] - TILE_OVERLAP), step):
            piece = self.post_quant_conv(latents_BcThw[:, :, start : start + TILE_LATENTS])
            tile = self.decoder(piece)
            tiles.append(tile[:, :, TILE_OVERLAP if start else 0 :])
        return torch.cat(tiles, dim=2)


def fold_in_time(network: nn.Module) -> nn.Module:
    """A copy for single pictures: each 3D convolution is replaced by its equal 2D one.

    The copy shares the other weights with `network`, takes pictures only, and holds its
    convolutions channels-last.
    """
    memo = {id(p): p for p in network.parameters()}
    for module in network.modules():
        if isinstance(module, CausalConv3d):
            memo[id(module)] = module.folded()
    folded = copy.deepcopy(network, memo)
    return folded.to(memory_format=torch.channels_last)
