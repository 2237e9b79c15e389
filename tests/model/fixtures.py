# SPDX-License-Identifier: Apache-2.0
"""Random weights, clips and observations of the real shapes."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from par_model.frame_codec import FrameCodec
from par_model.instruction import code_table
from par_model.interface import Observation
from par_model.model import PARModel
from par_model.normalization import Statistics
from par_model.presets import preset

JOINT_NAMES = (*(f"panda_joint{i}" for i in range(1, 8)), "panda_finger_joint1")
INSTRUCTIONS = ("push the cube", "pick the cube")


def random_model(config, seed=0):
    """Every parameter drawn, so that zero-initialised gates cannot hide an error."""
    torch.manual_seed(seed)
    model = PARModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else 0.15)
    return model


def random_checkpoint_parts(name, **changes):
    config = dataclasses.replace(preset(name), **changes)
    # random weights sample up to the clip range, and no arm should be thrown about by them
    clipped = dataclasses.replace(config.action_diffusion, clip_range=1.5)
    config = dataclasses.replace(config, action_diffusion=clipped)
    shape = (config.horizon, config.action_width)
    return {
        "config": config,
        "model": random_model(config),
        "codec": FrameCodec(config.codec),
        "statistics": Statistics(
            arm="panda",
            joint_names=JOINT_NAMES,
            action_frame=config.action_frame,
            action_low=np.full(shape, -0.2),
            action_high=np.full(shape, 0.3),
            gripper_range=np.array([-0.2, 0.3]),
            joint_mean=np.linspace(-0.5, 0.5, 8),
            joint_deviation=np.full(8, 0.4),
        ),
        "instructions": code_table(INSTRUCTIONS, config.num_text_tokens, config.text_width),
        "card": "# random weights\n",
        "training": {"seed": 0},
    }


@dataclass(frozen=True)
class Clip:
    text: Tensor
    latents: Tensor
    actions: Tensor
    proprio: Tensor


def forget_absolute_times(model: PARModel) -> None:
    """The slots' time embedding is 0: only the rotation knows of time."""
    for parameter in model.tokenizer.time_embed.parameters():
        torch.nn.init.zeros_(parameter)


def random_clip(config, num_slots, seed=0, batch_size=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(batch_size, *shape, generator=generator, dtype=dtype)

    latent = (config.codec.latent_channels, config.latent_height, config.latent_width)
    return Clip(
        draw(config.num_text_tokens, config.text_width),
        draw(num_slots, *latent),
        draw(num_slots, config.num_actions, config.action_width),
        draw(num_slots, config.proprio_width),
    )


def random_observation(rng, spec, stamp_s, executed_actions=None):
    return Observation(
        image=rng.integers(0, 256, spec.picture_shape, dtype=np.uint8),
        views=spec.views,
        measured_joint_positions=rng.normal(size=8),
        joint_names=spec.joint_names,
        stamp_s=stamp_s,
        executed_actions=executed_actions,
    )
