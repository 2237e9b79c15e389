# SPDX-License-Identifier: Apache-2.0
"""Where a policy fails: success by where the cube lay, from stored rollouts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import wilson_interval
from par_model.simulation.milestones import Feature, Milestones
from par_model.simulation.tasks import task as task_by_name

_NUM_PARTS = 3
_COLOURS = "RdYlGn"


def position_figure(results: Sequence[RolloutResult]) -> Figure:
    """One task's rollouts: a map of initial positions, and success by thirds of each feature.

    Every result must have milestones.
    """
    task = task_by_name(results[0].task)
    features = task.features
    figure = Figure(figsize=(4.6 + 2.7 * len(features), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(features), width_ratios=[1.7] + [1.0] * len(features))
    _draw_map(figure, axes[0], results)
    for place, (title, feature) in zip(axes[1:], features.items(), strict=True):
        _draw_thirds(place, title, thirds(results, feature))
    num_successes = sum(result.success for result in results)
    figure.suptitle(f"{task.name}: {num_successes} of {len(results)} rollouts succeed")
    return figure


def write_positions(results: Sequence[RolloutResult], folder: Path, name: str) -> Path:
    """Write the figure of one task as positions_<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"positions_{name}.png"
    position_figure(results).savefig(path, dpi=110, metadata={"Software": None})
    return path


def thirds(
    results: Sequence[RolloutResult], feature: Feature
) -> list[tuple[float, float, int, int]]:
    """(lowest value, highest value, successes, rollouts) of each third of the rollouts by value."""
    values = np.array([feature(_measured(result)) for result in results])
    order = np.argsort(values, kind="stable")
    parts = []
    for chosen in np.array_split(order, _NUM_PARTS):
        if len(chosen):
            num_successes = sum(results[index].success for index in chosen)
            ends = float(values[chosen].min()), float(values[chosen].max())
            parts.append((*ends, num_successes, len(chosen)))
    return parts


def _draw_map(figure: Figure, axes: Axes, results: Sequence[RolloutResult]) -> None:
    """From above; x away from the base is up, y to the robot's left is left."""
    seeds = sorted({result.seed for result in results})
    cube_S2, other_S2, rates = [], [], []
    for seed in seeds:
        of_seed = [result for result in results if result.seed == seed]
        positions = _measured(of_seed[0]).initial_positions
        other = next(name for name in positions if name != "cube")
        cube_S2.append(positions["cube"][:2])
        other_S2.append(positions[other][:2])
        rates.append(np.mean([result.success for result in of_seed]))
    cube, second = 100 * np.array(cube_S2), 100 * np.array(other_S2)
    for start, end in zip(cube, second, strict=True):
        axes.plot((start[1], end[1]), (start[0], end[0]), color="0.85", linewidth=0.8, zorder=1)
    axes.scatter(second[:, 1], second[:, 0], marker="+", color="0.5", zorder=2, label=other)
    dots = axes.scatter(
        cube[:, 1], cube[:, 0], c=rates, cmap=_COLOURS, vmin=0, vmax=1, edgecolors="0.3", zorder=3
    )
    axes.invert_xaxis()
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="y (cm)", ylabel="x (cm)", title="where the cube lay")
    axes.legend(loc="upper right", fontsize="small")
    figure.colorbar(dots, ax=axes, label="success rate of the state", shrink=0.8)


def _draw_thirds(axes: Axes, title: str, parts: Sequence[tuple[float, float, int, int]]) -> None:
    for place, (_, _, num_successes, num_rollouts) in enumerate(parts):
        rate = num_successes / num_rollouts
        interval = wilson_interval(num_successes, num_rollouts)
        axes.bar(place, rate, color="0.75")
        axes.vlines(place, interval.low, interval.high, color="0.2")
        axes.annotate(f"{num_successes}/{num_rollouts}", (place, 0.02), ha="center", fontsize=8)
    labels = [f"{low:.1f} to\n{high:.1f}" for low, high, _, _ in parts]
    axes.set_xticks(range(len(parts)), labels, fontsize=8)
    axes.set(ylim=(0, 1.02), title=title)
    axes.title.set_fontsize(9)


def _measured(result: RolloutResult) -> Milestones:
    assert result.milestones is not None
    return result.milestones
