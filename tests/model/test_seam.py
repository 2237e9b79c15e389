# SPDX-License-Identifier: Apache-2.0
"""Chunks of 18 rows of 8 joints, gripper last; the seam lies anywhere in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_model.seam import NUM_BEFORE, join

J = 8


@st.composite
def cases(draw):
    """A chunk [rad], and what was followed before its row `first`."""
    first = draw(st.integers(0, 17))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from((1e-6, 0.05, 3.0)))
    followed = noise.uniform(-size, size, (NUM_BEFORE + first, J))
    return noise.uniform(-size, size, (18, J)), followed, first


@settings(deadline=None)
@given(cases(), st.floats(0.0, 1000.0))
def test_earlier_rows_are_what_was_followed_and_the_gripper_is_the_chunks(case, smoothness):
    chunk, followed, first = case
    joined = join(chunk, followed, smoothness)
    np.testing.assert_array_equal(joined[:first], followed[NUM_BEFORE:])
    np.testing.assert_array_equal(joined[first:, -1], chunk[first:, -1])


@settings(deadline=None)
@given(cases())
def test_without_smoothness_the_rows_that_are_followed_stay_to_the_bit(case):
    chunk, followed, first = case
    np.testing.assert_array_equal(join(chunk, followed, 0.0)[first:], chunk[first:])


@settings(deadline=None)
@given(st.integers(0, 17), st.floats(0.1, 1000.0))
def test_smoothing_leaves_a_straight_motion_alone(first, smoothness):
    line = np.linspace(np.full(J, -1.0), np.arange(J), 20)
    joined = join(line[NUM_BEFORE:], line[: NUM_BEFORE + first], smoothness)
    np.testing.assert_allclose(joined, line[NUM_BEFORE:], atol=1e-9)


@settings(deadline=None)
@given(cases(), st.floats(0.1, 1000.0))
def test_no_other_rows_are_smoother_for_their_distance(case, smoothness):
    """The cost of the result is least: any change of a row raises it."""
    chunk, followed, first = case
    before, wanted = followed[-NUM_BEFORE:, :-1], chunk[first:, :-1]

    def cost(found):
        bends = np.diff(np.concatenate((before, found)), 2, axis=0)
        return ((found - wanted) ** 2).sum() + smoothness * (bends**2).sum()

    found = join(chunk, followed, smoothness)[first:, :-1]
    least = cost(found)
    for row in range(len(found)):
        for change in (-0.1, 0.1):
            other = found.copy()
            other[row] += change
            assert cost(other) > least


def test_a_step_in_the_wish_becomes_a_slow_start():
    """From standing, 0.1 rad at once; the same row by row without smoothing."""
    chunk = np.full((18, J), 0.1)
    joined = join(chunk, np.zeros((NUM_BEFORE, J)), 10.0)
    assert 0.005 < joined[0, 0] < 0.03
    assert joined[-1, 0] == pytest.approx(0.1, abs=0.01)


def test_a_chunk_of_which_nothing_is_left_is_not_touched():
    chunk = np.zeros((8, J))
    assert join(chunk, np.ones((NUM_BEFORE + 8, J)), 10.0) is chunk


def test_what_cannot_be_is_refused():
    chunk = np.zeros((8, J))
    for smoothness in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"must be 0 or more, and finite"):
            join(chunk, np.zeros((NUM_BEFORE, J)), smoothness)
    with pytest.raises(ValueError, match=r"needs 2 targets or more"):
        join(chunk, np.zeros((1, J)), 1.0)
