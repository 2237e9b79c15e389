# SPDX-License-Identifier: Apache-2.0
"""Limits of an arm's joints, and what follows from them. Shapes: J joints. Units: rad, s."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from par_ros.control.joint_trajectory import FloatArray

_STOP_ACCELERATION_SHARE = 0.95


@dataclass(frozen=True)
class PositionDependentVelocity:
    """Velocity limits that shrink towards the ends of a joint's range, float64 [J] each.

    Towards the upper end, as Franka publishes it for its FR3, a joint at q may run at
        max(0, offset + sqrt(max(0, slope * (upper_position - q))))
    and towards the lower end at the mirror image of that. A joint whose positions are infinite is
    not limited. Source: libfranka, include/franka/rate_limiting.h.

    Attributes:
        lower_position, upper_position: where the square root vanishes, rad.
        slope: twice the deceleration that the curve assumes, rad/s^2.
        offset: not positive, rad/s.
    """

    lower_position: FloatArray
    upper_position: FloatArray
    slope: FloatArray
    offset: FloatArray

    def bounds(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest velocity at `positions` [..., J]; infinite where not limited."""
        lowest = -self._speed(positions - self.lower_position)
        return lowest, self._speed(self.upper_position - positions)

    def scaled(self, share: float) -> "PositionDependentVelocity":
        """`share` of the speed at each position."""
        return dataclasses.replace(self, slope=share**2 * self.slope, offset=share * self.offset)

    def mapped(self, change: Callable[[FloatArray], FloatArray]) -> "PositionDependentVelocity":
        """The same numbers with `change` applied to each array."""
        return PositionDependentVelocity(
            change(self.lower_position),
            change(self.upper_position),
            change(self.slope),
            change(self.offset),
        )

    def _speed(self, distance: FloatArray) -> FloatArray:
        """The speed allowed towards an end that lies `distance` [..., J] ahead."""
        speed: FloatArray = self.offset + np.sqrt(np.maximum(self.slope * distance, 0.0))
        return np.maximum(speed, 0.0)


@dataclass(frozen=True)
class JointLimits:
    """Limits of J joints, float64 [J] each; velocity, acceleration and jerk hold both ways."""

    min_position: FloatArray
    max_position: FloatArray
    max_velocity: FloatArray
    max_acceleration: FloatArray
    max_jerk: FloatArray
    # Jerk used to stop: far below the limit, so that a stop does not shake the arm.
    stop_jerk: FloatArray
    # Tighter velocity limits near the ends of the range; None: max_velocity holds everywhere.
    position_dependent_velocity: PositionDependentVelocity | None = None

    @cached_property
    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest position, velocity, acceleration and jerk, [4, J] each."""
        both_ways = (self.max_velocity, self.max_acceleration, self.max_jerk)
        return (
            np.stack((self.min_position, *(-limit for limit in both_ways))),
            np.stack((self.max_position, *both_ways)),
        )

    @cached_property
    def stop_acceleration(self) -> FloatArray:
        """Deceleration of a stop [J]; the rest of the limit is for the curve between its points."""
        return _STOP_ACCELERATION_SHARE * self.max_acceleration

    def velocity_bounds(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest velocity allowed at `positions` [..., J], of the same shape.

        Never beyond max_velocity. The bounds follow the position only: a joint that runs on its
        bound towards the end of its range may have to brake at up to slope / 2, which can be more
        than max_acceleration.
        """
        if self.position_dependent_velocity is None:
            highest = np.broadcast_to(self.max_velocity, np.shape(positions))
            return -highest, highest.copy()
        lowest, highest = self.position_dependent_velocity.bounds(positions)
        return np.maximum(lowest, -self.max_velocity), np.minimum(highest, self.max_velocity)

    def of_joints(self, columns: npt.NDArray[np.intp]) -> "JointLimits":
        """The limits of some of the joints."""
        return self._mapped(lambda values: values[columns])

    def scaled(self, share: float) -> "JointLimits":
        """The same positions with `share` of velocity, acceleration and jerk."""
        dependent = self.position_dependent_velocity
        return dataclasses.replace(
            self,
            position_dependent_velocity=None if dependent is None else dependent.scaled(share),
            max_velocity=share * self.max_velocity,
            max_acceleration=share * self.max_acceleration,
            max_jerk=share * self.max_jerk,
            stop_jerk=share * self.stop_jerk,
        )

    def with_velocity(self, max_velocity: FloatArray) -> "JointLimits":
        """The same limits with another velocity [J]."""
        return dataclasses.replace(self, max_velocity=max_velocity)

    def inside(self, margin_rad: float) -> "JointLimits":
        """The same limits with positions `margin_rad` inside."""
        return dataclasses.replace(
            self,
            min_position=self.min_position + margin_rad,
            max_position=self.max_position - margin_rad,
        )

    def repeated(self, num: int) -> "JointLimits":
        """The same limits for `num` sets of joints side by side."""
        return self._mapped(lambda values: np.tile(values, num))

    def _mapped(self, change: Callable[[FloatArray], FloatArray]) -> "JointLimits":
        dependent = self.position_dependent_velocity
        return JointLimits(
            change(self.min_position),
            change(self.max_position),
            change(self.max_velocity),
            change(self.max_acceleration),
            change(self.max_jerk),
            change(self.stop_jerk),
            None if dependent is None else dependent.mapped(change),
        )

    def stop_time_s(self) -> float:
        """The longest time to come to rest from full speed and no acceleration."""
        ramp_s = self.stop_acceleration / self.stop_jerk
        trapezoid = self.max_velocity / self.stop_acceleration + ramp_s
        triangle = 2 * np.sqrt(self.max_velocity / self.stop_jerk)
        reaches_plateau = self.max_velocity > self.stop_acceleration * ramp_s
        return float(np.max(np.where(reaches_plateau, trapezoid, triangle)))
