# SPDX-License-Identifier: Apache-2.0
"""Turn a trained checkpoint into one to ship: bfloat16 shards and a card with what was measured.

    C=checkpoints/par_small
    python -m par_model.release --checkpoint runs/a/checkpoint --out $C --codec runs/codec \\
        --data datasets/PushCube datasets/PickCube datasets/StackCube
    python -m par_model.evaluate --checkpoint $C --protocol pareto --json pareto.json
    python -m par_model.release --checkpoint $C --out $C --evaluation pareto.json --sampling ddim:4
    python -m par_model.evaluate --checkpoint $C --protocol paper --json paper.json
    python -m par_model.release --checkpoint $C --out $C --evaluation paper.json table_3.json

Weights are rounded first and measured afterwards: releasing a bfloat16 checkpoint again changes no
weight, so later calls only write measurements into the card. What an earlier call has put there
stays, unless the same is given again; so do the forward model while the codec stays the same, and
surprise.json (`python -m par_model.calibrate`) while weights, defaults and forward model stay the
same. Results that were measured on other weights are refused.
"""

import dataclasses
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg

from par_model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_config,
    replace_checkpoint,
    require_replaceable,
    save_checkpoint,
)
from par_model.command_line import default_is, output_folder, parse
from par_model.config import ModelConfig
from par_model.forward_model import read_forward_model
from par_model.frame_codec import codec_fingerprint
from par_model.inference_defaults import InferenceDefaults, read_defaults
from par_model.json_file import read_object
from par_model.model_card import model_card
from par_model.surprise import FILE_NAME as SURPRISE_FILE
from par_model.surprise import FORWARD_FILE, SurpriseCalibration
from par_model.weights_hash import weights_hash

# Results of many episodes hold every joint target.
_MAX_RESULT_BYTES = 2**30
# Results that depend on the checkpoint's default sampling, and are void when it changes.
_OF_DEFAULTS = ("evaluations", "paper", "states", "graph")


@dataclass(frozen=True)
class Additions:
    """What a call of `release` adds to a checkpoint.

    Attributes:
        evaluations: result files of par_model.evaluate, of any protocol (`ablations` included).
        graph: results.json files of `python -m par_ros sim`.
        data: data sets that it was trained on.
        codec: folder of the codec's training and probe.
        notes: known failures, a sentence each.
        defaults: new ones of inference.
        forward_model: folder of its training (`python -m par_model.train forward`).
    """

    evaluations: tuple[Path, ...] = ()
    graph: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    codec: Path | None = None
    notes: tuple[str, ...] = ()
    defaults: InferenceDefaults = field(default_factory=InferenceDefaults)
    forward_model: Path | None = None


@dataclass(frozen=True)
class ReleaseOptions:
    """The command line."""

    # the trained checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # the folder to ship
    out: Annotated[Path, output_folder()]
    # results of par_model.evaluate: tasks, protocols paper, pareto, ablations
    evaluation: Annotated[tuple[Path, ...], arg(metavar="JSON ..."), default_is("none")] = ()
    # results.json of `par_ros sim`
    graph: Annotated[tuple[Path, ...], arg(metavar="JSON ..."), default_is("none")] = ()
    # data sets that it was trained on
    data: Annotated[tuple[Path, ...], arg(metavar="DIR ..."), default_is("none")] = ()
    # folder of the codec's training and probe
    codec: Annotated[Path | None, arg(metavar="DIR")] = None
    # folder of the forward model's training (`python -m par_model.train forward`)
    forward_model: Annotated[Path | None, arg(metavar="DIR")] = None
    # known failures, a sentence each
    note: Annotated[tuple[str, ...], arg(metavar="TEXT ..."), default_is("none")] = ()
    # new default of the action head
    sampling: Annotated[str | None, arg(metavar="SAMPLER:STEPS[:SPACING]")] = None
    # new default of what it remembers [observations]
    context_slots: int | None = None


