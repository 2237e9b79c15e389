# SPDX-License-Identifier: Apache-2.0
"""What the guard reports of references that it cannot use. Every 20 ms; at most
max_reference_age_s (0.2 s) old; more than 5 s old or 0.2 s ahead is another clock's time."""

import dataclasses

import numpy as np
import pytest

from tests.control.guard_rig import Rig, S

CASES = {
    "old": (-0.4, "stamped 0.400 s ago, at most 0.2 s is usable"),
    "other_clock": (-12.0, "stamped 12.000 s ago, which is the time of another clock"),
    "ahead": (0.7, "stamped 0.700 s ahead, which is the time of another clock"),
}


def feed(rig: Rig, offset_s: float, duration_s: float) -> None:
    """References of a controller whose clock is `offset_s` ahead."""
    rig.sends_references = False
    for _ in range(round(duration_s / 0.02)):
        rig.wait(0.02)
        sample = rig.reference()
        moved = dataclasses.replace(sample, stamp_ns=sample.stamp_ns + round(offset_s * S))
        rig.take(rig.guard.on_reference(moved, rig.moment))


@pytest.mark.parametrize(("name", "case"), CASES.items())
def test_a_controller_on_another_clock_is_named_at_engage(name, case) -> None:
    offset_s, words = case
    rig = Rig()
    feed(rig, offset_s, 0.4)
    reply = rig.guard.engage(rig.moment)
    assert not reply.success
    assert words in reply.message
    kind = "other_clock" if name == "ahead" else name
    assert rig.guard.counters[f"unusable_references_{kind}"] == 20
    assert rig.guard.counters["unusable_references"] == 20
    assert words in rig.guard.why_reference_unusable


def test_a_clock_that_goes_wrong_while_the_arm_moves_is_named_in_the_fault() -> None:
    rig = Rig().engaged().sped_up()
    feed(rig, -0.4, 0.24)
    assert rig.guard.last_fault is not None
    assert rig.guard.last_fault.kind == "reference_silent"
    assert "stamped 0.400 s ago" in rig.guard.last_fault.reason


def test_a_silent_controllers_fault_is_as_before() -> None:
    rig = Rig().engaged().sped_up()
    rig.sends_references = False
    rig.wait(0.24)
    assert rig.guard.last_fault is not None
    assert "no message has arrived: the controller is not active" in rig.guard.last_fault.reason


def test_the_largest_age_is_a_setting() -> None:
    rig = Rig(max_reference_age_s=0.5)
    feed(rig, -0.4, 0.4)
    assert rig.guard.why_reference_unusable == ""
    rig = Rig(max_reference_age_s=0.5).engaged().sped_up()
    rig.sends_references = False
    rig.wait(0.48)
    assert rig.guard.last_fault is None
    rig.wait(0.04)
    assert rig.guard.last_fault is not None
    assert "must come every 0.5 s" in rig.guard.last_fault.reason


def test_doubled_and_not_finite_references_are_told_apart() -> None:
    rig = Rig().engaged()
    rig.wait(0.02)
    sample = rig.reference()
    rig.take(rig.guard.on_reference(sample, rig.moment))
    assert "stamped 0.000 s before the one before it" in rig.guard.why_reference_unusable
    wrong = dataclasses.replace(sample, velocities=np.full(7, np.nan))
    rig.take(rig.guard.on_reference(wrong, rig.moment))
    assert "not finite" in rig.guard.why_reference_unusable
    rig.wait(0.02)
    assert rig.guard.why_reference_unusable == ""
    counters = rig.guard.counters
    assert counters["unusable_references_out_of_order"] == 1
    assert counters["unusable_references_not_finite"] == 1
