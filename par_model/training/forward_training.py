# SPDX-License-Identifier: Apache-2.0
"""Trains the forward model on transitions: two pictures of one episode and the joints at both.

Shapes: B transitions; V variants (shifts) and T steps of an episode; C latent channels; h, w latent
pixels; J joints.

The loss is the Gaussian's negative log-likelihood, each number's weighted by a power of its own
variance, so that the mean is learnt where the variance is large, too (beta-NLL, arXiv 2203.09168).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from par_model.forward_model import ForwardConfig, ForwardModel, StoredForwardModel
from par_model.surprise import FORWARD_FILE
from par_model.training.clips import TrainingEpisode
from par_model.training.ema import WeightAverage
from par_model.training.latent_cache import LatentArray
from par_model.training.schedule import learning_rate_factor, set_learning_rate
from par_model.training.training_state import (
    TrainingState,
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_training,
    save_state,
)

_NUM_JUDGED = 384
_JUDGED_AT_ONCE = 64
# Pictures of an episode from which the latents' statistics are fitted.
_FITTED_EACH = 4


@dataclass(frozen=True)
class ForwardTrainingConfig:
    """Numbers of the training."""

    num_steps: int = 4000
    batch_size: int = 48
    learning_rate: float = 2e-3
    num_warmup_steps: int = 200
    weight_decay: float = 1e-3
    gradient_clip: float = 1.0
    # of the moving average of the weights, a step
    average_decay: float = 0.995
    # power of its variance by which a number's loss is weighted
    variance_power: float = 0.5
    # share of the transitions that are one chunk long; the others are 1 step to the horizon long
    whole_chunk_share: float = 0.5
    seed: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        """Raise ValueError for a number of steps or pictures that is not above 0."""
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")


class TransitionBatch(NamedTuple):
    """Latents float32 [B, C, h, w], and the joints that were measured with them, [B, J]."""

    before: Tensor
    later: Tensor
    joints_before: Tensor
    joints_later: Tensor


@dataclass(frozen=True)
class _Episode:
    """Its pictures, in memory; one that is that of the step before is left out. latents:
    [V, n, C, h, w]; joints: float32 [n, J]; shown: the step of each."""

    latents: LatentArray
    joints: npt.NDArray[np.float32]
    shown: npt.NDArray[np.int64]


class Transitions:
    """Pairs of different pictures of the same episode; tasks are drawn evenly, and of a task each
    picture with a later one.

    Raises ValueError where no episode has two pictures.
    """

    def __init__(
        self,
        episodes: Sequence[TrainingEpisode],
        chunk_steps: int,
        most_steps: int,
        whole_chunk_share: float,
    ) -> None:
        """chunk_steps: of a whole chunk; most_steps: between two pictures."""
        self._chunk_steps, self._most_steps = chunk_steps, most_steps
        self._whole_chunk_share = whole_chunk_share
        by_task: dict[str, list[_Episode]] = {}
        for episode in episodes:
            found = _read(episode)
            if len(found.shown) > 1:
                by_task.setdefault(episode.task, []).append(found)
        if not by_task:
            raise ValueError("no episode has two different pictures; record longer ones.")
        self._tasks = [by_task[name] for name in sorted(by_task)]
        self._ends = [np.cumsum([len(e.shown) - 1 for e in task]) for task in self._tasks]

    def draw(self, size: int, generator: np.random.Generator) -> TransitionBatch:
        """`size` of them."""
        drawn = [self._draw_one(generator) for _ in range(size)]
        before, later, joints, joints_later = (
            torch.from_numpy(np.stack(values).astype(np.float32))
            for values in zip(*drawn, strict=True)
        )
        return TransitionBatch(before, later, joints, joints_later)

    def _draw_one(self, generator: np.random.Generator) -> tuple[Any, Any, Any, Any]:
        task = int(generator.integers(len(self._tasks)))
        ends = self._ends[task]
        place = int(generator.integers(ends[-1]))
        index = int(np.searchsorted(ends, place, side="right"))
        episode = self._tasks[task][index]
        first = place - (int(ends[index - 1]) if index else 0)
        steps = self._chunk_steps
        if generator.random() >= self._whole_chunk_share:
            steps = int(generator.integers(1, self._most_steps + 1))
        variant = int(generator.integers(len(episode.latents)))
        # The picture nearest to so many steps later.
        later = episode.shown[first + 1 :] - episode.shown[first]
        after = first + 1 + int(np.abs(later - steps).argmin())
        latents, joints = episode.latents[variant], episode.joints
        return latents[first], latents[after], joints[first], joints[after]

    def statistics(self) -> dict[str, Tensor]:
        """Mean and deviation of latents, by channel, and of joints: the model's buffers."""
        latents, joints = [], []
        for episode in (episode for task in self._tasks for episode in task):
            chosen = np.linspace(0, len(episode.shown) - 1, _FITTED_EACH).astype(int)
            latents.append(episode.latents[0][chosen].astype(np.float32))
            joints.append(episode.joints)
        pictures, positions = np.concatenate(latents), np.concatenate(joints)
        deviations = (pictures.std(axis=(0, 2, 3)), positions.std(axis=0))
        # A channel or joint that never moves tells nothing, and is divided by no 0.
        latent_std, joint_std = (np.where(each > 1e-6, each, 1.0) for each in deviations)
        values = {
            "latent_mean_C": pictures.mean(axis=(0, 2, 3)),
            "latent_std_C": latent_std,
            "joint_mean_J": positions.mean(axis=0),
            "joint_std_J": joint_std,
        }
        return {name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()}


