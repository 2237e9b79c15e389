# SPDX-License-Identifier: Apache-2.0
"""python -m par_model.convert_nova FOLDER --out CHECKPOINT: NOVA's weights as a PAR checkpoint.

    python -m par_model.convert_nova nova-d48w1024-osp480 --out checkpoints/par_0_6b
    python -m par_model.convert_nova nova-d48w1024-osp480 --out nova --form nova

FOLDER is the diffusers-style folder (transformer/, scheduler/, vae/, text_encoder/, tokenizer/).
With --form par (the default) the action tokenizer, the Begin-Of-Action rows and the Action-DiT are
new: fine-tune before use. With --form nova the checkpoint stays the video model.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from par_model.checkpoint import save_checkpoint
from par_model.config import ModelConfig
from par_model.frame_codec import FrameCodec
from par_model.instruction import InstructionTable, empty_table, phi_table
from par_model.model import PARModel
from par_model.normalization import Statistics
from par_model.nova_weights import (
    RESOLUTIONS,
    Conversion,
    load_nova_transformer,
    load_nova_vae,
    model_config,
    shift_factor,
)
from par_model.simulation.tasks import TASKS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PANDA_JOINTS = (*(f"panda_joint{index}" for index in range(1, 8)), "panda_finger_joint1")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _convert(options)
    except ValueError as error:
        print(f"par_model.convert_nova: {error}", file=sys.stderr)
        return 1
    return 0


def _convert(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that holds transformer/.")
    vae_folder = options.vae or folder / "vae"
    config = model_config(folder, vae_folder, options.form, options.resolution)
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
            "seed_of_new_parts": options.seed,
            "new": list(conversion.new),
            "dropped": list(conversion.dropped),
        },
        dtype=_DTYPES[options.dtype],
    )
    print(report(conversion, model))
    print(f"{options.out}: {config.name}, instructions known: {len(instructions.texts)}")


def report(conversion: Conversion, model: PARModel) -> str:
    """What became of every tensor, in lines for people."""
    state = model.state_dict()
    lines = [f"used: {len(conversion.used)} tensors of NOVA"]
    lines += [f"new: {name} {list(state[name].shape)}" for name in conversion.new]
    lines += [f"dropped: {name} (PAR has no motion tokens)" for name in conversion.dropped]
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
        joint_mean=np.zeros(len(_PANDA_JOINTS)),
        joint_deviation=np.ones(len(_PANDA_JOINTS)),
    )


def _instructions(
    options: argparse.Namespace, config: ModelConfig, model: PARModel
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m par_model.convert_nova",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="NOVA's folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--form", choices=("par", "nova"), default="par", help="default: par")
    parser.add_argument(
        "--resolution", choices=sorted(RESOLUTIONS), help="default: the folder's own"
    )
    parser.add_argument("--vae", type=Path, help="autoencoder's folder (default: FOLDER/vae)")
    parser.add_argument(
        "--instruction",
        action="append",
        metavar="TEXT",
        help="instruction to embed and store, repeatable (default: the three tasks')",
    )
    parser.add_argument(
        "--dtype", choices=sorted(_DTYPES), default="float32", help="of the stored weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the new parts' initial values")
    return parser


if __name__ == "__main__":
    sys.exit(main())
