# SPDX-License-Identifier: Apache-2.0
"""Chunks of 18 rows of 8 joints, gripper last; the seam lies anywhere in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_model.seam import NUM_BEFORE, Seam, SeamSettings, join

J = 8
# A row takes in 1e-15 of each of its 20 neighbours' rounding.
ROUNDING = 1e-12


@st.composite
def cases(draw):
    """A chunk, a seam within it, the running chunk's rows from there on; rad."""
    first, left = draw(st.integers(0, 17)), draw(st.integers(0, 18))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from((1e-6, 0.05, 3.0)))
    seam = Seam(*(noise.uniform(-size, size, (count, J)) for count in (NUM_BEFORE + first, left)))
    return noise.uniform(-size, size, (18, J)), seam


@settings(deadline=None)
@given(cases(), st.integers(0, 12))
def test_a_faded_row_lies_between_the_two_chunks_and_later_ones_are_the_new_chunks(case, steps):
    chunk, seam = case
    first = seam.first_row
    joined = join(chunk, seam, SeamSettings(steps))
    faded = first + min(steps, len(seam.running), len(chunk) - first)
    old, new = seam.running[: faded - first], chunk[first:faded]
    found = joined[first:faded]
    assert np.all(found[:, :-1] >= np.minimum(old, new)[:, :-1] - ROUNDING)
    assert np.all(found[:, :-1] <= np.maximum(old, new)[:, :-1] + ROUNDING)
    np.testing.assert_array_equal(joined[faded:], chunk[faded:])
    if steps:
        np.testing.assert_array_equal(joined[:first], seam.followed[NUM_BEFORE:])


@settings(deadline=None)
@given(cases(), st.integers(1, 12))
def test_the_step_into_a_faded_chunk_is_a_share_of_the_gap(case, steps):
    """With K = 1 .. 12 rows, the first one is 1 / (K + 1) of the way to the new chunk."""
    chunk, seam = case
    if not len(seam.running):
        return
    first = seam.first_row
    num_faded = min(steps, len(seam.running), len(chunk) - first)
    joined = join(chunk, seam, SeamSettings(steps))
    gap = chunk[first] - seam.running[0]
    np.testing.assert_allclose(
        (joined[first] - seam.running[0])[:-1], gap[:-1] / (num_faded + 1), atol=ROUNDING
    )


@settings(deadline=None)
@given(cases(), st.integers(0, 12), st.floats(0.0, 100.0))
def test_the_gripper_is_the_new_chunks_from_the_seam_on(case, steps, smoothness):
    chunk, seam = case
    joined = join(chunk, seam, SeamSettings(steps, smoothness))
    np.testing.assert_array_equal(joined[seam.first_row :, -1], chunk[seam.first_row :, -1])


@settings(deadline=None)
@given(cases(), st.integers(0, 12))
def test_two_chunks_that_want_the_same_are_the_same_to_the_bit(case, steps):
    chunk, seam = case
    same = Seam(np.concatenate((seam.followed[:NUM_BEFORE], chunk[: seam.first_row])),
                chunk[seam.first_row :])  # fmt: skip
    np.testing.assert_array_equal(join(chunk, same, SeamSettings(steps)), chunk)


@settings(deadline=None)
@given(cases())
def test_without_settings_the_chunk_is_not_touched(case):
    chunk, seam = case
    assert join(chunk, seam, SeamSettings()) is chunk


@settings(deadline=None)
@given(st.integers(0, 17), st.floats(0.1, 1000.0))
def test_smoothing_leaves_a_straight_motion_alone(first, smoothness):
    line = np.linspace(np.full(J, -1.0), np.arange(J), 20)
    seam = Seam(line[: NUM_BEFORE + first], line[:0])
    joined = join(line[NUM_BEFORE:], seam, SeamSettings(0, smoothness))
    np.testing.assert_allclose(joined, line[NUM_BEFORE:], atol=1e-9)


@settings(deadline=None)
@given(cases(), st.floats(0.1, 1000.0))
def test_no_other_rows_are_smoother_for_their_distance(case, smoothness):
    """The cost of the result is least: any change of a row raises it."""
    chunk, seam = case
    first = seam.first_row
    before = seam.followed[-NUM_BEFORE:, :-1]
    wanted = chunk[first:, :-1]

    def cost(found):
        bends = np.diff(np.concatenate((before, found)), 2, axis=0)
        return ((found - wanted) ** 2).sum() + smoothness * (bends**2).sum()

    found = join(chunk, seam, SeamSettings(0, smoothness))[first:, :-1]
    least = cost(found)
    for row in range(len(found)):
        for change in (-0.1, 0.1):
            other = found.copy()
            other[row] += change
            assert cost(other) > least


def test_a_chunk_of_which_nothing_is_left_is_not_touched():
    chunk = np.zeros((8, J))
    seam = Seam(np.ones((NUM_BEFORE + 8, J)), np.ones((0, J)))
    assert join(chunk, seam, SeamSettings(4, 10.0)) is chunk


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"must be 0 or more"):
        SeamSettings(-1)
    with pytest.raises(ValueError, match=r"must be 0 or more"):
        SeamSettings(0, float("nan"))
    with pytest.raises(ValueError, match=r"needs 2 targets or more"):
        Seam(np.zeros((1, J)), np.zeros((0, J)))
