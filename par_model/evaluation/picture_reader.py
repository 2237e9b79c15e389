# SPDX-License-Identifier: Apache-2.0
"""Where gripper, cubes and goal are in a picture: a small net, fitted to rendered scenes.

Shapes: N pictures; V views; H, W pixels; M numbers to read, three of each thing; c h w of a latent.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from par_model.checkpoint import Checkpoint
from par_model.evaluation.context_readout import known_places, known_scale
from par_model.frame_codec import encode_views
from par_model.interface import FloatArray, ImageArray
from par_model.training.position_probe import ProbeConfig, fit_probe, latent_probe
from par_model.training.scene_set import THINGS, SceneSet

_BATCH = 32


class PictureReader:
    """Reads what a policy's codec keeps of a picture; it never sees the policy.

    Attributes:
        things: those of THINGS that the task has, in the order in which they are read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        things: tuple[str, ...],
        net: nn.Module,
        scale_m: tuple[Tensor, Tensor],
    ) -> None:
        """net: gives normalised positions of all THINGS; scale_m: their mean and deviation [M]."""
        self.things = things
        self._checkpoint = checkpoint
        self._net = net
        self._columns = [THINGS.index(name) for name in things]
        self._mean_m, self._deviation_m = scale_m

    @torch.no_grad()
    def read(self, pictures: ImageArray) -> FloatArray:
        """Positions in the base's frame, metres, float64 [N, things, 3], of pictures uint8
        [N, V H, W, 3]."""
        read = torch.cat([self.read_latents(part) for part in _latents(self._checkpoint, pictures)])
        everything = read.double().numpy().reshape(len(pictures), len(THINGS), 3)
        return everything[:, self._columns]

    def read_latents(self, latents_Nchw: Tensor) -> Tensor:
        """The same of latents, of all THINGS: float32 [N, M]."""
        return self._net(latents_Nchw) * self._deviation_m + self._mean_m


def fit_picture_reader(
    checkpoint: Checkpoint, scenes: SceneSet, max_pictures: int, num_steps: int, seed: int
) -> tuple[PictureReader, dict[str, float]]:
    """A reader fitted to one task's scenes that are not held out, and its median error on those
    that are, millimetres by thing. Encoding takes about 3 ms a picture, a step 30 ms.

    Raises ValueError for scenes of other cameras than the policy's, or too few of them.
    """
    views = checkpoint.config.views
    max_pictures = max_pictures // len(views) * len(views)
    table = scenes.read_table(max_pictures).by_scene(views, scenes.folder)
    held_out = torch.from_numpy(table.is_held_out())
    if held_out.all() or not held_out.any():
        raise ValueError(f"{scenes.folder} holds too few scenes to fit a reader; render more.")
    latents = torch.cat(list(_scene_latents(checkpoint, scenes, max_pictures)))
    things = tuple(name for name in THINGS if not np.isnan(table.positions_m[name]).all())
    targets, known = known_places(table)
    torch.manual_seed(seed)
    config = ProbeConfig(num_steps=num_steps, seed=seed)
    net = latent_probe(latents.shape[1], latents.shape[2], config, targets.shape[1])
    fitted, fitted_known = targets[~held_out], known[~held_out]
    mean_m, deviation_m = known_scale(fitted, fitted_known)
    normalised = (fitted - mean_m) / deviation_m
    fit_probe(net, latents[~held_out], normalised, config, known_NM=fitted_known)
    reader = PictureReader(checkpoint, things, net, (mean_m, deviation_m))
    with torch.no_grad():
        parts = latents[held_out].split(256)
        off = torch.cat([reader.read_latents(part) for part in parts]) - targets[held_out]
    off_mm = 1000.0 * off.unflatten(1, (-1, 3)).norm(dim=2)
    seen = known[held_out][:, ::3]
    return reader, {
        name: round(float(np.median(off_mm[:, index][seen[:, index]])), 2)
        for index, name in enumerate(THINGS)
        if name in things
    }


def _scene_latents(checkpoint: Checkpoint, scenes: SceneSet, max_pictures: int) -> Iterator[Tensor]:
    """Latents of scene after scene; the V pictures of one are one, V times as high."""
    pictures = np.concatenate(list(scenes.pictures(max_pictures)))
    yield from _latents(checkpoint, pictures.reshape(-1, *checkpoint.config.picture_shape))


@torch.no_grad()
def _latents(checkpoint: Checkpoint, pictures: ImageArray) -> Iterator[Tensor]:
    codec = checkpoint.codec.for_pictures()
    for part in torch.from_numpy(pictures).split(_BATCH):
        yield encode_views(codec, part, checkpoint.config.num_views).float().contiguous()
