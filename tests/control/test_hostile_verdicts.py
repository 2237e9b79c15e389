# SPDX-License-Identifier: Apache-2.0
"""A late rest is excused only where the guard could not know, and only for so long."""

import numpy as np
import pytest

from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.proof.hostile_controller import SentTrajectory
from par_ros.proof.hostile_judge import Broken, StopWatch
from par_ros.proof.hostile_verdicts import (
    CLOCK_STEP,
    FOLLOWS_CLOCK,
    UNREPORTED,
    History,
)

MS = 1_000_000
STILL = JointTrajectory(("joint",), np.zeros(1), np.zeros((1, 1)))


def history(rule: str = "jazzy", *, has_reference: bool = True) -> History:
    """A chunk sent at 10 s, taken 8 ms later."""
    made = History(has_reference, rule, 30 * MS, None)
    made.sent.append(
        SentTrajectory(
            trajectory=STILL,
            stamp_ns=10_000 * MS,
            given_ros_ns=10_000 * MS,
            given_steady_ns=10_000 * MS,
            splice_end_ns=10_030 * MS,
            origin="chunk",
            number=0,
            published_steady_ns=10_002 * MS,
            picked_up_ns=10_008 * MS,
            picked_up_steady_ns=10_008 * MS,
        )
    )
    return made


def rest(rest_s: float, stop_s: float = 10.1) -> StopWatch:
    """A stop that may take 0.5 s and takes `rest_s`."""
    stop_ns = round(stop_s * 1e9)
    watch = StopWatch(stop_ns, 500 * MS, "e_stop")
    watch.last_motion_ns = stop_ns + round(rest_s * 1e9)
    return watch


@pytest.mark.parametrize("rule", ["jazzy", "humble"])
def test_a_late_rest_is_the_guards_where_nothing_happened(rule: str) -> None:
    assert history(rule).excuse_of_rest(rest(0.6)) == ""


def test_a_clock_that_went_back_before_the_pick_up_is_an_excuse_for_as_long_as_it_went() -> None:
    """The controller waits that long for the stamp. A step after the pick-up moves nothing."""
    stepped = history()
    stepped.clock_steps.append((10_004 * MS, -3_000 * MS))
    assert stepped.excuse_of_rest(rest(3.5)) == CLOCK_STEP
    assert stepped.excuse_of_rest(rest(5.0)) == ""
    later = history()
    later.clock_steps.append((10_050 * MS, -3_000 * MS))
    assert later.excuse_of_rest(rest(0.6)) == ""


def test_a_controller_that_follows_the_clock_stands_and_goes_on_later() -> None:
    followed = history("humble")
    followed.clock_steps.append((10_050 * MS, -9_000 * MS))
    assert followed.excuse_of_rest(rest(7.4, stop_s=12.0)) == FOLLOWS_CLOCK


@pytest.mark.parametrize(("has_reference", "excuse"), [(False, UNREPORTED), (True, "")])
def test_a_lost_stop_is_an_excuse_only_where_nobody_reports(
    has_reference: bool, excuse: str
) -> None:
    lost = history(has_reference=has_reference)
    stop = SentTrajectory(
        STILL, 10_300 * MS, 10_300 * MS, 10_300 * MS, 10_330 * MS, "stop", 1, 10_302 * MS
    )
    stop.fate.add("lost")
    lost.sent.append(stop)
    assert lost.excuse_of_rest(rest(0.9, stop_s=10.9)) == excuse
    assert lost.excuse_of_rest(rest(1.7, stop_s=10.9)) == ""


@pytest.mark.parametrize(
    ("stepped_at_ms", "excuse"), [(10_004, CLOCK_STEP), (10_050, ""), (None, "")]
)
def test_a_position_beyond_its_limit_is_excused_by_a_step_before_the_pick_up_alone(
    stepped_at_ms: int | None, excuse: str
) -> None:
    """The clock went back: the first point is far ahead, and the way to it may overshoot."""
    stepped = history()
    stepped.sent[0].fate.add("ahead")
    if stepped_at_ms is not None:
        stepped.clock_steps.append((stepped_at_ms * MS, -3_000 * MS))
    beyond = Broken("position", 0.01, 0.5, 10_200 * MS, 0, stepped.sent[0], None, False, True, -1)
    assert stepped.excuse(beyond) == excuse
    stepped.sent[0].fate.remove("ahead")
    assert stepped.excuse(beyond) == ""
