# SPDX-License-Identifier: Apache-2.0
"""What the action tokens look at: by token and over the picture (paper, section 5.4.2, Fig. 5).

Weights are the mean over the newest slot's L action tokens. A picture's map has one value for each
of its K frame tokens and is drawn as squares: nothing is interpolated.

Shape letters: Y layers, H heads, L actions, T text tokens, N slots, K frame tokens, S all tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from par_model.attention_map import KINDS, frame_map, shaded, token_kinds
from par_model.config import ModelConfig
from par_model.evaluation.direct_loop import run_episode
from par_model.interface import ImageArray
from par_model.policy import PARPolicy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.scene_cameras import projected

_COLOURS = "magma"
# Most weights are small; their square root is drawn.
_NORM = PowerNorm(0.5, vmin=0.0)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMap:
    """The weights before one chunk.

    Attributes:
        chunk: its index in the episode.
        picture: uint8 [height, width, 3], the newest observation.
        weights_YHS: float32, over all tokens of the context; rows sum to 1.
    """

    chunk: int
    picture: ImageArray
    weights_YHS: FloatArray


@dataclass(frozen=True)
class AttentionRecord:
    """One episode.

    Attributes:
        task, seed, success, num_steps: of the episode.
        shares_YHG: float64, mean over the chunks of the weight on each of KINDS; sums to 1.
        lifts: weight on the frame token that holds a thing's centre, as a multiple of an even
            spread over this frame: mean over chunks, layers and heads. Things outside the first
            view's picture are left out.
        shown: the map to draw.
    """

    task: str
    seed: int
    success: bool
    num_steps: int
    shares_YHG: npt.NDArray[np.float64]
    lifts: dict[str, float]
    shown: AttentionMap


def shares(weights_YHS: FloatArray, config: ModelConfig) -> npt.NDArray[np.float64]:
    """float64 [Y, H, 5]: the weight on each of KINDS."""
    kinds = token_kinds(config, weights_YHS.shape[-1])
    of_kind = [weights_YHS[..., kinds == kind].sum(axis=-1) for kind in range(len(KINDS))]
    return np.stack(of_kind, axis=-1).astype(np.float64)


class _AttentionWatcher:
    """See direct_loop.EpisodeWatcher."""

    def __init__(self, arm: ManiSkillArm, policy: PARPolicy) -> None:
        self._arm, self._policy = arm, policy
        self.maps: list[AttentionMap] = []
        self.lifts: dict[str, list[float]] = {}

    def started(self) -> None:
        """Nothing was observed yet."""

    def chunk_chosen(self) -> None:
        weights_YHS = self._policy.attention().mean(axis=2)
        self.maps.append(AttentionMap(len(self.maps), self._arm.capture(), weights_YHS))
        by_token = frame_map(weights_YHS, self._policy.config).mean(axis=(0, 1))
        by_token = by_token / by_token.mean()
        view = self._arm.robot.named_views(self._arm.views, self._arm.image_size)[0]
        num_rows = len(by_token) // self._policy.config.num_views
        places = self._arm.environment_state() | {"gripper": self._arm.gripper_position()}
        for name, place_m in places.items():
            column_px, row_px, _ = projected(view, place_m)
            row = int(row_px * num_rows // view.height)
            column = int(column_px * by_token.shape[1] // view.width)
            if 0 <= row < num_rows and 0 <= column < by_token.shape[1]:
                self.lifts.setdefault(name, []).append(float(by_token[row, column]))

    def stepped(self) -> None:
        """Attention changes with an observation only."""


def record_attention(
    arm: ManiSkillArm,
    policy: PARPolicy,
    seed: int,
    max_steps: int,
    chunk: int | None = None,
    policy_seed: int = 0,
) -> AttentionRecord:
    """Run one episode and keep the map before `chunk` (None: the episode's middle).

    Raises:
        ValueError: the episode has no such chunk; as PARPolicy.attention.
    """
    watcher = _AttentionWatcher(arm, policy)
    result = run_episode(arm, policy, seed, max_steps, policy_seed=policy_seed, watchers=(watcher,))
    chunk = len(watcher.maps) // 2 if chunk is None else chunk
    if not 0 <= chunk < len(watcher.maps):
        raise ValueError(
            f"the episode of {arm.task.name}, seed {seed}, has chunks 0 to {len(watcher.maps) - 1} "
            f"and --chunk {chunk} was asked for."
        )
    return AttentionRecord(
        task=arm.task.name,
        seed=seed,
        success=result.success,
        num_steps=result.num_steps,
        shares_YHG=np.mean(
            [shares(entry.weights_YHS, policy.config) for entry in watcher.maps], axis=0
        ),
        lifts={name: float(np.mean(values)) for name, values in watcher.lifts.items()},
        shown=watcher.maps[chunk],
    )


def described(record: AttentionRecord) -> str:
    """The record's figures in words, one line."""
    mean_G = record.shares_YHG.mean(axis=(0, 1))
    by_kind = []
    for index, kind in enumerate(KINDS):
        layer, head = np.unravel_index(
            record.shares_YHG[..., index].argmax(), record.shares_YHG.shape[:2]
        )
        most = record.shares_YHG[layer, head, index]
        by_kind.append(
            f"{kind} {100 * mean_G[index]:.0f}% (layer {layer + 1}, head {head + 1}: "
            f"{100 * most:.0f}%)"
        )
    lifts = ", ".join(f"{name} {value:.2f}" for name, value in record.lifts.items())
    outcome = "success" if record.success else "no success"
    return (
        f"seed {record.seed}, {outcome} after {record.num_steps} steps. Mean weight over the "
        f"episode, layers and heads, and the most of a head: {', '.join(by_kind)}. Weight on the "
        f"token that holds a thing, against an even spread over the frame: {lifts}."
    )


def write_attention(record: AttentionRecord, config: ModelConfig, folder: Path) -> Path:
    """Write the figure of one task as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"attention_{record.task}.png"
    attention_figure(record, config).savefig(path, dpi=80, metadata={"Software": None})
    return path


def attention_figure(record: AttentionRecord, config: ModelConfig) -> Figure:
    """By token for each layer and head (top), and over the newest picture (bottom)."""
    weights_YHS = record.shown.weights_YHS
    num_layers, num_heads = weights_YHS.shape[:2]
    tokens_in = 0.17 * num_layers * num_heads + 0.8
    figure = Figure(
        figsize=(1.6 * num_heads + 1.2, tokens_in + 1.75 * num_layers + 0.8), layout="constrained"
    )
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(tokens_in, 1.75 * num_layers))
    _draw_tokens(above, weights_YHS, config)
    map_YHrc = frame_map(weights_YHS, config)
    for place, axes in enumerate(below.subplots(num_layers, num_heads, squeeze=False).flat):
        layer, head = divmod(place, num_heads)
        _draw_map(axes, record.shown.picture, map_YHrc[layer, head])
        axes.set_title(
            f"{layer + 1}.{head + 1}: {100 * map_YHrc[layer, head].sum():.0f}%", fontsize=8, pad=2
        )
    outcome = "success" if record.success else "no success"
    figure.suptitle(
        f"{record.task}, seed {record.seed}, before chunk {record.shown.chunk + 1} ({outcome} "
        f"after {record.num_steps} steps)",
        fontsize=10,
    )
    return figure


def _draw_tokens(figure: Any, weights_YHS: FloatArray, config: ModelConfig) -> None:
    num_layers, num_heads, num_tokens = weights_YHS.shape
    axes = figure.subplots()
    shown = axes.imshow(
        weights_YHS.reshape(-1, num_tokens),
        aspect="auto",
        cmap=_COLOURS,
        norm=_NORM,
        interpolation="nearest",
    )
    firsts = range(config.num_text_tokens, num_tokens, config.slot_length)
    for first in firsts:
        axes.axvline(first - 0.5, color="white", linewidth=1.0)
        axes.axvline(
            first + config.num_frame_tokens - 0.5, color="white", linewidth=0.5, linestyle=":"
        )
    for layer in range(1, num_layers):
        axes.axhline(layer * num_heads - 0.5, color="white", linewidth=0.5)
    ticks = [first + config.num_frame_tokens / 2 for first in firsts]
    names = [f"O{index}" for index in range(len(ticks))]
    axes.set_xticks(ticks, names, fontsize=8)
    middles = [num_heads * layer + num_heads / 2 - 0.5 for layer in range(num_layers)]
    axes.set_yticks(middles, [f"layer {layer + 1}" for layer in range(num_layers)], fontsize=8)
    axes.set_xlabel(
        "tokens: instruction, then each observation's frame (O) and, behind the dots, the actions "
        "before it",
        fontsize=8,
    )
    figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)


def _draw_map(axes: Axes, picture: ImageArray, weights_rc: FloatArray) -> None:
    axes.imshow(shaded(picture, weights_rc))
    axes.set_axis_off()
