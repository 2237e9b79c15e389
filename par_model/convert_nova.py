# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.convert_nova FOLDER --out CHECKPOINT: NOVA's weights as a PAR checkpoint.

    python -m par_model.convert_nova nova-d48w1024-osp480 --out checkpoints/par_0_6b
    python -m par_model.convert_nova nova-d48w1024-osp480 --out nova --form nova

FOLDER is the diffusers-style folder (transformer/, scheduler/, vae/, text_encoder/, tokenizer/).
With --form par (the default) the action tokenizer, the Begin-Of-Action rows and the Action-DiT are
new: fine-tune before use. With --form nova the checkpoint stays the video model.

What the paper leaves open is decided here and stays with the checkpoint: how many slots the context
has (51 hold 400 env steps), what happens when they are full, and whether observations are single
pictures or tiles of five. --ablation makes one of the paper's ablations.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from tyro.conf import Positional, UseAppendAction, arg

from par_model.checkpoint import require_replaceable, save_checkpoint
from par_model.command_line import default_is, one_of, output_folder, parse
from par_model.config import ModelConfig, ObservationMode, OverflowMode
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable, empty_table, phi_table
from par_model.model import PARModel
from par_model.normalization import Statistics
from par_model.nova_config import RESOLUTIONS, model_config, shift_factor
from par_model.nova_weights import (
    Conversion,
    dropped_names,
    load_nova_transformer,
    load_nova_vae,
)
from par_model.presets import ABLATIONS, predicting_noise
from par_model.simulation.tasks import TASKS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PANDA_JOINTS = (*(f"panda_joint{index}" for index in range(1, 8)), "panda_finger_joint1")


@dataclass(frozen=True)
class ConvertOptions:
    """The command line."""

    # NOVA's folder
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    # checkpoint folder to write
    out: Annotated[Path, output_folder("CHECKPOINT")]
    # a policy, or the video model
    form: Literal["par", "nova"] = "par"
    # resolution that the weights are converted for
    resolution: Annotated[
        str | None, one_of(sorted(RESOLUTIONS)), default_is("the folder's own")
    ] = None
    # slots of the context
    num_slots: Annotated[int | None, default_is("16 of par, 9 of nova")] = None
    # what happens when the slots are full
    overflow: Annotated[OverflowMode | None, default_is("rebase")] = None
    # single pictures, or tiles of five; training and use are bound to it
    observation_mode: Annotated[ObservationMode | None, default_is("image")] = None
    # without the transformer, or without the diffusion heads
    ablation: Annotated[str | None, one_of(sorted(ABLATIONS)), default_is("none")] = None
    # what the Action-DiT learns to predict; noise: the paper's, in 100 sampling steps (at least 10)
    action_prediction: Literal["v", "noise"] = "v"
    # autoencoder's folder
    vae: Annotated[Path | None, arg(metavar="DIR"), default_is("FOLDER/vae")] = None
    # instruction to embed and store, repeatable; without one: all tasks'
    instruction: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    # of the stored weights
    dtype: Annotated[str, one_of(sorted(_DTYPES))] = "float32"
    # of the new parts' initial values
    seed: int = 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(ConvertOptions, "python -m par_model.convert_nova", __doc__, arguments)
    try:
        _convert(options)
    except ValueError as error:
        print(f"par_model.convert_nova: {error}", file=sys.stderr)
        return 1
    return 0


def _convert(options: ConvertOptions) -> None:
    folder = options.folder
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that holds transformer/.")
    require_replaceable(options.out)
    vae_folder = options.vae or folder / "vae"
    config = _chosen(model_config(folder, vae_folder, options.form, options.resolution), options)
    torch.manual_seed(options.seed)
    model = PARModel(config)
    conversion = load_nova_transformer(folder, model, config)
    codec = FrameCodec(config.codec)
    load_nova_vae(vae_folder, codec.network)
    codec.latent_mean_C.fill_(shift_factor(vae_folder))
    instructions = _instructions(options, config, model)
    save_checkpoint(
        options.out,
        config=config,
        model=model,
        codec=codec,
        statistics=placeholder_statistics(config),
        instructions=instructions,
        card=_card(config, conversion, instructions),
        training={
            "converted_from": folder.resolve().name,
            "form": options.form,
            "training_preset": "par_0_6b",
            "seed_of_new_parts": options.seed,
            "new": list(conversion.new),
            "dropped": list(conversion.dropped),
        },
        dtype=_DTYPES[options.dtype],
    )
    print(report(conversion, model, config))
    print(f"{options.out}: {config.name}, instructions known: {len(instructions.texts)}")


