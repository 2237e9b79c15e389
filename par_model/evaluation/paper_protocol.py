# SPDX-License-Identifier: Apache-2.0
"""The paper's protocol and its Table 2 (arXiv 2508.09822, section 5.1) with our row beside it.

125 rollouts a task: 25 initial states, seeds 20241201 + i, times 5 seeds of the policy's sampling.
Episodes run for 400 steps; those that succeed within the first 200 are the figure reported first,
since an episode's course up to step 200 does not depend on the limit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import Interval, bootstrap_interval, wilson_interval
from par_model.evaluation.text_table import plain_table
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED, PAPER_TASKS

NUM_STATES = 25
NUM_POLICY_SEEDS = 5
STEP_LIMITS = (200, 400)

# Success rates in percent, Table 2 of the paper: PushCube, PickCube, StackCube, average.
TABLE_2 = {
    "ACT": (76, 20, 30, 42),
    "BC-T": (98, 4, 14, 39),
    "DP": (88, 40, 80, 69),
    "ICRT": (77, 78, 30, 62),
    "RDT": (100, 77, 74, 84),
    "PAR (paper)": (100, 73, 48, 74),
}

DIFFERENCES = (
    "Our row: a small model trained from scratch (no video pretraining; the paper fine-tunes 663M "
    "parameters), one multi-task policy (the paper trains one per task), camera 128x128 at "
    "[0.6, 0.7, 0.6] m looking at [0, 0, 0.12] m with 0.65 rad (the paper's is not stated), "
    "success once within the step limit given, seeds 20241201 + i."
)


def initial_states() -> list[int]:
    """The reset seeds of the 25 initial states."""
    return [FIRST_MEASUREMENT_SEED + index for index in range(NUM_STATES)]


def task_summary(results: Sequence[RolloutResult]) -> dict[str, Any]:
    """Success of one task's rollouts at each step limit, with both intervals."""
    summary = {}
    for limit in STEP_LIMITS:
        table_SP = success_table(results, limit)
        num_successes = int(table_SP.sum())
        summary[f"within_{limit}_steps"] = {
            "num_successes": num_successes,
            "num_rollouts": table_SP.size,
            "success_rate": num_successes / table_SP.size,
            "wilson": _ends(wilson_interval(num_successes, table_SP.size)),
            "bootstrap_over_states": _ends(bootstrap_interval(table_SP)),
            "mean_steps": float(np.mean([min(result.steps, limit) for result in results])),
        }
    return summary


def success_table(
    results: Sequence[RolloutResult], max_steps: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool [states, policy seeds] of one task's rollouts."""
    states = sorted({result.seed for result in results})
    policy_seeds = sorted({result.policy_seed for result in results})
    table_SP = np.zeros((len(states), len(policy_seeds)), np.bool_)
    for result in results:
        place = states.index(result.seed), policy_seeds.index(result.policy_seed)
        table_SP[place] = result.success_within(max_steps)
    return table_SP


def table_rows(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The paper's Table 2 with our rows, as text; a header first.

    summaries: task name -> `task_summary` of it; tasks that were not measured show a dash.
    """
    table = [["", *PAPER_TASKS, "average"]]
    table += [[name, *(f"{percent}%" for percent in row)] for name, row in TABLE_2.items()]
    for limit in STEP_LIMITS:
        key = f"within_{limit}_steps"
        rows = [summaries[task][key] if task in summaries else None for task in PAPER_TASKS]
        rates = [row["success_rate"] for row in rows if row is not None]
        average = f"{100 * np.mean(rates):.1f}%" if len(rates) == len(PAPER_TASKS) else "-"
        table.append([f"ours, {limit} steps", *map(_rate, rows), average])
        table.append(["  Wilson 95%", *(_interval(row, "wilson") for row in rows), ""])
        bootstrap = [_interval(row, "bootstrap_over_states") for row in rows]
        table.append(["  bootstrap 95%", *bootstrap, ""])
    return table


def table_text(summaries: dict[str, dict[str, Any]]) -> str:
    """`table_rows` for the terminal, and what differs from the paper."""
    return f"{plain_table(table_rows(summaries))}\n\n{DIFFERENCES}"


def _rate(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{100 * row['success_rate']:.1f}%"


def _interval(row: dict[str, Any] | None, kind: str) -> str:
    if row is None:
        return "-"
    return f"{100 * row[kind]['low']:.1f}-{100 * row[kind]['high']:.1f}%"


def _ends(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high}
