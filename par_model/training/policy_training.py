# SPDX-License-Identifier: Apache-2.0
"""Trains a PAR policy on cached latents: teacher forcing over whole clips, resumable to the bit.

Folder layout of a run:
    statistics.json         normalisation, fitted when the run began (written by par_model.train)
    state.safetensors       weights, average, optimiser, place in the data (training_state.py)
    log.jsonl               one line per logged step; tensorboard/ holds the same
    selection/step_NNNNNN/  checkpoints judged in closed loop on the selection seeds
    checkpoint/             the best of them, or the last where none was judged
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from par_model.checkpoint import save_checkpoint
from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable
from par_model.model import Losses, PARModel, TrainingBatch
from par_model.normalization import Statistics
from par_model.training.checkpoint_card import model_card
from par_model.training.clips import (
    ClipPlan,
    ClipSampler,
    TrainingEpisode,
    single_slots,
    whole_episodes,
)
from par_model.training.closed_loop import ClosedLoopQueue
from par_model.training.codec_training import codec_fingerprint
from par_model.training.ema import WeightAverage
from par_model.training.finetuning import (
    FinetuningConfig,
    merged_model,
    prepare,
    with_dropped_text,
)
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.run_log import Progress, RunLog
from par_model.training.scene_pictures import (
    NUM_SCENE_NUMBERS,
    ScenePictures,
    ScenePictureSampler,
)
from par_model.training.schedule import learning_rate_factor
from par_model.training.side_tasks import SideLosses, SideTasks, scene_error_mm
from par_model.training.start_weights import take_weights
from par_model.training.training_state import (
    TrainingState,
    load_state,
    module_tensors,
    optimizer_tensors,
    require_open_length,
    require_same_run,
    restore_module,
    restore_optimizer,
    save_state,
    step_generator,
)

# Steps timed before --hours is turned into a number of steps.
_NUM_TIMED_STEPS = 40
_VALIDATION_SEED = 1
_NUM_HELD_OUT_PICTURES = 500


@dataclass(frozen=True)
class PolicyParts:
    """What training needs beside its numbers."""

    model: ModelConfig
    codec: FrameCodec
    statistics: Statistics
    instructions: InstructionTable
    training_episodes: list[TrainingEpisode]
    validation_episodes: list[TrainingEpisode]
    # command, data and machine, for the card and training.json
    provenance: dict[str, object]
    # where a pretrained model is trained on: its weights, and how
    initial_weights: Mapping[str, Tensor] | None = None
    finetuning: FinetuningConfig | None = None
    # scenes whose positions are learnt beside the demonstrations
    scene_pictures: tuple[ScenePictures, ...] = ()


class StepLosses(NamedTuple):
    """Plain numbers of one step."""

    frame: float
    action: float
    scene: float
    chunk: float
    picture: float


def step_losses(losses: Losses, side: SideLosses, picture: Tensor) -> StepLosses:
    parts = (losses.frame, losses.action, side.scene, side.chunk, picture)
    return StepLosses(*(float(part.detach()) for part in parts))


class PolicyTrainer:
    """One run in one folder. `run` starts or resumes it."""

    def __init__(
        self,
        parts: PolicyParts,
        config: PolicyTrainingConfig,
        folder: Path,
        device: torch.device,
        allow_other_data: bool = False,
        start_from: Path | None = None,
    ) -> None:
        self.allow_other_data = allow_other_data
        self.parts, self.config, self.folder, self.device = parts, config, folder, device
        torch.manual_seed(config.seed)
        self.model = PARModel(parts.model)
        if parts.initial_weights is not None:
            self.model.load_state_dict(parts.initial_weights)
        if parts.finetuning is not None:
            prepare(self.model, parts.finetuning)
        self.model.to(device)
        if start_from is not None:
            take_weights(start_from, self.model)
        num_scene = _num_scene(parts, config)
        chunk = (parts.model.num_actions, parts.model.action_width)
        self.side = SideTasks(
            parts.model.transformer.width, num_scene, chunk if config.chunk_weight else None
        ).to(device)
        self.average = WeightAverage(self.model, config.average_decay)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(nn.ModuleList([self.model, self.side]), config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        shares = dict(config.task_shares)
        _require_held_out(parts.validation_episodes, shares)
        self.sampler = self._sampler(parts.training_episodes, shares, num_scene)
        self.validation = self._sampler(parts.validation_episodes, shares, num_scene)
        self.pictures = _picture_sampler(parts, config)
        tasks = [task for task, share in config.task_shares if share]
        self.queue = ClosedLoopQueue(folder / "selection", tasks, config.num_evaluation_episodes)
        self.identity = _identity(config, parts)
        self.step = 0
        self.num_steps = config.num_steps
        self.wall_s = 0.0

    def run(self, report: Callable[[Progress], None], stop_at: int | None = None) -> None:
        """Train to the end, or to step `stop_at` as a kill would, and write the checkpoint."""
        self._resume()
        log = RunLog(self.folder)
        losses: list[StepLosses] = []
        started = last = time.monotonic()
        wall_before = self.wall_s
        while self.num_steps is None or self.step < self.num_steps:
            losses.append(self._train_step())
            self.step += 1
            self.wall_s = wall_before + time.monotonic() - started
            self._fix_number_of_steps()
            at_end = self.step == self.num_steps
            if self.step % self.config.log_every == 0 or at_end:
                now = time.monotonic()
                progress = self._progress(losses, (now - last) / len(losses))
                log.training(progress)
                report(progress)
                losses, last = [], now
            self._at_intervals(log, at_end)
            if self.step == stop_at:
                return
        self._finish(log)

    def _train_step(self) -> StepLosses:
        """One step; returns its losses."""
        batch = _to_device(self.sampler.next_batch(), self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        generator = step_generator(self.config.seed, self.step, 0, self.device)
        tuning = self.parts.finetuning
        half = self.device.type == "cuda" or (tuning is not None and tuning.bf16)
        if tuning is not None:
            batch = with_dropped_text(batch, self.model, tuning.text_dropout, generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            losses, side = self._losses(
                self.model, batch, generator, tuning is not None and tuning.checkpoint_gradients
            )
            picture = losses.total.new_zeros(())
            if self.pictures is not None:
                picture = self._picture_loss(self.model, self.pictures.batch(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        weighted = self.config.scene_weight * side.scene + self.config.chunk_weight * side.chunk
        weighted = weighted + self.config.picture_weight * picture
        (losses.total + weighted).backward()
        trained = [*self.model.parameters(), *self.side.parameters()]
        torch.nn.utils.clip_grad_norm_(trained, self.config.gradient_clip)
        self.optimizer.step()
        self.average.update(self.model, self.step)
        return step_losses(losses, side, picture)

    def _picture_loss(self, model: PARModel, batch: TrainingBatch) -> Tensor:
        """Positions of rendered scenes, read as the side task reads a demonstration's."""
        batch = _to_device(batch, self.device)
        return self.side.scene_loss(model.training_context(batch), batch)

    def _losses(
        self,
        model: PARModel,
        batch: TrainingBatch,
        generator: torch.Generator,
        checkpoint_gradients: bool = False,
    ) -> tuple[Losses, SideLosses]:
        """Eq. 11 and the side tasks."""
        context = model.training_context(batch, checkpoint_gradients)
        losses = model.context_loss(context, batch, generator, checkpoint_gradients)
        return losses, self.side.losses(context, batch)

    def _learning_rate(self) -> float:
        num_steps = self.num_steps or 10**9
        return self.config.learning_rate * learning_rate_factor(
            self.step, self.config.num_warmup_steps, num_steps
        )

    def _fix_number_of_steps(self) -> None:
        """Turn --hours into a number of steps, once; it is stored and never changes again."""
        if self.num_steps is not None or self.step < _NUM_TIMED_STEPS:
            return
        assert self.config.hours is not None
        self.num_steps = max(self.step, int(self.config.hours * 3600.0 * self.step / self.wall_s))

    def _at_intervals(self, log: RunLog, at_end: bool) -> None:
        config = self.config
        if self.step % config.validate_every == 0 or at_end:
            log.validation(self.step, self.validate())
        due = config.evaluate_every is not None and self.step % config.evaluate_every == 0
        due = due and self.step >= config.evaluate_from
        if config.num_evaluation_episodes and (due or at_end):
            self.save_checkpoint(self.queue.checkpoint_folder(self.step) / "checkpoint")
        if self.step % config.save_every == 0 or at_end:
            self._save()
            if config.num_evaluation_episodes:
                log.closed_loop(self.queue.poll())

    def _finish(self, log: RunLog) -> None:
        if self.config.num_evaluation_episodes:
            log.closed_loop(self.queue.wait())
        best = self.queue.best()
        target = self.folder / "checkpoint"
        if best is None:
            self.save_checkpoint(target)
            return
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.queue.checkpoint_folder(best.step) / "checkpoint", target)
        self.queue.drop_all_but(best.step)

    @torch.no_grad()
    def validate(self) -> dict[str, dict[str, float]]:
        """Losses of the averaged weights by task and name, on held-out episodes; the side tasks
        are read by their heads as they are.

        "PickCube" has its history and "PickCube/single" one observation a chunk: what an expert's
        history gives away, and what the policy sees.
        """
        results = {}
        for task in self.queue.tasks:
            num_clips = self.config.num_validation_clips
            for name, batches in (
                (task, whole_episodes(self.validation, task, num_clips)),
                (f"{task}/single", single_slots(self.validation, task, num_clips)),
            ):
                if batches:
                    results[name] = self._shown(self._mean_losses(batches))
        return results | self._picture_errors()

    def _picture_errors(self) -> dict[str, dict[str, float]]:
        """Of the averaged weights, on scenes that are never drawn."""
        results = {}
        for index, pictures in enumerate(self.pictures.sets if self.pictures else ()):
            batch = self.pictures.held_out_batch(index, _NUM_HELD_OUT_PICTURES)
            error_mm = scene_error_mm(float(self._picture_loss(self.average.model, batch)))
            results[f"{pictures.task}/pictures"] = {"picture_mm": error_mm}
        return results

    def _mean_losses(self, batches: list[list[ClipPlan]]) -> StepLosses:
        """Of the averaged weights, weighted by valid actions."""
        total, count = np.zeros(len(StepLosses._fields)), 0
        for index, plans in enumerate(batches):
            clips = self.validation.cut(plans, np.random.default_rng(_VALIDATION_SEED))
            batch = _to_device(clips, self.device)
            generator = step_generator(_VALIDATION_SEED, index, 1, self.device)
            weight = int(batch.action_valid_BNL.sum())
            both = self._losses(self.average.model, batch, generator)
            losses = step_losses(*both, both[0].total.new_zeros(()))
            total += weight * np.array(losses)
            count += weight
        return StepLosses(*(total / count).tolist())

    def _shown(self, losses: StepLosses) -> dict[str, float]:
        """Loss by its name in the log, without the losses that are switched off."""
        shown = {"frame_loss": losses.frame, "action_loss": losses.action}
        if self.side.scene is not None:
            shown["scene_mm"] = scene_error_mm(losses.scene)
        if self.side.chunk is not None:
            shown["chunk_loss"] = losses.chunk
        return shown

    def save_checkpoint(self, folder: Path) -> None:
        """Write the averaged weights as a checkpoint."""
        training = {
            "step": self.step,
            "num_steps": self.num_steps,
            "wall_s": round(self.wall_s, 1),
            "num_training_episodes": len(self.parts.training_episodes),
            "config": self.config.identity(),
            **self.parts.provenance,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(
            folder,
            config=self.parts.model,
            model=self._plain_average(),
            codec=self.parts.codec,
            statistics=self.parts.statistics,
            instructions=self.parts.instructions,
            card=model_card(self.parts.model, training),
            training=training,
        )

    def _plain_average(self) -> PARModel:
        """The averaged weights under the model's own names."""
        if self.parts.finetuning is None:
            return self.average.model
        return merged_model(self.average.model, self.parts.model)

    def _save(self) -> None:
        tensors = module_tensors("model", self.model)
        tensors |= module_tensors("average", self.average.model)
        tensors |= optimizer_tensors(self.model, self.optimizer)
        tensors |= module_tensors("side", self.side)
        tensors |= optimizer_tensors(self.side, self.optimizer, "side.")
        values: dict[str, object] = {
            "step": self.step,
            "num_steps": self.num_steps,
            "hours": self.config.hours,
            "place": list(self.sampler.place),
            "wall_s": self.wall_s,
            "identity": self.identity,
        }
        save_state(self.folder, TrainingState(tensors, values))

    def _resume(self) -> None:
        state = load_state(self.folder)
        if state is None:
            return
        require_same_run(self.folder, state.values, self.identity, self.allow_other_data)
        require_open_length(self.folder, state.values, self.config.num_steps, self.config.hours)
        restore_module("model", self.model, state.tensors)
        restore_module("average", self.average.model, state.tensors)
        restore_optimizer(self.model, self.optimizer, state.tensors)
        restore_module("side", self.side, state.tensors)
        restore_optimizer(self.side, self.optimizer, state.tensors, "side.")
        values = state.values
        assert isinstance(values["step"], int)
        assert isinstance(values["wall_s"], float)
        assert isinstance(values["place"], list)
        self.step, self.wall_s = values["step"], values["wall_s"]
        self.sampler.place = (values["place"][0], values["place"][1])
        stored = values["num_steps"]
        assert stored is None or isinstance(stored, int)
        # A longer or shorter run may be asked for on the way: --steps decides.
        self.num_steps = self.config.num_steps or stored

    def _sampler(
        self, episodes: list[TrainingEpisode], shares: dict[str, float], num_scene: int
    ) -> ClipSampler:
        clips = dataclasses.replace(self.config.clips, seed=self.config.seed)
        parts = self.parts
        return ClipSampler(
            episodes,
            shares,
            parts.statistics,
            parts.instructions,
            parts.model,
            clips,
            num_scene,
        )

    def _progress(self, losses: list[StepLosses], step_s: float) -> Progress:
        losses_mean = StepLosses(*np.mean(losses, axis=0).tolist())
        shown = self._shown(losses_mean)
        return Progress(
            step=self.step,
            num_steps=self.num_steps,
            frame_loss=shown["frame_loss"],
            action_loss=shown["action_loss"],
            scene_mm=shown.get("scene_mm"),
            chunk_loss=shown.get("chunk_loss"),
            picture_mm=None if self.pictures is None else scene_error_mm(losses_mean.picture),
            step_s=step_s,
            learning_rate=self._learning_rate(),
        )


def _identity(config: PolicyTrainingConfig, parts: PolicyParts) -> dict[str, Any]:
    """What a resumed run must agree on, as JSON values."""
    tuning = parts.finetuning
    return {
        **({} if tuning is None else {"finetuning": dataclasses.asdict(tuning)}),
        "config": config.identity(),
        "codec": codec_fingerprint(parts.codec),
        "model": json.loads(json.dumps(dataclasses.asdict(parts.model))),
        "statistics": parts.statistics.to_json_dict(),
        "episodes": [f"{e.task}:{e.steps.key}" for e in parts.training_episodes],
        "scenes": [pictures.name for pictures in parts.scene_pictures],
    }


def _num_scene(parts: PolicyParts, config: PolicyTrainingConfig) -> int:
    """P: the most numbers that a demonstration or picture knows of its scene; 0: none are read."""
    if parts.scene_pictures:
        return NUM_SCENE_NUMBERS
    if not config.scene_weight:
        return 0
    episodes = [*parts.training_episodes, *parts.validation_episodes]
    return max((episode.steps.scene.shape[1] for episode in episodes), default=0)


def _picture_sampler(
    parts: PolicyParts, config: PolicyTrainingConfig
) -> ScenePictureSampler | None:
    if not parts.scene_pictures:
        return None
    return ScenePictureSampler(
        list(parts.scene_pictures),
        parts.statistics,
        parts.instructions,
        parts.model,
        config.pictures_per_step,
        config.seed,
    )


def _require_held_out(episodes: list[TrainingEpisode], shares: Mapping[str, float]) -> None:
    held = {episode.task for episode in episodes}
    if lacking := sorted(task for task, share in shares.items() if share and task not in held):
        raise ValueError(
            f"no episode of {', '.join(lacking)} is held out to measure the validation loss; every "
            "25th is (keys 24, 49, ...), so record at least 25 demonstrations."
        )


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on all that has two dimensions (matrices, the learned token rows), not on norms
    and biases."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    given = vars(batch).items()
    return TrainingBatch(**{name: v.to(device) for name, v in given if v is not None})
