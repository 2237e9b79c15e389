# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint's success in the simulator, without ROS.

    python -m par_model.evaluate --checkpoint C --task PushCube --episodes 25 --json result.json
    python -m par_model.evaluate --checkpoint C --protocol paper --json paper.json
    python -m par_model.evaluate --checkpoint C --protocol pareto --json pareto.json
    python -m par_model.evaluate --checkpoint RUNS --protocol ablations --json table_3.json

paper: 125 rollouts a task, the paper's Table 2 with our row. pareto: samplers and their steps, 50
rollouts a task and cell on paired seeds. ablations: the checkpoints RUNS/NAME/checkpoint that
`python -m par_model.train ablations --out RUNS` wrote, the paper's Table 3 with our rows.

An interrupted run is continued by the same command. The result does not depend on --num-workers.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

from par_model.config import TimestepSpacing
from par_model.evaluation import ablations, paper_protocol, pareto
from par_model.evaluation.result_file import (
    checkpoint_hash,
    provenance,
    summary,
    weights_hash,
    write_result,
)
from par_model.evaluation.rollouts import (
    Rollout,
    RolloutLog,
    RolloutResult,
    load_rollout_policy,
    run_rollouts,
)
from par_model.evaluation.text_table import plain_table
from par_model.json_file import read_object
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, TASKS, task


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = ["python -m par_model.evaluate", *(arguments or sys.argv[1:])]
    try:
        _PROTOCOLS[options.protocol](options, command)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the finished episodes.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m par_model.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--protocol", choices=[name for name in _PROTOCOLS if name], help="see above"
    )
    parser.add_argument("--json", type=Path, required=True, help="where the result is written")
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)}; protocols run all")
    parser.add_argument(
        "--episodes", type=int, help="how many seeds (default 25; protocol pareto: 50)"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        help="reset seed of the first episode; the others follow (default 20241201; pareto: "
        f"{pareto.FIRST_SEED})",
    )
    parser.add_argument("--max-steps", type=int, help="step limit (default 200)")
    parser.add_argument(
        "--num-steps", type=int, help="sampling steps of the action head (default: checkpoint's)"
    )
    parser.add_argument(
        "--sampler", help="of the action head: ddim, dpmsolver++, ddpm (default: checkpoint's)"
    )
    parser.add_argument(
        "--spacing",
        choices=get_args(TimestepSpacing),
        help="training times of the sampling steps (default: checkpoint's)",
    )
    parser.add_argument(
        "--backend", help="what runs the network, as load_policy (default: auto; pareto: eager)"
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="SAMPLER:STEPS",
        help="protocol pareto: the cells (default: "
        + " ".join(f"{sampler}:{steps}" for sampler, steps in pareto.CELLS)
        + ")",
    )
    parser.add_argument(
        "--context-slots", type=int, help="observations remembered (default: checkpoint's)"
    )
    parser.add_argument(
        "--policy-seed", type=int, default=0, help="seed of the policy's sampling (default 0)"
    )
    parser.add_argument(
        "--num-workers", type=int, default=os.cpu_count() or 1, help="processes (default: cores)"
    )
    parser.add_argument(
        "--record-targets", action="store_true", help="keep every commanded joint target"
    )
    return parser


def _evaluate_task(options: argparse.Namespace, command: list[str]) -> None:
    if options.task is None:
        raise ValueError(f"--task is missing; the tasks are {', '.join(TASKS)}.")
    _refuse(options, "one task", "cells")
    _set_defaults(options, episodes=25, first_seed=FIRST_MEASUREMENT_SEED, max_steps=200)
    task_name = task(options.task).name
    rollouts = [
        _rollout(options, task_name, options.first_seed + index, options.policy_seed)
        for index in range(options.episodes)
    ]
    results = _run(options, rollouts)
    content = {"task": task_name} | _described(options) | summary(results) | provenance(command)
    _finish(options, content)
    print(_success_line(task_name, content), flush=True)


