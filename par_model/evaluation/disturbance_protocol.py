# SPDX-License-Identifier: Apache-2.0
"""What surprise is worth: episodes that are disturbed once, with and without it, and what a rule
without a model does on the same pictures.

Each kind disturbs the same initial states with the same policy seed. Acting on surprise is to stop
for good at the first observation above the second threshold, so that an episode with it is the same
episode cut off there: both columns come from one rollout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from par_model.evaluation.rollouts import RolloutResult
from par_model.evaluation.statistics import wilson_interval
from par_model.simulation.disturbances import KINDS
from par_model.simulation.tasks import task as task_by_name
from par_model.surprise import SurpriseCalibration

# Fixed before the held-out run; no other measurement has these seeds. Those from 41000 and 42000 on
# were seen once each, with other scores (docs/lab_notebook/surprise.md).
FIRST_SEED = 43000
NUM_EPISODES = 20
UNDISTURBED = "undisturbed"
SOON_S = 1.0
# Nothing is held that could slip.
NOT_POSSIBLE = tuple((name, "gripper_slips") for name in ("PushCube", "PullCube", "PushCubeSO100"))
_SIGNALS = ("surprise", "picture_change")

METHOD = (
    f"States are seeds {FIRST_SEED} + i of each task; a disturbance begins 0.5 to 2.25 s after the "
    "reset, a slip when the cube has been held for 0.15 s; episodes that were over before are left "
    "out. Noticed: an observation after the beginning is above the threshold of 5 % false alarms, "
    "and none before it was. With: the arm stops at the first such observation. Good end: success, "
    "or stopped after the disturbance had begun. Intervals: Wilson, 95 %."
)


def pairs(names: Sequence[str], num_episodes: int) -> list[tuple[str, str | None, int]]:
    """(task, kind or None, seed) of every rollout, undisturbed ones first."""
    return [
        (name, kind, FIRST_SEED + index)
        for name in names
        for kind in (None, *KINDS)
        if (name, kind) not in NOT_POSSIBLE
        for index in range(num_episodes)
    ]


def read_calibration(checkpoint: Path, names: Sequence[str]) -> SurpriseCalibration:
    """Raises ValueError where it is missing, or has no thresholds of one of these tasks."""
    calibration = SurpriseCalibration.read(checkpoint)
    for name in names:
        calibration.of(task_by_name(name).instruction)
    return calibration


@dataclass(frozen=True)
class _Alarm:
    """When a signal of one episode was first above its threshold.

    Attributes:
        step: control steps since the reset; None: never.
        disturbed_at: likewise, of the disturbance; None: there was none.
    """

    step: int | None
    disturbed_at: int | None

    @property
    def is_false(self) -> bool:
        return self.step is not None and (
            self.disturbed_at is None or self.step < self.disturbed_at
        )

    @property
    def delay_steps(self) -> int | None:
        """From the disturbance to the alarm; None: not noticed, or a false alarm came before."""
        if self.step is None or self.disturbed_at is None or self.is_false:
            return None
        return self.step - self.disturbed_at


def _alarm(result: RolloutResult, signal: str, threshold: float) -> _Alarm:
    assert result.watched is not None
    steps = zip(result.watched["step"], result.watched[signal], strict=True)
    above = [int(step) for step, value in steps if value > threshold]
    return _Alarm(above[0] if above else None, result.disturbed_at)


def _thresholds(result: RolloutResult, calibration: SurpriseCalibration) -> dict[str, float]:
    own = calibration.of(task_by_name(result.task).instruction)
    return {"surprise": own.second, "picture_change": own.picture_change}


def disturbance_content(
    results: Sequence[RolloutResult], calibration: SurpriseCalibration, step_s: float
) -> dict[str, Any]:
    """Rows of the table by kind, all kinds together as "all"; step_s: of a control step."""
    undisturbed = [result for result in results if result.disturbance is None]
    disturbed = [result for result in results if result.disturbed_at is not None]
    rows = {UNDISTURBED: _row(undisturbed, calibration, step_s)}
    for kind in KINDS:
        of_kind = [result for result in disturbed if result.disturbance == kind]
        if of_kind:
            rows[kind] = _row(of_kind, calibration, step_s)
    if disturbed:
        rows["all"] = _row(disturbed, calibration, step_s)
    num_over = sum(r.disturbance is not None and r.disturbed_at is None for r in results)
    return {"rows": rows, "over_before_the_disturbance": num_over}


def _row(
    results: Sequence[RolloutResult], calibration: SurpriseCalibration, step_s: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episodes": len(results),
        "success_without": _share([result.success for result in results]),
    }
    for signal in _SIGNALS:
        alarms = [_alarm(r, signal, _thresholds(r, calibration)[signal]) for r in results]
        row[signal] = _signal_row(results, alarms, step_s)
    return row


def _signal_row(
    results: Sequence[RolloutResult], alarms: Sequence[_Alarm], step_s: float
) -> dict[str, Any]:
    delays_s = [None if a.delay_steps is None else a.delay_steps * step_s for a in alarms]
    noticed_s = [delay for delay in delays_s if delay is not None]
    # An alarm in the observation at which an episode has already succeeded does not exist.
    success = [r.success and a.step is None for r, a in zip(results, alarms, strict=True)]
    good = [s or d is not None for s, d in zip(success, delays_s, strict=True)]
    gain = np.array(good, float) - np.array([r.success for r in results], float)
    low, high = _mean_interval(gain)
    return {
        "noticed": _share([delay is not None for delay in delays_s]),
        "noticed_soon": _share([delay is not None and delay <= SOON_S for delay in delays_s]),
        "delay_s_median": float(np.median(noticed_s)) if noticed_s else None,
        "false_alarms": _share([alarm.is_false for alarm in alarms]),
        "success": _share(success),
        "good_end": _share(good),
        "good_end_gain": {"mean": float(gain.mean()), "low": low, "high": high},
    }


def _mean_interval(gains: "np.ndarray[Any, Any]") -> tuple[float, float]:
    """95 % bootstrap interval of a mean over episodes."""
    generator = np.random.Generator(np.random.PCG64(0))
    means = generator.choice(gains, (2000, len(gains))).mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def _share(values: Sequence[bool]) -> dict[str, Any]:
    return {"count": sum(values), "of": len(values)} | asdict(
        wilson_interval(sum(values), len(values))
    )


def table_lines(rows: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, a header first."""
    lines = [
        [
            "kind", "episodes", "noticed in 1 s", "ever", "median", "false alarms",
            "success without", "with", "good end with", "picture rule: in 1 s", "false alarms",
        ]
    ]  # fmt: skip
    for kind, row in rows.items():
        ours, rule = row["surprise"], row["picture_change"]
        is_disturbed = kind != UNDISTURBED
        delay_s = ours["delay_s_median"]
        lines.append(
            [
                kind,
                str(row["episodes"]),
                _text(ours["noticed_soon"]) if is_disturbed else "",
                _text(ours["noticed"]) if is_disturbed else "",
                "" if delay_s is None else f"{delay_s:.2f} s",
                _text(ours["false_alarms"]),
                _text(row["success_without"]),
                _text(ours["success"]),
                _text(ours["good_end"]),
                _text(rule["noticed_soon"]) if is_disturbed else "",
                _text(rule["false_alarms"]),
            ]
        )
    return lines


def _text(share: dict[str, Any]) -> str:
    rate = 100 * share["count"] / share["of"]
    return f"{rate:.0f}% ({100 * share['low']:.0f}-{100 * share['high']:.0f})"
