# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 3 (arXiv 2508.09822, section 5.3) with our ablations beside it.

50 rollouts a task and variant: the 25 initial states of the paper's protocol times 2 policy seeds,
limit 200 steps. Every variant is compared with the full model pair by pair.
"""

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
from par_model.simulation.tasks import PAPER_TASKS
from par_model.training.ablations import ABLATIONS, FULL

NUM_POLICY_SEEDS = 2
MAX_STEPS = 200

# Success rates in percent, Table 3 of the paper: PushCube, PickCube, StackCube, average.
TABLE_3 = {
    "PAR-NoAR (paper)": (29.6, 4.0, 0.0, 11.2),
    "PAR-Discrete (paper)": (87.2, 65.6, 7.2, 53.3),
    "PAR-Full (paper)": (100.0, 72.8, 48.0, 73.6),
}


def variant_content(results: Sequence[RolloutResult]) -> dict[str, Any]:
    """Success of one variant by task, with Wilson's interval."""
    tasks = {}
    for task in PAPER_TASKS:
        of_task = [result for result in results if result.task == task]
        if of_task:
            num_successes = sum(result.success for result in of_task)
            interval = wilson_interval(num_successes, len(of_task))
            tasks[task] = {
                "num_successes": num_successes,
                "num_rollouts": len(of_task),
                "wilson": {"low": interval.low, "high": interval.high},
            }
    return tasks


def compared_with_full(
    full: Sequence[RolloutResult], variant: Sequence[RolloutResult]
) -> dict[str, dict[str, float]]:
    """By task: full's rate minus the variant's with its paired 95% interval, and the p value of an
    exact one-sided McNemar test that full is better."""
    compared = {}
    for task in PAPER_TASKS:
        full_N, states_N = _outcomes(full, task)
        variant_N, variant_states_N = _outcomes(variant, task)
        if not len(full_N) or not np.array_equal(states_N, variant_states_N):
            continue
        interval = paired_difference_interval(full_N, variant_N, states_N)
        compared[task] = {
            "gain": float(full_N.mean() - variant_N.mean()),
            "low": interval.low,
            "high": interval.high,
            "p": mcnemar_p_value(full_N, variant_N),
        }
    return compared


def _outcomes(
    results: Sequence[RolloutResult], task: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    of_task = [result for result in results if result.task == task]
    of_task.sort(key=lambda result: (result.seed, result.policy_seed))
    return (
        np.array([result.success for result in of_task], np.bool_),
        np.array([result.seed for result in of_task], np.int64),
    )


def table_rows(variants: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, a header first. variants: name of ABLATIONS -> its entry of the result file."""
    rows = [["", *PAPER_TASKS, "average"]]
    rows += [[name, *(f"{value:.1f}%" for value in values)] for name, values in TABLE_3.items()]
    for name in sorted(variants, key=lambda name: (name == FULL, list(ABLATIONS).index(name))):
        entry = variants[name]
        cells = [_cell(entry, task) for task in PAPER_TASKS]
        rates = [task["num_successes"] / task["num_rollouts"] for task in entry["tasks"].values()]
        average = f"{100 * np.mean(rates):.1f}%" if len(rates) == len(PAPER_TASKS) else "-"
        rows.append([f"{ABLATIONS[name].title} (ours)", *cells, average])
    return rows


def gain_rows(variants: dict[str, dict[str, Any]]) -> list[list[str]]:
    """What the full model gains over each variant, in points, with interval and p."""
    rows = [["full model against", *PAPER_TASKS]]
    for name, entry in variants.items():
        if name == FULL:
            continue
        cells = []
        for task in PAPER_TASKS:
            found = entry.get("against_full", {}).get(task)
            cells.append(
                "-"
                if found is None
                else f"{100 * found['gain']:+.0f} ({100 * found['low']:+.0f} to "
                f"{100 * found['high']:+.0f}), p {found['p']:.3f}"
            )
        rows.append([ABLATIONS[name].title, *cells])
    return rows


def _cell(entry: dict[str, Any], task: str) -> str:
    found = entry["tasks"].get(task)
    if found is None:
        return "-"
    rate = 100 * found["num_successes"] / found["num_rollouts"]
    wilson = found["wilson"]
    return f"{rate:.1f}% ({100 * wilson['low']:.0f}-{100 * wilson['high']:.0f})"
