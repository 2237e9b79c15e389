# SPDX-License-Identifier: Apache-2.0
"""Which positions a policy knows: small readers of its own context, tokens and latents.

Shapes: N pictures; F numbers of a feature; M numbers to read; Z, K tokens; C width; c h w of a
latent.

Each picture is one observation without history, as at an episode's start: text, 16 frame tokens,
begin-of-action tokens with the measured joints. "context" is Z_A as the action head receives it,
"tokens" are the frame tokens before the transformer, "latents" the codec's. A reader is fitted for
each task and source, on scenes that are not held out; the policy itself is not trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from par_model.checkpoint import Checkpoint
from par_model.frame_codec import encode_views
from par_model.interface import ImageArray
from par_model.model import PARModel
from par_model.simulation.tasks import task as task_by_name
from par_model.training.scene_set import THINGS, SceneTable

SOURCES = ("context", "tokens", "latents")
READERS = ("ridge", "mlp")
# A hand nearer to the cube than this is near it, metres.
NEAR_M = 0.08
_BATCH = 32
# Candidates of the ridge, in units of the features' mean square.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MLP_WIDTH, _MLP_BATCH, _MLP_RATE = 256, 256, 1e-3


@dataclass(frozen=True)
class Features:
    """Float32 [N, F] each."""

    context: Tensor
    tokens: Tensor
    latents: Tensor


@dataclass(frozen=True)
class ReadError:
    """Errors of one reader in space, millimetres, on held-out scenes.

    Attributes:
        task, pictures: "scenes", or "episodes" with their history.
        source, reader: from what it was read, by what.
        thing: one of THINGS.
        where: "all", "near" (the hand), "held" (the cube) or "far".
        num: pictures.
    """

    task: str
    pictures: str
    source: str
    reader: str
    thing: str
    where: str
    num: int
    median_mm: float
    percentile_90_mm: float


def _whole_scenes(pictures: Iterator[ImageArray], num_views: int) -> Iterator[ImageArray]:
    """The same pictures in parts that end with a scene."""
    rest: ImageArray | None = None
    for images in pictures:
        joined = images if rest is None else np.concatenate((rest, images))
        num_whole = len(joined) // num_views * num_views
        rest = joined[num_whole:]
        yield joined[:num_whole]


@torch.no_grad()
def read_features(
    checkpoint: Checkpoint, table: SceneTable, pictures: Iterator[ImageArray]
) -> Features:
    """The features of a table's scenes, in its order; about 5 ms a picture on a CPU core.

    Args:
        table: one row a scene (SceneTable.by_scene).
        pictures: uint8 [n, H, W, 3] of part after part, the views of a scene one after another.
    """
    model, codec = checkpoint.model.eval(), checkpoint.codec.for_pictures()
    views = checkpoint.config.views
    text_TC = checkpoint.instructions.embedding(task_by_name(table.task).instruction)
    joints = checkpoint.statistics.normalize_joints(table.joints.astype(np.float64))
    proprio_NJ = torch.from_numpy(joints).float()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for images in _whole_scenes(pictures, len(views)):
        # V pictures one after another are one, V times as high.
        stacked = images.reshape(-1, *checkpoint.config.picture_shape)
        for part in torch.from_numpy(stacked).split(_BATCH):
            latents_Bchw = encode_views(codec, part, len(views)).float().contiguous()
            proprio_BJ = proprio_NJ[done : done + len(part)]
            done += len(part)
            context, tokens = single_observation(model, text_TC, latents_Bchw, proprio_BJ)
            parts.append((context.flatten(1), tokens.flatten(1), latents_Bchw.flatten(1)))
    assert done == len(proprio_NJ), "the pictures are not the table's"
    return Features(*(torch.cat(column) for column in zip(*parts, strict=True)))


def single_observation(
    model: PARModel, text_TC: Tensor, latents_Bchw: Tensor, proprio_BJ: Tensor
) -> tuple[Tensor, Tensor]:
    """(Z_A [B, Z, C], frame tokens [B, K, C]) of observations without history."""
    config, count = model.config, len(latents_Bchw)
    latents_BNchw = latents_Bchw.unsqueeze(1)
    context = model.encode_clip(
        text_TC.expand(count, -1, -1),
        latents_BNchw,
        latents_Bchw.new_zeros(count, 1, config.num_actions, config.action_width),
        proprio_BJ.unsqueeze(1) if config.proprio_width else None,
        torch.zeros(count, dtype=torch.int64, device=latents_Bchw.device),
    )
    first = torch.ones(count, 1, dtype=torch.bool, device=latents_Bchw.device)
    slots = torch.zeros(count, 1, dtype=torch.int64, device=latents_Bchw.device)
    tokens = model.tokenizer.frame_tokens(latents_BNchw, first, slots)
    return context.action_BNZC[:, 0], tokens[:, 0]


def places(table: SceneTable) -> dict[str, npt.NDArray[np.bool_]]:
    """Rows by where the hand is: "near" the cube, holding it ("held"), or "far"."""
    apart = np.linalg.norm(table.positions_m["gripper"] - table.positions_m["cube"], axis=1)
    is_held = table.cube_states == "held"
    is_near = ~is_held & (apart < NEAR_M)
    everywhere = np.ones(len(apart), dtype=np.bool_)
    return {"all": everywhere, "near": is_near, "held": is_held, "far": ~is_held & ~is_near}


def judge(
    features: Features,
    table: SceneTable,
    judged_N: npt.NDArray[np.bool_],
    pictures: str = "scenes",
    seed: int = 0,
    mlp_steps: int = 1500,
) -> list[ReadError]:
    """Fit each reader to each source of one task's pictures; errors on those that are judged, to
    which nothing is fitted."""
    targets_NM, known_NM = known_places(table)
    judged = torch.from_numpy(judged_N)
    results = []
    for source in SOURCES:
        x_NF = _standardised(getattr(features, source), ~judged)
        for reader in READERS:
            torch.manual_seed(seed)
            data = (x_NF, targets_NM, known_NM, ~judged)
            read_NM = _ridge(*data) if reader == "ridge" else _mlp(*data, mlp_steps)
            off_mm = _off_mm(read_NM, targets_NM, known_NM, judged)
            results += [
                ReadError(table.task, pictures, source, reader, thing, where, *errors)
                for thing, where, errors in _by_place(table, off_mm)
            ]
    return results


def known_places(table: SceneTable) -> tuple[Tensor, Tensor]:
    """(positions in metres [N, 12], whether they are known and seen)."""
    positions = [table.positions_m[name] for name in THINGS]
    targets_NM = torch.from_numpy(np.concatenate(positions, axis=1)).float()
    seen = [np.repeat(table.is_visible(name)[:, None], 3, axis=1) for name in THINGS]
    return targets_NM.nan_to_num(), torch.from_numpy(np.concatenate(seen, axis=1))


def _standardised(x_NF: Tensor, fitted: Tensor) -> Tensor:
    mean, std = x_NF[fitted].mean(dim=0), x_NF[fitted].std(dim=0)
    return (x_NF - mean) / (std + 1e-6)


def _ridge(x_NF: Tensor, y_NM: Tensor, known_NM: Tensor, fitted: Tensor) -> Tensor:
    """Each thing by its own ridge regression, its strength chosen on a fifth of the scenes."""
    read_NM = torch.zeros_like(y_NM)
    for first in range(0, y_NM.shape[1], 3):
        rows = (fitted & known_NM[:, first]).nonzero()[:, 0]
        if len(rows) >= 10:
            target = y_NM[:, first : first + 3]
            read_NM[:, first : first + 3] = _best_ridge(x_NF, target, rows)
    return read_NM


def _best_ridge(x_NF: Tensor, y_N3: Tensor, rows: Tensor) -> Tensor:
    chosen, rest = rows[4::5], rows[torch.arange(len(rows)) % 5 != 4]
    errors = [
        float((read_N3[chosen] - y_N3[chosen]).norm(dim=1).median())
        for read_N3 in _solved(x_NF, y_N3, rest, _RIDGES)
    ]
    (best,) = _solved(x_NF, y_N3, rows, (_RIDGES[int(np.argmin(errors))],))
    return best


def _solved(
    x_NF: Tensor, y_N3: Tensor, rows: Tensor, strengths: Sequence[float]
) -> Iterator[Tensor]:
    """Predictions for all rows of fits to `rows`, one for each strength."""
    x, mean = x_NF[rows], y_N3[rows].mean(dim=0)
    gram = (x.T @ x / len(rows)).double()
    moments = (x.T @ (y_N3[rows] - mean) / len(rows)).double()
    identity = torch.eye(len(gram), dtype=torch.float64)
    for strength in strengths:
        factor = torch.linalg.cholesky(gram + strength * identity)
        yield x_NF @ torch.cholesky_solve(moments, factor).float() + mean


def _mlp(x_NF: Tensor, y_NM: Tensor, known_NM: Tensor, fitted: Tensor, num_steps: int) -> Tensor:
    """One hidden layer, all things at once."""
    rows = fitted.nonzero()[:, 0]
    mean, scale = known_scale(y_NM[rows], known_NM[rows])
    net = nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(x_NF.shape[1], _MLP_WIDTH),
        nn.GELU(),
        nn.Linear(_MLP_WIDTH, y_NM.shape[1]),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=_MLP_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _MLP_RATE, total_steps=num_steps)
    for _ in range(num_steps):
        batch = rows[torch.randint(len(rows), (_MLP_BATCH,))]
        target = (y_NM[batch] - mean) / scale
        error = functional.smooth_l1_loss(net(x_NF[batch]), target, reduction="none", beta=0.1)
        loss = (error * known_NM[batch]).sum() / known_NM[batch].sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return net(x_NF) * scale + mean


def known_scale(y_NM: Tensor, known_NM: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the known targets, metres."""
    count = known_NM.sum(dim=0).clamp(min=1)
    mean = (y_NM * known_NM).sum(dim=0) / count
    square = ((y_NM - mean).square() * known_NM).sum(dim=0) / count
    return mean, square.sqrt() + 1e-3


