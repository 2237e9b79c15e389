# SPDX-License-Identifier: Apache-2.0
"""NOVA's tensors to ours, name by name.

Every tensor of a file is used, dropped by name (`DROPPED`), or refused with its name; every tensor
of ours is filled from the file or listed as new (`NEW`). Names: those of NOVA d48w1024-osp480.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import nn

from par_model.config import ModelConfig
from par_model.nova_files import TensorFiles, transformer_folder

# NOVA's name (or its beginning, where it ends in a dot) to ours.
NAMES: tuple[tuple[str, str], ...] = (
    ("video_encoder.patch_embed.proj.", "tokenizer.frame_embed."),
    ("video_encoder.blocks.", "transformer.blocks."),
    ("video_encoder.norm.", "transformer.norm."),
    ("video_encoder.mixer.", "mixer."),
    ("image_encoder.patch_embed.proj.", "image_encoder.embed."),
    ("image_encoder.blocks.", "image_encoder.blocks."),
    ("image_encoder.norm.", "image_encoder.norm."),
    ("image_decoder.patch_embed.proj.", "frame_decoder.embed."),
    ("image_decoder.time_cond_embed.timestep_proj.", "frame_decoder.timestep_proj."),
    ("image_decoder.time_cond_embed.condition_proj.", "frame_decoder.condition_proj."),
    ("image_decoder.blocks.", "frame_decoder.blocks."),
    ("image_decoder.norm.", "frame_decoder.norm."),
    ("image_decoder.head.", "frame_decoder.head."),
    ("mask_embed.bos_token", "tokenizer.begin_of_video"),
    ("mask_embed.mask_token", "image_encoder.mask_token"),
    ("text_embed.weight", "tokenizer.text_padding"),
    ("text_embed.proj.", "tokenizer.text_proj."),
    ("text_embed.norm.", "tokenizer.text_norm."),
    ("video_pos_embed.time_proj.0.", "tokenizer.time_embed.proj.fc1."),
    ("video_pos_embed.time_proj.2.", "tokenizer.time_embed.proj.fc2."),
    ("video_pos_embed.norm.", "tokenizer.time_embed.norm."),
    ("motion_embed.flow_proj.0.", "tokenizer.motion_embed.flow_proj.fc1."),
    ("motion_embed.flow_proj.2.", "tokenizer.motion_embed.flow_proj.fc2."),
    ("motion_embed.fps_proj.0.", "tokenizer.motion_embed.fps_proj.fc1."),
    ("motion_embed.fps_proj.2.", "tokenizer.motion_embed.fps_proj.fc2."),
)
# NOVA's motion tokens (flow, fps): absent from the paper's context; the video model keeps them.
DROPPED = ("motion_embed.",)
# What PAR adds to NOVA; the last is PAR-Discrete's, in place of the diffusion MLP.
NEW = (
    "tokenizer.action_embed.",
    "tokenizer.begin_of_action",
    "tokenizer.proprio_embed.",
    "action_head.",
    "frame_decoder.mlp.",
)
# Convolutions over whole patches there, matrices over patch values (dy, dx, channel) here.
_PATCH_MATRICES = ("image_encoder.embed.weight", "frame_decoder.embed.weight")


@dataclass(frozen=True)
class Conversion:
    """The result of the conversion, tensor by tensor.

    Attributes:
        used: NOVA's names, in the table's order.
        new: our names that NOVA does not have; they keep their initial values.
        dropped: NOVA's names that PAR does not have.
    """

    used: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def our_name(nova_name: str) -> str | None:
    """Our name of a NOVA tensor; None if the table does not know it."""
    for theirs, ours in NAMES:
        if nova_name == theirs or (theirs.endswith(".") and nova_name.startswith(theirs)):
            return ours + nova_name[len(theirs) :]
    return None


def nova_name(name: str) -> str | None:
    """NOVA's name of one of our tensors; None if NOVA does not have it."""
    for theirs, ours in NAMES:
        if name == ours or (ours.endswith(".") and name.startswith(ours)):
            return theirs + name[len(ours) :]
    return None


