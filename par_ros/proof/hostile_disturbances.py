# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the hostile world, by name, and when it does.

Each disturbance has a random generator of its own, seeded by run and name: taking one away leaves
what the others draw as it was. A run takes part of them, so that each is seen alone too.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Name: the share of runs that have it, and what it is.
DISTURBANCES: dict[str, tuple[float, str]] = {
    # The way to the controller.
    "late_pickup": (0.4, "a trajectory reaches the controller up to 50 ms after it was sent"),
    "lost_trajectories": (0.3, "a trajectory is lost"),
    "doubled_trajectories": (0.2, "a trajectory arrives twice"),
    "computing": (0.4, "the guard computes, or gets no CPU, for up to 40 ms before it publishes"),
    # Clocks.
    "small_clock_steps": (0.25, "ROS time steps by 1 ms to 0.25 s either way"),
    "large_clock_steps": (0.2, "ROS time steps by 0.25 s to 10 s either way"),
    "clock_slews": (0.25, "ROS time runs up to 500 ppm fast or slow"),
    "clock_stops": (0.1, "the guard's ROS time stands still"),
    "clock_reading": (0.15, "the guard reads its two clocks up to some microseconds apart"),
    "lumpy_clock": (1.0, "a simulator's steps take more or less time than they simulate"),
    # Chunks.
    "hostile_chunks": (0.8, "NaN, steps, wrong joints, times and stamps, mutations"),
    "lost_chunks": (0.3, "chunks are lost"),
    "late_chunks": (0.4, "chunks come up to 0.8 s late, in bursts"),
    "pauses": (0.3, "the policy pauses for up to 1.3 s"),
    "doubled_chunks": (0.2, "chunks come twice"),
    "second_policy": (0.1, "two publishers of chunks"),
    # Joint states.
    "joint_gaps": (0.25, "no joint states for up to 1 s"),
    "late_joints": (0.3, "joint states come up to 0.1 s late, in bursts"),
    "past_stamps": (0.15, "stamps of joint states up to 1000 s in the past"),
    "future_stamps": (0.15, "stamps of joint states in the future"),
    "no_velocities": (0.3, "joint states without velocities"),
    "foreign_joints": (0.1, "a second source of joint states, with other positions"),
    "nan_joints": (0.15, "NaN in joint states"),
    "split_joints": (0.1, "joint states with a part of the joints"),
    # References.
    "lost_references": (0.2, "the controller's reports are lost, up to 1 s of them"),
    "late_references": (0.25, "the controller's reports come up to 0.1 s late"),
    # The arm and its controller.
    "arm_lag": (0.6, "the arm lags, first or second order"),
    "arm_sag": (0.5, "the arm sags up to 10 mrad"),
    "arm_noise": (0.5, "encoders are noisy"),
    "collisions": (0.3, "joints get stuck"),
    "moved_by_hand": (0.25, "the arm is moved by hand while the controller is off"),
    "cycle_jitter": (0.6, "the controller's cycles jitter by up to 20 %"),
    "slow_controller": (0.35, "the controller runs at 100 to 500 Hz instead of 1 kHz"),
    "humble": (0.15, "the controller follows the rule of Humble"),
    "cmd_timeout": (0.3, "the controller holds where the arm is after 0.6 to 2 s of rest"),
    # Services.
    "e_stops": (0.5, "emergency stops at any moment"),
    "disengages": (0.4, "disengage at any moment"),
    "stops_after_chunks": (0.4, "stops 0 to 60 ms after a chunk"),
    "stops_in_retreat": (0.7, "stops while the arm retreats"),
    "engages_in_retreat": (0.5, "engage while the arm retreats"),
    "rude_engages": (0.4, "engage at any moment, latched or moving"),
    "lifecycle": (0.2, "the guard is deactivated, cleaned up and made anew"),
}


@dataclass(frozen=True)
class Choice:
    """Which disturbances a run may draw.

    Attributes:
        names: those that are on.
        forced: every run has all of them, at their full rate.
        report_period_s: between two reports of the controller; None: drawn by lot.
    """

    names: frozenset[str]
    forced: bool = False
    report_period_s: float | None = None

    @staticmethod
    def of(
        without: Iterable[str] = (),
        only: Iterable[str] | None = None,
        report_period_s: float | None = None,
    ) -> "Choice":
        """All but some, or only some.

        Raises:
            ValueError: a name is unknown.
        """
        asked = set(without) | set(only or ())
        unknown = sorted(asked - set(DISTURBANCES))
        if unknown:
            raise ValueError(
                f"disturbances must be among {', '.join(DISTURBANCES)}, got {', '.join(unknown)}."
            )
        names = set(DISTURBANCES) if only is None else set(only)
        return Choice(frozenset(names - set(without)), only is not None, report_period_s)


class Disturbances:
    """The disturbances of one run."""

    def __init__(self, choice: Choice, seed: int) -> None:
        self.report_period_s = choice.report_period_s
        self._generators = {
            name: np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in DISTURBANCES
        }
        self._rates: dict[str, float] = {}
        for name, (share, _) in DISTURBANCES.items():
            generator = self._generators[name]
            lot, rate = generator.random(), generator.uniform(0.2, 1.0)
            if name in choice.names and (choice.forced or lot < share):
                self._rates[name] = 1.0 if choice.forced else rate

    @property
    def names(self) -> tuple[str, ...]:
        """Those that this run has."""
        return tuple(self._rates)

    def has(self, name: str) -> bool:
        """Whether this run has it."""
        return name in self._rates

    def happens(self, name: str, probability: float) -> bool:
        """Whether it happens now; the probability is scaled by the run's own rate."""
        # Drawn in any case, so that what follows stays the same.
        lot = float(self._generators[name].random())
        return name in self._rates and lot < probability * self._rates[name]

    def uniform(self, name: str, low: float, high: float) -> float:
        """A number for it."""
        return float(self._generators[name].uniform(low, high))

    def spread(self, name: str, low: float, high: float) -> float:
        """A number whose logarithm is uniform, of either sign."""
        generator = self._generators[name]
        size = np.exp(generator.uniform(np.log(low), np.log(high)))
        return float(size * generator.choice([-1.0, 1.0]))

    def normal(self, name: str, deviation: float, num: int) -> np.ndarray:
        """Numbers around zero [num]."""
        return self._generators[name].normal(0.0, deviation, num)

    def generator(self, name: str) -> np.random.Generator:
        """Its own generator."""
        return self._generators[name]