def main(arguments: list[str] | None = None) -> int:
    options = parse(ReleaseOptions, "python -m par_model.release", __doc__, arguments)
    try:
        additions = Additions(
            evaluations=options.evaluation,
            graph=options.graph,
            data=options.data,
            codec=options.codec,
            notes=options.note,
            defaults=read_defaults(options.sampling, options.context_slots),
            forward_model=options.forward_model,
        )
        for left_out in release(options.checkpoint, options.out, additions):
            print(f"left out: {left_out}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def release(source: Path, target: Path, additions: Additions) -> list[str]:
    """Write `target` from `source`; returns what was left out, a sentence each.

    Raises:
        ValueError: the checkpoint or a file cannot be read, a result was measured on other
            weights, or new defaults do not fit the model.
    """
    require_replaceable(target)
    checkpoint = load_checkpoint(source)
    if additions.forward_model is not None:
        _require_forward_model(additions.forward_model, checkpoint)
    config = additions.defaults.of(checkpoint.config)
    changed = dataclasses.replace(checkpoint, config=config)
    training, left_out = dict(checkpoint.training), []
    if changed.config != checkpoint.config:
        for name in _OF_DEFAULTS:
            if training.pop(name, None) is not None:
                left_out.append(f"{name}, measured with the defaults of before; measure again.")
    expected: dict[Path, str] = {}
    for path in additions.evaluations:
        result = _read_json(path)
        if "weights_sha256" in result:
            expected[path] = result["weights_sha256"]
        _add_result(training, path, result, changed.config != checkpoint.config)
    if additions.graph:
        graph = {path: _graph_result(path) for path in additions.graph}
        if changed.config != checkpoint.config:
            raise _of_old_defaults(additions.graph[0])
        expected |= {path: result["weights_sha256"] for path, result in graph.items()}
        training["graph"] = [_graph_record(result) for result in graph.values()]
    if additions.data:
        training["data_sets"] = [_data_record(path) for path in additions.data]
    if additions.codec is not None:
        training["codec"] = _codec_record(additions.codec)
    if additions.notes:
        training["notes"] = list(additions.notes)
    fresh = _write_beside(changed, training, target, expected)
    given = [] if additions.forward_model is None else [additions.forward_model]
    left_out += _keep_forward_model(fresh, given or (source, target), changed)
    left_out += _keep_calibration(fresh, (source, target), changed.config)
    replace_checkpoint(fresh, target)
    return left_out


def _write_beside(
    checkpoint: Checkpoint, training: dict[str, Any], target: Path, expected: dict[Path, str]
) -> Path:
    """The new folder, beside `target`, after a check of what was measured against it."""
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
    for path, measured in expected.items():
        if measured != weights_hash(fresh):
            shutil.rmtree(fresh)
            raise ValueError(
                f"{path} was measured on other weights than these; measure the released checkpoint "
                "(rounding to bfloat16 changes weights) and release it again."
            )
    return fresh


def _require_forward_model(folder: Path, checkpoint: Checkpoint) -> None:
    """Raises ValueError where the folder holds none, or one that does not fit the checkpoint."""
    if read_forward_model(folder, checkpoint) is None:
        raise ValueError(
            f"{folder} holds no {FORWARD_FILE}; give the folder of a finished `python -m "
            "par_model.train forward`."
        )


def _keep_forward_model(fresh: Path, folders: Iterable[Path], checkpoint: Checkpoint) -> list[str]:
    """Write the first forward model of `folders` that fits into the folder `fresh`; as
    _keep_calibration. `fresh` has the checkpoint's codec with rounded weights: a model of either
    is one of the rounded codec then."""
    reasons: list[str] = []
    holding = [folder.resolve() for folder in folders if (folder / FORWARD_FILE).is_file()]
    if not holding:
        return []
    rounded = load_checkpoint(fresh).codec
    for folder in dict.fromkeys(holding):
        try:
            found = read_forward_model(folder, checkpoint, rounded)
        except ValueError as reason:
            reasons.append(str(reason))
            continue
        assert found is not None
        own = dataclasses.replace(found, codec=codec_fingerprint(rounded))
        own.write(fresh / FORWARD_FILE)
        return []
    return reasons


def _keep_calibration(fresh: Path, folders: tuple[Path, ...], config: ModelConfig) -> list[str]:
    """Copy the first surprise.json of `folders` that fits into the folder `fresh`.

    Returns why the calibrations that there are do not fit; nothing where one does.
    """
    reasons = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        file = folder / SURPRISE_FILE
        if not file.is_file():
            continue
        if not _has_config(folder, config):
            reason = "was calibrated with other defaults"
        elif not _fits(file, fresh):
            reason = "is of other weights, of another forward model or of another format"
        else:
            return []
        reasons.append(f"{file}, which {reason}; run `python -m par_model.calibrate` again.")
    return reasons


def _has_config(folder: Path, config: ModelConfig) -> bool:
    try:
        return read_config(folder) == config
    except ValueError:
        return False


def _fits(file: Path, fresh: Path) -> bool:
    """Whether the calibration belongs to the folder `fresh`, which has a copy of it then."""
    copy = fresh / SURPRISE_FILE
    shutil.copyfile(file, copy)
    try:
        SurpriseCalibration.read(fresh)
    except ValueError:
        copy.unlink()
        return False
    return True


def _add_result(
    training: dict[str, Any], path: Path, result: dict[str, Any], new_defaults: bool
) -> None:
    protocol = result.get("protocol")
    if protocol in ("pareto", "ablations"):
        training[protocol] = result
        return
    if new_defaults:
        raise _of_old_defaults(path)
    if protocol in ("paper", "states"):
        tasks = {name: _without_episodes(task) for name, task in result["tasks"].items()}
        training[protocol] = result | {"tasks": tasks}
    elif "task" in result:
        kept = [e for e in training.get("evaluations", []) if e["task"] != result["task"]]
        training["evaluations"] = [*kept, _without_episodes(result)]
    else:
        raise ValueError(f"{path} is not a result of par_model.evaluate; check the path.")


def _of_old_defaults(path: Path) -> ValueError:
    return ValueError(
        f"{path} was measured with other defaults than --sampling and --context-slots ask for; "
        "release with the new defaults first, then measure."
    )


def _without_episodes(result: dict[str, Any]) -> dict[str, Any]:
    """The result without its long list; seeds that failed are kept, by kind where it is known."""
    failed = [episode for episode in result["episodes"] if not episode["success"]]
    kinds: dict[str, list[int]] = {}
    for episode in failed:
        if episode.get("outcome"):
            seeds = kinds.setdefault(episode["outcome"], [])
            if episode["seed"] not in seeds:
                seeds.append(episode["seed"])
    return {key: value for key, value in result.items() if key != "episodes"} | {
        "failed_seeds": [episode["seed"] for episode in failed],
        "failed_seeds_by_kind": kinds,
    }


def _graph_result(path: Path) -> dict[str, Any]:
    """Raises ValueError for another file than results.json, or one of unknown weights."""
    result = _read_json(path)
    if "mode" not in result or "episodes" not in result:
        raise ValueError(f"{path} is no results.json of `python -m par_ros sim`; check the path.")
    if not isinstance(result.get("weights_sha256"), str):
        raise ValueError(
            f"{path} does not say which weights it was measured on (weights_sha256); run "
            "`python -m par_ros sim` with the released checkpoint again."
        )
    return result


def _graph_record(result: dict[str, Any]) -> dict[str, Any]:
    """A report's results without the episodes and without the machine's own paths."""
    record = _without_episodes(result)
    return {key: value for key, value in record.items() if key != "checkpoint"}


def _data_record(folder: Path) -> dict[str, Any]:
    recording = _read_json(folder / "meta" / "recording.json")
    seeds, failed = recording.pop("seeds"), recording.pop("failed_seeds")
    return recording | {
        "num_episodes": len(seeds),
        "last_seed": max(seeds),
        "num_failed_seeds": len(failed),
    }


def _codec_record(folder: Path) -> dict[str, Any]:
    return _read_json(folder / "probe.json") | {"training": _read_json(folder / "training.json")}


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path, "check the path", _MAX_RESULT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
