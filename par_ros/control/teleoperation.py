# SPDX-License-Identifier: Apache-2.0
"""Whose chunks move the arm: the policy's, or an operator's while a deadman switch is held.

- The switch counts as held from a true message on for 0.2 s (steady clock), and not at all after a
  false one. It is heard whether or not the guard is engaged.
- An engaged guard whose operator holds the switch is the operator's: what moves is stopped, and
  only the operator's chunks pass. Each passes the checks of a policy's chunk.
- Once the switch is released, or was not heard for 0.2 s, what moves is stopped and held. Held
  again, the operator's chunks pass again.
- The policy's chunks pass again after `engage` with the switch released. The first of them is held,
  so that the policy, whose arm stood for a whole chunk, starts anew with an empty context.
"""

from collections import Counter

from par_ros.control.action_schedule import ActionSchedule
from par_ros.control.authority import Authority
from par_ros.control.command import Command
from par_ros.control.deadlines import Deadlines
from par_ros.control.timeline import Moment

# How long one message counts: two at 10 Hz.
DEADMAN_TIMEOUT_NS = 200_000_000


class Teleoperation:
    """The operator's switch and hold on one arm's guard."""

    def __init__(
        self,
        authority: Authority,
        schedule: ActionSchedule,
        deadlines: Deadlines,
        counters: Counter[str],
    ) -> None:
        self._authority = authority
        self._schedule = schedule
        self._deadlines = deadlines
        self._counters = counters
        self._heard_ns: int | None = None
        self._owns = False
        # Whether the switch was held at the last look.
        self._was_held = False
        self._policy_starts_anew = False

    @property
    def is_active(self) -> bool:
        """Whether the arm is the operator's, the switch held or not."""
        return self._owns and self._authority.engaged

    def is_held(self, moment: Moment) -> bool:
        """Whether the operator holds the switch."""
        heard_ns = self._heard_ns
        return heard_ns is not None and moment.steady_ns - heard_ns <= DEADMAN_TIMEOUT_NS

    def on_deadman(self, held: bool, moment: Moment) -> Command:
        """Take one message of the switch."""
        stepped = self._authority.advance(moment)
        self._heard_ns = moment.steady_ns if held else None
        return self.look(moment) if stepped is None else stepped

    def look(self, moment: Moment) -> Command:
        """Take over, or stop and hold, where the switch says so; else nothing."""
        if not self._authority.engaged:
            self._owns = self._was_held = False
            return Command()
        held, was_held = self.is_held(moment), self._was_held
        self._was_held = held
        if held and not self._owns:
            return self._take_over(moment)
        if self._owns and was_held and not held:
            self._authority.hold("deadman")
            self._deadlines.expect_no_chunk()
            return self._authority.stop(moment).saying(
                "warning", "the operator's deadman switch is released; the arm comes to rest"
            )
        return Command()

    def _take_over(self, moment: Moment) -> Command:
        self._owns = self._policy_starts_anew = True
        self._counters["take_overs"] += 1
        self._schedule.reset()
        self._deadlines.expect_no_chunk()
        self._authority.hold("teleop")
        return self._authority.stop(moment).saying(
            "info", "the operator has taken over; the policy's chunks are refused until engage"
        )

    def give_back(self) -> None:
        """The guard was engaged: the policy's chunks pass, unless the switch is held."""
        self._owns = self._was_held = False

    def must_start_anew(self) -> bool:
        """Whether this chunk of the policy is the first after the operator's; True once."""
        first, self._policy_starts_anew = self._policy_starts_anew, False
        return first
