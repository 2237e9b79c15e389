# SPDX-License-Identifier: Apache-2.0
"""Trains the frame codec on pictures: L1 + MSE + a small KL term.

Shapes: B pictures of a batch; N of a set; H, W pixels; P numbers of a scene.

Most of a robot's picture never changes, and the few pixels that matter (a cube is eight pixels
wide) would drown in it. Each pixel is therefore weighted by how far it lies from the data's median
picture. No label is used.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from par_model.checkpoint import is_checkpoint, load_checkpoint
from par_model.config import FrameCodecConfig, codec_from_values
from par_model.frame_codec import FrameCodec
from par_model.interface import ImageArray
from par_model.json_file import read_object
from par_model.training.position_probe import ProbeConfig, latent_probe
from par_model.training.schedule import learning_rate_factor, set_learning_rate
from par_model.training.training_state import (
    TrainingState,
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_training,
    save_state,
    step_generator,
)

# Metres that count as 1.
_SCALE_M = 0.1


@dataclass(frozen=True)
class CodecTrainingConfig:
    """Numbers of the codec's training."""

    num_steps: int = 2500
    batch_size: int = 16
    learning_rate: float = 2e-3
    num_warmup_steps: int = 100
    gradient_clip: float = 1.0
    mse_weight: float = 2.0
    kl_weight: float = 1e-6
    # weight of a pixel that differs clearly from the median picture; the others weigh 1
    foreground_weight: float = 12.0
    # difference from the median picture, in grey levels of 255, that counts as clear
    foreground_grey_levels: float = 40.0
    # pictures are shifted by up to this many pixels, edges repeated
    max_shift_px: int = 3
    # weight of reading the positions of rendered scenes from the latents, in tenths of a metre
    position_weight: float = 0.3
    # train only what makes pictures of latents; the latents stay the same to the bit
    decoder_only: bool = False
    seed: int = 0
    save_every: int = 200


class FrameBatch(NamedTuple):
    """uint8 pictures [B, H, W, 3], their sets' median pictures, and what is known of their scenes,
    float [B, P] in metres, NaN elsewhere."""

    pictures: Tensor
    medians: Tensor
    numbers: Tensor


class FrameSource:
    """Pictures of several data sets in memory, with the median picture of each.

    `numbers` are float32 [N, P] of the sets that are rendered scenes (scene_pictures.py).
    """

    def __init__(
        self,
        pictures_by_name: dict[str, ImageArray],
        shares: dict[str, float],
        numbers: Mapping[str, npt.NDArray[np.float32]] = MappingProxyType({}),
    ) -> None:
        self.names = list(pictures_by_name)
        self.pictures = [torch.from_numpy(pictures_by_name[name]) for name in self.names]
        shares_array = np.array([shares[name] for name in self.names], dtype=np.float64)
        self._cumulative = np.cumsum(shares_array / shares_array.sum())
        self.medians = [torch.from_numpy(median_picture(p.numpy())) for p in self.pictures]
        # P; 0 where no set has positions
        self.num_numbers = max((values.shape[1] for values in numbers.values()), default=0)
        self._numbers = [torch.from_numpy(numbers[n]) if n in numbers else None for n in self.names]

    def batch(self, size: int, generator: np.random.Generator) -> FrameBatch:
        """Drawn by the sets' shares."""
        sources = np.searchsorted(self._cumulative, generator.random(size))
        pictures, medians = [], []
        known = torch.full((size, self.num_numbers), torch.nan)
        for row, source in enumerate(sources.clip(max=len(self.names) - 1)):
            index = int(generator.integers(len(self.pictures[source])))
            pictures.append(self.pictures[source][index])
            medians.append(self.medians[source])
            numbers = self._numbers[source]
            if numbers is not None:
                known[row] = numbers[index]
        return FrameBatch(torch.stack(pictures), torch.stack(medians), known)


def median_picture(pictures: ImageArray, num_samples: int = 101) -> ImageArray:
    """The per-pixel median of pictures spread evenly over `pictures` [N, H, W, 3]."""
    chosen = np.linspace(0, len(pictures) - 1, min(num_samples, len(pictures))).astype(int)
    return np.median(pictures[chosen], axis=0).astype(np.uint8)


def shift_pictures(pictures_BHWC: Tensor, shifts_B2: Tensor) -> Tensor:
    """Shift each picture by its (rows, columns), repeating the edge pixels. uint8 in and out."""
    height, width = pictures_BHWC.shape[1:3]
    rows_BH = (torch.arange(height) - shifts_B2[:, :1]).clamp(0, height - 1)
    columns_BW = (torch.arange(width) - shifts_B2[:, 1:]).clamp(0, width - 1)
    batch = torch.arange(len(pictures_BHWC))[:, None, None]
    return pictures_BHWC[batch, rows_BH[:, :, None], columns_BW[:, None, :]]


