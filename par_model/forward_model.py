# SPDX-License-Identifier: Apache-2.0
"""The forward model: the next latent, given the latest one and where the joints are at both.

A policy's context does not know where the arm will be when the next picture is taken, so what the
frame head expects is blurred wherever the arm may be. Once the picture is there, the joints were
measured too: what is left to be surprised by is the rest of the scene.

Shapes: B transitions; C latent channels; h, w latent pixels (of several views: those of each, one
above the other); J joints; M maps that are drawn from the joints; D width.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from par_model.checkpoint import Checkpoint
from par_model.frame_codec import FrameCodec, codec_fingerprint
from par_model.interface import FloatArray
from par_model.misfit import ErrorArray
from par_model.surprise import FORWARD_FILE

LatentArray = npt.NDArray[np.float32]
# The only key of its metadata, whose order in a file is not fixed.
_FORMAT = "par_forward_model_1"
_AGAIN = "train it again with `python -m par_model.train forward`"
# The least deviation that is expected of a latent, in deviations of its channel
# (docs/lab_notebook/surprise.md).
_LEAST_DEVIATION = 0.03
# Side of the maps that are drawn from the joints; they are scaled to the latent's size.
_MAP_SIDE = 16
_NUM_GROUPS = 8


@dataclass(frozen=True)
class ForwardConfig:
    """Sizes of the network."""

    latent_channels: int
    latent_height: int
    latent_width: int
    num_joints: int
    channels: int = 48
    width: int = 128
    num_maps: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for a size that is no whole number above 0."""
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
        if self.channels % _NUM_GROUPS:
            raise ValueError(f"channels must be a multiple of {_NUM_GROUPS}, got {self.channels}")


class _Block(nn.Module):
    """A residual block of two convolutions, modulated by the joints."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(_NUM_GROUPS, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = nn.GroupNorm(_NUM_GROUPS, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, hidden_BChw: Tensor, joints_BD: Tensor) -> Tensor:
        inner = self.conv_in(functional.silu(self.norm_in(hidden_BChw)))
        scale, shift = self.modulation(joints_BD)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm_out(inner) * (1.0 + scale) + shift
        return hidden_BChw + self.conv_out(functional.silu(inner))


class ForwardModel(nn.Module):
    """Mean and variance of each number of the next latent: a Gaussian, each number by itself.

    A U-Net of two levels. Latents and joints enter and leave in deviations of the data that it was
    trained on.
    """

    latent_mean_C: Tensor
    latent_std_C: Tensor
    joint_mean_J: Tensor
    joint_std_J: Tensor

    def __init__(self, config: ForwardConfig) -> None:
        super().__init__()
        self.config = config
        channels, width = config.channels, config.width
        self.joints = nn.Sequential(
            nn.Linear(3 * config.num_joints, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width),
        )  # fmt: skip
        self.maps = nn.Linear(width, config.num_maps * _MAP_SIDE**2)
        num_in = config.latent_channels + 2 + config.num_maps
        self.conv_in = nn.Conv2d(num_in, channels, 3, padding=1)
        self.fine_in = _Block(channels, width)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList([_Block(2 * channels, width), _Block(2 * channels, width)])
        self.up = nn.Conv2d(2 * channels, channels, 1)
        self.fine_out = _Block(channels, width)
        self.norm_out = nn.GroupNorm(_NUM_GROUPS, channels)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.register_buffer("latent_mean_C", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std_C", torch.ones(config.latent_channels))
        self.register_buffer("joint_mean_J", torch.zeros(config.num_joints))
        self.register_buffer("joint_std_J", torch.ones(config.num_joints))

    def normalise(self, latents_BChw: Tensor) -> Tensor:
        """Latents in deviations of each channel."""
        mean, std = self.latent_mean_C[:, None, None], self.latent_std_C[:, None, None]
        return (latents_BChw - mean) / std

    def forward(
        self, before_BChw: Tensor, joints_BJ: Tensor, later_BJ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the next latent: mean and variance, both [B, C, h, w], in deviations.

        Args:
            before_BChw: the latest latent, as `normalise` gives it.
            joints_BJ, later_BJ: joints measured with it and with the next one, rad and m.
        """
        joints_BJ, later_BJ = (
            (values - self.joint_mean_J) / self.joint_std_J for values in (joints_BJ, later_BJ)
        )
        # The way between the two is small and decides which pixels change.
        told_BD = self.joints(torch.cat((joints_BJ, later_BJ, 4.0 * (later_BJ - joints_BJ)), dim=1))
        size = before_BChw.shape[-2:]
        maps = self.maps(told_BD).unflatten(1, (self.config.num_maps, _MAP_SIDE, _MAP_SIDE))
        maps = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
        places = _places(size, before_BChw).expand(len(before_BChw), -1, -1, -1)
        fine = self.fine_in(self.conv_in(torch.cat((before_BChw, places, maps), dim=1)), told_BD)
        coarse = self.down(fine)
        for block in self.coarse:
            coarse = block(coarse, told_BD)
        risen = functional.interpolate(self.up(coarse), size, mode="nearest")
        hidden = self.norm_out(self.fine_out(fine + risen, told_BD))
        change, log_variance = self.conv_out(functional.silu(hidden)).chunk(2, dim=1)
        # It begins with a deviation of a third.
        variance = (log_variance - 2.0).clamp(-12.0, 4.0).exp() + _LEAST_DEVIATION**2
        return before_BChw + change, variance

    @torch.inference_mode()
    def errors(
        self, before: LatentArray, now: LatentArray, joints: FloatArray, later: FloatArray
    ) -> ErrorArray:
        """How badly `now` was foretold: float32 [h, w], the mean over the channels of the squared
        error over its expected variance; about 1 where all is as expected.

        Args:
            before, now: latents, float32 [C, h, w] or with a leading 1.
            joints, later: float [J], measured with them, rad and m.
        """
        one, other = self._normalised(before), self._normalised(now)
        mean, variance = self(one, _row(joints), _row(later))
        errors: ErrorArray = ((other - mean).square() / variance).mean(dim=1)[0].numpy()
        return errors

    @torch.inference_mode()
    def foretell(self, before: LatentArray, joints: FloatArray, later: FloatArray) -> "Foretold":
        """What is expected where the joints go on to `later`; arguments as `errors`."""
        one = self._normalised(before)
        mean, _ = self(one, _row(joints), _row(later))
        change = (mean - one).square().mean(dim=1).sqrt()
        std, shift = self.latent_std_C[:, None, None], self.latent_mean_C[:, None, None]
        return Foretold((mean[0] * std + shift).numpy(), change[0].numpy())

    def _normalised(self, latent: LatentArray) -> Tensor:
        sizes = self.config
        shape = (1, sizes.latent_channels, sizes.latent_height, sizes.latent_width)
        return self.normalise(torch.from_numpy(latent).reshape(shape))


