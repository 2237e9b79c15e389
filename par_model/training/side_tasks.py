# SPDX-License-Identifier: Apache-2.0
"""Second tasks while a policy is trained: read the scene and the chunk straight from its context.

The diffusion loss alone teaches a net trained from scratch slowly where a cube is and what to do
about it; NOVA's weights would have brought such knowledge along. Simulated demonstrations know
where things lie, every demonstration knows the chunk. The heads are no part of the policy: no
checkpoint holds them, and demonstrations without a scene are learnt from as before.

Shape letters: B batch, N slots, L actions, D numbers of an action, P numbers of a scene, C width.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from par_model.layers import SiluMlp
from par_model.model import Context, TrainingBatch

# Metres that count as 1.
_SCALE_M = 0.1
# Below this error a chunk's loss is quadratic; normalised actions have unit variance.
_CHUNK_BETA = 0.1


@dataclass(frozen=True)
class SideLosses:
    """0-d each; 0 where the task is not learnt."""

    scene: Tensor
    chunk: Tensor


class SideTasks(nn.Module):
    """Reads Z_A's mean of a slot: the scene (P numbers, 0: not at all) and the chunk [L, D]."""

    def __init__(self, width: int, num_scene: int, chunk: tuple[int, int] | None) -> None:
        super().__init__()
        self.scene = SiluMlp(width, width, num_scene) if num_scene else None
        self.chunk = SiluMlp(width, 2 * width, chunk[0] * chunk[1]) if chunk else None

    def scene_loss(self, context: Context, batch: TrainingBatch) -> Tensor:
        """0-d; that of `losses` alone."""
        assert self.scene is not None
        return _scene_loss(self.scene(context.action_BNZC.mean(dim=2)), batch)

    def losses(self, context: Context, batch: TrainingBatch) -> SideLosses:
        summary_BNC = context.action_BNZC.mean(dim=2)
        none = summary_BNC.new_zeros(())
        return SideLosses(
            scene=none if self.scene is None else _scene_loss(self.scene(summary_BNC), batch),
            chunk=none if self.chunk is None else _chunk_loss(self.chunk(summary_BNC), batch),
        )


def scene_error_mm(loss: float) -> float:
    """`SideLosses.scene` as a mean error along one axis, in millimetres."""
    return loss * _SCALE_M * 1000.0


def _scene_loss(read_BNP: Tensor, batch: TrainingBatch) -> Tensor:
    """Mean absolute error over all known numbers, in units of 0.1 m."""
    target_BNP = batch.scene_BNP / _SCALE_M
    known_BNP = ~target_BNP.isnan()
    error_BNP = (read_BNP - target_BNP.nan_to_num()).abs() * known_BNP
    return error_BNP.sum() / known_BNP.sum().clamp(min=1)


def _chunk_loss(read_BNM: Tensor, batch: TrainingBatch) -> Tensor:
    """Smooth absolute error over all valid actions of the slot, normalised."""
    num_actions = read_BNM.shape[-1] // batch.actions_BNLD.shape[-1]
    target_BNLD = batch.actions_BNLD[:, :, :num_actions]
    error_BNL = functional.smooth_l1_loss(
        read_BNM.view_as(target_BNLD), target_BNLD, reduction="none", beta=_CHUNK_BETA
    ).mean(dim=-1)
    valid_BNL = batch.action_valid_BNL[:, :, :num_actions]
    return (error_BNL * valid_BNL).sum() / valid_BNL.sum().clamp(min=1)
