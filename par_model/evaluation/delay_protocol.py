# SPDX-License-Identifier: Apache-2.0
"""Success, task time and smoothness against the policy's delay, on paired rollouts of a checkpoint.

Each cell (inference, delay) runs the same initial states with the same policy seeds, so that cells
are compared pair by pair with sequential inference without delay, the first cell.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from par_model.evaluation.delayed_loop import INFERENCES, Inference, Timing
from par_model.evaluation.limit_shares import LimitShares, share_beyond
from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import paired_difference_interval, wilson_interval
from par_model.interface import PolicySpec

DELAYS_S = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
NUM_ROLLOUTS = 100
_NUM_RESAMPLES = 2000

METHOD = (
    "Cells share initial states and policy seeds. Success: Wilson's interval; difference: to "
    "sequential inference without delay on the same states, bootstrap over states. Task time: "
    "control steps of the successful episodes, bootstrap of the mean; ratio to the first cell on "
    "the states where both succeed. Seams: commanded targets at the control rate, before any "
    "guard; speed lost and time at rest over all seams, median and 95th percentile. Beyond limits: "
    "share of the chunks whose targets' second or third differences at the control rate, those "
    "across the seam included, exceed the arm's acceleration or jerk limit of a joint, before any "
    "guard. All intervals are of 95 %."
)


def cells(
    spec: PolicySpec,
    delays_s: Sequence[float] | None,
    jitter_s: float,
    smoothness: float = 0.0,
) -> list[Timing]:
    """Every kind of inference that the policy is able to, at every delay; the reference first.

    delays_s: None: DELAYS_S. Raises ValueError for what a policy cannot do at all.
    """
    possible: list[Inference] = [
        name for name in INFERENCES if name != "overlapped" or spec.max_delay_steps
    ]
    delays = sorted({0.0, *(delays_s or DELAYS_S)})
    # Without delay nothing jitters: these cells are the references.
    timings = [
        Timing(name, delay_s, jitter_s if delay_s else 0.0, smoothness)
        for name in possible
        for delay_s in delays
    ]
    for timing in timings:
        timing.require_possible(spec)
    return timings


def delay_content(results: Sequence[RolloutResult], step_s: float) -> dict[str, Any]:
    """Cells by task, in the order of the results.

    results: rollouts of all cells, every cell on the same tasks, seeds and policy seeds.
    """
    content: dict[str, Any] = {"method": METHOD, "tasks": {}}
    for task in dict.fromkeys(result.task for result in results):
        by_cell: dict[tuple[str, float], list[RolloutResult]] = {}
        for result in results:
            if result.task == task:
                assert result.inference is not None
                assert result.policy_delay_s is not None
                by_cell.setdefault((result.inference, result.policy_delay_s), []).append(result)
        reference = _sorted(by_cell[INFERENCES[0], 0.0])
        content["tasks"][task] = [
            {"inference": inference, "policy_delay_s": delay_s}
            | _cell(_sorted(cell), reference, step_s)
            for (inference, delay_s), cell in by_cell.items()
        ]
    return content


def _sorted(results: Sequence[RolloutResult]) -> list[RolloutResult]:
    return sorted(results, key=lambda result: (result.seed, result.policy_seed))


def _cell(
    cell: Sequence[RolloutResult], reference: Sequence[RolloutResult], step_s: float
) -> dict[str, Any]:
    success = np.array([result.success for result in cell])
    before = np.array([result.success for result in reference])
    states = np.array([result.seed for result in cell])
    wilson = wilson_interval(int(success.sum()), len(success))
    change = paired_difference_interval(success, before, states)
    times_s = np.array([result.steps * step_s for result in cell])
    both = success & before
    ratios = times_s[both] / np.array([result.steps * step_s for result in reference])[both]
    motions = [result.motion for result in cell if result.motion is not None]
    chunks = [LimitShares(*shares) for result in cell for shares in result.limit_shares or ()]
    seams = [seam for motion in motions for seam in motion["seams"]]
    return {
        "num_successes": int(success.sum()),
        "num_rollouts": len(success),
        "wilson": {"low": wilson.low, "high": wilson.high},
        "difference": {
            "mean": float(success.mean() - before.mean()),
            "low": change.low,
            "high": change.high,
        },
        "task_time_s": _with_interval(times_s[success], np.mean),
        "task_time_ratio": _with_interval(ratios, np.mean),
        "spectral_arc_length": _median([motion["spectral_arc_length"] for motion in motions]),
        "log_dimensionless_jerk": _median([motion["log_dimensionless_jerk"] for motion in motions]),
        "rest_share": _median(
            [motion["rest_s"] / motion["moving_s"] for motion in motions if motion["moving_s"]]
        ),
        "seams": {
            "count": len(seams),
            **{
                name: _seam_entry([seam[name] for seam in seams])
                for name in ("speed_lost", "rest_s", "jerk_rad_s3", "jump_rad")
            },
        },
        "limits": share_beyond(chunks),
        "num_late": sum(result.num_late or 0 for result in cell),
    }


def _seam_entry(values: Sequence[float]) -> dict[str, Any]:
    return {"median": _median(values), "p95": _percentile(values, 95)}


def _median(values: Sequence[float]) -> dict[str, float] | None:
    return _with_interval(np.array(values), np.median)


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _with_interval(
    values: np.ndarray[Any, np.dtype[np.float64]], statistic: Callable[..., Any]
) -> dict[str, float] | None:
    """The statistic and its percentile bootstrap at 95 %; None without any value."""
    if len(values) == 0:
        return None
    drawn = np.random.default_rng(0).integers(len(values), size=(_NUM_RESAMPLES, len(values)))
    low, high = np.quantile(statistic(values[drawn], axis=1), (0.025, 0.975))
    return {"value": float(statistic(values)), "low": float(low), "high": float(high)}


def table_lines(content: dict[str, Any]) -> list[list[str]]:
    """Rows of text, a header first."""
    rows = [
        ["task, inference", "delay", "success", "difference", "task time", "speed lost at seams",
         "rest at seams", "beyond limits", "SPARC", "LDLJ", "late"]
    ]  # fmt: skip
    for task, entries in content["tasks"].items():
        for cell in entries:
            rows.append([f"{task} {cell['inference']}", *_row(cell)])
    return rows


def _row(cell: dict[str, Any]) -> list[str]:
    low, high = (100 * cell["wilson"][end] for end in ("low", "high"))
    change, seams = cell["difference"], cell["seams"]
    beyond = cell["limits"]["beyond"]
    return [
        f"{1e3 * cell['policy_delay_s']:.0f} ms",
        f"{cell['num_successes']}/{cell['num_rollouts']} ({low:.0f}-{high:.0f}%)",
        f"{change['mean']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})",
        _text(cell["task_time_s"], 2, " s"),
        _median_and_p95(seams["speed_lost"], 2),
        _median_and_p95(seams["rest_s"], 2),
        "-" if beyond is None else f"{100 * beyond:.1f}%",
        _text(cell["spectral_arc_length"], 2),
        _text(cell["log_dimensionless_jerk"], 1),
        str(cell["num_late"]),
    ]


def _text(entry: dict[str, float] | None, digits: int, unit: str = "") -> str:
    if entry is None:
        return "-"
    low, high = f"{entry['low']:.{digits}f}", f"{entry['high']:.{digits}f}"
    return f"{entry['value']:.{digits}f}{unit} ({low} to {high})"


def _median_and_p95(entry: dict[str, Any], digits: int) -> str:
    if entry["median"] is None:
        return "-"
    return f"{_text(entry['median'], digits)}, p95 {entry['p95']:.{digits}f}"
