# SPDX-License-Identifier: Apache-2.0
"""Reads where things lie from the policy's context: a second task while the policy is trained.

The action loss alone teaches a net trained from scratch slowly where a cube is; NOVA's weights
would have brought such knowledge along. Simulated demonstrations know it. The head is no part of
the policy: no checkpoint holds it, and demonstrations without a scene are learnt from as before.

Shape letters: B batch, N slots, L actions, P numbers of a scene, C width, Z context tokens.
"""

from torch import Tensor, nn

from par_model.layers import SiluMlp
from par_model.model import Context, TrainingBatch

# Metres that count as 1.
_SCALE_M = 0.1


class SceneHead(nn.Module):
    """Z_A of a slot to the positions [P] at the slot's frame, in units of 0.1 m."""

    def __init__(self, width: int, num_numbers: int) -> None:
        super().__init__()
        self.mlp = SiluMlp(width, width, num_numbers)

    def forward(self, context: Context) -> Tensor:
        """Returns [B, N, P]."""
        return self.mlp(context.action_BNZC.mean(dim=2))

    def loss(self, context: Context, batch: TrainingBatch) -> Tensor:
        """Mean absolute error over all known numbers, in units of 0.1 m; 0-d."""
        target_BNP = batch.scene_BNP / _SCALE_M
        known_BNP = batch.action_valid_BNL.any(dim=-1, keepdim=True) & ~target_BNP.isnan()
        error_BNP = (self(context) - target_BNP.nan_to_num()).abs() * known_BNP
        return error_BNP.sum() / known_BNP.sum().clamp(min=1)


def error_mm(scene_loss: float) -> float:
    """`SceneHead.loss` as a mean error along one axis, in millimetres."""
    return scene_loss * _SCALE_M * 1000.0