def foreground_weights(
    pictures_BHWC: Tensor, medians_BHWC: Tensor, config: CodecTrainingConfig
) -> Tensor:
    """Weight of each pixel, float [B, 1, H, W], between 1 and `config.foreground_weight`."""
    difference = (pictures_BHWC.float() - medians_BHWC.float()).abs().amax(dim=-1)
    share = (difference / config.foreground_grey_levels).clamp(max=1.0)[:, None]
    # A ring of two pixels belongs to an object's edge.
    share = functional.max_pool2d(share, kernel_size=3, stride=1, padding=1)
    return 1.0 + (config.foreground_weight - 1.0) * share


def codec_loss(
    codec: FrameCodec,
    pictures_BHWC: Tensor,
    weights_B1HW: Tensor,
    noise_seed: torch.Generator,
    config: CodecTrainingConfig,
    readout: nn.Module | None = None,
    numbers_BP: Tensor | None = None,
) -> tuple[Tensor, float]:
    """(loss, mean weighted L1 error in grey levels of 255); with a `readout` of the latents, its
    error of the known `numbers_BP` is part of the loss."""
    with torch.set_grad_enabled(not config.decoder_only):
        mean, log_variance = codec.posterior(codec.fold(pictures_BHWC))
    noise = torch.randn(mean.shape, generator=noise_seed, device=mean.device)
    sample = mean + noise * torch.exp(0.5 * log_variance)
    target = pictures_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    error = codec.reconstruct(sample) - target
    scale = weights_B1HW.mean()
    l1 = (error.abs() * weights_B1HW).mean() / scale
    mse = (error.square() * weights_B1HW).mean() / scale
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    loss = l1 + config.mse_weight * mse + config.kl_weight * kl
    if readout is not None:
        assert numbers_BP is not None
        known = ~numbers_BP.isnan()
        off = (readout(mean) - numbers_BP.nan_to_num() / _SCALE_M).abs() * known
        loss = loss + config.position_weight * off.sum() / known.sum().clamp(min=1)
    return loss, float(l1.detach()) * 127.5


def train_codec(
    codec_config: FrameCodecConfig,
    source: FrameSource,
    config: CodecTrainingConfig,
    folder: Path,
    report: Callable[[int, int, float], None],
    stop_at: int | None = None,
    start_from: Path | None = None,
) -> FrameCodec:
    """Train (or go on training) the codec in `folder`, save it there and return it.

    `report(step, num_steps, error in grey levels)` is called after each step. `stop_at` ends this
    call early, as a kill would; the next call goes on. `start_from` is a finished codec's folder
    whose weights are the first ones here.
    """
    torch.manual_seed(config.seed)
    codec = FrameCodec(codec_config)
    if start_from is not None:
        codec.load_state_dict(load_codec(start_from).state_dict())
    codec.network.to(memory_format=torch.channels_last)
    trained = _Trained(codec, _readout(codec_config, source, config))
    if config.decoder_only:
        trained.requires_grad_(False)
        for part in codec.decoding_parts():
            part.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for p in trained.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=1e-4,
    )
    first_step = _resume(folder, trained, optimizer, config)
    started = time.monotonic()
    for step in range(first_step, config.num_steps):
        error = _train_step(trained, optimizer, source, step, config)
        report(step + 1, config.num_steps, error)
        done = step + 1
        if done % config.save_every == 0 or done == config.num_steps:
            _save(folder, trained, optimizer, done, config)
        if done == stop_at:
            return codec
    if not config.decoder_only:
        _fit_statistics(codec, source, config)
    save_codec(
        folder,
        codec,
        {
            **dataclasses.asdict(config),
            "started_from": None if start_from is None else codec_provenance(start_from),
            "sources": {n: len(p) for n, p in zip(source.names, source.pictures, strict=True)},
            "wall_s_of_last_run": round(time.monotonic() - started, 1),
        },
    )
    return codec


class _Trained(nn.Module):
    """The codec, and the reader of positions where there are any."""

    def __init__(self, codec: FrameCodec, readout: nn.Module | None) -> None:
        super().__init__()
        self.codec = codec
        self.readout = readout


def _readout(
    codec: FrameCodecConfig, source: FrameSource, config: CodecTrainingConfig
) -> nn.Module | None:
    if not source.num_numbers or not config.position_weight:
        return None
    size = source.pictures[0].shape[1] // codec.stride
    return latent_probe(codec.latent_channels, size, ProbeConfig(), source.num_numbers)


