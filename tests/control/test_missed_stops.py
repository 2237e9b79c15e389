# SPDX-License-Identifier: Apache-2.0
"""A stop that could not be sent is planned again at each tick, until it is sent or nothing moves.

The arm moves at half the panda's speed; a machine that is too slow needs 21 ms for each plan.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.command import Command
from tests.control.guard_rig import Rig, text
from tests.control.test_guard import pushed_away

SLOW_S = 0.021
TRIES = 3


class BusyRig(Rig):
    """A rig that sends as GuardSession does; `num_late` plans in a row come too late."""

    num_late = 0

    def take(self, command: Command) -> Command:
        for attempt in range(TRIES):
            if command.arm is None or self.num_late == 0 or not command.has_splice:
                break
            self.num_late -= 1
            self.wait(SLOW_S, computing=True)
            command = self.guard.withdraw(self.moment, last=attempt == TRIES - 1)
        return super().take(command)

    @property
    def kind(self) -> str:
        return str(self.guard._arm.motions.running.kind)


def moving(**more: object) -> BusyRig:
    rig = BusyRig(**more)
    rig.engaged().sped_up()
    return rig


def fault(rig: Rig) -> None:
    rig.take(rig.guard.on_bad_chunk("unreadable", rig.moment))


def switch(*, held: bool) -> Callable[[Rig], None]:
    return lambda rig: rig.take(rig.guard.on_deadman(held, rig.moment)) and None


def service(name: str) -> Callable[[Rig], None]:
    return lambda rig: rig.call(name) and None


WAYS = {
    "e_stop": service("e_stop"),
    "disengage": service("disengage"),
    "fault": fault,
    "take_over": switch(held=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_late", [3, 4, 7])
def test_a_stop_that_is_late_each_time_is_sent_by_a_tick(way: str, num_late: int) -> None:
    """At rest within the time of a stop from the tick that sends it, not at the chunk's own end."""
    rig = moving()
    num_sent = len(rig.sent)
    rig.num_late = num_late
    WAYS[way](rig)
    assert rig.guard.owes_stop
    assert len(rig.sent) == num_sent
    events = [text(command) for command in rig.wait(0.02 * (1 + num_late))]
    assert not rig.guard.owes_stop
    assert rig.kind == "stop"
    assert len(rig.sent) == num_sent + 1
    # The log had it before.
    assert not [event for event in events if "no stop could be sent" in event]
    assert rig.guard.counters["late_stops"] == 1
    rig.assert_rest()


def test_a_released_switch_stops_the_operator_s_chunk_however_late() -> None:
    rig = BusyRig()
    rig.engaged()
    WAYS["take_over"](rig)
    chunk = rig.guard.on_chunk(rig.requested(rig.gentle()), rig.moment, by_operator=True)
    assert rig.take(chunk).arm is not None
    rig.wait(0.1)
    rig.num_late = 3
    switch(held=False)(rig)
    assert rig.guard.owes_stop and rig.guard.engaged
    rig.wait(0.02)
    assert rig.kind == "stop" and rig.guard.engaged
    rig.assert_rest()


def test_an_operator_s_chunk_takes_the_place_of_a_stop_that_was_not_sent() -> None:
    rig = moving()
    rig.num_late = 3
    WAYS["take_over"](rig)
    assert rig.guard.owes_stop
    chunk = rig.guard.on_chunk(rig.requested(rig.gentle(0.0)), rig.moment, by_operator=True)
    assert rig.take(chunk).arm is not None
    assert not rig.guard.owes_stop
    rig.wait(0.1)
    assert rig.kind == "chunk"


def test_a_stop_is_still_due_after_an_operator_s_chunk_that_was_not_sent_either() -> None:
    """The arm would follow the policy's chunk to its end."""
    rig = moving()
    rig.num_late = 6
    WAYS["take_over"](rig)
    rig.take(rig.guard.on_chunk(rig.requested(rig.gentle(0.0)), rig.moment, by_operator=True))
    assert rig.guard.owes_stop
    rig.wait(0.02)
    assert rig.kind == "stop"
    rig.assert_rest()


