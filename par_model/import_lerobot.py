# SPDX-License-Identifier: Apache-2.0
"""Make a checkpoint folder of a policy that LeRobot's trainer wrote, to measure it beside ours.

    python -m par_model.import_lerobot RUN/checkpoints/last/pretrained_model --out checkpoints/act

The folder is given wherever ours is (--checkpoint, checkpoint:=); it answers through LeRobot, under
the interpreter that PAR_LEROBOT_PYTHON names. docs/how_to/compare_with_lerobot.md has every step.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from par_model.command_line import default_is, output_folder, parse, run_command
from par_model.json_file import read_object
from par_model.peers.lerobot_folder import ACTION, STATE, lerobot_spec, save_lerobot_folder
from par_model.training.dataset_info import DatasetInfo, read_info, read_tasks

PROGRAM = "python -m par_model.import_lerobot"


@dataclass(frozen=True)
class ImportOptions:
    """The command line."""

    # LeRobot's folder pretrained_model of one checkpoint
    pretrained: Annotated[Positional[Path], arg(metavar="PRETRAINED_MODEL")]
    # folder to write
    out: Annotated[Path, output_folder("CHECKPOINT")]
    # data set that the policy was trained on
    data: Annotated[
        Path | None, arg(metavar="DIR"), default_is("the folder that train_config.json names")
    ] = None


def main(arguments: list[str] | None = None) -> int:
    options = parse(ImportOptions, PROGRAM, __doc__, arguments)
    return run_command(lambda: _import(options), "error", "stopped; nothing was written.")


def _import(options: ImportOptions) -> None:
    advice = "give the folder pretrained_model of a checkpoint that lerobot-train wrote"
    config = read_object(options.pretrained / "config.json", advice)
    data = options.data or _trained_on(options.pretrained, advice)
    info = read_info(
        data,
        ("v3.",),
        if_missing="give --data the data set that the policy was trained on",
        if_other_layout="and LeRobot trains on v3.0 only",
    )
    spec = lerobot_spec(config, info.robot_type, info.features, _joint_names(info), info.fps)
    instructions = tuple(text for _, text in sorted(read_tasks(info).items()))
    save_lerobot_folder(options.out, options.pretrained, spec, instructions)
    print(
        f"{options.out}: {spec.policy} for the {spec.arm}, chunks of {spec.num_actions} actions "
        f"{spec.step_s:g} s apart, one picture of {spec.image_width} x {spec.image_height}, "
        f"instructions known: {len(instructions)}"
    )


def _trained_on(pretrained: Path, advice: str) -> Path:
    trained = read_object(pretrained / "train_config.json", advice).get("dataset")
    root = trained.get("root") if isinstance(trained, dict) else None
    if not isinstance(root, str):
        raise ValueError(
            f"{pretrained / 'train_config.json'} names no folder of a data set (dataset.root); "
            "give --data."
        )
    return Path(root)


def _joint_names(info: DatasetInfo) -> tuple[str, ...]:
    for key in (STATE, ACTION):
        if key not in info.features:
            raise ValueError(f"data set {info.path} has no feature {key!r}.")
    names = info.names(STATE)
    if names is None or names != info.names(ACTION):
        raise ValueError(
            f"data set {info.path} must name the joints of {STATE} and {ACTION}, the same in the "
            "same order; check its meta/info.json."
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
