# SPDX-License-Identifier: Apache-2.0
"""From which camera how much is hidden, and how well places can be told from what is seen.

Shapes: N pictures; V views; F numbers seen of a thing; 3 coordinates.

The errors are those of simple readers that know everything a segmentation would: a thing's number
of pixels and their mean place. "depth": the distance along the optical axis from the number of
pixels alone, by a quadratic in its logarithm. "position": all three coordinates, by a quadratic in
the place and that logarithm, of one view or of a pair. Fitted on half of the episodes, judged on
the other half, where the thing is visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from par_model.evaluation.watched_episodes import WatchedEpisode
from par_model.interface import FloatArray
from par_model.simulation.camera_view import CameraView
from par_model.simulation.scene_cameras import projected
from par_model.training.scene_set import VISIBLE_PIXELS

_RIDGE = 1e-6
# Fewer pictures fit no quadratic of six numbers.
_FEWEST_PICTURES = 40


@dataclass(frozen=True)
class ErrorMm:
    """Of `num` pictures, millimetres."""

    num: int
    median: float
    percentile_90: float


@dataclass(frozen=True)
class SeenThing:
    """How one view, or a pair, sees one thing of one task.

    Attributes:
        views: the view's name, or two.
        hidden: share of all pictures in which it is hidden (of a pair: in both).
        hidden_at_start: share of the episodes whose first picture does not show it.
        never_seen: share of the episodes in which no picture shows it.
        median_pixels: where it is visible; None for a pair.
        depth: error of the distance from the number of pixels; None for a pair.
        position: error in space. None where too few pictures show it.
    """

    task: str
    thing: str
    views: tuple[str, ...]
    hidden: float
    hidden_at_start: float
    never_seen: float
    median_pixels: float | None
    depth: ErrorMm | None
    position: ErrorMm | None


def study(
    episodes: Sequence[WatchedEpisode], views: Sequence[CameraView], *chosen: int
) -> list[SeenThing]:
    """What the chosen views, one or two, see together of each task and thing."""
    return [
        _seen(task, thing, [e for e in episodes if e.task == task], views, chosen)
        for task, thing in _things(episodes)
    ]


HEADER = ("cameras", "task", "thing", "hidden %", "at start %", "never seen %", "pixels",
          "depth mm: median", "90 %", "position mm: median", "90 %")  # fmt: skip


def table_row(seen: SeenThing) -> tuple[str, ...]:
    def errors(error: ErrorMm | None) -> tuple[str, str]:
        return ("", "") if error is None else (f"{error.median:.1f}", f"{error.percentile_90:.1f}")

    pixels = "" if seen.median_pixels is None else f"{seen.median_pixels:.0f}"
    shares = (seen.hidden, seen.hidden_at_start, seen.never_seen)
    return (
        " + ".join(seen.views),
        seen.task,
        seen.thing,
        *(f"{100 * share:.1f}" for share in shares),
        pixels,
        *errors(seen.depth),
        *errors(seen.position),
    )


def _things(episodes: Sequence[WatchedEpisode]) -> list[tuple[str, str]]:
    pairs = [(episode.task, name) for episode in episodes for name in episode.positions_m]
    return list(dict.fromkeys(sorted(pairs)))


def _seen(
    task: str,
    thing: str,
    episodes: Sequence[WatchedEpisode],
    views: Sequence[CameraView],
    chosen: tuple[int, ...],
) -> SeenThing:
    visible = [(e.pixels[thing][:, list(chosen)] >= VISIBLE_PIXELS) for e in episodes]
    shown = [rows.any(axis=1) for rows in visible]
    all_shown = np.concatenate(shown)
    whole = np.concatenate([rows.all(axis=1) for rows in visible])
    is_judged = np.concatenate([np.full(len(rows), e.seed % 2 == 1)
                                for rows, e in zip(visible, episodes, strict=True)])  # fmt: skip
    positions_m = np.concatenate([e.positions_m[thing] for e in episodes])
    per_view = [_numbers(episodes, thing, index, views[index]) for index in chosen]
    depth = None
    pixels = None
    if len(chosen) == 1:
        counts = np.concatenate([e.pixels[thing][:, chosen[0]] for e in episodes])
        pixels = float(np.median(counts[whole])) if whole.any() else None
        distance_m = projected(views[chosen[0]], positions_m)[2][:, None]
        depth = _error(per_view[0][:, 2:], distance_m, whole, is_judged)
    return SeenThing(
        task=task,
        thing=thing,
        views=tuple(views[index].name for index in chosen),
        hidden=float(1.0 - all_shown.mean()),
        hidden_at_start=float(np.mean([not rows[0] for rows in shown])),
        never_seen=float(np.mean([not rows.any() for rows in shown])),
        median_pixels=pixels,
        depth=depth,
        position=_error(np.concatenate(per_view, axis=1), positions_m, whole, is_judged),
    )


def _numbers(
    episodes: Sequence[WatchedEpisode], thing: str, index: int, view: CameraView
) -> FloatArray:
    """[N, 3]: column and row from the middle, in half heights; logarithm of the pixels' share."""
    columns = np.concatenate([e.columns_px[thing][:, index] for e in episodes])
    rows = np.concatenate([e.rows_px[thing][:, index] for e in episodes])
    pixels = np.concatenate([e.pixels[thing][:, index] for e in episodes]).clip(min=1)
    half = view.height / 2
    share = np.log(pixels / (view.height * view.width)) + 5.0
    return np.stack([(columns - view.width / 2) / half, (rows - half) / half, share], axis=1)


def _error(
    seen_NF: FloatArray, truth_m: FloatArray, whole: np.ndarray, is_judged: np.ndarray
) -> ErrorMm | None:
    """Of a quadratic reader of `seen_NF`, fitted where not judged."""
    fit, judge = whole & ~is_judged, whole & is_judged
    if fit.sum() < _FEWEST_PICTURES or judge.sum() < _FEWEST_PICTURES:
        return None
    features = _quadratic(seen_NF)
    x, y = features[fit], truth_m[fit]
    mean = y.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (y - mean))
    error_mm = 1000 * np.linalg.norm(features[judge] @ weights + mean - truth_m[judge], axis=1)
    return ErrorMm(
        num=len(error_mm),
        median=round(float(np.median(error_mm)), 2),
        percentile_90=round(float(np.percentile(error_mm, 90)), 2),
    )


def _quadratic(seen_NF: FloatArray) -> FloatArray:
    """1, each number, each product of two."""
    count = seen_NF.shape[1]
    products = [seen_NF[:, i] * seen_NF[:, j] for i in range(count) for j in range(i, count)]
    return np.stack([np.ones(len(seen_NF)), *seen_NF.T, *products], axis=1)
