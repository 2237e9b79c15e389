# SPDX-License-Identifier: Apache-2.0
"""Latents of every frame under several random shifts, encoded once and kept on disk.

Shapes: V variants (shifts) of an episode; T frames; C latent channels; h, w latent pixels (of
several views: those of each, one above the other).

One file an episode, float16 [V, T, C, h, w]; a file appears whole or not at all, so an interrupted
run goes on where it stopped and a recording may still be growing. What was read once stays in
memory as far as it may: a batch touches a few kilobytes in each of many files, and a slow disk
takes longer for that than the training step. The rest is read through memory maps. The folder's
name holds the codec's fingerprint and a file's name the digest of what was recorded: latents of
another codec, or of an episode that was recorded anew, are never read.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from par_model.config import ObservationMode
from par_model.frame_codec import FrameCodec, codec_fingerprint
from par_model.interface import DEFAULT_VIEWS, RECENT_IMAGE_STRIDE, RECENT_IMAGES, ImageArray
from par_model.training.codec_training import shift_pictures
from par_model.training.demonstrations_on_disk import DemonstrationSet

LatentArray = npt.NDArray[np.float16]


@dataclass(frozen=True)
class ShiftConfig:
    """Random shifts: variant 0 is the picture as it is, the others are shifted as a whole episode,
    so that the arm and the things around it keep their places relative to each other."""

    num_variants: int = 4
    max_shift_px: int = 3
    seed: int = 0

    def shift_px(self, episode_key: int, variant: int, view: int = 0) -> tuple[int, int]:
        """(rows, columns) of one variant of one episode, in its view of this index."""
        if variant == 0:
            return 0, 0
        further = [view] if view else []
        generator = np.random.default_rng([self.seed, episode_key, variant, *further])
        rows, columns = generator.integers(-self.max_shift_px, self.max_shift_px + 1, size=2)
        return int(rows), int(columns)


class LatentCache:
    """The latents of one demonstration set under one codec; keeps up to `memory_bytes` of them."""

    def __init__(
        self,
        root: Path,
        codec: FrameCodec,
        name: str,
        shifts: ShiftConfig,
        observation_mode: ObservationMode = "image",
        memory_bytes: int = 0,
        views: tuple[str, ...] = DEFAULT_VIEWS,
    ) -> None:
        self._kept: dict[tuple[int, str], LatentArray] = {}
        self._free_bytes = memory_bytes
        self.shifts = shifts
        self.observation_mode = observation_mode
        self.views = views
        settings = f"{shifts.num_variants}x{shifts.max_shift_px}px_seed{shifts.seed}"
        settings += "_clip" if observation_mode == "clip" else ""
        settings += "" if views == DEFAULT_VIEWS else f"_{'+'.join(views)}"
        self.folder = root / f"{codec_fingerprint(codec)}_{settings}" / name

    def has(self, episode_key: int, digest: str) -> bool:
        """digest: that of the episode's DemonstrationSteps, here and below."""
        return self._path(episode_key, digest).exists()

    def read(self, episode_key: int, digest: str) -> LatentArray:
        """float16 [V, T, C, h, w]. Raises ValueError if it was not encoded."""
        if (episode_key, digest) in self._kept:
            return self._kept[episode_key, digest]
        path = self._path(episode_key, digest)
        if not path.exists():
            raise ValueError(
                f"the latents of episode {episode_key} are missing ({path}); run "
                "`python -m par_model.train latents` for this data and codec first."
            )
        latents: LatentArray = np.load(path, mmap_mode="r", allow_pickle=False)
        if latents.nbytes <= self._free_bytes:
            self._free_bytes -= latents.nbytes
            latents = self._kept[episode_key, digest] = np.array(latents)
        return latents

    def write(self, episode_key: int, digest: str, latents: LatentArray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_latents(self._path(episode_key, digest), latents)

    def _path(self, episode_key: int, digest: str) -> Path:
        return self.folder / f"episode_{episode_key:06d}_{digest}.npy"


def write_latents(path: Path, latents: LatentArray) -> None:
    """Write a file of latents, whole or not at all."""
    temporary = path.with_suffix(".writing")
    with open(temporary, "wb") as file:
        np.save(file, latents, allow_pickle=False)
    os.replace(temporary, path)


def encode_demonstrations(
    demonstrations: DemonstrationSet,
    codec: FrameCodec,
    cache: LatentCache,
    report: Callable[[int, int], None],
) -> int:
    """Encode what the cache lacks, `report(done, all)` after each; returns how many it was."""
    digests = {key: demonstrations.read_steps(key).digest for key in demonstrations.keys}
    missing = [key for key, digest in digests.items() if not cache.has(key, digest)]
    codec = codec.for_pictures() if cache.observation_mode == "image" else codec
    for done, key in enumerate(missing):
        frames = demonstrations.read_frames(key, cache.views)
        latents = encode_variants(
            codec, frames, key, cache.shifts, cache.observation_mode, len(cache.views)
        )
        cache.write(key, digests[key], latents)
        report(done + 1, len(missing))
    return len(missing)


@torch.no_grad()
def encode_variants(
    codec: FrameCodec,
    frames: ImageArray,
    episode_key: int,
    shifts: ShiftConfig,
    observation_mode: ObservationMode = "image",
    num_views: int = 1,
) -> LatentArray:
    """uint8 frames [T, H, W, 3] -> float16 [V, T, C, h, w]; each view is shifted by itself.

    In mode "clip" a frame's latent is the last of the tile of five pictures that ends with it, as
    the policy encodes it; the frames of the first chunk, which have no such tile, stand alone.
    """
    views = torch.from_numpy(frames).chunk(num_views, dim=1)
    variants = []
    for variant in range(shifts.num_variants):
        latents = []
        for view, pictures in enumerate(views):
            shift = torch.tensor([shifts.shift_px(episode_key, variant, view)])
            shifted = shift_pictures(pictures, shift.expand(len(frames), 2))
            latents.append(_encode(codec, shifted, observation_mode))
        variants.append(torch.cat(latents, dim=2))
    encoded: LatentArray = torch.stack(variants).numpy()
    return encoded


def _encode(
    codec: FrameCodec, frames_THWC: torch.Tensor, observation_mode: ObservationMode
) -> torch.Tensor:
    if observation_mode == "clip":
        return _encode_tiles(codec, frames_THWC)
    # A picture that stands for a whole chunk (collect --expert) is encoded once.
    is_new = torch.ones(len(frames_THWC), dtype=torch.bool)
    is_new[1:] = (frames_THWC[1:] != frames_THWC[:-1]).flatten(1).any(dim=1)
    latents = torch.cat([codec.encode(part).half() for part in frames_THWC[is_new].split(32)])
    return latents[is_new.cumsum(0) - 1].contiguous()


def _encode_tiles(codec: FrameCodec, frames_THWC: torch.Tensor) -> torch.Tensor:
    span = RECENT_IMAGES * RECENT_IMAGE_STRIDE
    latents = [codec.encode(frames_THWC[:span])]
    for last in range(span, len(frames_THWC)):
        tile = frames_THWC[last - span : last + 1 : RECENT_IMAGE_STRIDE]
        latents.append(codec.encode_clip(tile.unsqueeze(0))[:, -1])
    return torch.cat(latents).half().contiguous()