def _train_step(
    trained: _Trained,
    optimizer: torch.optim.AdamW,
    source: FrameSource,
    step: int,
    config: CodecTrainingConfig,
) -> float:
    generator = np.random.default_rng([config.seed, step])
    pictures, medians, numbers = source.batch(config.batch_size, generator)
    shifts = generator.integers(
        -config.max_shift_px, config.max_shift_px + 1, size=(config.batch_size, 2)
    )
    # A shifted picture shows other positions.
    shifts[(~numbers.isnan()).any(dim=1).numpy()] = 0
    weights = foreground_weights(pictures, medians, config)
    both = torch.cat([pictures, (weights * 10).to(torch.uint8).permute(0, 2, 3, 1)], dim=-1)
    both = shift_pictures(both, torch.from_numpy(shifts))
    pictures, weights = both[..., :3], both[..., 3:].permute(0, 3, 1, 2).float() / 10
    factor = learning_rate_factor(step, config.num_warmup_steps, config.num_steps)
    set_learning_rate(optimizer, config.learning_rate * factor)
    noise = step_generator(config.seed, step, 0, torch.device("cpu"))
    codec = trained.codec
    loss, error = codec_loss(codec, pictures, weights, noise, config, trained.readout, numbers)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), config.gradient_clip)
    optimizer.step()
    return error


@torch.no_grad()
def _fit_statistics(codec: FrameCodec, source: FrameSource, config: CodecTrainingConfig) -> None:
    pictures, *_ = source.batch(256, np.random.default_rng([config.seed, config.num_steps]))
    raw = torch.cat([codec.posterior(codec.fold(part))[0] for part in pictures.split(32)])
    codec.set_latent_statistics(raw)


def _save(
    folder: Path,
    trained: _Trained,
    optimizer: torch.optim.AdamW,
    step: int,
    config: CodecTrainingConfig,
) -> None:
    tensors = module_tensors("trained", trained) | optimizer_tensors(trained, optimizer)
    save_state(folder, TrainingState(tensors, {"step": step, **_identity(config)}))


def _identity(config: CodecTrainingConfig) -> dict[str, object]:
    values = dataclasses.asdict(config)
    del values["save_every"]
    # Added later: trainings of before are the same.
    if not config.decoder_only:
        del values["decoder_only"]
    return {"config": values}


def _resume(
    folder: Path, trained: _Trained, optimizer: torch.optim.AdamW, config: CodecTrainingConfig
) -> int:
    state = load_state(folder)
    if state is None:
        return 0
    if state.values["config"] != _identity(config)["config"]:
        raise ValueError(
            f"{folder} holds a codec training with other settings; use the same ones to continue, "
            "or another --out."
        )
    return restore_training(state, {"trained": trained}, trained, optimizer)


def save_codec(folder: Path, codec: FrameCodec, training: dict[str, object]) -> None:
    """Write config.json, codec.safetensors and training.json; the weights file comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    config_text = json.dumps(dataclasses.asdict(codec.config), indent=2) + "\n"
    (folder / "config.json").write_text(config_text)
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in codec.state_dict().items()}
    save_file(tensors, folder / "codec.safetensors.writing")
    os.replace(folder / "codec.safetensors.writing", folder / "codec.safetensors")


def load_codec(folder: Path) -> FrameCodec:
    """Read what `save_codec` wrote, or a checkpoint's codec; frozen and in evaluation mode.

    Raises:
        ValueError: the folder holds no finished codec, or one that does not fit its config.
    """
    if is_checkpoint(folder):
        codec = load_checkpoint(folder).codec
        codec.network.to(memory_format=torch.channels_last)
        return codec
    if not (folder / "codec.safetensors").exists():
        raise ValueError(
            f"{folder} holds no finished frame codec (codec.safetensors is missing); run "
            "`python -m par_model.train codec --out` with this folder first."
        )
    config = codec_from_values(read_object(folder / "config.json", "train the codec again"))
    try:
        codec = FrameCodec(config)
        codec.load_state_dict(load_file(folder / "codec.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: the codec's weights do not fit config.json: {error}") from None
    codec.network.to(memory_format=torch.channels_last)
    return codec.requires_grad_(False).eval()


def codec_provenance(folder: Path) -> dict[str, object]:
    """How the codec that `load_codec` reads was trained, and its probe where that was run."""
    found: dict[str, dict[str, object]] = {
        name: read_object(folder / f"{name}.json", "train the codec again")
        for name in ("training", "probe")
        if (folder / f"{name}.json").exists()
    }
    if not is_checkpoint(folder):
        return dict(found)
    record = found["training"].get("codec", {})
    assert isinstance(record, dict)
    return record