def _read(episode: TrainingEpisode) -> _Episode:
    steps = episode.steps
    latents = episode.latents.read(steps.key, steps.digest)
    first = latents[0, : steps.num_steps]
    # A picture that stands for a whole chunk (collect --expert) was taken at its first step.
    is_new = np.ones(len(first), dtype=bool)
    is_new[1:] = (first[1:] != first[:-1]).any(axis=(1, 2, 3))
    shown = np.flatnonzero(is_new)
    joints = steps.measured_joints[shown].astype(np.float32)
    # A copy: the file is closed then, and there are thousands of them.
    return _Episode(np.array(latents[:, shown]), joints, shown)


def likelihood_loss(
    model: ForwardModel, batch: TransitionBatch, variance_power: float
) -> tuple[Tensor, Tensor]:
    """(loss, negative log-likelihood of a number without its constant), means over the batch."""
    squared, variance = _squared_error(model, batch)
    likelihood = _likelihood(squared, variance)
    loss = (variance.detach() ** variance_power * likelihood).mean()
    return loss, likelihood.detach().mean()


def _squared_error(model: ForwardModel, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
    """The squared error of each number of the later latents, and its expected variance."""
    mean, variance = model(model.normalise(batch.before), batch.joints_before, batch.joints_later)
    return (model.normalise(batch.later) - mean).square(), variance


def _likelihood(squared: Tensor, variance: Tensor) -> Tensor:
    """Negative, without its constant."""
    return 0.5 * (squared / variance + variance.log())


@dataclass(frozen=True)
class ForwardData:
    """What the model learns from.

    Attributes:
        sizes: of the network for these latents and joints.
        training: what it is trained on.
        held_out: what the finished model is judged on; None: it is not.
        codec: fingerprint of the codec of the latents.
        joint_names: of the arm, in their order.
        episodes: names of all of them; a training goes on with the same only.
        drawn: likewise, what else says which transitions are drawn, as JSON values.
    """

    sizes: ForwardConfig
    training: Transitions
    held_out: Transitions | None
    codec: str
    joint_names: tuple[str, ...]
    episodes: tuple[str, ...]
    drawn: Mapping[str, object]


def train_forward_model(
    data: ForwardData,
    config: ForwardTrainingConfig,
    folder: Path,
    about: Mapping[str, object],
    report: Callable[[int, int, float], None],
    stop_at: int | None = None,
) -> StoredForwardModel | None:
    """Train, or go on training, the model in `folder`; write it there and return it.

    Args:
        about: how it was made, for the file.
        report: called after each step with (step, number of steps, negative log-likelihood).
        stop_at: ends this call early, as a kill would, with None; the next call goes on.

    Raises ValueError where the folder holds a training of other settings or data.
    """
    torch.manual_seed(config.seed)
    model = ForwardModel(data.sizes)
    model.load_state_dict(model.state_dict() | data.training.statistics())
    average = WeightAverage(model, config.average_decay)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    identity = _identity(data, config)
    for step in range(_resume(folder, model, average, optimizer, identity), config.num_steps):
        likelihood = _train_step(model, optimizer, data.training, step, config)
        average.update(model, step)
        done = step + 1
        report(done, config.num_steps, likelihood)
        if done % config.save_every == 0 or done == config.num_steps:
            tensors = module_tensors("model", model) | module_tensors("average", average.model)
            tensors |= optimizer_tensors(model, optimizer)
            save_state(folder, TrainingState(tensors, {"step": done, "identity": identity}))
        if done == stop_at:
            return None
    training: dict[str, Any] = {**about, "config": dataclasses.asdict(config)}
    if data.held_out is not None:
        training["held_out"] = judge(average.model, data.held_out)
    stored = StoredForwardModel(average.model, data.codec, data.joint_names, training)
    stored.write(folder / FORWARD_FILE)
    return stored


def _train_step(
    model: ForwardModel,
    optimizer: torch.optim.AdamW,
    transitions: Transitions,
    step: int,
    config: ForwardTrainingConfig,
) -> float:
    rate = learning_rate_factor(step, config.num_warmup_steps, config.num_steps)
    set_learning_rate(optimizer, config.learning_rate * rate)
    batch = transitions.draw(config.batch_size, np.random.default_rng([config.seed, step]))
    loss, likelihood = likelihood_loss(model, batch, config.variance_power)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    optimizer.step()
    return float(likelihood)


@torch.no_grad()
def judge(model: ForwardModel, held_out: Transitions) -> dict[str, float]:
    """On the same transitions every time: the negative log-likelihood, the squared error, and that
    of the latent before, both in squared deviations of a channel."""
    generator = np.random.default_rng(0)
    values = []
    for _ in range(_NUM_JUDGED // _JUDGED_AT_ONCE):
        batch = held_out.draw(_JUDGED_AT_ONCE, generator)
        squared, variance = _squared_error(model, batch)
        change = (model.normalise(batch.later) - model.normalise(batch.before)).square()
        likelihood = _likelihood(squared, variance)
        values.append((likelihood.mean(), squared.mean(), change.mean()))
    means = [round(float(torch.stack(each).mean()), 5) for each in zip(*values, strict=True)]
    names = ("negative_log_likelihood", "squared_error", "squared_change")
    return dict(zip(names, means, strict=True))


def _identity(data: ForwardData, config: ForwardTrainingConfig) -> dict[str, object]:
    values = dataclasses.asdict(config)
    del values["save_every"]
    return {
        "sizes": dataclasses.asdict(data.sizes),
        "config": values,
        "codec": data.codec,
        "joint_names": list(data.joint_names),
        "drawn": dict(data.drawn),
        "episodes": hashlib.sha256("\n".join(data.episodes).encode()).hexdigest(),
    }


def _resume(
    folder: Path,
    model: ForwardModel,
    average: WeightAverage[ForwardModel],
    optimizer: torch.optim.AdamW,
    identity: dict[str, object],
) -> int:
    state = load_state(folder)
    if state is None:
        return 0
    if state.values.get("identity") != identity:
        raise ValueError(
            f"{folder} holds a training with other settings or data, or of another stage; use the "
            "same ones to continue, or another --out."
        )
    modules = {"model": model, "average": average.model}
    return restore_training(state, modules, model, optimizer)
