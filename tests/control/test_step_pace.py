# SPDX-License-Identifier: Apache-2.0
"""Steps of 50 ms, announced 15 ms before; the pace begins at 100 s."""

import pytest

from par_ros.control.step_pace import StepPace


def pace(lead_s: float = 0.015) -> StepPace:
    return StepPace(0.05, lead_s, 100.0)


def test_a_step_is_announced_before_it_is_made() -> None:
    steps = pace()
    assert steps.wait_s(100.0) == pytest.approx(0.035)
    assert steps.take(100.034) is None
    assert steps.take(100.036) == "announce"
    assert steps.take(100.049) is None
    assert steps.wait_s(100.049) == pytest.approx(0.001)
    assert steps.take(100.051) == "step"
    # On the grid, whenever it was looked at.
    assert steps.wait_s(100.051) == pytest.approx(0.034)
    assert steps.num_late == 0


def test_a_late_step_keeps_four_fifths_of_its_lead_and_shifts_the_later_ones() -> None:
    steps = pace()
    assert steps.take(100.2) == "announce"
    assert steps.num_late == 1
    assert steps.wait_s(100.2) == pytest.approx(0.012)
    assert steps.take(100.211) is None
    assert steps.take(100.212) == "step"
    assert steps.wait_s(100.212) == pytest.approx(0.035)


def test_the_lead_is_at_most_half_a_period() -> None:
    assert pace(lead_s=0.2).wait_s(100.0) == pytest.approx(0.025)


def test_a_new_episode_starts_anew() -> None:
    steps = pace()
    assert steps.take(100.04) == "announce"
    steps.restart(100.045)
    assert steps.wait_s(100.045) == pytest.approx(0.035)
    assert steps.take(100.081) == "announce"