def _evaluate_paper(options: argparse.Namespace, command: list[str]) -> None:
    _refuse(options, "--protocol paper", "episodes", "first_seed", "max_steps", "cells")
    _set_defaults(options, max_steps=max(paper_protocol.STEP_LIMITS))
    names = _task_names(options)
    rollouts = [
        _rollout(options, name, seed, policy_seed)
        for name in names
        for seed in paper_protocol.initial_states()
        for policy_seed in range(paper_protocol.NUM_POLICY_SEEDS)
    ]
    results = _run(options, rollouts)
    by_task = {name: [result for result in results if result.task == name] for name in names}
    summaries = {name: paper_protocol.task_summary(by_task[name]) for name in names}
    tasks = {name: summaries[name] | summary(by_task[name]) for name in names}
    _finish(
        options,
        {"protocol": "paper", "tasks": tasks} | _described(options) | provenance(command),
    )
    print(paper_protocol.table_text(summaries), flush=True)


def _evaluate_pareto(options: argparse.Namespace, command: list[str]) -> None:
    _refuse(options, "--protocol pareto", "sampler", "num_steps", "record_targets")
    _set_defaults(
        options,
        episodes=pareto.NUM_ROLLOUTS,
        first_seed=pareto.FIRST_SEED,
        max_steps=200,
        backend="eager",
    )
    cells = [_cell(text) for text in options.cells] if options.cells else list(pareto.CELLS)
    rollouts = [
        dataclasses.replace(
            _rollout(options, name, options.first_seed + index, options.policy_seed),
            sampler=sampler,
            num_steps=num_steps,
        )
        for sampler, num_steps in cells
        for name in _task_names(options)
        for index in range(options.episodes)
    ]
    # A cell that cannot run is refused before any rollout.
    one_of_cell = {
        pareto.cell_name(*cell): next(
            rollout for rollout in rollouts if (rollout.sampler, rollout.num_steps) == cell
        )
        for cell in cells
    }
    policies = {name: load_rollout_policy(rollout) for name, rollout in one_of_cell.items()}
    results = _run(options, rollouts)
    content = pareto.pareto_content(results, pareto.latencies_alone_ms(policies))
    table = plain_table(pareto.table_lines(content))
    _finish(
        options,
        {"protocol": "pareto", "first_seed": options.first_seed, "episodes": options.episodes}
        | content
        | _described(options)
        | provenance(command),
    )
    print(f"{table}\nchosen: {content['chosen']}\n\n{pareto.METHOD}", flush=True)


def _evaluate_ablations(options: argparse.Namespace, command: list[str]) -> None:
    _refuse(options, "--protocol ablations", "episodes", "first_seed", "record_targets", "cells")
    _set_defaults(options, max_steps=ablations.MAX_STEPS)
    root, table_file = options.checkpoint, options.json
    names = [name for name in ablations.ABLATIONS if (root / name / "checkpoint").is_dir()]
    if not names:
        raise ValueError(
            f"{root} holds no NAME/checkpoint of {', '.join(ablations.ABLATIONS)}; train them with "
            f"`python -m par_model.train ablations --out {root}`."
        )
    variants, results = {}, {}
    for name in names:
        options.checkpoint = root / name / "checkpoint"
        options.json = table_file.with_name(f"{table_file.stem}.{name}.json")
        results[name] = _stored(options) or _measure_variant(options, name, command)
        training = read_object(options.checkpoint / "training.json", "train the variant again")
        variants[name] = {"tasks": ablations.variant_content(results[name])} | {
            key: training.get(key) for key in ("step", "wall_s", "hardware")
        }
        if ablations.FULL in results:
            compared = ablations.compared_with_full(results[ablations.FULL], results[name])
            variants[name]["against_full"] = compared
    rows, gains = ablations.table_rows(variants), ablations.gain_rows(variants)
    content = {"protocol": "ablations", "max_steps": options.max_steps, "variants": variants}
    write_result(table_file, content | {"rows": rows, "gain_rows": gains} | provenance(command))
    print(plain_table(rows), "\n\n", plain_table(gains), sep="", flush=True)


def _measure_variant(
    options: argparse.Namespace, name: str, command: list[str]
) -> list[RolloutResult]:
    rollouts = [
        _rollout(options, task_name, seed, policy_seed)
        for task_name in _task_names(options)
        for seed in paper_protocol.initial_states()
        for policy_seed in range(ablations.NUM_POLICY_SEEDS)
    ]
    results = _run(options, rollouts)
    about = {"ablation": name} | _described(options) | provenance(command)
    _finish(options, about | {"rollouts": [result.to_json() for result in results]})
    return results


