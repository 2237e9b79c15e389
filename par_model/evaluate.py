# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint's success in the simulator, without ROS.

    python -m par_model.evaluate --checkpoint C --task PushCube --episodes 25 --json result.json
    python -m par_model.evaluate --checkpoint C --protocol paper --json paper.json
    python -m par_model.evaluate --checkpoint C --protocol states --json states.json
    python -m par_model.evaluate --checkpoint C --protocol pareto --json pareto.json
    python -m par_model.evaluate --checkpoint C --protocol delay --json delay.json
    python -m par_model.evaluate --checkpoint C --protocol disturbances --json disturbances.json
    python -m par_model.evaluate --checkpoint RUNS --protocol ablations --json table_3.json

paper: 125 rollouts a task, the paper's Table 2 with our row. states: 250 rollouts a task, each from
a state of its own. pareto: samplers and their steps, 25 states a task and cell with 5 noise streams
each, paired. delay: success, task time and smoothness against the policy's delay, sequential and
overlapped, 100 rollouts a task and cell on paired seeds. disturbances: eight things that go wrong
in the middle of an episode, with and without surprise, and a rule without a model beside it
(`python -m par_model.calibrate` first). ablations: the checkpoints RUNS/NAME/checkpoint that
`python -m par_model.train ablations --out RUNS` wrote, the paper's Table 3 with our rows.

An interrupted run is continued by the same command. The result does not depend on
--num-workers and --engine: --backend auto is chosen once, by the command, and the result names it.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from par_model.command_line import default_is, output_file, parse, require_some, run_command
from par_model.config import TimestepSpacing
from par_model.evaluation import (
    ablations,
    delay_protocol,
    disturbance_protocol,
    paper_protocol,
    pareto,
    states_protocol,
)
from par_model.evaluation.given_options import refuse, with_defaults
from par_model.evaluation.limit_shares import read_motion_limits
from par_model.evaluation.measurement import Measurement
from par_model.evaluation.result_file import (
    checkpoint_hash,
    provenance,
    summary,
    write_result,
)
from par_model.evaluation.rollouts import (
    Rollout,
    RolloutResult,
    open_rollout,
    with_chosen_backend,
)
from par_model.evaluation.text_table import plain_table
from par_model.json_file import read_object
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, PAPER_TASKS, TASKS, task
from par_model.worker_options import WorkerOptions

PROGRAM = "python -m par_model.evaluate"
_OF_DELAY = ("policy_delay", "delay_jitter", "seam_smoothness", "arm_file")


@dataclass(frozen=True)
class EvaluateOptions(WorkerOptions):
    """The command line."""

    # folder of the checkpoint; of protocol ablations: the folder RUNS
    checkpoint: Annotated[Path, arg(metavar="DIR")]
    # where the result is written
    json: Annotated[Path, output_file()]
    # see above
    protocol: Annotated[
        Literal["paper", "states", "pareto", "delay", "disturbances", "ablations"] | None,
        default_is("episodes of one task"),
    ] = None
    # the task; protocols run the paper's three
    task: Annotated[str | None, arg(metavar="|".join(TASKS)), default_is("the paper's three")] = (
        None
    )
    # how many seeds
    episodes: Annotated[
        int | None,
        default_is(
            f"25; pareto: {pareto.NUM_STATES}; states: {states_protocol.NUM_STATES}; "
            f"delay: {delay_protocol.NUM_ROLLOUTS}; disturbances, of each kind and task: "
            f"{disturbance_protocol.NUM_EPISODES}"
        ),
    ] = None
    # protocol pareto: noise streams a seed
    streams: Annotated[int | None, default_is(f"{pareto.NUM_STREAMS}")] = None
    # reset seed of the first episode; the others follow
    first_seed: Annotated[
        int | None, default_is(f"{FIRST_MEASUREMENT_SEED}; pareto: {pareto.FIRST_SEED}")
    ] = None
    # length of an episode at most [control steps]
    max_steps: Annotated[
        int | None,
        default_is(
            f"200; paper: {max(paper_protocol.STEP_LIMITS)}, and successes within "
            f"{min(paper_protocol.STEP_LIMITS)} too; ablations: {ablations.MAX_STEPS}"
        ),
    ] = None
    # sampling steps of the action head
    num_steps: Annotated[int | None, default_is("the checkpoint's")] = None
    # of the action head: ddim, dpmsolver++, ddpm
    sampler: Annotated[str | None, default_is("the checkpoint's")] = None
    # training times of the sampling steps
    spacing: Annotated[TimestepSpacing | None, default_is("the checkpoint's")] = None
    # what runs the network, as load_policy
    backend: Annotated[str | None, default_is("auto; pareto, and with --spacing: eager")] = None
    # protocol pareto: the cells
    cells: Annotated[
        tuple[str, ...] | None,
        arg(metavar="SAMPLER:STEPS ..."),
        default_is(" ".join(f"{sampler}:{steps}" for sampler, steps in pareto.CELLS)),
    ] = None
    # protocol delay: from a picture until its answer can be followed, rounded to control steps [s]
    policy_delay: Annotated[
        tuple[float, ...] | None,
        arg(metavar="S ..."),
        default_is(" ".join(f"{delay_s:g}" for delay_s in delay_protocol.DELAYS_S)),
    ] = None
    # protocol delay: each delay is drawn evenly from this far around it [s]
    delay_jitter: Annotated[float | None, default_is("0")] = None
    # protocol delay, overlapped inference: as policy_node's seam_smoothness
    seam_smoothness: Annotated[float | None, default_is("0: not joined")] = None
    # protocol delay: the arm's acceleration and jerk limits
    arm_file: Annotated[
        Path | None, arg(metavar="FILE"), default_is("config/arms/<the checkpoint's arm>.yaml")
    ] = None
    # observations remembered
    context_slots: Annotated[int | None, default_is("the checkpoint's")] = None
    # seed of the policy's sampling
    policy_seed: Annotated[int | None, default_is("0")] = None
    # keep every commanded joint target [rad; m for the gripper]
    record_targets: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_some("--cells", self.cells)


