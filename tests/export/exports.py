# SPDX-License-Identifier: Apache-2.0
"""Exports that the tests of this folder look at and break."""

import dataclasses

from par_model.config import EncoderConfig
from par_model.export.untrained import untrained_checkpoint
from par_model.presets import preset

SMALL_CODEC = dataclasses.replace(preset("par_small").codec, latent_channels=4)


def full_width_cut():
    """par_0_6b at 256 x 256 with its full width, heads, tokens and rotary embedding, but two
    layers, and a small autoencoder instead of the 239 M one."""
    config = preset("par_0_6b_p256")
    stack = EncoderConfig(width=1024, depth=2, num_heads=16, mlp_ratio=4)
    cut = dataclasses.replace(
        config, name="full_width_cut", codec=SMALL_CODEC, transformer=stack, image_encoder=stack
    )
    return untrained_checkpoint(cut)