def nova_shapes(model: nn.Module, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that NOVA's file must hold for `model`, dropped ones left out."""
    shapes = {}
    for name, value in model.state_dict().items():
        theirs = nova_name(name)
        if theirs is None:
            continue
        shape = tuple(value.shape)
        if name in _PATCH_MATRICES:
            channels, patch = config.codec.latent_channels, config.image_patch
            shape = (shape[0], channels, patch, patch)
        shapes[theirs] = shape
    return shapes


def dropped_names(config: ModelConfig) -> dict[str, str]:
    """Beginnings of the NOVA names that a model of `config` has no place for, and why."""
    reasons = {} if config.motion_tokens else dict.fromkeys(DROPPED, "PAR has no motion tokens")
    if not config.autoregressive:
        blocks = ("video_encoder.blocks.", "video_encoder.norm.")
        reasons |= dict.fromkeys(blocks, "PAR-NoAR has no transformer")
    if config.frame_head == "regression":
        reasons["image_decoder."] = "PAR-Discrete regresses frames"
    return reasons


@torch.no_grad()
def load_nova_transformer(folder: Path, model: nn.Module, config: ModelConfig) -> Conversion:
    """Copy the weights in `folder`/transformer into a PARModel of `config`.

    Raises:
        ValueError: no weights, a file that cannot be read, a tensor missing, unknown or of another
            shape. The sentence names it.
    """
    tensors = TensorFiles(transformer_folder(folder))
    expected = nova_shapes(model, config)
    unused = tuple(dropped_names(config))
    dropped = tuple(sorted(name for name in tensors.shapes if name.startswith(unused)))
    _require_names(tensors, set(expected), set(dropped), "transformer")
    for name, shape in expected.items():
        _require_shape(tensors, name, shape)
    own = model.state_dict()
    new = tuple(name for name in own if nova_name(name) is None)
    assert all(name.startswith(NEW) for name in new), new
    for name, value in tensors.read(set(expected)):
        target = our_name(name)
        assert target is not None
        if target in _PATCH_MATRICES:
            value = rearrange(value, "o c p q -> o (p q c)")
        own[target].copy_(value)
    return Conversion(tuple(expected), new, dropped)


@torch.no_grad()
def load_nova_vae(folder: Path, network: nn.Module) -> None:
    """Copy the weights in a vae folder into an OpenSoraVae.

    Raises:
        ValueError: as `load_nova_transformer`.
    """
    tensors = TensorFiles(folder)
    own = network.state_dict()
    _require_names(tensors, set(own), set(), "vae")
    for name, value in own.items():
        _require_shape(tensors, name, tuple(value.shape))
    for name, value in tensors.read(set(own)):
        own[name].copy_(value)


def _require_names(tensors: TensorFiles, expected: set[str], dropped: set[str], what: str) -> None:
    found = set(tensors.shapes)
    if missing := sorted(expected - found):
        raise ValueError(
            f"{tensors.folder} lacks the tensor {missing[0]} ({len(missing)} of {len(expected)} "
            f"are missing); its config.json and weights belong to different models, or this is no "
            f"NOVA {what}."
        )
    if unknown := sorted(found - expected - dropped):
        raise ValueError(
            f"{tensors.folder} has the tensor {unknown[0]}, which NOVA's {what} does not have "
            f"({len(unknown)} such); unknown tensors are refused. Check config.json."
        )


def _require_shape(tensors: TensorFiles, name: str, shape: tuple[int, ...]) -> None:
    if tensors.shapes[name] != shape:
        raise ValueError(
            f"{tensors.folder}: tensor {name} must have shape {list(shape)}, got "
            f"{list(tensors.shapes[name])}; its config.json and weights belong to different models."
        )
