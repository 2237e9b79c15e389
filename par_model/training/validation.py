# SPDX-License-Identifier: Apache-2.0
"""Losses on held-out episodes and held-out rendered scenes."""

import numpy as np
import torch

from par_model.model import PARModel
from par_model.training.clips import ClipPlan, ClipSampler, single_slots, whole_episodes
from par_model.training.scene_pictures import ScenePictureSampler
from par_model.training.side_tasks import SideTasks, scene_error_mm
from par_model.training.training_state import step_generator
from par_model.training.training_step import (
    StepLosses,
    loss_parts,
    numbers,
    picture_loss,
    policy_losses,
)

_VALIDATION_SEED = 1
_NUM_HELD_OUT_PICTURES = 500


class Validation:
    """Always the same clips and the same random numbers."""

    def __init__(
        self,
        sampler: ClipSampler,
        pictures: ScenePictureSampler | None,
        device: torch.device,
    ) -> None:
        self._sampler, self._pictures, self._device = sampler, pictures, device

    @torch.no_grad()
    def losses(
        self, model: PARModel, side: SideTasks, tasks: list[str], num_clips: int
    ) -> dict[str, dict[str, float]]:
        """By task and name, on `num_clips` clips at most; the side tasks are read by their heads
        as they are.

        "PickCube" has its history and "PickCube/single" one observation a chunk: what an expert's
        history gives away, and what the policy sees.
        """
        results = {}
        for task in tasks:
            for name, batches in (
                (task, whole_episodes(self._sampler, task, num_clips)),
                (f"{task}/single", single_slots(self._sampler, task, num_clips)),
            ):
                if batches:
                    results[name] = shown_losses(self._mean_losses(model, side, batches), side)
        return results | self._picture_errors(model, side)

    def _picture_errors(self, model: PARModel, side: SideTasks) -> dict[str, dict[str, float]]:
        """On scenes that are never drawn."""
        results = {}
        for index, pictures in enumerate(self._pictures.sets if self._pictures else ()):
            batch = self._pictures.held_out_batch(index, _NUM_HELD_OUT_PICTURES)
            loss = picture_loss(model, side, batch.to(self._device))
            results[f"{pictures.task}/pictures"] = {"picture_mm": scene_error_mm(float(loss))}
        return results

    def _mean_losses(
        self, model: PARModel, side: SideTasks, batches: list[list[ClipPlan]]
    ) -> StepLosses:
        """Weighted by valid actions."""
        total, count = np.zeros(len(StepLosses._fields)), 0
        for index, plans in enumerate(batches):
            clips = self._sampler.cut(plans, np.random.default_rng(_VALIDATION_SEED))
            batch = clips.to(self._device)
            # The training's generators have even streams.
            generator = step_generator(_VALIDATION_SEED, index, 1, self._device)
            weight = int(batch.action_valid_BNL.sum())
            both = policy_losses(model, side, batch, generator)
            losses = numbers(loss_parts(*both, both[0].total.new_zeros(())))
            total += weight * np.array(losses)
            count += weight
        return StepLosses(*(total / count).tolist())


def shown_losses(losses: StepLosses, side: SideTasks) -> dict[str, float]:
    """Loss by its name in the log, without the losses that are switched off."""
    shown = {"frame_loss": losses.frame, "action_loss": losses.action}
    if side.scene is not None:
        shown["scene_mm"] = scene_error_mm(losses.scene)
    if side.chunk is not None:
        shown["chunk_loss"] = losses.chunk
    return shown
