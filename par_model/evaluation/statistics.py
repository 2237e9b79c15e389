# SPDX-License-Identifier: Apache-2.0
"""Success rates with their uncertainty."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Quantile of the standard normal distribution for a two-sided 95% interval.
_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95% interval of a success rate; both ends in 0 to 1."""

    low: float
    high: float


def wilson_interval(num_successes: int, num_trials: int) -> Interval:
    """Wilson's score interval at 95% (Wilson 1927): sound at rates of 0 and 1 and for few trials.

    Raises ValueError unless 0 <= num_successes <= num_trials and num_trials >= 1.
    """
    if num_trials < 1 or not 0 <= num_successes <= num_trials:
        raise ValueError(
            f"a success rate needs 0 <= successes <= trials and at least one trial, got "
            f"{num_successes} of {num_trials}."
        )
    rate = num_successes / num_trials
    z2_n = _Z_95**2 / num_trials
    centre = (rate + z2_n / 2) / (1 + z2_n)
    half = _Z_95 / (1 + z2_n) * np.sqrt(rate * (1 - rate) / num_trials + z2_n / (4 * num_trials))
    return Interval(max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def bootstrap_interval(
    success_SP: npt.NDArray[np.bool_], *, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap at 95% over the initial states, all rollouts of a state together.

    success_SP: bool [S states, P policy seeds]. Rollouts that share an initial state are not
    independent, which Wilson's interval assumes; this one resamples the S states alone.
    """
    if success_SP.ndim != 2 or success_SP.size == 0:
        raise ValueError(
            f"successes must be a table [states, policy seeds] with entries, got shape "
            f"{list(success_SP.shape)}."
        )
    rate_S = success_SP.mean(axis=1)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(rate_S), size=(num_resamples, len(rate_S)))
    low, high = np.quantile(rate_S[chosen].mean(axis=1), (0.025, 0.975))
    return Interval(float(low), float(high))


def mcnemar_p_value(better_N: npt.NDArray[np.bool_], other_N: npt.NDArray[np.bool_]) -> float:
    """Exact one-sided McNemar test on N paired rollouts: how likely the pairs that differ would
    favour `better` at least so often if neither were better. 1.0 where no pair differs.

    Raises ValueError unless both have the same length.
    """
    if better_N.shape != other_N.shape or better_N.ndim != 1:
        raise ValueError(
            f"paired outcomes must be two lists of one length, got shapes {list(better_N.shape)} "
            f"and {list(other_N.shape)}; were both measured on the same seeds?"
        )
    num_for = int((better_N & ~other_N).sum())
    num_different = int((better_N != other_N).sum())
    tail = sum(math.comb(num_different, k) for k in range(num_for, num_different + 1))
    return float(tail / 2**num_different)


def paired_difference_interval(
    first_N: npt.NDArray[np.bool_],
    second_N: npt.NDArray[np.bool_],
    states_N: npt.NDArray[np.int64],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap at 95% of the difference of two success rates (first - second) on
    paired rollouts; rollouts with an equal entry of `states_N` are resampled together. The ends lie
    in -1 to 1."""
    states, place_N = np.unique(states_N, return_inverse=True)
    difference_S = np.bincount(place_N, weights=first_N.astype(float) - second_N)
    count_S = np.bincount(place_N)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(states), size=(num_resamples, len(states)))
    rates = difference_S[chosen].sum(axis=1) / count_S[chosen].sum(axis=1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return Interval(float(low), float(high))
