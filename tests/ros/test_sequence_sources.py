# SPDX-License-Identifier: Apache-2.0
"""Publishers are told apart by their numbers, and each has one name."""

import pytest

from par_ros.sequence_sources import SequenceSources


@pytest.mark.parametrize(
    ("numbers", "indices"),
    [
        ([1, 2, 3, 7, 8], [0, 0, 0, 0, 0]),
        # a second one that is younger, older, or of the same age
        ([500, 501, 1, 502, 2, 503, 3], [0, 0, 1, 0, 1, 0, 1]),
        ([5, 9000, 6, 9001, 7], [0, 0, 1, 0, 1]),
        ([1, 1, 2, 2, 3, 3], [0, 1, 1, 0, 0, 1]),
        # started again
        ([98, 99, 1, 2, 3], [0, 0, 1, 1, 1]),
    ],
)
def test_a_number_that_does_not_rise_is_another_publisher_s(
    numbers: list[int], indices: list[int]
) -> None:
    sources = SequenceSources()
    assert [sources.index(number) for number in numbers] == indices


def test_each_has_one_name_and_a_restarted_one_its_own() -> None:
    sources = SequenceSources()
    assert sources.name(0, set()) == ""
    assert not sources.is_named(0)
    assert sources.name(0, {"/camera"}) == "/camera"
    assert sources.name(1, {"/camera", "/alpha"}) == "/alpha"
    assert [sources.name(index, set()) for index in (0, 1)] == ["/camera", "/alpha"]
    assert sources.name(2, {"/camera"}) == "/camera"


def test_one_that_is_heard_before_the_graph_knows_it_gets_its_name_later() -> None:
    sources = SequenceSources()
    assert sources.name(0, {"/camera"}) == "/camera"
    assert sources.name(1, {"/camera"}) == "/camera"
    assert not sources.is_named(1)
    assert sources.name(1, {"/camera", "/stranger"}) == "/stranger"