def _chosen(config: ModelConfig, options: ConvertOptions) -> ModelConfig:
    """The configuration with what the options decide.

    Raises:
        ValueError: an option that the video model has no use for, or numbers that do not fit.
    """
    changes = {
        "num_slots": options.num_slots,
        "overflow": options.overflow,
        "observation_mode": options.observation_mode,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    predicts_noise = options.action_prediction == "noise"
    of_policy = set(changes) - {"num_slots"} or options.ablation or predicts_noise
    if options.form == "nova" and of_policy:
        raise ValueError(
            "--overflow, --observation-mode, --ablation and --action-prediction concern the "
            "policy; leave them out with --form nova."
        )
    if predicts_noise:
        config = predicting_noise(config)
    if options.ablation:
        config = ABLATIONS[options.ablation](config)
    config = dataclasses.replace(config, **changes)
    sampling = dataclasses.replace(config.sampling, context_slots=config.num_slots)
    config = dataclasses.replace(config, sampling=sampling)
    config.validate()
    return config


def report(conversion: Conversion, model: PARModel, config: ModelConfig) -> str:
    """Report the conversion of every tensor, line by line."""
    state, reasons = model.state_dict(), dropped_names(config)
    lines = [f"used: {len(conversion.used)} tensors of NOVA"]
    lines += [f"new: {name} {list(state[name].shape)}" for name in conversion.new]
    for name in conversion.dropped:
        reason = next(why for start, why in reasons.items() if name.startswith(start))
        lines.append(f"dropped: {name} ({reason})")
    return "\n".join(lines)


def placeholder_statistics(config: ModelConfig) -> Statistics:
    """Statistics that change nothing, until fine-tuning fits real ones."""
    shape = (max(1, config.num_actions), len(_PANDA_JOINTS))
    return Statistics(
        arm="panda",
        joint_names=_PANDA_JOINTS,
        action_frame=config.action_frame,
        action_low=-np.ones(shape),
        action_high=np.ones(shape),
        gripper_range=np.array([-1.0, 1.0]),
        joint_mean=np.zeros(len(_PANDA_JOINTS)),
        joint_deviation=np.ones(len(_PANDA_JOINTS)),
    )


def _instructions(
    options: ConvertOptions, config: ModelConfig, model: PARModel
) -> InstructionTable:
    """Embeddings by the folder's text encoder; none where the folder has none and none were
    asked for."""
    texts = tuple(options.instruction or (task.instruction for task in TASKS.values()))
    if not options.instruction and not (options.folder / "text_encoder").is_dir():
        print("no text_encoder/ in the folder: the checkpoint knows no instruction yet.")
        return empty_table(config.num_text_tokens, config.text_width)
    padding = model.tokenizer.text_padding
    return phi_table(texts, options.folder, padding, config.num_text_tokens)


def _card(config: ModelConfig, conversion: Conversion, instructions: InstructionTable) -> str:
    if conversion.new:
        state = (
            "The action parts are NOT trained and the statistics are placeholders: fine-tune first "
            "(`python -m par_model.train`)."
        )
    else:
        state = "The video model itself, for `python -m par_model.video_generation`."
    known = "\n".join(f"- {text}" for text in instructions.texts) or "- none"
    return (
        f"# {config.name}\n\nConverted from NOVA's weights (Apache-2.0). {state}\n\n"
        f"{len(conversion.used)} tensors used, {len(conversion.new)} new, "
        f"{len(conversion.dropped)} dropped; the names are in training.json.\n\n"
        f"Instructions whose embeddings are stored:\n{known}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
