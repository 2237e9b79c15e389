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

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory

PERIOD_S = 0.001

_KINDS = ("position", "velocity", "acceleration", "jerk")
# Rounding of what a message carries: times are whole nanoseconds.
_RELATIVE_TOLERANCE = 1e-5

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


@dataclass
class Findings:
    """What was seen since the start.

    Attributes:
        num_samples: milliseconds looked at.
        violations: how many samples broke a limit, by kind; "step" is a discontinuity, "finite" a
            number that is none.
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
    """Stands at `positions` [J] from time 0; call `receive` and `advance` in time order."""

    def __init__(self, spec: ArmSpec, positions: FloatArray) -> None:
        self._spec = spec
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
        self._time_s = 0.0
        self._starts_s = np.zeros(1)
        self._durations_s = np.ones(1)
        self._curves = np.zeros((1, 6, len(positions)))
        self._curves[0, 0] = positions
        self._end_s = 1.0
        self._final = positions
        self._last = self._evaluate(np.zeros(1))
        self.findings = Findings()
        # When the command last moved.
        self.last_motion_s = 0.0

    @property
    def time_s(self) -> float:
        """How far it has looked."""
        return self._time_s

    @property
    def positions(self) -> FloatArray:
        """The command now, float64 [J]."""
        return self._last[0][-1]

    @property
    def velocities(self) -> FloatArray:
        """The commanded velocity now, float64 [J]."""
        return self._last[1][-1]

    def start_from(
        self, positions: FloatArray, velocities: FloatArray, accelerations: FloatArray
    ) -> None:
        """Begin in motion instead of at rest; only before time has passed."""
        assert self._time_s == 0.0
        self._curves[0, :3] = positions, velocities, accelerations / 2.0
        self._last = self._evaluate(np.zeros(1))

    def receive(self, trajectory: JointTrajectory, stamp_s: float | None, pickup_s: float) -> None:
        """Replace the running trajectory at `pickup_s`; stamp None: it starts then."""
        first_s = float(trajectory.times_s[0]) + (pickup_s if stamp_s is None else stamp_s)
        if 0.0 < first_s - pickup_s < PERIOD_S:
            # No cycle falls between: the first that follows the new trajectory is past its first
            # point. (A curve over less than a cycle would only magnify the stamps' rounding.)
            pickup_s = first_s
        self.advance(pickup_s)
        position, velocity, acceleration, _ = (
            values[-1] for values in self._evaluate(np.array([pickup_s]))
        )
        assert trajectory.velocities is not None
        assert trajectory.accelerations is not None
        times_s = trajectory.times_s + (pickup_s if stamp_s is None else stamp_s)
        if times_s[-1] < pickup_s:
            self.findings.violations["rejected"] += 1
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
        self._curves = np.einsum("ab,bsj->saj", _UNIT_QUINTIC, np.array(ends))

    def advance(self, to_s: float) -> None:
        """Look at every millisecond up to `to_s`."""
        first = int(np.floor(self._time_s / PERIOD_S + 1e-6)) + 1
        last = int(np.floor(to_s / PERIOD_S + 1e-6))
        self._time_s = to_s
        if last < first:
            return
        times_s = PERIOD_S * np.arange(first, last + 1)
        samples = self._evaluate(times_s)
        self._judge(times_s, samples)
        moving = np.any(np.abs(samples[1]) > 1e-9, axis=1)
        if np.any(moving):
            self.last_motion_s = float(times_s[moving][-1])
        self._last = [values[-1:] for values in samples]

    def _evaluate(self, times_s: FloatArray) -> list[FloatArray]:
        index = np.clip(
            np.searchsorted(self._starts_s, times_s, side="right") - 1, 0, len(self._starts_s) - 1
        )
        duration_s = self._durations_s[index][:, None]
        share = np.clip((times_s - self._starts_s[index])[:, None] / duration_s, 0.0, None)
        curves = self._curves[index]
        values = []
        for order in range(4):
            # Horner's scheme on the derivative's coefficients.
            factors = np.array([math.perm(power, order) for power in range(order, 6)])
            total = curves[:, 5] * factors[-1]
            for power in range(4, order - 1, -1):
                total = total * share + curves[:, power] * factors[power - order]
            values.append(total / duration_s**order)
        over = times_s >= self._end_s
        if np.any(over):
            values[0][over] = self._final
            for value in values[1:]:
                value[over] = 0.0
        return values

    def _judge(self, times_s: FloatArray, samples: list[FloatArray]) -> None:
        findings = self.findings
        findings.num_samples += len(times_s)
        if not all(np.all(np.isfinite(values)) for values in samples):
            self._note("finite", times_s[0], "a commanded number is not finite")
            return
        for kind, values, low, high in zip(_KINDS, samples, self._low, self._high, strict=True):
            slack = _RELATIVE_TOLERANCE * (high - low)
            bad = (values < low - slack) | (values > high + slack)
            if np.any(bad):
                row, joint = np.argwhere(bad)[0]
                self._note(
                    kind,
                    float(times_s[row]),
                    f"{self._spec.arm_joint_names[joint]} {values[row, joint]:.6g} "
                    f"(limits {low[joint]:g} to {high[joint]:g})",
                    int(bad.sum()),
                )
            if kind != "position":
                share = float(np.max(np.abs(values) / high))
                findings.largest[kind] = max(findings.largest[kind], share)
        self._judge_steps(times_s, samples)

    def _judge_steps(self, times_s: FloatArray, samples: list[FloatArray]) -> None:
        """Between two samples each value may change by the limit of its derivative, no more."""
        for order in range(3):
            whole = np.concatenate((self._last[order], samples[order]))
            allowed = self._high[order + 1] * PERIOD_S * 1.001 + 1e-9
            bad = np.abs(np.diff(whole, axis=0)) > allowed
            if np.any(bad):
                row, joint = np.argwhere(bad)[0]
                self._note(
                    "step",
                    float(times_s[row]),
                    f"{self._spec.arm_joint_names[joint]} {_KINDS[order]} steps by "
                    f"{np.diff(whole, axis=0)[row, joint]:.6g} in a millisecond",
                    int(bad.sum()),
                )

    def _note(self, kind: str, time_s: float, text: str, count: int = 1) -> None:
        self.findings.violations[kind] += count
        if len(self.findings.examples) < 10:
            self.findings.examples.append(f"{kind} at {time_s:.3f} s: {text}")