def _row(values: FloatArray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))[None]


def _places(size: torch.Size, like: Tensor) -> Tensor:
    """[1, 2, h, w], row and column of each latent pixel in -1 to 1."""
    rows, columns = (
        torch.linspace(-1.0, 1.0, n, dtype=like.dtype, device=like.device) for n in size
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


@dataclass(frozen=True)
class Foretold:
    """What is expected of the next latent.

    Attributes:
        latent: float32 [C, h, w], its mean.
        change: float32 [h, w], the root mean square over the channels of how far that is from the
            latest one, in deviations of a channel.
    """

    latent: LatentArray
    change: LatentArray


@dataclass(frozen=True)
class StoredForwardModel:
    """The file beside a checkpoint's files.

    Attributes:
        model: in evaluation mode.
        codec: `frame_codec.codec_fingerprint` of the codec whose latents it knows.
        joint_names: of the arm, in their order; empty where a file does not say.
        training: how it was made.
    """

    model: ForwardModel
    codec: str
    joint_names: tuple[str, ...]
    training: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Weights as float16, statistics as float32; whole or not at all."""
        buffers = {name for name, _ in self.model.named_buffers()}
        tensors = {
            name: (tensor.float() if name in buffers else tensor.half()).cpu().contiguous()
            for name, tensor in self.model.state_dict().items()
        }
        values = {
            "config": dataclasses.asdict(self.model.config),
            "codec": self.codec,
            "joint_names": list(self.joint_names),
            "training": dict(self.training),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = path.with_suffix(".writing")
        save_file(tensors, writing, {_FORMAT: json.dumps(values)})
        os.replace(writing, path)

    @staticmethod
    def read(path: Path) -> "StoredForwardModel":
        """Raises ValueError for a file that is damaged or of another format."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            if _FORMAT not in metadata:
                raise ValueError(f"its metadata has no {_FORMAT!r}")
            values = json.loads(metadata[_FORMAT])
            # No memory is taken for sizes that do not fit the tensors.
            with torch.device("meta"):
                model = ForwardModel(ForwardConfig(**values["config"]))
            model.load_state_dict(tensors, assign=True)
            codec, training = str(values["codec"]), dict(values["training"])
            names = tuple(str(name) for name in values.get("joint_names", ()))
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is no forward model ({reason}); {_AGAIN}.") from error
        return StoredForwardModel(model.requires_grad_(False).eval(), codec, names, training)


def read_forward_model(
    folder: Path, checkpoint: Checkpoint, *other_codecs: FrameCodec
) -> StoredForwardModel | None:
    """That in the folder, of a checkpoint or of a training; None where there is none.

    Args:
        checkpoint: of the policy, whose codec's weights are float32 as they were read.
        other_codecs: with whose latents it may have been trained, too.

    Raises ValueError where it is damaged, or was trained for another picture size or arm than the
    policy's, or for none of the codecs.
    """
    path = folder / FORWARD_FILE
    if not path.is_file():
        return None
    stored, config = StoredForwardModel.read(path), checkpoint.config
    own = stored.model.config
    sizes = (own.latent_height, own.latent_width, own.num_joints)
    needed = (config.latent_height, config.latent_width, config.action_width)
    is_of_arm = stored.joint_names in ((), checkpoint.statistics.joint_names)
    codecs = map(codec_fingerprint, (checkpoint.codec, *other_codecs))
    if sizes != needed or not is_of_arm or stored.codec not in codecs:
        raise ValueError(
            f"{path} was trained for another codec, picture size or arm than the checkpoint's; "
            f"{_AGAIN}, or remove it."
        )
    return stored