def main(arguments: list[str] | None = None) -> int:
    options = parse(EvaluateOptions, PROGRAM, __doc__, arguments)
    command = [PROGRAM, *(arguments or sys.argv[1:])]
    return run_command(
        lambda: _PROTOCOLS[options.protocol](options, command),
        "error",
        "stopped; the same command continues from the finished episodes.",
    )


def _evaluate_task(options: EvaluateOptions, command: list[str]) -> None:
    if options.task is None:
        raise ValueError(f"--task is missing; the tasks are {', '.join(TASKS)}.")
    refuse(options, "one task", "cells", "streams", *_OF_DELAY)
    options = with_defaults(
        options, episodes=25, first_seed=FIRST_MEASUREMENT_SEED, max_steps=200, policy_seed=0
    )
    task_name = task(options.task).name
    options = _with_backend(options)
    rollouts = [
        _rollout(options, task_name, options.first_seed + index, options.policy_seed)
        for index in range(options.episodes)
    ]
    measurement, results = _measure(options, rollouts)
    about = {"task": task_name} | measurement.settings
    content = about | summary(results) | provenance(command)
    measurement.finish(content)
    print(_success_line(task_name, content), flush=True)


def _evaluate_paper(options: EvaluateOptions, command: list[str]) -> None:
    refuse(
        options, "--protocol paper", "episodes", "first_seed", "max_steps", "cells", "streams",
        "policy_seed", *_OF_DELAY,
    )  # fmt: skip
    options = with_defaults(options, max_steps=max(paper_protocol.STEP_LIMITS))
    names = _task_names(options)
    options = _with_backend(options)
    rollouts = [
        _rollout(options, name, seed, policy_seed)
        for name in names
        for seed in paper_protocol.initial_states()
        for policy_seed in range(paper_protocol.NUM_POLICY_SEEDS)
    ]
    measurement, results = _measure(options, rollouts)
    by_task = {name: [result for result in results if result.task == name] for name in names}
    summaries = {name: paper_protocol.task_summary(by_task[name]) for name in names}
    tasks = {name: summaries[name] | summary(by_task[name]) for name in names}
    about = {"protocol": "paper", "tasks": tasks} | measurement.settings
    measurement.finish(about | provenance(command))
    print(paper_protocol.table_text(summaries), flush=True)


def _evaluate_states(options: EvaluateOptions, command: list[str]) -> None:
    refuse(
        options, "--protocol states", "first_seed", "max_steps", "cells", "streams", "policy_seed",
        *_OF_DELAY,
    )  # fmt: skip
    options = with_defaults(
        options, episodes=states_protocol.NUM_STATES, max_steps=states_protocol.MAX_STEPS
    )
    names = _task_names(options)
    options = _with_backend(options)
    rollouts = [
        _rollout(options, name, seed, policy_seed)
        for name in names
        for seed, policy_seed in states_protocol.states(options.episodes)
    ]
    measurement, results = _measure(options, rollouts)
    by_task = {name: [result for result in results if result.task == name] for name in names}
    tasks = {
        name: states_protocol.task_summary(by_task[name]) | summary(by_task[name]) for name in names
    }
    about = {"protocol": "states", "tasks": tasks} | measurement.settings
    measurement.finish(about | provenance(command))
    table = plain_table(states_protocol.table_rows(tasks))
    print(f"{table}\n\n{states_protocol.METHOD}", flush=True)


