# SPDX-License-Identifier: Apache-2.0
"""How good the pictures are that a policy draws of what will be seen (paper, Fig. 4): beside what
was seen, beside the last picture repeated, and by the places that can be read from them.

Shapes: N observations of an episode; S slots ahead; V views; H, W pixels; T things.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import Checkpoint
from par_model.drawing import Drawing
from par_model.evaluation.direct_loop import run_episode
from par_model.evaluation.picture_reader import PictureReader
from par_model.forward_model import ForwardModel
from par_model.frame_codec import decode_views, encode_views
from par_model.imagination import imagine
from par_model.interface import ActionChunk, FloatArray, ImageArray, Observation
from par_model.policy import PARPolicy
from par_model.simulation.arm_kinematics import ROBOT_BASE_M
from par_model.simulation.maniskill_env import ManiSkillArm

# A pixel whose brightest change is above this has changed.
CHANGED_GREY_LEVELS = 24
_BATCH = 32
# What a row is about.
IMAGINED, REPEATED, SEEN, CODED = "imagined", "last repeated", "as seen", "through the codec"


@dataclass(frozen=True)
class ImaginedEpisode:
    """Pictures of one episode at its N observations.

    Attributes:
        seed, success, num_steps: of the episode.
        seen: uint8 [N, V H, W, 3].
        places_m: float64 [N, T, 3], metres, base's frame; [0, 0, 3] where nobody asked.
        imagined: uint8 [N - 1, S, V H, W, 3]: row n was drawn at observation n, of the S next.
        picture_s: float64 [N - 1], wall time of one picture.
    """

    seed: int
    success: bool
    num_steps: int
    seen: ImageArray
    places_m: FloatArray
    imagined: ImageArray
    picture_s: FloatArray


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one kind on one task.

    Attributes:
        task, drawing, picture: what it is about; IMAGINED, REPEATED, SEEN, or CODED: encoded and
            decoded again, which is the best that can be drawn.
        slots: how many observations ahead; 0 for SEEN and CODED.
        num: pictures.
        psnr_db, ssim: medians against what was seen; None for SEEN.
        changed: mean absolute error in grey levels on the pixels that changed since the drawing;
            None for SEEN, CODED, and where none changed.
        places_mm: median and 90th percentile of each thing's error in space, as read.
    """

    task: str
    drawing: str
    picture: str
    slots: int
    num: int
    psnr_db: float | None
    ssim: float | None
    changed: float | None
    places_mm: dict[str, tuple[float, float]]


def drawing_policy(
    checkpoint: Checkpoint, drawing: Drawing, forward_model: ForwardModel | None = None
) -> PARPolicy:
    """An eager policy whose frame head draws pictures so, or in its place the forward model."""
    config = drawing.as_default_of(checkpoint.config)
    drawn = dataclasses.replace(checkpoint, config=config)
    graphs = TorchEager(drawn, torch.device("cpu"))
    return PARPolicy(
        config, drawn.statistics, drawn.instructions, graphs, drawn.camera_fit, forward_model
    )


def imagined_episode(
    arm: ManiSkillArm,
    policy: PARPolicy,
    things: Sequence[str],
    seed: int,
    num_slots: int,
    max_steps: int,
    policy_seed: int = 0,
) -> ImaginedEpisode:
    """Run one episode; at each observation the policy draws the next `num_slots`. Blocks for it: on
    a CPU a second a chunk or more, mostly for the pictures.

    A last chunk that success cuts short has no picture at its end and is left out. Raises
    ValueError for an episode that ends within its first chunk.
    """
    imagining = _Imagining(policy, num_slots)
    watcher = _Watcher(arm, tuple(things), policy.spec.num_actions)
    result = run_episode(
        arm, imagining, seed, max_steps, policy_seed=policy_seed, watchers=(watcher,)
    )
    num_seen = len(watcher.seen)
    if num_seen < 2:
        raise ValueError(
            f"the episode of seed {seed} ended within its first chunk; choose another seed."
        )
    return ImaginedEpisode(
        seed=seed,
        success=result.success,
        num_steps=result.num_steps,
        seen=np.stack(watcher.seen),
        places_m=np.array(watcher.places_m).reshape(len(watcher.places_m), len(things), 3),
        imagined=np.stack(imagining.pictures[: num_seen - 1]),
        picture_s=np.array(imagining.picture_s[: num_seen - 1]),
    )


class _Imagining:
    """The policy in an episode, which also draws."""

    def __init__(self, policy: PARPolicy, num_slots: int) -> None:
        self._policy, self._num_slots = policy, num_slots
        self._observation: Observation | None = None
        self.pictures: list[ImageArray] = []
        self.picture_s: list[float] = []
        self.spec = policy.spec

    def reset(self, instruction: str, seed: int) -> None:
        self._policy.reset(instruction, seed)

    def observe(self, observation: Observation) -> None:
        self._observation = observation
        self._policy.observe(observation)

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        chunk = self._policy.act(committed)
        assert self._observation is not None
        start_s = time.perf_counter()
        drawn = imagine(self._policy, self._observation, chunk, self._num_slots)
        self.picture_s.append((time.perf_counter() - start_s) / self._num_slots)
        self.pictures.append(np.stack(drawn))
        return chunk


class _Watcher:
    """See direct_loop.EpisodeWatcher: pictures and places at the observations."""

    def __init__(self, arm: ManiSkillArm, things: tuple[str, ...], num_actions: int) -> None:
        self._arm, self._things, self._num_actions = arm, things, num_actions
        self._num_steps = 0
        self.seen: list[ImageArray] = []
        self.places_m: list[FloatArray] = []

    def started(self) -> None:
        self._look()

    def chunk_chosen(self) -> None:
        pass

    def stepped(self) -> None:
        self._num_steps += 1
        if self._num_steps % self._num_actions == 0:
            self._look()

    def _look(self) -> None:
        self.seen.append(self._arm.capture())
        if self._things:
            world_m = {"gripper": self._arm.gripper_position(), **self._arm.environment_state()}
            self.places_m.append(np.stack([world_m[name] for name in self._things]) - ROBOT_BASE_M)


