# SPDX-License-Identifier: Apache-2.0
"""A budget of 0.45 s; while warming up, answers in 8, 4, 2 and 1 steps took 0.32, 0.18, 0.1 and
0.06 s, and a predicted picture 0.2 s."""

import pytest

from par_ros.control.latency_budget import LatencyBudget

WARMED_UP_S = {8: 0.32, 4: 0.18, 2: 0.1, 1: 0.06}


@pytest.fixture
def budget() -> LatencyBudget:
    made = LatencyBudget(0.45)
    for num_steps, duration_s in WARMED_UP_S.items():
        made.warm_up(num_steps, duration_s + 1.0)
        made.warm_up(num_steps, duration_s)
        made.warm_up(num_steps, duration_s + 0.5)
    made.drew("predict_images", 0.2)
    return made


def test_the_most_steps_that_fit_are_taken(budget: LatencyBudget) -> None:
    """What is left of the budget is 0.45 s less the picture's age."""
    ages_s = (0.0, 0.12, 0.14, 0.26, 0.28, 0.34, 0.36, 0.38, 0.5)
    chosen = [budget.choose_steps(age_s) for age_s in ages_s]
    assert chosen == [8, 8, 4, 4, 2, 2, 1, 1, 1]
    assert budget.num_reduced == 7


def test_the_way_to_the_guard_is_kept_free(budget: LatencyBudget) -> None:
    """The longest of the last 20."""
    budget.taken(0.15)
    assert budget.choose_steps(0.0) == 4
    for _ in range(19):
        budget.taken(0.01)
    assert budget.choose_steps(0.0) == 4
    budget.taken(0.01)
    assert budget.choose_steps(0.0) == 8


def test_a_slow_machine_reduces_the_steps_and_recovers_after_twenty_answers(
    budget: LatencyBudget,
) -> None:
    """An answer in 8 steps takes twice its time: 0.64, 0.36, 0.2 and 0.12 s are expected."""
    budget.answered(8, 0.64)
    assert budget.expected_s(2) == pytest.approx(0.2)
    assert budget.choose_steps(0.0) == 4
    for _ in range(19):
        # In fewer steps it is judged by their own time.
        budget.answered(4, 0.18)
    assert budget.choose_steps(0.0) == 4
    budget.answered(4, 0.18)
    assert budget.choose_steps(0.0) == 8


def test_a_fast_answer_promises_nothing(budget: LatencyBudget) -> None:
    budget.answered(8, 0.1)
    assert budget.expected_s(8) == pytest.approx(0.32)


def test_a_picture_is_predicted_where_it_is_done_before_the_next_is_due(
    budget: LatencyBudget,
) -> None:
    assert budget.may_draw("predict_images", 0.4)
    assert not budget.may_draw("predict_images", 0.19)
    budget.answered(4, 0.45)
    assert not budget.may_draw("predict_images", 0.4)
    assert budget.num_skipped == {"predict_images": 2}
    # The first one's time counts: later ones have the slowdown in them.
    budget.drew("predict_images", 5.0)
    assert budget.may_draw("predict_images", 0.6)


def test_each_kind_of_picture_has_its_own_time(budget: LatencyBudget) -> None:
    assert budget.may_draw("attention_images", 0.0)
    budget.drew("attention_images", 0.05)
    assert budget.may_draw("attention_images", 0.06)
    assert not budget.may_draw("predict_images", 0.06)
    assert budget.num_skipped["attention_images"] == 0


def test_without_a_budget_nothing_gives_way() -> None:
    budget = LatencyBudget(None)
    budget.warm_up(8, 0.32)
    budget.drew("predict_images", 0.2)
    assert budget.choose_steps(100.0) is None
    assert budget.may_draw("predict_images", 0.0)
    assert (budget.num_reduced, budget.num_skipped.total()) == (0, 0)


def test_a_policy_that_was_not_warmed_up_answers_in_its_own_steps() -> None:
    budget = LatencyBudget(0.45)
    assert budget.choose_steps(0.3) is None
    budget.answered(None, 5.0)
    assert budget.may_draw("predict_images", 0.0)
