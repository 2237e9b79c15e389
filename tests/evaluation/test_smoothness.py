# SPDX-License-Identifier: Apache-2.0
"""Analytic motions of one joint: a minimum-jerk move of 1 rad in 1 s, and stop-and-go."""

import itertools

import numpy as np
import pytest

from par_model.evaluation.smoothness import log_dimensionless_jerk, motion_figures

STEP_S = 0.001


def minimum_jerk(duration_s=1.0, step_s=STEP_S):
    """Flash and Hogan 1985: 10 u^3 - 15 u^4 + 6 u^5."""
    u = np.linspace(0.0, 1.0, round(duration_s / step_s) + 1)
    return (10 * u**3 - 15 * u**4 + 6 * u**5)[:, None]


def stop_and_go(num_stops, rest_s=0.3, step_s=STEP_S):
    """Minimum-jerk moves one after the other, at rest between them; and where each begins."""
    parts, begins, at = [minimum_jerk(step_s=step_s)], [], 1.0
    for _ in range(num_stops):
        parts.append(np.full((round(rest_s / step_s), 1), at))
        begins.append(sum(map(len, parts)) - 1)
        parts.append(at + minimum_jerk(step_s=step_s)[1:])
        at += 1.0
    return np.concatenate(parts), begins


def test_a_minimum_jerk_move_has_its_known_figures():
    """ln(720 / 1.875^2) = 5.322 for any duration and length; less where its slow ends are cut."""
    for duration_s, length in ((1.0, 1.0), (2.0, 0.3)):
        positions = length * minimum_jerk(duration_s)
        whole = log_dimensionless_jerk(np.diff(positions, axis=0) / STEP_S, STEP_S)
        assert whole == pytest.approx(-np.log(720 / 1.875**2), abs=0.02)
        found = motion_figures(positions, STEP_S, ())
        assert whole < found.log_dimensionless_jerk < whole + 0.9
        # Balasubramanian et al. 2015 give -1.41 for a smooth discrete reach.
        assert found.spectral_arc_length == pytest.approx(-1.41, abs=0.05)


def test_stops_make_both_figures_of_an_episode_worse():
    figures = [motion_figures(stop_and_go(stops)[0], STEP_S, ()) for stops in range(4)]
    for smoother, worse in itertools.pairwise(figures):
        assert worse.spectral_arc_length < smoother.spectral_arc_length - 0.1
        assert worse.log_dimensionless_jerk < smoother.log_dimensionless_jerk - 0.5


def test_a_stop_at_a_seam_loses_all_speed_and_is_timed():
    """0.3 s between two moves, which each begin and end below the speed that counts as rest."""
    positions, begins = stop_and_go(2)
    found = motion_figures(positions, STEP_S, begins)
    assert [seam.speed_lost for seam in found.seams] == [1.0, 1.0]
    for seam in found.seams:
        assert 0.3 <= seam.rest_s < 0.36
    assert found.rest_s == pytest.approx(sum(seam.rest_s for seam in found.seams))
    assert found.moving_s == pytest.approx(len(positions) * STEP_S, abs=0.1)


@pytest.mark.parametrize("seam", [200, 500, 800])
def test_a_seam_within_a_smooth_move_loses_nothing(seam):
    """While it gains speed, at its peak, and while it brakes."""
    figures = motion_figures(minimum_jerk(), STEP_S, (seam,)).seams[0]
    assert figures.speed_lost == pytest.approx(0.0, abs=1e-6)
    assert figures.rest_s == 0.0
    # The move's own jerk is at most 60 rad/s^3.
    assert figures.jerk_rad_s3 < 61.0


def test_the_dip_and_the_jump_of_a_step_in_the_targets():
    """1 rad/s at 20 Hz; at step 10 the targets jump by 0.02 rad, at step 20 half is lost."""
    steps = np.full(30, 0.05)
    steps[10] += 0.02
    steps[20] = 0.025
    positions = np.concatenate(([0.0], np.cumsum(steps)))[:, None]
    at_jump, at_dip = motion_figures(positions, 0.05, (10, 20)).seams
    assert at_jump.jump_rad == pytest.approx(0.02)
    assert at_jump.speed_lost == pytest.approx(0.0, abs=1e-9)
    # Third differences of a step of a: a, -2 a, a.
    assert at_jump.jerk_rad_s3 == pytest.approx(2 * 0.02 / 0.05**3)
    assert at_dip.speed_lost == pytest.approx(0.5)


def test_no_motion_has_no_figures():
    found = motion_figures(np.zeros((20, 7)), 0.05, (5, 10))
    assert (found.seams, found.moving_s, found.log_dimensionless_jerk) == ((), 0.0, 0.0)
    moved_once = np.zeros((20, 7))
    moved_once[10:, 0] = 0.1
    assert motion_figures(moved_once, 0.05, (5, 9, 15)).seams == ()
