# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with random weights: for sizes, engines and times of an untrained preset."""

import hashlib

import numpy as np
import torch
from torch import nn

from par_model.action_head import ActionDit
from par_model.checkpoint import Checkpoint
from par_model.config import ModelConfig, to_json
from par_model.frame_codec import FrameCodec
from par_model.instruction import code_table
from par_model.model import PARModel
from par_model.normalization import Statistics

_JOINTS = (*(f"panda_joint{number}" for number in range(1, 8)), "panda_finger_joint1")


def untrained_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Random float32 weights from `seed`. What training starts at zero (the Action-DiT's gates and
    head) is random too, so that no output is trivially zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, codec = PARModel(config), FrameCodec(config.codec)
        if isinstance(model.action_head, ActionDit):
            zeroed = [block.modulation for block in model.action_head.blocks]
            for layer in (*zeroed, model.action_head.last_modulation, model.action_head.head):
                nn.init.normal_(layer.weight, std=0.02)
    chunk = (config.horizon, len(_JOINTS))
    statistics = Statistics(
        arm="panda",
        joint_names=_JOINTS,
        action_frame=config.action_frame,
        action_low=-np.ones(chunk),
        action_high=np.ones(chunk),
        gripper_range=np.array([-1.0, 1.0]),
        joint_mean=np.zeros(len(_JOINTS)),
        joint_deviation=np.ones(len(_JOINTS)),
    )
    return Checkpoint(
        config=config,
        model=model.eval().requires_grad_(False),
        codec=codec.eval().requires_grad_(False),
        statistics=statistics,
        instructions=code_table(
            ("an untrained policy",), config.num_text_tokens, config.text_width
        ),
        training={"untrained_seed": seed},
    )


def untrained_sha256(config: ModelConfig, seed: int = 0) -> str:
    """Stands for a checkpoint's hash: the configuration, the seed and the torch that drew."""
    text = f"untrained {seed} {torch.__version__} {to_json(config)}"
    return hashlib.sha256(text.encode()).hexdigest()
