# SPDX-License-Identifier: Apache-2.0
"""Intervals against published values: Wilson's 22/25 is 70.0 to 95.8%, 125/125 is 97.0 to 100%."""

import numpy as np
import pytest

from par_model.evaluation.statistics import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(
    ("num_successes", "num_trials", "low", "high"),
    [
        (22, 25, 0.7004, 0.9583),
        (0, 25, 0.0, 0.1332),
        (125, 125, 0.9702, 1.0),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_wilson(num_successes, num_trials, low, high):
    interval = wilson_interval(num_successes, num_trials)
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize(("num_successes", "num_trials"), [(3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_what_is_no_rate(num_successes, num_trials):
    with pytest.raises(ValueError, match=f"got {num_successes} of {num_trials}"):
        wilson_interval(num_successes, num_trials)


def test_bootstrap_resamples_states_not_rollouts():
    """Half of 24 states succeed always, half never: 120 rollouts know no more than 24 coins do."""
    by_state = np.repeat(np.arange(24) % 2 == 0, 5).reshape(24, 5)
    interval = bootstrap_interval(by_state)
    width = interval.high - interval.low

    assert 2 * 1.96 * np.sqrt(0.25 / 24) == pytest.approx(width, abs=0.05)
    wilson = wilson_interval(60, 120)
    assert width > 1.8 * (wilson.high - wilson.low)
    assert bootstrap_interval(by_state) == interval
    assert bootstrap_interval(np.ones((25, 5), bool)).low == 1.0


def test_bootstrap_refuses_an_empty_table():
    with pytest.raises(ValueError, match=r"\[0, 5\]"):
        bootstrap_interval(np.zeros((0, 5), bool))