def _off_mm(read_NM: Tensor, y_NM: Tensor, known_NM: Tensor, judged: Tensor) -> dict[str, Tensor]:
    """Errors in space by thing, float [N]; NaN where nothing is judged."""
    off_mm = {}
    for index, thing in enumerate(THINGS):
        columns = slice(3 * index, 3 * index + 3)
        distance_mm = 1000 * (read_NM[:, columns] - y_NM[:, columns]).norm(dim=1)
        off_mm[thing] = distance_mm.where(judged & known_NM[:, 3 * index], torch.nan)
    return off_mm


def _by_place(
    table: SceneTable, off_mm: dict[str, Tensor]
) -> Iterator[tuple[str, str, tuple[int, float, float]]]:
    """(thing, where the hand is, (pictures, median, 90th percentile)) where there are any."""
    for thing, errors_mm in off_mm.items():
        for where, rows in places(table).items():
            chosen = errors_mm[torch.from_numpy(rows)]
            chosen = chosen[~chosen.isnan()].numpy()
            if len(chosen):
                median, high = np.percentile(chosen, [50, 90])
                yield thing, where, (len(chosen), round(float(median), 2), round(float(high), 2))


HEADER = ("task", "pictures of", "read from", "by", "thing", "hand", "number", "median mm",
          "90 % mm")  # fmt: skip


def table_row(error: ReadError) -> tuple[str, ...]:
    texts = (error.task, error.pictures, error.source, error.reader, error.thing, error.where)
    return (*texts, str(error.num), f"{error.median_mm:.1f}", f"{error.percentile_90_mm:.1f}")
