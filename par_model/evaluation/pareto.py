# SPDX-License-Identifier: Apache-2.0
"""Success against time of the action head's samplers, on paired rollouts of one checkpoint.

Each cell (sampler, number of steps) runs the same initial states with the same policy seeds, so
that cells are compared pair by pair. All cells run on one runtime, and each cell's latency is
measured again after the rollouts, alone: the rollouts share the machine with each other.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import (
    mcnemar_p_value,
    paired_difference_interval,
    wilson_interval,
)
from par_model.interface import RECENT_IMAGES, Observation, Policy
from par_model.simulation.tasks import FIRST_SELECTION_SEED, TASKS

CELLS: tuple[tuple[str, int], ...] = (
    ("ddim", 1),
    ("ddim", 2),
    ("ddim", 4),
    ("ddim", 10),
    ("ddim", 50),
    ("dpmsolver++", 4),
    ("dpmsolver++", 10),
    ("ddpm", 100),
)
NUM_STATES = 25
NUM_STREAMS = 5
# Selection seeds, since the result chooses a default, and others than training chooses by.
FIRST_SEED = FIRST_SELECTION_SEED + 5000
SIGNIFICANCE = 0.05
# Latency: rounds over all cells, and chunks of a cell in a round.
_NUM_ROUNDS = 4
_NUM_WARM_UP_CHUNKS = 3
_NUM_TIMED_CHUNKS = 12

METHOD = (
    "Cells share initial states and policy seeds. A cell is significantly below the best one if an "
    f"exact one-sided McNemar test on the pairs, all tasks together, gives p < {SIGNIFICANCE} (not "
    "corrected for the number of cells, nor for noise streams that share a state: the result "
    "file's difference to the best resamples states). The default is the cell with the least "
    "latency among the others. Latency: observe and act, median, measured alone. Task time: "
    "control steps of the successful episodes, and their chunks at that latency, as an arm that "
    "waits takes (mean)."
)


def read_cell(text: str) -> tuple[str, int]:
    """The sampler and its steps. Raises ValueError for a text of another form."""
    sampler, _, num_steps = text.partition(":")
    if not num_steps.isdecimal():
        raise ValueError(f"--cells: {text!r} is not SAMPLER:STEPS, such as ddim:10.")
    return sampler, int(num_steps)


def cell_name(sampler: str, num_steps: int) -> str:
    """ "ddim 10" """
    return f"{sampler} {num_steps}"


def pareto_content(
    results: Sequence[RolloutResult], latencies_ms: dict[str, dict[str, float]], step_s: float
) -> dict[str, Any]:
    """Cells with success by task, and the one that is recommended.

    results: rollouts of all cells; every cell on the same tasks, seeds and policy seeds.
    latencies_ms: cell name -> p50, p99, worst, as `latencies_alone_ms` gives.
    step_s: duration of a control step.
    """
    by_cell: dict[str, list[RolloutResult]] = {name: [] for name in latencies_ms}
    for result in results:
        assert result.sampler is not None
        assert result.num_steps is not None
        by_cell[cell_name(result.sampler, result.num_steps)].append(result)
    success = {name: _outcomes(cell) for name, cell in by_cell.items()}

    def cost(name: str) -> float:
        return latencies_ms[name]["p50"]

    best = max(by_cell, key=lambda name: (int(success[name].sum()), -cost(name)))
    p_values = {name: mcnemar_p_value(success[best], success[name]) for name in by_cell}
    as_good = [name for name in by_cell if p_values[name] >= SIGNIFICANCE]
    states = np.array([result.seed for result in _sorted(by_cell[best])])
    cells = []
    for name, cell in by_cell.items():
        change = paired_difference_interval(success[name], success[best], states)
        cells.append(
            {
                "sampler": cell[0].sampler,
                "num_steps": cell[0].num_steps,
                "latency_ms": latencies_ms[name],
                "tasks": _tasks(cell, cost(name), step_s),
                "num_successes": int(success[name].sum()),
                "num_rollouts": len(cell),
                "below_best_p": p_values[name],
                "difference_to_best": {"low": change.low, "high": change.high},
            }
        )
    return {"cells": cells, "best": best, "chosen": min(as_good, key=cost), "method": METHOD}


def _tasks(results: Sequence[RolloutResult], latency_ms: float, step_s: float) -> dict[str, Any]:
    tasks = {}
    for task in TASKS:
        of_task = [result for result in results if result.task == task]
        if not of_task:
            continue
        successes = [result for result in of_task if result.success]
        interval = wilson_interval(len(successes), len(of_task))
        times_s = [
            result.steps * step_s + len(result.chunk_latencies_ms) * latency_ms / 1e3
            for result in successes
        ]
        tasks[task] = {
            "num_successes": len(successes),
            "num_rollouts": len(of_task),
            "wilson": {"low": interval.low, "high": interval.high},
            "mean_task_time_s": float(np.mean(times_s)) if times_s else None,
            "failed_seeds": _failed_seeds(of_task),
        }
    return tasks


def _failed_seeds(results: Sequence[RolloutResult]) -> dict[str, list[int]]:
    """Kind of failure -> its seeds."""
    failed: dict[str, list[int]] = {}
    for result in results:
        if not result.success:
            failed.setdefault(result.outcome or "unknown", []).append(result.seed)
    return failed


def _sorted(results: Sequence[RolloutResult]) -> list[RolloutResult]:
    return sorted(results, key=lambda result: (result.task, result.seed, result.policy_seed))


def _outcomes(results: Sequence[RolloutResult]) -> npt.NDArray[np.bool_]:
    return np.array([result.success for result in _sorted(results)])


def latencies_alone_ms(policies: dict[str, Policy]) -> dict[str, dict[str, float]]:
    """Wall time of observe and act by name: p50, p99 and worst. Blocks for as long.

    The policies take turns, a few chunks each, so that a machine that is slow for a while is slow
    for all of them; each turn's first chunks are left out.
    """
    taken_ms: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(_NUM_ROUNDS):
        for name, policy in policies.items():
            taken_ms[name] += _chunk_times_ms(policy)[_NUM_WARM_UP_CHUNKS:]
    return {name: _percentiles(np.array(times)) for name, times in taken_ms.items()}


def _percentiles(times_ms: npt.NDArray[np.float64]) -> dict[str, float]:
    return {
        "p50": round(float(np.percentile(times_ms, 50)), 2),
        "p99": round(float(np.percentile(times_ms, 99)), 2),
        "worst": round(float(times_ms.max()), 2),
    }


def _chunk_times_ms(policy: Policy) -> list[float]:
    """Of one episode's first chunks, on black pictures."""
    spec = policy.spec
    policy.reset(spec.instructions[0], 0)
    picture = np.zeros(spec.picture_shape, np.uint8)
    executed = None
    taken_ms = []
    for index in range(_NUM_WARM_UP_CHUNKS + _NUM_TIMED_CHUNKS):
        recent = None
        if spec.observation_mode == "clip" and executed is not None:
            recent = np.stack([picture] * RECENT_IMAGES)
        observation = Observation(
            image=picture,
            views=spec.views,
            measured_joint_positions=np.zeros(len(spec.joint_names)),
            joint_names=spec.joint_names,
            stamp_s=index * spec.num_actions * spec.step_s,
            executed_actions=executed,
            recent_images=recent,
        )
        start_s = time.perf_counter()
        policy.observe(observation)
        chunk = policy.act()
        taken_ms.append(1e3 * (time.perf_counter() - start_s))
        executed = np.zeros_like(chunk.joint_positions)
    return taken_ms


def table_lines(content: dict[str, Any]) -> list[list[str]]:
    """Rows of text, a header first: the same table for the terminal and for the card."""
    tasks = [task for task in TASKS if task in content["cells"][0]["tasks"]]
    header = ["sampler", "chunk latency", *tasks, "task time", "p against the best"]
    rows = [header]
    for cell in content["cells"]:
        name = cell_name(cell["sampler"], cell["num_steps"])
        marks = " (best)" if name == content["best"] else ""
        marks += " (chosen)" if name == content["chosen"] else ""
        times = [cell["tasks"][task]["mean_task_time_s"] for task in tasks]
        rows.append(
            [
                name + marks,
                f"{cell['latency_ms']['p50']:.1f} ms",
                *[_rate(cell["tasks"][task]) for task in tasks],
                " / ".join("-" if time_s is None else f"{time_s:.1f} s" for time_s in times),
                f"{cell['below_best_p']:.3f}",
            ]
        )
    return rows


def _rate(entry: dict[str, Any]) -> str:
    low, high = entry["wilson"]["low"], entry["wilson"]["high"]
    return f"{entry['num_successes']}/{entry['num_rollouts']} ({100 * low:.0f}-{100 * high:.0f}%)"
