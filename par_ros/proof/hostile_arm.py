# SPDX-License-Identifier: Apache-2.0
"""A hostile arm: it lags, sags, gets stuck, and its sensors are noisy.

The lag is a linear filter of first or second order, fed with one command a cycle. Units: rad.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from par_ros.control.joint_trajectory import FloatArray


@dataclass(frozen=True)
class ArmSettings:
    """How far the arm is from a perfect one.

    Attributes:
        lag_s: time constant; 0: it follows at once.
        damping: of the second-order lag; None: first order.
        sag_rad: measured minus commanded at rest [J].
        noise_rad: deviation of one measurement.
    """

    lag_s: float
    damping: float | None
    sag_rad: FloatArray
    noise_rad: float


class HostileArm:
    """Where the joints are, cycle by cycle. `history` [M, J] ends at the cycle computed last."""

    def __init__(self, settings: ArmSettings, period_s: float, positions: FloatArray) -> None:
        self.settings = settings
        self._gains = _gains(settings, period_s)
        # What stuck joints stand at; NaN where a joint is free.
        self._stuck_at = np.full(len(positions), np.nan)
        self._positions = np.repeat(positions[None], 2, axis=0)

    def hold_fast(self, joints: FloatArray) -> None:
        """From the next cycle on the joints [J] that are not NaN stand there, whatever is sent."""
        self._stuck_at = joints

    def follow(self, before: FloatArray, commands: FloatArray) -> FloatArray:
        """The joints after each of M commands [M, J], from their last two places [2, J]."""
        feed, first, second = self._gains
        if first == 0.0 and second == 0.0:
            places = commands.copy()
        else:
            state = np.stack((first * before[1] + second * before[0], second * before[1]))
            places, _ = lfilter([feed], [1.0, -first, -second], commands, axis=0, zi=state)
        stuck = ~np.isnan(self._stuck_at)
        if stuck.any():
            places[:, stuck] = self._stuck_at[stuck]
        return places


def _gains(settings: ArmSettings, period_s: float) -> tuple[float, float, float]:
    """y_k = feed u_k + first y_{k-1} + second y_{k-2}: poles of the lag, exactly sampled."""
    if settings.lag_s == 0.0:
        return 1.0, 0.0, 0.0
    if settings.damping is None:
        pole = np.exp(-period_s / settings.lag_s)
        return float(1.0 - pole), float(pole), 0.0
    # Time constant 2 damping / frequency: the lag at constant speed.
    frequency = 2.0 * settings.damping / settings.lag_s
    decay = np.exp(-settings.damping * frequency * period_s)
    turn = frequency * period_s * np.sqrt(complex(settings.damping**2 - 1.0))
    first = float((2.0 * decay * np.cosh(turn)).real)
    second = -float(decay**2)
    return 1.0 - first - second, first, second
