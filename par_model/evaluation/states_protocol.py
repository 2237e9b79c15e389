# SPDX-License-Identifier: Apache-2.0
"""Success on many different initial states, with the noise streams spread over them.

The paper's 125 rollouts have 25 states only, and five rollouts of a state are nearly alike. Here
each rollout has a state of its own, so that Wilson's interval holds. The states are apart from the
paper's and from those that `evaluate --task` starts with.
"""

from collections.abc import Sequence
from typing import Any

from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import Interval, wilson_interval
from par_model.simulation.tasks import FIRST_MEASUREMENT_SEED

NUM_STATES = 250
NUM_STREAMS = 5
FIRST_SEED = FIRST_MEASUREMENT_SEED + 1000
MAX_STEPS = 200
# An episode that is not over after 16 observations of 8 steps is late.
LATE_STEPS = 128


def states(num_states: int) -> list[tuple[int, int]]:
    """(reset seed, policy seed) of each rollout."""
    return [(FIRST_SEED + index, index % NUM_STREAMS) for index in range(num_states)]


def task_summary(results: Sequence[RolloutResult]) -> dict[str, Any]:
    """Of one task's rollouts: success by noise stream, and of the episodes that were late."""
    late = [result for result in results if not result.success_within(LATE_STEPS)]
    streams = {
        str(stream): _counts([r for r in results if r.policy_seed == stream])
        for stream in sorted({result.policy_seed for result in results})
    }
    return {"streams": streams, "late": _counts(late)}


def _counts(results: Sequence[RolloutResult]) -> dict[str, Any]:
    num_successes = sum(result.success for result in results)
    counts: dict[str, Any] = {"num_successes": num_successes, "num_rollouts": len(results)}
    if results:
        interval = wilson_interval(num_successes, len(results))
        counts["wilson"] = {"low": interval.low, "high": interval.high}
    return counts


def table_rows(tasks: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, a header first. tasks: name -> `task_summary` and the counts of
    `result_file.summary`."""
    rows = [["task", "successes", "Wilson 95%", "by noise stream", "late episodes that succeed"]]
    for name, task in tasks.items():
        interval = Interval(task["interval"]["low"], task["interval"]["high"])
        streams = task["streams"].values()
        rows.append(
            [
                name,
                f"{task['num_successes']} of {task['num_episodes']} "
                f"({100 * task['success_rate']:.1f}%)",
                f"{100 * interval.low:.1f}-{100 * interval.high:.1f}%",
                ", ".join(f"{s['num_successes']}/{s['num_rollouts']}" for s in streams),
                f"{task['late']['num_successes']} of {task['late']['num_rollouts']}",
            ]
        )
    return rows


METHOD = (
    f"{NUM_STATES} different initial states a task (seeds {FIRST_SEED} + i), noise stream i mod "
    f"{NUM_STREAMS}, at most {MAX_STEPS} steps. Late: not over after {LATE_STEPS} steps."
)
