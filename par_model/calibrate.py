# SPDX-License-Identifier: Apache-2.0
"""Measure how much surprise is usual for a checkpoint, and write its thresholds.

    python -m par_model.calibrate --checkpoint C

Runs undisturbed episodes in the simulator and writes C/surprise.json (par_model/surprise.py) from
the successful ones. No other file of the checkpoint changes. An interrupted run is continued by the
same command; the result does not depend on --num-workers and --engine: --backend auto is chosen
once, by the command, and surprise.json names it.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from par_model.command_line import default_is, output_file, parse, run_command
from par_model.evaluation.result_file import checkpoint_hash, provenance
from par_model.evaluation.rollouts import (
    Rollout,
    RolloutLog,
    RolloutResult,
    open_rollout,
    run_rollouts,
)
from par_model.interface import PolicySpec
from par_model.simulation.tasks import FIRST_SELECTION_SEED, TASKS, tasks_of_policy
from par_model.surprise import (
    FILE_NAME,
    RATES,
    SurpriseCalibration,
    SurpriseThresholds,
    conformal_threshold,
    forward_hash,
)
from par_model.weights_hash import weights_hash
from par_model.worker_options import WorkerOptions

PROGRAM = "python -m par_model.calibrate"
FIRST_SEED = FIRST_SELECTION_SEED + 2000
MAX_STEPS = 200


@dataclass(frozen=True)
class CalibrateOptions(WorkerOptions):
    """The command line."""

    # folder of the checkpoint
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # episodes of each task that the policy knows
    episodes: int = 100
    # where the thresholds go
    out: Annotated[Path | None, output_file(), default_is(f"{FILE_NAME} in DIR")] = None
    # what runs the network, as load_policy
    backend: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes < 1:
            raise ValueError(f"--episodes must be at least 1, got {self.episodes}.")


def main(arguments: list[str] | None = None) -> int:
    options = parse(CalibrateOptions, PROGRAM, __doc__, arguments)
    command = [PROGRAM, *(arguments or sys.argv[1:])]
    return run_command(
        lambda: calibrate(options, command),
        "error",
        "stopped; the same command continues from the finished episodes.",
    )


def calibrate(options: CalibrateOptions, command: list[str]) -> None:
    """Run what is missing and write the thresholds."""
    checkpoint_sha256 = checkpoint_hash(options.checkpoint)
    forward_sha256 = forward_hash(options.checkpoint)
    out = options.out or options.checkpoint / FILE_NAME
    asked = Rollout(
        str(options.checkpoint), "", FIRST_SEED, 0, MAX_STEPS, None, None, False,
        backend=options.backend, watch=True,
    )  # fmt: skip
    first, policy = open_rollout(asked)
    settings = {
        "checkpoint_sha256": checkpoint_sha256,
        "forward_sha256": forward_sha256,
        "backend": first.backend,
        "max_steps": MAX_STEPS,
    }
    rollouts = _rollouts(first, policy.spec, options.episodes)
    log = RolloutLog(out.with_name(out.name + ".episodes.jsonl"), settings)
    results = run_rollouts(rollouts, log, options, _report)
    thresholds = {
        TASKS[name].instruction: _thresholds([r for r in results if r.task == name])
        for name in dict.fromkeys(result.task for result in results)
    }
    about = {"first_seed": FIRST_SEED, "episodes": options.episodes, "rates": list(RATES)}
    SurpriseCalibration(
        weights_hash(options.checkpoint),
        forward_sha256,
        thresholds,
        about | settings | provenance(command),
    ).write(out)
    log.path.unlink()
    for instruction, values in thresholds.items():
        print(f"{instruction} {values}")
    print(f"written: {out}", flush=True)


def _rollouts(first: Rollout, spec: PolicySpec, num_episodes: int) -> list[Rollout]:
    """Raises ValueError for a policy that knows no task."""
    names = tasks_of_policy(spec)
    if not names:
        raise ValueError(
            "the policy knows the joints and the instruction of no task of the simulator, so no "
            f"episode of it can be run; the tasks are {', '.join(TASKS)}."
        )
    return [
        replace(first, task=name, seed=FIRST_SEED + index)
        for name in names
        for index in range(num_episodes)
    ]


def _thresholds(results: list[RolloutResult]) -> SurpriseThresholds:
    """Of one task. Raises ValueError where too few episodes succeed."""
    watched = [result.watched for result in results if result.success and result.watched]
    largest = {
        signal: [max(values[signal]) for values in watched]
        for signal in ("surprise", "picture_change")
    }
    first, second = (conformal_threshold(largest["surprise"], rate) for rate in RATES)
    rule = conformal_threshold(largest["picture_change"], RATES[1])
    return SurpriseThresholds(first, second, rule, len(watched))


def _report(result: RolloutResult) -> None:
    outcome = "success" if result.success else "no success"
    print(f"{result.task} seed {result.seed}: {outcome} after {result.steps} steps", flush=True)


if __name__ == "__main__":
    sys.exit(main())
