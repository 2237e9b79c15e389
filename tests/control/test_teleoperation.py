# SPDX-License-Identifier: Apache-2.0
"""An operator's deadman switch in the guard: whose chunks move the arm, and when it stops.

The switch is heard every 0.1 s; it counts for 0.2 s. Chunks of 0.4 s; ticks every 20 ms.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from par_ros.control.command import Command
from tests.control.guard_rig import Rig, S, text

HEARD_S = 0.2
TICK_S = 0.02


class OperatorRig(Rig):
    """A rig with an operator, who says every 0.1 s whether the switch is held, or nothing."""

    holds: bool | None = None

    def wait(self, duration_s: float, *, computing: bool = False) -> list[Command]:
        commands = []
        for _ in range(round(duration_s / 0.1)):
            if self.holds is not None:
                commands.append(self.deadman(self.holds))
            commands += super().wait(0.1, computing=computing)
        rest_s = duration_s - 0.1 * round(duration_s / 0.1)
        return commands + super().wait(max(0.0, rest_s), computing=computing)

    def deadman(self, held: bool) -> Command:
        return self.take(self.guard.on_deadman(held, self.moment))

    def operator_chunk(self, positions: np.ndarray) -> Command:
        command = self.guard.on_chunk(self.requested(positions), self.moment, by_operator=True)
        return self.take(command)

    def standing(self) -> np.ndarray:
        now = self.guard.commanded_positions(self.moment)
        assert now is not None
        return np.tile(np.append(now, 0.04), (8, 1))

    @property
    def kind(self) -> str:
        return str(self.guard._arm.motions.running.kind)

    @property
    def moves(self) -> bool:
        return bool(self.guard._arm.motions.is_moving(self.moment.ros_ns))


def rig() -> OperatorRig:
    made = OperatorRig()
    made.engaged()
    return made


def moved(positions: np.ndarray, by_rad: float = 0.02) -> np.ndarray:
    """Slowly away from a standing chunk, all joints alike."""
    path = positions.copy()
    path[:, :7] += by_rad * (np.arange(1, 9) / 8)[:, None] ** 2
    return path


def test_without_the_switch_an_operator_s_chunk_does_nothing() -> None:
    """The policy's next one passes as ever."""
    given_rig = rig()
    command = given_rig.operator_chunk(moved(given_rig.standing()))
    assert command.arm is None
    assert command.executed is None
    assert not given_rig.guard.teleoperated
    assert given_rig.chunk(given_rig.gentle()).executed is not None
    assert given_rig.kind == "chunk"


def test_a_held_switch_stops_the_policy_and_passes_the_operator_s_chunks() -> None:
    given_rig = rig()
    given_rig.sped_up()
    command = given_rig.deadman(held=True)
    assert "the operator has taken over" in text(command)
    assert given_rig.guard.teleoperated
    assert given_rig.kind == "stop"
    refused = given_rig.chunk(given_rig.gentle())
    assert refused.arm is None
    # The policy is told what the arm does instead.
    assert refused.executed is not None
    assert given_rig.kind == "stop"
    given_rig.holds = True
    given_rig.wait(0.6)
    chunk = moved(given_rig.standing())
    taken = given_rig.operator_chunk(chunk)
    assert given_rig.kind == "chunk"
    assert taken.executed is not None
    np.testing.assert_allclose(taken.executed.positions, chunk, atol=1e-9)
    assert given_rig.guard.holding == ""
    given_rig.wait(0.6)
    given_rig.assert_rest()


@pytest.mark.parametrize("is_told", [True, False])
def test_release_or_loss_of_the_switch_is_a_hold(is_told: bool) -> None:
    """Told: at once. Lost: 0.2 s after the last message, a tick later at the latest."""
    given_rig = rig()
    given_rig.holds = True
    given_rig.wait(0.3)
    assert given_rig.operator_chunk(moved(given_rig.standing())).arm is not None
    given_rig.holds = None
    if is_told:
        given_rig.deadman(held=False)
    else:
        given_rig.deadman(held=True)
        given_rig.wait(HEARD_S - TICK_S)
        assert given_rig.kind == "chunk"
        given_rig.wait(2 * TICK_S + 0.001)
    assert given_rig.guard.holding == "deadman"
    assert given_rig.guard.engaged
    assert given_rig.kind == "stop"
    given_rig.assert_rest()
    # Longer than any deadline of the policy: its silence is no fault now.
    given_rig.wait(11.0)
    assert given_rig.guard.engaged
    given_rig.holds = True
    given_rig.wait(0.2)
    assert given_rig.operator_chunk(moved(given_rig.standing())).arm is not None


def test_the_policy_s_chunks_pass_again_after_engage_and_it_starts_anew() -> None:
    given_rig = rig()
    given_rig.holds = True
    given_rig.wait(0.3)
    reply = given_rig.call("engage")
    assert not reply.success
    assert "holds the deadman switch" in reply.message
    given_rig.holds = None
    given_rig.wait(1.0)
    assert given_rig.chunk(given_rig.gentle()).arm is None
    assert given_rig.guard.teleoperated
    assert given_rig.call("engage").success
    assert not given_rig.guard.teleoperated
    asked = given_rig.gentle()
    held = given_rig.chunk(asked)
    assert held.arm is None
    assert held.executed is not None
    # What PolicyTurn takes as a lost context: the arm stood for a chunk that asked for motion.
    assert np.ptp(held.executed.positions, axis=0).max() == 0.0
    assert np.abs(asked - held.executed.positions).max() > 0.0
    given_rig.wait(0.1)
    assert given_rig.chunk(given_rig.gentle()).arm is not None
    assert given_rig.kind == "chunk"


