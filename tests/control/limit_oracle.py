# SPDX-License-Identifier: Apache-2.0
"""A controller that writes down every broken limit: the judge of what the guard sends.

It follows trajectories by joint_trajectory_controller's rule with its own interpolation code and
looks at the command every millisecond: position, velocity, acceleration and jerk against the arm's
limits, finite numbers, and that each derivative is really the derivative of the one below (no step
hides between two motions).

Units: seconds, rad. J arm joints; the oracle does not look at the gripper.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray, JointTrajectory

PERIOD_S = 0.001

_KINDS = ("position", "velocity", "acceleration", "jerk")
# Rounding of what a message carries: times are whole nanoseconds.
_RELATIVE_TOLERANCE = 1e-5
_NANOSECOND_S = 1.0 / NANOSECONDS

# Coefficients of the quintic on [0, 1] from position, velocity, acceleration at both ends.
_UNIT_QUINTIC: FloatArray = np.linalg.inv(
    np.array(
        [
            [1.0, 0, 0, 0, 0, 0],
            [0.0, 1, 0, 0, 0, 0],
            [0.0, 0, 2, 0, 0, 0],
            [1.0, 1, 1, 1, 1, 1],
            [0.0, 1, 2, 3, 4, 5],
            [0.0, 0, 2, 6, 12, 20],
        ]
    )
)
# Row `order` turns the coefficients of a polynomial into those of its derivative, [4, 6, 6].
_DERIVATIVES: FloatArray = np.array(
    [
        [
            [float(math.perm(power, order)) if power == row + order else 0.0 for power in range(6)]
            for row in range(6)
        ]
        for order in range(4)
    ]
)


@dataclass
class Findings:
    """What was seen since the start.

    Attributes:
        num_samples: milliseconds looked at.
        violations: how many samples broke a limit, by kind; "step" is a discontinuity, "finite" a
            number that is not finite; and how many trajectories began "ahead" of their pick-up or
            were "rejected", over before it.
        largest: largest velocity, acceleration, jerk as a share of the joint's limit.
        examples: the first few violations in words.
    """

    num_samples: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_KINDS[1:], 0.0))
    examples: list[str] = field(default_factory=list)

    @property
    def num_violations(self) -> int:
        """Of all kinds."""
        return sum(self.violations.values())


class ControllerOracle:
    """Stands at `positions` [J] from time 0; call `receive` and `advance` in time order.

    blends: whether a stamped trajectory may begin ahead of its pick-up. The simulator's bridge goes
    to such a first point on the curve that the guard computed; an arm's controller goes there in a
    way of its own, so from what an arm is sent it is a violation, "ahead".
    """

    def __init__(self, spec: ArmSpec, positions: FloatArray, *, blends: bool = True) -> None:
        self._spec = spec
        self._blends = blends
        limits = spec.limits
        self._low = [
            limits.min_position,
            -limits.max_velocity,
            -limits.max_acceleration,
            -limits.max_jerk,
        ]
        self._high = [
            limits.max_position,
            limits.max_velocity,
            limits.max_acceleration,
            limits.max_jerk,
        ]
        # Limits of position, velocity, acceleration and jerk side by side, [4 J], with slack.
        low, high = np.concatenate(self._low), np.concatenate(self._high)
        slack = _RELATIVE_TOLERANCE * (high - low)
        self._lowest, self._highest = low - slack, high + slack
        self._largest_steps = np.concatenate(self._high[1:]) * PERIOD_S * 1.001 + 1e-9
        self._time_s = 0.0
        # Milliseconds up to this one have been judged; the rest is looked at in one go, before the
        # trajectory changes or somebody asks.
        self._num_judged = 0
        self._starts_s = np.zeros(1)
        self._durations_s = np.ones(1)
        curves = np.zeros((1, 6, len(positions)))
        curves[0, 0] = positions
        self._set_curves(curves)
        self._end_s = 1.0
        self._final = positions
        self._last = self._evaluate(np.zeros(1))
        self._now = self._last[0]
        self._findings = Findings()

    @property
    def findings(self) -> Findings:
        """What was seen up to now."""
        self._judge_until_now()
        return self._findings

    @property
    def time_s(self) -> float:
        """How far it has looked."""
        return self._time_s

    @property
    def positions(self) -> FloatArray:
        """The command now, float64 [J]."""
        return self._now[0]

    @property
    def velocities(self) -> FloatArray:
        """The commanded velocity now, float64 [J]."""
        return self._now[1]

    def start_from(
        self, positions: FloatArray, velocities: FloatArray, accelerations: FloatArray
    ) -> None:
        """Begin in motion instead of at rest; only before time has passed."""
        assert self._time_s == 0.0
        curves = np.zeros((1, 6, len(positions)))
        curves[0, :3] = positions, velocities, accelerations / 2.0
        self._set_curves(curves)
        self._last = self._evaluate(np.zeros(1))
        self._now = self._last[0]

    def receive(self, trajectory: JointTrajectory, stamp_s: float | None, pickup_s: float) -> None:
        """Replace the running trajectory at `pickup_s`; stamp None: it starts then."""
        first_s = float(trajectory.times_s[0]) + (pickup_s if stamp_s is None else stamp_s)
        if stamp_s is not None and not self._blends and first_s > pickup_s + _NANOSECOND_S:
            self._note("ahead", pickup_s, f"the first point lies {first_s - pickup_s:.6f} s ahead")
        if 0.0 < first_s - pickup_s < PERIOD_S:
            # No cycle falls between: the first that follows the new trajectory is past its first
            # point. (A curve over less than a cycle would only magnify the stamps' rounding.)
            pickup_s = first_s
        self.advance(pickup_s)
        self._judge_until_now()
        position, velocity, acceleration, _ = self._evaluate(np.array([pickup_s]))[0]
        assert trajectory.velocities is not None
        assert trajectory.accelerations is not None
        times_s = trajectory.times_s + (pickup_s if stamp_s is None else stamp_s)
        if times_s[-1] < pickup_s:
            self._findings.violations["rejected"] += 1
            return
        rows = [trajectory.positions, trajectory.velocities, trajectory.accelerations]
        if pickup_s < times_s[0]:
            times_s = np.concatenate(([pickup_s], times_s))
            rows = [
                np.concatenate((now[None], row))
                for now, row in zip((position, velocity, acceleration), rows, strict=True)
            ]
        self._final = rows[0][-1]
        self._end_s = float(times_s[-1])
        self._starts_s = times_s[:-1]
        self._durations_s = np.diff(times_s)
        scale = self._durations_s[:, None]
        ends = [
            value
            for side in (slice(None, -1), slice(1, None))
            for value in (rows[0][side], rows[1][side] * scale, rows[2][side] * scale**2)
        ]
        self._set_curves(np.einsum("ab,bsj->saj", _UNIT_QUINTIC, np.array(ends)))

    def advance(self, to_s: float) -> None:
        """Let time pass up to `to_s`; every millisecond of it will be looked at."""
        self._time_s = to_s
        if _whole_periods(to_s) > self._num_judged:
            self._now = self._evaluate(np.array([PERIOD_S * _whole_periods(to_s)]))[0]

    def _judge_until_now(self) -> None:
        """Look at every millisecond that has passed and was not looked at."""
        last = _whole_periods(self._time_s)
        if last <= self._num_judged:
            return
        times_s = PERIOD_S * np.arange(self._num_judged + 1, last + 1)
        self._num_judged = last
        samples = self._evaluate(times_s)
        self._judge(times_s, samples)
        self._last = samples[-1:]

    def _set_curves(self, curves: FloatArray) -> None:
        """Take S quintics [S, 6, J] on [0, 1]; kept with their derivatives, in seconds.

        The result's columns are position, velocity, acceleration and jerk, J each: one product of
        a sample's powers with it gives all four.
        """
        per_second = self._durations_s[:, None] ** -np.arange(4.0)
        tables = np.einsum("oab,sbj,so->saoj", _DERIVATIVES, curves, per_second)
        self._tables = tables.reshape(len(curves), 6, -1)

    def _evaluate(self, times_s: FloatArray) -> FloatArray:
        """Position, velocity, acceleration, jerk at M increasing times, float64 [M, 4, J]."""
        index = np.clip(
            np.searchsorted(self._starts_s, times_s, side="right") - 1, 0, len(self._starts_s) - 1
        )
        share = np.maximum((times_s - self._starts_s[index]) / self._durations_s[index], 0.0)
        powers = np.vander(share, 6, increasing=True)
        samples = np.empty((len(times_s), self._tables.shape[2]))
        # Times increase: the samples of one curve lie together.
        edges = np.flatnonzero(np.diff(index)) + 1
        for low, high in pairwise((0, *edges.tolist(), len(times_s))):
            np.matmul(powers[low:high], self._tables[index[low]], out=samples[low:high])
        values = samples.reshape(len(times_s), 4, -1)
        first_over = int(np.searchsorted(times_s, self._end_s, side="left"))
        values[first_over:, 0] = self._final
        values[first_over:, 1:] = 0.0
        return values

    def _judge(self, times_s: FloatArray, samples: FloatArray) -> None:
        findings = self._findings
        findings.num_samples += len(times_s)
        flat = samples.reshape(len(times_s), -1)
        lowest, highest = flat.min(axis=0), flat.max(axis=0)
        # NaN passes through minimum and maximum, and is outside by no comparison.
        if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
            self._note("finite", times_s[0], "a commanded number is not finite")
            return
        if (lowest < self._lowest).any() or (highest > self._highest).any():
            self._note_limits(times_s, samples)
        largest = np.maximum(-lowest, highest).reshape(4, -1)
        for order, kind in enumerate(_KINDS[1:], start=1):
            share = float((largest[order] / self._high[order]).max())
            findings.largest[kind] = max(findings.largest[kind], share)
        self._judge_steps(times_s, samples)

    def _note_limits(self, times_s: FloatArray, samples: FloatArray) -> None:
        lows, highs = self._lowest.reshape(4, -1), self._highest.reshape(4, -1)
        for order, kind in enumerate(_KINDS):
            values = samples[:, order]
            bad = (values < lows[order]) | (values > highs[order])
            if np.any(bad):
                row, joint = np.argwhere(bad)[0]
                self._note(
                    kind,
                    float(times_s[row]),
                    f"{self._spec.arm_joint_names[joint]} {values[row, joint]:.6g} (limits "
                    f"{self._low[order][joint]:g} to {self._high[order][joint]:g})",
                    int(bad.sum()),
                )

    def _judge_steps(self, times_s: FloatArray, samples: FloatArray) -> None:
        """Between two samples each value may change by the limit of its derivative, no more."""
        whole = np.concatenate((self._last[:, :3], samples[:, :3])).reshape(len(samples) + 1, -1)
        steps = np.diff(whole, axis=0)
        bad = np.abs(steps) > self._largest_steps
        if not bad.any():
            return
        num_joints = samples.shape[2]
        for row, column in np.argwhere(bad):
            order, joint = divmod(int(column), num_joints)
            self._note(
                "step",
                float(times_s[row]),
                f"{self._spec.arm_joint_names[joint]} {_KINDS[order]} steps by "
                f"{steps[row, column]:.6g} in a millisecond",
            )

    def _note(self, kind: str, time_s: float, text: str, count: int = 1) -> None:
        self._findings.violations[kind] += count
        if len(self._findings.examples) < 10:
            self._findings.examples.append(f"{kind} at {time_s:.3f} s: {text}")


def _whole_periods(time_s: float) -> int:
    """The last millisecond that is not after `time_s`."""
    return math.floor(time_s / PERIOD_S + 1e-6)