def picture_rows(
    checkpoint: Checkpoint,
    task: str,
    drawing: str,
    episodes: Sequence[ImaginedEpisode],
    slots: Sequence[int],
    reader: PictureReader,
) -> list[PictureRow]:
    """Two rows of what was seen, as it is and through the codec; then two for each number of slots:
    imagined, repeated."""
    places = [e.places_m for e in episodes]
    seen = np.concatenate([e.seen for e in episodes])
    coded = _coded(checkpoint, seen)
    rows = []
    for name, pictures in ((SEEN, seen), (CODED, coded)):
        off_mm = _off_mm(reader.read(pictures), np.concatenate(places))
        likeness = [_likeness(one, came) for one, came in zip(pictures, seen, strict=True)]
        row = _row(task, drawing, name, 0, off_mm, likeness, reader.things)
        rows.append(dataclasses.replace(row, psnr_db=None, ssim=None) if name == SEEN else row)
    for ahead in slots:
        pairs = [pair for episode in episodes for pair in _pairs(episode, ahead)]
        for name in (IMAGINED, REPEATED) if pairs else ():
            shown = np.stack([pair.imagined if name == IMAGINED else pair.before for pair in pairs])
            off_mm = _off_mm(reader.read(shown), np.stack([pair.places_m for pair in pairs]))
            likeness = [_likeness(one, pair.came) for one, pair in zip(shown, pairs, strict=True)]
            changed = [_error_on_changed(one, pair) for one, pair in zip(shown, pairs, strict=True)]
            row = _row(task, drawing, name, ahead, off_mm, likeness, reader.things)
            known = [value for value in changed if value is not None]
            error = round(float(np.mean(known)), 2) if known else None
            rows.append(dataclasses.replace(row, changed=error))
    return rows


def _row(
    task: str,
    drawing: str,
    picture: str,
    slots: int,
    off_mm: FloatArray,
    likeness: Sequence[tuple[float, float]],
    things: Sequence[str],
) -> PictureRow:
    psnr_db, ssim = np.median(np.array(likeness), axis=0)
    return PictureRow(
        task=task,
        drawing=drawing,
        picture=picture,
        slots=slots,
        num=len(off_mm),
        psnr_db=round(float(psnr_db), 2),
        ssim=round(float(ssim), 4),
        changed=None,
        places_mm=_places(off_mm, things),
    )


@torch.no_grad()
def _coded(checkpoint: Checkpoint, pictures: ImageArray) -> ImageArray:
    codec, num_views = checkpoint.codec.for_pictures(), checkpoint.config.num_views
    parts = [
        decode_views(codec, encode_views(codec, part, num_views), num_views)
        for part in torch.from_numpy(pictures).split(_BATCH)
    ]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class _Pair:
    """One picture that was drawn, the one at which it was drawn, the one that came."""

    imagined: ImageArray
    before: ImageArray
    came: ImageArray
    places_m: FloatArray


def _pairs(episode: ImaginedEpisode, ahead: int) -> Iterator[_Pair]:
    for index in range(len(episode.seen) - ahead):
        yield _Pair(
            episode.imagined[index, ahead - 1],
            episode.seen[index],
            episode.seen[index + ahead],
            episode.places_m[index + ahead],
        )


def _likeness(shown: ImageArray, came: ImageArray) -> tuple[float, float]:
    """(PSNR in dB, infinite for equal pictures; SSIM)."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    with np.errstate(divide="ignore"):
        psnr_db = float(peak_signal_noise_ratio(came, shown, data_range=255))
    return psnr_db, float(structural_similarity(came, shown, channel_axis=-1, data_range=255))


def _error_on_changed(shown: ImageArray, pair: _Pair) -> float | None:
    """Mean absolute error, grey levels, on what changed from `before`; None where nothing did."""
    came, before = pair.came.astype(np.int16), pair.before.astype(np.int16)
    changed = np.abs(came - before).max(axis=-1) > CHANGED_GREY_LEVELS
    return float(np.abs(shown - came)[changed].mean()) if changed.any() else None


def _off_mm(read_m: FloatArray, places_m: FloatArray) -> FloatArray:
    """Distances in space, [N, T]."""
    off_mm: npt.NDArray[np.float64] = 1000.0 * np.linalg.norm(read_m - places_m, axis=2)
    return off_mm


def _places(off_mm: FloatArray, things: Sequence[str]) -> dict[str, tuple[float, float]]:
    quantiles = np.percentile(off_mm, [50, 90], axis=0).T
    return {
        name: (round(float(median), 1), round(float(high), 1))
        for name, (median, high) in zip(things, quantiles, strict=True)
    }


HEADER = ("task", "sets x steps", "picture", "slots ahead", "number", "PSNR dB", "SSIM",
          "changed pixels' error", "places read wrong by mm (median, 90 %)")  # fmt: skip


def table_row(row: PictureRow) -> tuple[str, ...]:
    places = ", ".join(
        f"{name} {median:.1f} ({high:.1f})" for name, (median, high) in row.places_mm.items()
    )
    return (
        row.task,
        row.drawing,
        row.picture,
        str(row.slots),
        str(row.num),
        _text(row.psnr_db, 1),
        _text(row.ssim, 3),
        _text(row.changed, 1),
        places,
    )


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