def _evaluate_pareto(options: EvaluateOptions, command: list[str]) -> None:
    refuse(
        options, "--protocol pareto", "sampler", "num_steps", "record_targets", "policy_seed",
        *_OF_DELAY,
    )  # fmt: skip
    options = with_defaults(
        options,
        episodes=pareto.NUM_STATES,
        streams=pareto.NUM_STREAMS,
        first_seed=pareto.FIRST_SEED,
        max_steps=200,
        backend="eager",
    )
    cells = (
        [pareto.read_cell(text) for text in options.cells] if options.cells else list(pareto.CELLS)
    )
    rollouts = [
        dataclasses.replace(
            _rollout(options, name, options.first_seed + index, stream),
            sampler=sampler,
            num_steps=num_steps,
        )
        for sampler, num_steps in cells
        for name in _task_names(options)
        for index in range(options.episodes)
        for stream in range(options.streams)
    ]
    # A cell that cannot run is refused before any rollout.
    one_of_cell = {
        pareto.cell_name(*cell): next(
            rollout for rollout in rollouts if (rollout.sampler, rollout.num_steps) == cell
        )
        for cell in cells
    }
    opened = {name: open_rollout(rollout) for name, rollout in one_of_cell.items()}
    policies = {name: policy for name, (_, policy) in opened.items()}
    rollouts = [
        dataclasses.replace(
            rollout,
            backend=opened[pareto.cell_name(rollout.sampler, rollout.num_steps)][0].backend,
        )
        for rollout in rollouts
    ]
    measurement, results = _measure(options, rollouts)
    step_s = next(iter(policies.values())).spec.step_s
    content = pareto.pareto_content(results, pareto.latencies_alone_ms(policies), step_s)
    table = plain_table(pareto.table_lines(content))
    about = {
        "protocol": "pareto",
        "first_seed": options.first_seed,
        "episodes": options.episodes,
        "streams": options.streams,
    }
    measurement.finish(about | content | measurement.settings | provenance(command))
    print(f"{table}\nchosen: {content['chosen']}\n\n{pareto.METHOD}", flush=True)


def _evaluate_delay(options: EvaluateOptions, command: list[str]) -> None:
    refuse(options, "--protocol delay", "cells", "streams")
    options = with_defaults(
        options,
        episodes=delay_protocol.NUM_ROLLOUTS,
        first_seed=FIRST_MEASUREMENT_SEED,
        max_steps=200,
        seam_smoothness=0.0,
        delay_jitter=0.0,
        policy_seed=0,
    )
    names = _task_names(options)
    first, policy = open_rollout(_rollout(options, names[0], options.first_seed, 0))
    options, spec = dataclasses.replace(options, backend=first.backend), policy.spec
    smoothness = options.seam_smoothness
    timings = delay_protocol.cells(spec, options.policy_delay, options.delay_jitter, smoothness)
    arm_file = options.arm_file or Path("config/arms") / f"{spec.arm}.yaml"
    read_motion_limits(arm_file)
    rollouts = [
        dataclasses.replace(
            _rollout(options, name, options.first_seed + index, options.policy_seed),
            timing=timing,
            arm_file=str(arm_file),
        )
        for name in names
        for timing in timings
        for index in range(options.episodes)
    ]
    measurement, results = _measure(options, rollouts)
    content = delay_protocol.delay_content(results, spec.step_s)
    about = {"protocol": "delay"} | content | measurement.settings
    measurement.finish(about | provenance(command) | _rollouts_entry(results))
    table = plain_table(delay_protocol.table_lines(content))
    print(f"{table}\n\n{delay_protocol.METHOD}", flush=True)


def _evaluate_disturbances(options: EvaluateOptions, command: list[str]) -> None:
    refuse(
        options, "--protocol disturbances", "first_seed", "max_steps", "cells", "streams",
        *_OF_DELAY,
    )  # fmt: skip
    options = with_defaults(
        options, episodes=disturbance_protocol.NUM_EPISODES, max_steps=200, policy_seed=0
    )
    names = _task_names(options)
    calibration = disturbance_protocol.read_calibration(options.checkpoint, names)
    first, policy = open_rollout(_rollout(options, names[0], 0, 0))
    options, step_s = dataclasses.replace(options, backend=first.backend), policy.spec.step_s
    rollouts = [
        dataclasses.replace(
            _rollout(options, name, seed, options.policy_seed), watch=True, disturbance=kind
        )
        for name, kind, seed in disturbance_protocol.pairs(names, options.episodes)
    ]
    measurement, results = _measure(options, rollouts)
    content = disturbance_protocol.disturbance_content(results, calibration, step_s)
    about = {"protocol": "disturbances"} | content | measurement.settings
    measurement.finish(about | provenance(command) | _rollouts_entry(results))
    table = plain_table(disturbance_protocol.table_lines(content["rows"]))
    print(f"{table}\n\n{disturbance_protocol.METHOD}", flush=True)


