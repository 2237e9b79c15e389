# SPDX-License-Identifier: Apache-2.0
"""What a policy's training needs beside its numbers, and what is made of it at the start."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from par_model.config import ModelConfig, to_values
from par_model.frame_codec import FrameCodec, codec_fingerprint
from par_model.instruction import InstructionTable
from par_model.normalization import Statistics
from par_model.training.clips import TrainingEpisode
from par_model.training.finetuning import FinetuningConfig
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.scene_pictures import (
    NUM_SCENE_NUMBERS,
    ScenePictures,
    ScenePictureSampler,
)


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


def run_identity(config: PolicyTrainingConfig, parts: PolicyParts) -> dict[str, Any]:
    """What a resumed run must agree on, as JSON values."""
    tuning = parts.finetuning
    return {
        **({} if tuning is None else {"finetuning": dataclasses.asdict(tuning)}),
        "config": config.identity(),
        "codec": codec_fingerprint(parts.codec),
        "model": to_values(parts.model),
        "statistics": parts.statistics.to_json_dict(),
        "episodes": [f"{e.task}:{e.steps.key}" for e in parts.training_episodes],
        "scenes": [pictures.name for pictures in parts.scene_pictures],
    }


def num_scene_numbers(parts: PolicyParts, config: PolicyTrainingConfig) -> int:
    """P: the most numbers that a demonstration or picture knows of its scene; 0: none are read."""
    if parts.scene_pictures:
        return NUM_SCENE_NUMBERS
    if not config.scene_weight:
        return 0
    episodes = [*parts.training_episodes, *parts.validation_episodes]
    return max((episode.steps.scene.shape[1] for episode in episodes), default=0)


def picture_sampler(parts: PolicyParts, config: PolicyTrainingConfig) -> ScenePictureSampler | None:
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


def require_held_out(episodes: list[TrainingEpisode], shares: Mapping[str, float]) -> None:
    held = {episode.task for episode in episodes}
    if lacking := sorted(task for task, share in shares.items() if share and task not in held):
        raise ValueError(
            f"no episode of {', '.join(lacking)} is held out to measure the validation loss; every "
            "25th is (keys 24, 49, ...), so record at least 25 demonstrations."
        )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on all that has two dimensions (matrices, the learned token rows), not on norms
    and biases."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
