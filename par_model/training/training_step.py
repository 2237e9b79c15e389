# SPDX-License-Identifier: Apache-2.0
"""The loss of one training step, micro-batch by micro-batch: what is differentiated.

Nothing here waits for the device: the rows of valid actions and frames are found on the host
(`TrainingBatch.with_rows`), the share of masked tokens is drawn there, and losses stay tensors.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from par_model.model import Losses, PARModel, TrainingBatch
from par_model.training.finetuning import FinetuningConfig, with_dropped_text
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.side_tasks import SideLosses, SideTasks


class StepLosses(NamedTuple):
    """Plain numbers of one step."""

    frame: float
    action: float
    scene: float
    chunk: float
    picture: float


class MicroLoss(NamedTuple):
    """Of one micro-batch, 0-d: what is differentiated, and its parts (those of StepLosses [5])."""

    total: Tensor
    parts: Tensor


def numbers(parts: Tensor) -> StepLosses:
    """Reads the parts from the device, which waits for it."""
    return StepLosses(*parts.tolist())


def loss_parts(losses: Losses, side: SideLosses, picture: Tensor) -> Tensor:
    """float32 [5], in the order of StepLosses."""
    parts = (losses.frame, losses.action, side.scene, side.chunk, picture)
    return torch.stack([part.detach().float() for part in parts])


def policy_losses(
    model: PARModel,
    side: SideTasks,
    batch: TrainingBatch,
    generator: torch.Generator,
    checkpoint_gradients: bool = False,
    mask_ratio: float | None = None,
) -> tuple[Losses, SideLosses]:
    """Eq. 11 and the side tasks."""
    context = model.training_context(batch, checkpoint_gradients)
    losses = model.context_loss(context, batch, generator, checkpoint_gradients, mask_ratio)
    return losses, side.losses(context, batch)


def picture_loss(model: PARModel, side: SideTasks, batch: TrainingBatch) -> Tensor:
    """Positions of rendered scenes, read as the side task reads a demonstration's."""
    return side.scene_loss(model.training_context(batch), batch)


class StepLoss(nn.Module):
    """The weighted loss of a micro-batch; a module, so that it can be wrapped for several GPUs."""

    def __init__(
        self,
        model: PARModel,
        side: SideTasks,
        config: PolicyTrainingConfig,
        finetuning: FinetuningConfig | None,
    ) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.config, self._finetuning = config, finetuning
        if config.trained == "next_picture":
            model.requires_grad_(False)
            for part in model.drawing_parts():
                part.requires_grad_(True)
        # Whether a weight cast to bfloat16 is kept to the end of the forward pass.
        self.keeps_casts = True

    def forward(
        self,
        batch: TrainingBatch,
        pictures: TrainingBatch | None,
        share: float,
        generator: torch.Generator,
        mask_ratio: float | None = None,
        scale: float = 1.0,
    ) -> MicroLoss:
        """
        Args:
            pictures: rendered scenes, which count in full beside the micro-batch.
            share: the micro-batch's part of its step; 1 where it is the whole.
            mask_ratio: masked share of the frames' tokens; None: drawn from `generator`.
            scale: of all that is differentiated; several processes average their gradients.
        """
        config, tuning = self.config, self._finetuning
        if tuning is not None:
            batch = with_dropped_text(batch, self.model, tuning.text_dropout, generator)
        recompute = tuning is not None and tuning.checkpoint_gradients
        device = batch.text_BTC.device.type
        half = device == "cuda" or (tuning is not None and tuning.bf16)
        keeps = self.keeps_casts
        if config.trained == "next_picture":
            return self._picture_alone(batch, share, generator, mask_ratio, scale, half)
        with torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=keeps):
            losses, side = policy_losses(
                self.model, self.side, batch, generator, recompute, mask_ratio
            )
            picture = losses.total.new_zeros(())
            if pictures is not None:
                picture = picture_loss(self.model, self.side, pictures)
        weighted = share * (config.scene_weight * side.scene + config.chunk_weight * side.chunk)
        weighted = weighted + config.picture_weight * picture
        parts = loss_parts(losses, side, picture)
        return MicroLoss(scale * (share * losses.total + weighted), parts)

    def _picture_alone(
        self,
        batch: TrainingBatch,
        share: float,
        generator: torch.Generator,
        mask_ratio: float | None,
        scale: float,
        half: bool,
    ) -> MicroLoss:
        """L_obs alone; what it is computed from rests."""
        with torch.autocast(batch.text_BTC.device.type, torch.bfloat16, enabled=half):
            with torch.no_grad():
                context = self.model.training_context(batch)
            rows_M = (batch if batch.frame_rows_M is not None else batch.with_rows()).frame_rows_M
            assert rows_M is not None
            frame = self.model.frame_head.loss(
                context.frame_BNKC, batch.latents_BNchw[:, 1:], rows_M, generator,
                mask_ratio=mask_ratio,
            )  # fmt: skip
        none = frame.new_zeros(())
        parts = loss_parts(Losses(frame, frame, none), SideLosses(none, none), none)
        return MicroLoss(scale * share * frame, parts)