def _stored(options: argparse.Namespace) -> list[RolloutResult] | None:
    """An earlier result of the same checkpoint and settings."""
    if not options.json.is_file():
        return None
    content = json.loads(options.json.read_text())
    if any(content.get(key) != value for key, value in _described(options).items()):
        return None
    results = [RolloutResult.from_json(entry) for entry in content["rollouts"]]
    wanted = set(_task_names(options))
    return results if {result.task for result in results} == wanted else None


def _cell(text: str) -> tuple[str, int]:
    sampler, _, num_steps = text.partition(":")
    if not num_steps.isdecimal():
        raise ValueError(f"--cells: {text!r} is not SAMPLER:STEPS, such as ddim:10.")
    return sampler, int(num_steps)


def _task_names(options: argparse.Namespace) -> list[str]:
    return list(TASKS) if options.task is None else [task(options.task).name]


def _set_defaults(options: argparse.Namespace, **defaults: object) -> None:
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("episodes", "max_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def _refuse(options: argparse.Namespace, what: str, *names: str) -> None:
    """Options that would do nothing."""
    for name in names:
        if getattr(options, name):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} has no place in {what}, which says it itself; leave it out.")


_PROTOCOLS = {
    None: _evaluate_task,
    "paper": _evaluate_paper,
    "pareto": _evaluate_pareto,
    "ablations": _evaluate_ablations,
}


def _rollout(options: argparse.Namespace, name: str, seed: int, policy_seed: int) -> Rollout:
    return Rollout(
        checkpoint=str(options.checkpoint),
        task=name,
        seed=seed,
        policy_seed=policy_seed,
        max_steps=options.max_steps,
        num_steps=options.num_steps,
        context_slots=options.context_slots,
        record_targets=options.record_targets,
        sampler=options.sampler,
        backend=options.backend or ("auto" if options.spacing is None else "eager"),
        spacing=options.spacing,
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on; what was not asked for is the checkpoint's."""
    asked = {name: getattr(options, name) for name in ("sampler", "backend", "spacing")}
    return {
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": checkpoint_hash(options.checkpoint),
        "max_steps": options.max_steps,
        "num_steps": options.num_steps,
        "context_slots": options.context_slots,
    } | {name: value for name, value in asked.items() if value is not None}


def _described(options: argparse.Namespace) -> dict[str, Any]:
    return _settings(options) | {"weights_sha256": weights_hash(options.checkpoint)}


def _run(options: argparse.Namespace, rollouts: list[Rollout]) -> list[RolloutResult]:
    settings = _settings(options) | {
        "protocol": options.protocol,
        "record_targets": options.record_targets,
    }
    log = RolloutLog(_log_path(options.json), settings)
    count = {"done": 0, "successes": 0}

    def report(result: RolloutResult) -> None:
        count["done"] += 1
        count["successes"] += result.success
        outcome = "success" if result.success else "no success"
        print(
            f"[{count['done']}/{len(rollouts)}] {result.task} seed {result.seed} policy seed "
            f"{result.policy_seed}: {outcome} after {result.steps} steps; "
            f"{count['successes']}/{count['done']} so far",
            flush=True,
        )

    return run_rollouts(rollouts, log, options.num_workers, report)


def _finish(options: argparse.Namespace, content: dict[str, Any]) -> None:
    write_result(options.json, content)
    _log_path(options.json).unlink()


def _log_path(result: Path) -> Path:
    return result.with_name(result.name + ".episodes.jsonl")


def _success_line(name: str, content: dict[str, Any]) -> str:
    low, high = content["interval"]["low"], content["interval"]["high"]
    latency_ms = content["chunk_latency_ms"]
    return (
        f"{name}: {content['num_successes']}/{content['num_episodes']} successes "
        f"({100 * content['success_rate']:.1f}%, 95% {100 * low:.1f} to {100 * high:.1f}%), "
        f"{content['mean_steps']:.1f} steps; chunk latency p50 {latency_ms['p50']:.1f} ms, "
        f"p99 {latency_ms['p99']:.1f} ms, worst {latency_ms['worst']:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
