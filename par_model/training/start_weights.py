# SPDX-License-Identifier: Apache-2.0
"""The weights of a checkpoint as the first ones of a run."""

import dataclasses
from pathlib import Path

from par_model.checkpoint import load_checkpoint
from par_model.config import ModelConfig
from par_model.model import PARModel


def take_weights(checkpoint: Path, model: PARModel) -> None:
    """Copy a checkpoint's weights into `model`, which may have a largest delay, and more views than
    one, where the checkpoint has not. Raises ValueError if they are of another model."""
    other = load_checkpoint(checkpoint)
    if _sampled_alike(other.config, model.config) != model.config:
        raise ValueError(
            f"the checkpoint {checkpoint} is of a model of another size ({other.config.name}) "
            f"than {model.config.name}; start from one of the same preset."
        )
    # What they add keeps its first values: a largest delay changes nothing without a prefix, and a
    # view's vector is small.
    grows = (
        model.config.max_delay_steps > other.config.max_delay_steps
        or model.config.num_views > other.config.num_views
    )
    own = model.state_dict() if grows else {}
    model.load_state_dict(own | other.model.state_dict())


def _sampled_alike(config: ModelConfig, like: ModelConfig) -> ModelConfig:
    """`config` with the name of `like` and its numbers that shape no weight."""
    return dataclasses.replace(
        config,
        name=like.name,
        sampling=like.sampling,
        loss=like.loss,
        action_diffusion=like.action_diffusion,
        max_delay_steps=config.max_delay_steps or like.max_delay_steps,
        views=like.views if config.num_views == 1 else config.views,
        depth_views=like.depth_views if config.num_views == 1 else config.depth_views,
    )