def test_an_operator_s_chunk_passes_the_same_checks() -> None:
    given_rig = rig()
    given_rig.holds = True
    given_rig.wait(0.3)
    broken = given_rig.standing()
    broken[3, 2] = np.nan
    given_rig.operator_chunk(broken)
    assert not given_rig.guard.engaged
    assert given_rig.guard.last_fault is not None
    assert not given_rig.guard.teleoperated


def test_a_policy_that_sends_nan_does_not_stop_the_operator() -> None:
    given_rig = rig()
    given_rig.holds = True
    given_rig.wait(0.3)
    given_rig.chunk(np.full((8, 8), np.nan))
    given_rig.guard.on_bad_chunk("unreadable", given_rig.moment)
    assert given_rig.guard.engaged


def test_the_emergency_stop_ends_it() -> None:
    given_rig = rig()
    given_rig.holds = True
    given_rig.wait(0.3)
    given_rig.operator_chunk(moved(given_rig.standing()))
    given_rig.call("e_stop")
    assert not given_rig.guard.teleoperated
    assert given_rig.operator_chunk(moved(given_rig.standing())).arm is None
    given_rig.assert_rest(0.8)


@pytest.mark.parametrize("after_s", [0.1, 0.8, 1.2])
@pytest.mark.parametrize("sag_rad", [0.02, -0.01])
def test_an_operator_who_takes_over_on_the_way_to_the_start(after_s: float, sag_rad: float) -> None:
    """No reference: the controller goes to where the arm is measured, and so does the guard.

    The operator's first chunk departs from there, within the limits.
    """
    given_rig = OperatorRig(expects_reference=False)
    given_rig.sends_references = False
    given_rig.joint_offset = -sag_rad
    given_rig.engaged()
    given_rig.wait(after_s)
    given_rig.holds = True
    given_rig.wait(2.0)
    assert given_rig.guard.holding == "teleop"
    commanded = given_rig.guard.commanded_positions(given_rig.moment)
    assert commanded is not None
    np.testing.assert_allclose(commanded, given_rig.commands[-1], atol=1e-9)
    # The step of a cycle at the take-over is the controller's own (test_the_way_to_the_start_...).
    given_rig.commands = given_rig.commands[-3:]
    assert given_rig.operator_chunk(moved(given_rig.standing())).arm is not None
    given_rig.wait(0.4)
    assert given_rig.guard.engaged
    given_rig.assert_rest(0.6)


STEPS = st.lists(
    st.sampled_from(("policy", "operator", "hold", "release", "wait", "long_wait", "engage")),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
@example(["policy", "long_wait", "long_wait", "hold", "release"])
def test_whatever_comes_a_chunk_is_followed_only_by_who_has_the_arm(steps: list[str]) -> None:
    """The model: `operator` has the arm from a held switch on until an engage that succeeds."""
    given_rig = OperatorRig()
    given_rig.engaged()
    heard_ns: int | None = None
    operators = False
    for step in steps:
        now_ns = given_rig.moment.steady_ns
        held = heard_ns is not None and now_ns - heard_ns <= round(HEARD_S * S)
        sent = len(given_rig.sent)
        if step == "policy":
            given_rig.chunk(moved(given_rig.standing()))
            operators = operators or held
            if operators:
                assert len(given_rig.sent) == sent or given_rig.kind == "stop"
        elif step == "operator":
            given_rig.operator_chunk(moved(given_rig.standing()))
            operators = operators or held
            if not held:
                assert len(given_rig.sent) == sent or given_rig.kind == "stop"
        elif step in ("hold", "release"):
            given_rig.deadman(step == "hold")
            heard_ns = now_ns if step == "hold" else None
            operators = operators or step == "hold"
        elif step == "engage":
            reply = given_rig.call("engage")
            if operators:
                assert reply.success is (not given_rig.guard.teleoperated)
            operators = operators and not reply.success
            assert not (held and operators and reply.success)
        else:
            # A tick takes over, so that the model's `operators` must follow it here too.
            given_rig.wait(0.02 if step == "wait" else 0.5)
            held_then = heard_ns is not None
            operators = operators or (held_then and given_rig.guard.teleoperated)
        if not given_rig.guard.engaged:
            break
        assert given_rig.guard.teleoperated is operators
        if operators and given_rig.guard.holding == "deadman":
            # A chunk that has ended is left as it is.
            assert given_rig.kind in ("stop", "standing") or not given_rig.moves
    given_rig.holds = None
    given_rig.wait(0.3)
    assert not given_rig.guard.teleoperated or given_rig.guard.holding in ("deadman", "teleop")
    given_rig.assert_rest(0.8)


def test_without_an_operator_nothing_is_counted() -> None:
    """What a recording or a digest of the guard holds is as before."""
    given_rig = rig()
    given_rig.sped_up()
    assert not {name for name in given_rig.guard.counters if "operator" in name or "take" in name}
