# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint's success in the simulator, without ROS.

    python -m par_model.evaluate --checkpoint C --task PushCube --episodes 25 --json result.json
    python -m par_model.evaluate --checkpoint C --protocol paper --json paper.json

An interrupted run is continued by the same command. The result does not depend on --num-workers.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from par_model.evaluation import paper_protocol
from par_model.evaluation.result_file import (
    checkpoint_hash,
    provenance,
    summary,
    write_result,
)
from par_model.evaluation.rollouts import Rollout, RolloutLog, RolloutResult, run_rollouts
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, TASKS, task


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = ["python -m par_model.evaluate", *(arguments or sys.argv[1:])]
    try:
        if options.protocol == "paper":
            _evaluate_paper(options, command)
        else:
            _evaluate_task(options, command)
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
    parser.add_argument("--json", type=Path, required=True, help="where the result is written")
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)}; the paper's protocol runs all")
    parser.add_argument("--episodes", type=int, default=25, help="how many seeds (default 25)")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=FIRST_MEASUREMENT_SEED,
        help="reset seed of the first episode; the others follow (default 20241201)",
    )
    parser.add_argument("--max-steps", type=int, default=200, help="step limit (default 200)")
    parser.add_argument(
        "--num-steps", type=int, help="sampling steps of the action head (default: checkpoint's)"
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
    parser.add_argument(
        "--protocol", choices=["paper"], help="125 rollouts a task, limits 200 and 400 steps"
    )
    return parser


def _evaluate_task(options: argparse.Namespace, command: list[str]) -> None:
    if options.task is None:
        raise ValueError(f"--task is missing; the tasks are {', '.join(TASKS)}.")
    if options.episodes < 1 or options.max_steps < 1:
        raise ValueError(
            f"--episodes and --max-steps must be at least 1, got {options.episodes} and "
            f"{options.max_steps}."
        )
    task_name = task(options.task).name
    rollouts = [
        _rollout(options, task_name, options.first_seed + index, options.policy_seed)
        for index in range(options.episodes)
    ]
    results = _run(options, rollouts)
    content = {"task": task_name} | _settings(options) | summary(results) | provenance(command)
    _finish(options, content)
    print(_success_line(task_name, content), flush=True)


def _evaluate_paper(options: argparse.Namespace, command: list[str]) -> None:
    names = list(TASKS) if options.task is None else [task(options.task).name]
    options.max_steps = max(paper_protocol.STEP_LIMITS)
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
        {"protocol": "paper", "tasks": tasks} | _settings(options) | provenance(command),
    )
    print(paper_protocol.table_text(summaries), flush=True)


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
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": checkpoint_hash(options.checkpoint),
        "max_steps": options.max_steps,
        "num_steps": options.num_steps,
        "context_slots": options.context_slots,
    }


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