def test_nothing_is_due_of_a_motion_that_ended_while_nobody_ticked() -> None:
    """As in a guard that was deactivated."""
    rig = moving()
    rig.num_late = 3
    rig.call("e_stop")
    assert rig.guard.owes_stop
    rig.wait(1.5, computing=True)
    assert rig.guard.owes_stop
    assert rig.call("e_stop").message == "was stopped already"
    assert not rig.guard.owes_stop


def test_a_retreat_is_stopped_however_late() -> None:
    rig = BusyRig()
    rig.engaged()
    pushed_away(rig)
    assert rig.kind == "retreat"
    rig.num_late = 3
    rig.call("e_stop")
    assert rig.guard.owes_stop
    rig.wait(0.02)
    assert rig.kind == "stop"
    rig.assert_rest()


def test_a_stop_that_no_check_lets_pass_is_planned_again_at_each_tick() -> None:
    """The log has it once; as soon as one passes it is sent."""
    rig = moving()
    check = rig.guard._authority._commander._check
    good, check.why_not = check.why_not, lambda *_, **__: "broken on purpose"  # type: ignore[method-assign]
    reply = rig.call("e_stop")
    assert not reply.success
    assert "latched, but no stop could be sent yet" in reply.message
    told = [text(command) for command in (reply.command, *rig.wait(0.1))]
    assert len([each for each in told if "broken on purpose" in each]) == 1
    assert rig.guard.counters["failed_stops"] == 1
    assert "latched, but no stop could be sent yet" in rig.call("e_stop").message
    check.why_not = good  # type: ignore[method-assign]
    rig.wait(0.02)
    assert rig.kind == "stop"
    assert rig.call("e_stop").message == "was stopped already"
    rig.assert_rest()


def test_what_has_come_to_rest_meanwhile_needs_no_stop() -> None:
    """As slow as this until the end: the running motion ends by itself, and then nothing is due."""
    rig = moving()
    rig.num_late = 1000
    rig.call("e_stop")
    rig.wait(1.0)
    assert not rig.guard.owes_stop
    assert rig.kind == "chunk"
    assert rig.call("e_stop").message == "was stopped already"
    rig.num_late = 0
    rig.guard.reset_stop()
    assert rig.call("engage").success
    assert rig.chunk(rig.gentle(0.3)).arm is not None
    rig.assert_rest(1.2)


def test_after_a_clock_step_a_stop_that_was_not_sent_is_not_sent_either() -> None:
    rig = moving()
    rig.num_late = 3
    rig.call("e_stop")
    assert rig.guard.owes_stop
    num_sent = len(rig.sent)
    rig.clock_step_s = 0.1
    rig.wait(0.02)
    assert not rig.guard.owes_stop
    assert "ends at rest by itself" in rig.call("e_stop").message
    rig.assert_rest(0.8)
    assert len(rig.sent) == num_sent


STEPS = st.lists(
    st.tuples(
        st.sampled_from((*WAYS, "release", "chunk", "operator", "reset_stop", "engage", "wait")),
        st.integers(0, 7),
    ),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_whatever_comes_the_arm_keeps_its_limits_and_ends_at_rest(
    steps: list[tuple[str, int]],
) -> None:
    """Any requests, each on a machine that is too slow for its first plans; then it is fast."""
    rig = moving()
    ways = {**WAYS, "release": switch(held=False), "engage": service("engage")}
    for step, num_late in steps:
        rig.num_late = num_late
        if step in ways:
            ways[step](rig)
        elif step in ("chunk", "operator"):
            asked = rig.requested(rig.gentle(0.0 if rig.guard.owes_stop else 0.3))
            rig.take(rig.guard.on_chunk(asked, rig.moment, by_operator=step == "operator"))
        elif step == "reset_stop":
            rig.guard.reset_stop()
        rig.num_late = 0 if step == "wait" else rig.num_late
        rig.wait(0.08)
    rig.num_late = 0
    rig.call("e_stop")
    rig.assert_rest()
    assert not rig.guard.owes_stop
    assert np.isfinite(rig.commands[-1]).all()
