# SPDX-License-Identifier: Apache-2.0
"""What a policy makes of its history: the error of its chunk with its own, none, a disturbed and
another episode's. A policy that copies its history errs most with another's.

Shapes: N slots of an episode; L actions; D numbers of an action; c h w of a latent; J joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from par_model.checkpoint import Checkpoint
from par_model.evaluation.episode_features import encoded_episode, whole_clip
from par_model.model import TrainingBatch
from par_model.training.clips import clip_num_slots
from par_model.training.demonstrations_on_disk import DemonstrationSet, is_held_out

HISTORIES = ("own", "none", "disturbed", "another episode's")
# Standard deviation of what disturbs a history's normalised actions.
DISTURBANCE = 1.0


@dataclass(frozen=True)
class HistoryError:
    """Mean squared error of normalised actions of a data set's held-out chunks.

    Attributes:
        data: name of the data set.
        history: one of HISTORIES.
        num_chunks: chunks that have a history.
        error: of the chunk that the policy samples.
        to_none: `error` over that without history.
    """

    data: str
    history: str
    num_chunks: int
    error: float
    to_none: float


@torch.no_grad()
def history_errors(
    checkpoint: Checkpoint,
    demonstrations: DemonstrationSet,
    max_episodes: int,
    seed: int,
    steps_after_success: int | None = 2,
) -> list[HistoryError]:
    """On held-out demonstrations; a chunk counts from the second of its episode on.

    Raises ValueError for a set with fewer than two held-out episodes, or a model without actions.
    """
    keys = [key for key in demonstrations.keys if is_held_out(key)][:max_episodes]
    if len(keys) < 2 or checkpoint.model.action_head is None:
        raise ValueError(
            f"{demonstrations.path} holds {len(keys)} held-out episodes (every 25th) of two that "
            "are needed, or the checkpoint has no actions; give more demonstrations."
        )
    config = checkpoint.config
    clips = []
    for key in keys:
        episode = encoded_episode(checkpoint, demonstrations, key, steps_after_success)
        num_slots = clip_num_slots(episode.steps.num_steps, 0, config.num_actions, config.num_slots)
        clips.append(whole_clip(checkpoint, episode, num_slots))
    squares = dict.fromkeys(HISTORIES, 0.0)
    num_numbers = num_chunks = 0
    generator = torch.Generator().manual_seed(seed)
    for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
        # Slots whose history the other episode is long enough to replace.
        last = min(clip.actions_BNLD.shape[1], other.actions_BNLD.shape[1] + 1)
        if last < 2:
            continue
        valid = clip.action_valid_BNL[0, 1:last]
        noise_NLD = torch.randn(clip.actions_BNLD[0, 1:last].shape, generator=generator)
        for history in HISTORIES:
            context_NZC = _context(checkpoint, clip, other, history, generator)[: last - 1]
            chunk_NLD = checkpoint.model.predict_actions(
                context_NZC,
                noise_NLD,
                config.sampling.action_sampler,
                config.sampling.action_num_steps,
                generator=generator,
            )
            error_NLD = (chunk_NLD - clip.actions_BNLD[0, 1:last]).square()
            squares[history] += float(error_NLD[valid].sum())
        num_numbers += int(valid.sum()) * config.action_width
        num_chunks += last - 1
    return [
        HistoryError(
            demonstrations.name,
            history,
            num_chunks,
            round(squares[history] / num_numbers, 5),
            round(squares[history] / squares["none"], 3),
        )
        for history in HISTORIES
    ]


def _context(
    checkpoint: Checkpoint,
    clip: TrainingBatch,
    other: TrainingBatch,
    history: str,
    generator: torch.Generator,
) -> Tensor:
    """Z_A of the slots from the second on: [N - 1, Z, C]."""
    if history == "none":
        return _encode(checkpoint, clip, _slots_alone(clip))[:, 0]
    if history == "another episode's":
        num_slots = min(clip.actions_BNLD.shape[1], other.actions_BNLD.shape[1] + 1)
        encoded = _encode(checkpoint, clip, _with_history_of(other, clip, num_slots))
        rows = torch.arange(num_slots - 1)
        return encoded[rows, rows + 1]
    actions = clip.context_actions_BNLD
    if history == "disturbed":
        actions = actions + DISTURBANCE * torch.randn(actions.shape, generator=generator)
    parts = (clip.latents_BNchw[:, :-1], actions, clip.proprio_BNJ[:, :-1])
    return _encode(checkpoint, clip, parts)[0, 1:]


# Latents, the actions after each slot and joints: [B, N, ...] each.
_Parts = tuple[Tensor, Tensor, Tensor]


def _slots_alone(clip: TrainingBatch) -> _Parts:
    """Each slot from the second on as an episode of its own."""
    parts = (clip.latents_BNchw[0, :-1], clip.context_actions_BNLD[0], clip.proprio_BNJ[0, :-1])
    latents, actions, proprio = (part[1:, None] for part in parts)
    return latents, actions, proprio


def _with_history_of(other: TrainingBatch, clip: TrainingBatch, num_slots: int) -> _Parts:
    """Row n: slots 0 .. n of `other`, then slot n + 1 of `clip`; what follows is not looked at."""

    def mixed(theirs: Tensor, own: Tensor) -> Tensor:
        pad = own[:num_slots].clone()
        pad[: num_slots - 1] = theirs[: num_slots - 1]
        rows = pad.unsqueeze(0).repeat(num_slots - 1, *[1] * pad.ndim)
        index = torch.arange(num_slots - 1)
        rows[index, index + 1] = own[1:num_slots]
        return rows

    return (
        mixed(other.latents_BNchw[0, :-1], clip.latents_BNchw[0, :-1]),
        mixed(other.context_actions_BNLD[0], clip.context_actions_BNLD[0]),
        mixed(other.proprio_BNJ[0, :-1], clip.proprio_BNJ[0, :-1]),
    )


def _encode(checkpoint: Checkpoint, clip: TrainingBatch, parts: _Parts) -> Tensor:
    """Z_A [B, N, Z, C]."""
    latents, actions, proprio = parts
    count = len(latents)
    before = torch.cat((torch.zeros_like(actions[:, :1]), actions[:, :-1]), dim=1)
    return (
        checkpoint.model.eval()
        .encode_clip(
            clip.text_BTC.expand(count, -1, -1),
            latents,
            before,
            proprio if checkpoint.config.proprio_width else None,
            torch.zeros(count, dtype=torch.int64),
        )
        .action_BNZC
    )


HEADER = ("data", "history", "chunks", "error", "to none")


def table_row(error: HistoryError) -> Sequence[str]:
    return (
        error.data,
        error.history,
        str(error.num_chunks),
        f"{error.error:.4f}",
        f"{error.to_none:.2f}",
    )
