# SPDX-License-Identifier: Apache-2.0
"""Turn a trained checkpoint into one to ship: bfloat16 shards and a card with what was measured.

    python -m par_model.release --checkpoint runs/a/checkpoint --out checkpoints/par_small
    python -m par_model.evaluate --checkpoint checkpoints/par_small --task PushCube --json e.json
    python -m par_model.release --checkpoint checkpoints/par_small --out checkpoints/par_small \\
        --evaluation e.json --codec runs/codec

Weights are rounded first and measured afterwards: releasing a bfloat16 checkpoint again changes no
weight, so the second call only writes the measurements into the card.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from par_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from par_model.model import count_parameters
from par_model.training.policy_training import origin


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        release(options.checkpoint, options.out, options.evaluation, options.codec, options.note)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def release(
    source: Path, target: Path, evaluations: list[Path], codec: Path | None, notes: list[str]
) -> None:
    """Write `target` from `source`, with the results in `evaluations` in its card.

    Raises:
        ValueError: the checkpoint or a result file cannot be read.
    """
    checkpoint = load_checkpoint(source)
    training = dict(checkpoint.training)
    if codec is not None:
        training["codec"] = _codec_record(codec)
    results = [_read_json(path) for path in evaluations]
    if results:
        training["evaluations"] = [_without_episodes(result) for result in results]
    if notes:
        training["notes"] = notes
    fresh = target.with_name(target.name + ".new")
    save_checkpoint(
        fresh,
        config=checkpoint.config,
        model=checkpoint.model,
        codec=checkpoint.codec,
        statistics=checkpoint.statistics,
        instructions=checkpoint.instructions,
        card=model_card(checkpoint, training),
        training=training,
        dtype=torch.bfloat16,
        camera_fit=checkpoint.camera_fit,
    )
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def model_card(checkpoint: Checkpoint, training: dict[str, Any]) -> str:
    """README.md of a shipped checkpoint: what it is, how it was made, what was measured."""
    config = checkpoint.config
    sections = [
        f"# {config.name}",
        f"A PAR policy {origin(training)} on simulated demonstrations: ManiSkill, Panda arm, one "
        f"RGB camera of {config.image_width}x{config.image_height} pixels, joint-position targets "
        f"at 20 Hz in chunks of {config.num_actions}. It was never on a real arm: use it on "
        "hardware in dry run only. Licence: Apache-2.0.",
        f"{count_parameters(checkpoint.model) / 1e6:.2f} M parameters and "
        f"{count_parameters(checkpoint.codec) / 1e6:.2f} M in its frame codec; "
        f"{config.num_frame_tokens} frame tokens and {config.num_actions} actions a slot, "
        f"{config.num_slots} slots; weights stored as bfloat16, computed in float32.",
        "It accepts these instructions, word for word:\n\n"
        + "\n".join(f"- {text}" for text in checkpoint.instructions.texts),
        "## Measured success\n\n" + _success_table(training.get("evaluations", [])),
        "## How it was made\n\n" + _training_table(training),
    ]
    if "codec" in training:
        sections.append("## Frame codec\n\n" + _probe_table(training["codec"]))
    if training.get("notes"):
        notes = "\n".join(f"- {note}" for note in training["notes"])
        sections.append("## Known failures and limits\n\n" + notes)
    sections.append("Every number of the training is in training.json.")
    return "\n\n".join(sections) + "\n"


def _success_table(evaluations: list[dict[str, Any]]) -> str:
    if not evaluations:
        return "Not measured yet."
    lines = [
        "| task | successes | rate | 95% interval (Wilson) | mean steps | command |",
        "|---|---|---|---|---|---|",
    ]
    for result in evaluations:
        interval = result["interval"]
        lines.append(
            f"| {result['task']} | {result['num_successes']} of {result['num_episodes']} "
            f"| {100 * result['success_rate']:.0f}% "
            f"| {100 * interval['low']:.0f}-{100 * interval['high']:.0f}% "
            f"| {result['mean_steps']:.0f} | `{result['command']}` |"
        )
    hardware = evaluations[0]["hardware"]
    return "\n".join(lines) + f"\n\n{evaluations[0]['date'][:10]}, {_machine(hardware)}."


def _training_table(training: dict[str, Any]) -> str:
    left_out = ("config", "evaluations", "codec", "notes")
    rows = [
        f"| {key} | {value if isinstance(value, str) else json.dumps(value)} |"
        for key, value in training.items()
        if key not in left_out
    ]
    return "\n".join(["| | |", "|---|---|", *rows])


def _probe_table(codec: dict[str, Any]) -> str:
    lines = [
        "Position probe on held-out seeds, median error in mm "
        f"(accepted up to {codec['accepted_median_cube_error_mm']:g}):",
        "",
        "| task | tokens a frame | cube | second object or goal | |",
        "|---|---|---|---|---|",
    ]
    for row in codec["results"]:
        verdict = "accepted" if row["accepted"] else "not accepted"
        lines.append(
            f"| {row['task']} | {row['num_tokens']} | {row['median_cube_error_mm']} "
            f"| {row['median_second_error_mm']} ({row['second_name']}) | {verdict} |"
        )
    return "\n".join(lines)


def _machine(hardware: dict[str, Any]) -> str:
    gpu = f", {hardware['gpu']}" if hardware.get("gpu") else ", no GPU"
    return f"{hardware['cpu']}, {hardware['num_cpus']} cores{gpu}"


def _codec_record(folder: Path) -> dict[str, Any]:
    return _read_json(folder / "probe.json") | {"training": _read_json(folder / "training.json")}


def _without_episodes(result: dict[str, Any]) -> dict[str, Any]:
    """The result without its long list; seeds that failed are kept."""
    failed = [episode["seed"] for episode in result["episodes"] if not episode["success"]]
    return {key: value for key, value in result.items() if key != "episodes"} | {
        "failed_seeds": failed
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); check the path.") from error
    return content


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m par_model.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="the trained checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the folder to ship")
    parser.add_argument(
        "--evaluation", type=Path, nargs="*", default=[], help="results of par_model.evaluate"
    )
    parser.add_argument("--codec", type=Path, help="folder of the codec's training and probe")
    parser.add_argument("--note", nargs="*", default=[], help="known failures, a sentence each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
