# SPDX-License-Identifier: Apache-2.0
"""What a run takes over from the checkpoint that it starts from: weights, codec, instructions."""

import dataclasses
from pathlib import Path

import torch

from par_model.checkpoint import load_checkpoint
from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable, code_table
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


def require_same_codec(checkpoint: Path, own: FrameCodec, other: FrameCodec) -> None:
    """Raise ValueError where the checkpoint's codec makes other latents than `own`, rounded or not,
    which its weights do not know. What decodes them may differ."""
    ours, theirs = own.encoding_state(), other.encoding_state()
    if ours.keys() != theirs.keys() or not all(
        torch.equal(ours[name].bfloat16(), theirs[name].bfloat16()) for name in ours
    ):
        raise ValueError(
            f"the checkpoint {checkpoint} has another codec than --codec, so its weights know "
            f"other latents; give --codec {checkpoint}, and encode the latents with it."
        )


def grown_table(
    own: InstructionTable, needed: tuple[str, ...], checkpoint: Path, known: InstructionTable
) -> InstructionTable:
    """The checkpoint's instructions, and those of `own` that it does not know; of a text encoder's
    the checkpoint's alone.

    Raises ValueError for a `needed` one that such a checkpoint does not know.
    """
    new = tuple(text for text in own.texts if text not in known.texts)
    if not new:
        return known
    _, num_tokens, width = known.embeddings_ITC.shape
    codes = code_table((*known.texts, *new), num_tokens, width).embeddings_ITC
    if not torch.equal(codes[: len(known.texts)].bfloat16(), known.embeddings_ITC.bfloat16()):
        if lacking := [text for text in needed if text not in known.texts]:
            raise ValueError(
                f"instruction {lacking[0]!r} of the data is unknown to {checkpoint}, whose "
                "embeddings are a text encoder's; convert NOVA's weights with --instruction for "
                "each sentence."
            )
        return known
    rows = torch.cat((known.embeddings_ITC, codes[len(known.texts) :]))
    return InstructionTable((*known.texts, *new), rows)


def _sampled_alike(config: ModelConfig, like: ModelConfig) -> ModelConfig:
    """`config` with the name of `like` and its numbers that shape no weight."""
    return dataclasses.replace(
        config,
        name=like.name,
        sampling=like.sampling,
        loss=like.loss,
        action_diffusion=like.action_diffusion,
        frame_diffusion=like.frame_diffusion,
        max_delay_steps=config.max_delay_steps or like.max_delay_steps,
        views=like.views if config.num_views == 1 else config.views,
        depth_views=like.depth_views if config.num_views == 1 else config.depth_views,
    )
