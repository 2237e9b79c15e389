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
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from par_model.checkpoint import copy_checkpoint, save_checkpoint
from par_model.frame_head import sample_mask_ratio
from par_model.model import PARModel
from par_model.training.batch_loader import BatchLoader, Division, StepBatch
from par_model.training.checkpoint_card import model_card
from par_model.training.clips import ClipSampler, TrainingEpisode
from par_model.training.closed_loop import ClosedLoopQueue
from par_model.training.finetuning import merged_model, prepare
from par_model.training.policy_parts import (
    PolicyParts,
    num_scene_numbers,
    picture_sampler,
    require_held_out,
    run_identity,
)
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.processes import Execution, Processes
from par_model.training.run_log import Progress, RunLog
from par_model.training.run_weights import RunWeights
from par_model.training.schedule import learning_rate_factor
from par_model.training.side_tasks import SideTasks, scene_error_mm
from par_model.training.start_weights import take_weights
from par_model.training.stopping import StopRequest, stop_on_sigterm
from par_model.training.training_state import (
    TrainingState,
    load_state,
    require_open_length,
    require_same_run,
    save_state,
    step_generator,
)
from par_model.training.training_step import StepLoss, StepLosses, numbers
from par_model.training.validation import Validation, shown_losses

# Steps timed before --hours is turned into a number of steps.
_NUM_TIMED_STEPS = 40


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
        execution: Execution | None = None,
    ) -> None:
        self.execution = execution or Execution()
        self.processes = Processes()
        self.allow_other_data = allow_other_data
        self.parts, self.config, self.folder, self.device = parts, config, folder, device
        torch.manual_seed(config.seed)
        num_scene = num_scene_numbers(parts, config)
        step_loss = self._new_loss(num_scene, start_from)
        self.weights = RunWeights(step_loss, config, self.processes, device, self.execution.sharded)
        self.step_loss = step_loss
        self.loss: nn.Module = step_loss
        self.model, self.side = self.weights.model, self.weights.side
        self.average = self.weights.average
        shares = dict(config.task_shares)
        require_held_out(parts.validation_episodes, shares)
        self.sampler = self._sampler(parts.training_episodes, shares, num_scene)
        self.pictures = picture_sampler(parts, config)
        held_out = self._sampler(
            parts.validation_episodes, shares, num_scene, self.execution.micro_slots
        )
        self.validation = Validation(held_out, self.pictures, device)
        tasks = [task for task, share in config.task_shares if share]
        self.queue = ClosedLoopQueue(folder / "selection", tasks, config.num_evaluation_episodes)
        self.identity = run_identity(config, parts)
        self.step = 0
        self.num_steps = config.num_steps
        self.wall_s = 0.0

    def _new_loss(self, num_scene: int, start_from: Path | None) -> StepLoss:
        """With the weights that the run begins with."""
        parts, config = self.parts, self.config
        model = PARModel(parts.model)
        if parts.initial_weights is not None:
            model.load_state_dict(parts.initial_weights)
        if parts.finetuning is not None:
            prepare(model, parts.finetuning)
        model.to(self.device)
        if start_from is not None:
            take_weights(start_from, model)
        chunk = (parts.model.num_actions, parts.model.action_width)
        side = SideTasks(
            parts.model.transformer.width, num_scene, chunk if config.chunk_weight else None
        ).to(self.device)
        return StepLoss(model, side, config, parts.finetuning)

    def run(self, report: Callable[[Progress], None], stop_at: int | None = None) -> None:
        """Train to the end, or to step `stop_at` as a kill would, and write the checkpoint."""
        self._resume()
        self.loader = BatchLoader(
            self.sampler,
            Division(self.execution.micro_slots, self.processes.rank, self.processes.count),
            self.execution.data_workers,
            self.device.type == "cuda",
            self.pictures,
            self.step,
        )
        log = RunLog(self.folder, self.step) if self.processes.is_first else None
        self.loss = self.processes.wrap(self.step_loss, self.execution.sharded)
        try:
            with (
                stop_on_sigterm() as stop,
                self.processes.others_may_end(),
                self.loader.workers_may_die(),
            ):
                ended = self._steps(log, report, stop, stop_at)
            if ended:
                with self.processes.others_may_end():
                    self._finish(log)
        finally:
            # DistributedDataParallel ends before the process group. The other way round it ends
            # gloo's thread, and waits for it while it holds the lock (GIL) that the thread needs.
            self.loss = self.step_loss

    def _steps(
        self,
        log: RunLog | None,
        report: Callable[[Progress], None],
        stop: StopRequest,
        stop_at: int | None,
    ) -> bool:
        """Train until the end (True) or step `stop_at` (False).

        Raises:
            KeyboardInterrupt: the process was asked to stop; the state is saved.
        """
        losses: list[Tensor] = []
        started = last = time.monotonic()
        wall_before = self.wall_s
        while self.num_steps is None or self.step < self.num_steps:
            losses.append(self._train_step())
            self.step += 1
            if self.num_steps is None and self.step == _NUM_TIMED_STEPS:
                numbers(losses[-1])  # waits for the device, before its time is read
            self.wall_s = wall_before + time.monotonic() - started
            self._fix_number_of_steps()
            at_end = self.step == self.num_steps
            if self.step % self.config.log_every == 0 or at_end:
                # Here alone the device is waited for.
                seen = [numbers(one) for one in self.processes.summed(losses)]
                now = time.monotonic()
                progress = self._progress(seen, (now - last) / len(losses))
                if log is not None:
                    log.training(progress)
                    report(progress)
                losses, last = [], now
            self._at_intervals(log, at_end)
            if self.step == stop_at:
                return False
            if self.processes.any(stop.asked) and not at_end:
                self._save()
                raise KeyboardInterrupt
        return True

    def _train_step(self) -> Tensor:
        """One step; returns its losses, `loss_parts`, which are not waited for."""
        self.weights.optimizer.zero_grad(set_to_none=True)
        parts = self._backward(self.loader.next())
        self.weights.step(self.step, self._learning_rate())
        return parts

    def _backward(self, step: StepBatch) -> Tensor:
        """The gradients of a step; returns its losses."""
        total = torch.zeros(len(StepLosses._fields), device=self.device)
        for number, micro in enumerate(step.micro, 1):
            # The validation's generators have stream 1.
            generator = step_generator(self.config.seed, self.step, 2 * micro.index, self.device)
            micro, ratio = micro.to(self.device), self._mask_ratio(micro.index)
            with self.processes.adding_up(self.loss, number < len(step.micro)):
                scale = float(self.processes.count)
                loss = self.loss(micro.batch, micro.pictures, micro.share, generator, ratio, scale)
                loss.total.backward()
            total[:-1] += micro.share * loss.parts[:-1]
            total[-1:] += loss.parts[-1:]
        return total

    def _mask_ratio(self, micro_index: int) -> float | None:
        """Drawn on the host for a GPU, which would otherwise be waited for."""
        if self.device.type == "cpu":
            return None
        loss, host = self.parts.model.loss, torch.device("cpu")
        generator = step_generator(self.config.seed, self.step, 2 * micro_index, host)
        return sample_mask_ratio(loss.mask_ratio_low, loss.mask_ratio_std, generator)

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
        fitting = int(self.config.hours * 3600.0 * self.step / self.wall_s)
        self.num_steps = self.processes.of_first(max(self.step, fitting))

    def _at_intervals(self, log: RunLog | None, at_end: bool) -> None:
        """In every process; `log` in the first alone."""
        config = self.config
        if self.step % config.validate_every == 0 or at_end:
            self._validate(log)
        due = config.evaluate_every is not None and self.step % config.evaluate_every == 0
        due = due and self.step >= config.evaluate_from
        if config.num_evaluation_episodes and (due or at_end):
            self.save_checkpoint(self.queue.checkpoint_folder(self.step) / "checkpoint")
        if self.step % config.save_every == 0 or at_end:
            self._save()
            if config.num_evaluation_episodes and log is not None:
                log.closed_loop(self.queue.poll())

    def _validate(self, log: RunLog | None) -> None:
        whole, num_clips = self.weights.whole(), self.config.num_validation_clips
        if whole is None or log is None:
            return
        log.validation(self.step, self.validation.losses(*whole, self.queue.tasks, num_clips))
        self.weights.release()

    def _finish(self, log: RunLog | None) -> None:
        """In every process."""
        target = self.folder / "checkpoint"
        if not self.processes.of_first(int(self.queue.judges)):
            self.save_checkpoint(target)
            return
        if log is None:
            return
        if self.config.num_evaluation_episodes:
            log.closed_loop(self.queue.wait())
        best = self.queue.best()
        assert best is not None
        copy_checkpoint(self.queue.checkpoint_folder(best.step) / "checkpoint", target)
        self.queue.drop_all_but(best.step)

    def save_checkpoint(self, folder: Path) -> None:
        """Write the averaged weights as a checkpoint; the first process does, all must call it."""
        whole = self.weights.whole()
        if whole is None or not self.processes.is_first:
            return
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
            model=merged_model(whole[0], self.parts.model),
            codec=self.parts.codec,
            statistics=self.parts.statistics,
            instructions=self.parts.instructions,
            card=model_card(self.parts.model, training),
            training=training,
        )
        self.weights.release()

    def _save(self) -> None:
        """Store the state; the first process does, all must call it."""
        tensors = self.weights.tensors()
        values: dict[str, object] = {
            "step": self.step,
            "num_steps": self.num_steps,
            "hours": self.config.hours,
            "place": list(self.sampler.place),
            "wall_s": self.wall_s,
            "micro_slots": self.execution.micro_slots,
            "identity": self.identity,
        }
        if self.processes.is_first:
            save_state(self.folder, TrainingState(tensors, values))

    def _resume(self) -> None:
        state = load_state(self.folder)
        if state is None:
            return
        require_same_run(self.folder, state.values, self.identity, self.allow_other_data)
        require_open_length(self.folder, state.values, self.config.num_steps, self.config.hours)
        self.weights.restore(state.tensors)
        values = state.values
        assert isinstance(values["step"], int)
        assert isinstance(values["wall_s"], float)
        assert isinstance(values["place"], list)
        self.step, self.wall_s = values["step"], values["wall_s"]
        self.sampler.place = (values["place"][0], values["place"][1])
        self.sampler.require_place()
        self.execution = self.execution.going_on(values.get("micro_slots"))
        stored = values["num_steps"]
        assert stored is None or isinstance(stored, int)
        # A longer or shorter run may be asked for on the way: --steps decides.
        self.num_steps = self.config.num_steps or stored

    def _sampler(
        self,
        episodes: list[TrainingEpisode],
        shares: dict[str, float],
        num_scene: int,
        most_slots: int | None = None,
    ) -> ClipSampler:
        slots = min(self.config.clips.slots_per_batch, most_slots or 10**9)
        clips = dataclasses.replace(self.config.clips, seed=self.config.seed, slots_per_batch=slots)
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
        shown = shown_losses(losses_mean, self.side)
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