def _evaluate_ablations(options: EvaluateOptions, command: list[str]) -> None:
    refuse(
        options, "--protocol ablations", "episodes", "first_seed", "record_targets", "cells",
        "streams", "policy_seed", *_OF_DELAY,
    )  # fmt: skip
    options = with_defaults(options, max_steps=ablations.MAX_STEPS)
    root, table_file = options.checkpoint, options.json
    names = [name for name in ablations.ABLATIONS if (root / name / "checkpoint").is_dir()]
    if not names:
        raise ValueError(
            f"{root} holds no NAME/checkpoint of {', '.join(ablations.ABLATIONS)}; train them with "
            f"`python -m par_model.train ablations --out {root}`."
        )
    variants, results = {}, {}
    for name in names:
        one = dataclasses.replace(
            options,
            checkpoint=root / name / "checkpoint",
            json=table_file.with_name(f"{table_file.stem}.{name}.json"),
        )
        settings, results[name] = _measure_variant(_with_backend(one), name, command)
        training = read_object(one.checkpoint / "training.json", "train the variant again")
        variants[name] = {"tasks": ablations.variant_content(results[name])} | {
            key: training.get(key) for key in ("step", "wall_s", "hardware")
        }
        variants[name]["settings"] = settings
        if ablations.FULL in results:
            compared = ablations.compared_with_full(results[ablations.FULL], results[name])
            variants[name]["against_full"] = compared
    rows, gains = ablations.table_rows(variants), ablations.gain_rows(variants)
    content = {"protocol": "ablations", "max_steps": options.max_steps, "variants": variants}
    write_result(table_file, content | {"rows": rows, "gain_rows": gains} | provenance(command))
    print(plain_table(rows), "\n\n", plain_table(gains), sep="", flush=True)


def _measure_variant(
    options: EvaluateOptions, name: str, command: list[str]
) -> tuple[dict[str, Any], list[RolloutResult]]:
    """What its results depend on, and the results; read back where they are stored already."""
    rollouts = [
        _rollout(options, task_name, seed, policy_seed)
        for task_name in _task_names(options)
        for seed in paper_protocol.initial_states()
        for policy_seed in range(ablations.NUM_POLICY_SEEDS)
    ]
    measurement = Measurement(options.json, rollouts, options.protocol)
    results = measurement.stored()
    if results is None:
        results = measurement.run(options, _reporter(len(rollouts)))
        about = {"ablation": name} | measurement.settings | provenance(command)
        measurement.finish(about | _rollouts_entry(results))
    return measurement.settings, results


def _task_names(options: EvaluateOptions) -> list[str]:
    return list(PAPER_TASKS) if options.task is None else [task(options.task).name]


_PROTOCOLS = {
    None: _evaluate_task,
    "paper": _evaluate_paper,
    "states": _evaluate_states,
    "pareto": _evaluate_pareto,
    "delay": _evaluate_delay,
    "disturbances": _evaluate_disturbances,
    "ablations": _evaluate_ablations,
}


def _rollout(options: EvaluateOptions, name: str, seed: int, policy_seed: int) -> Rollout:
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


def _with_backend(options: EvaluateOptions) -> EvaluateOptions:
    """The options with the backend by name, once for all workers."""
    checkpoint_hash(options.checkpoint)
    first = with_chosen_backend(_rollout(options, "", 0, 0))
    return dataclasses.replace(options, backend=first.backend)


def _measure(
    options: EvaluateOptions, rollouts: list[Rollout]
) -> tuple[Measurement, list[RolloutResult]]:
    measurement = Measurement(options.json, rollouts, options.protocol)
    return measurement, measurement.run(options, _reporter(len(rollouts)))


def _reporter(num_rollouts: int) -> Callable[[RolloutResult], None]:
    count = {"done": 0, "successes": 0}

    def report(result: RolloutResult) -> None:
        count["done"] += 1
        count["successes"] += result.success
        outcome = "success" if result.success else "no success"
        print(
            f"[{count['done']}/{num_rollouts}] {result.task} seed {result.seed} policy seed "
            f"{result.policy_seed}: {outcome} after {result.steps} steps; "
            f"{count['successes']}/{count['done']} so far",
            flush=True,
        )

    return report


def _rollouts_entry(results: list[RolloutResult]) -> dict[str, Any]:
    return {"rollouts": [result.to_json() for result in results]}


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
