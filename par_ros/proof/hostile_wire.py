# SPDX-License-Identifier: Apache-2.0
"""The way of a trajectory from the guard to the controller: late, lost, doubled, or unasked."""

from typing import TYPE_CHECKING, Any

import numpy as np

from par_ros.proof.guard_adapter import Instant
from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_controller import SentTrajectory

if TYPE_CHECKING:
    from par_ros.proof.hostile_world import HostileWorld

# A simulator's milliseconds of one control step happen within so many nanoseconds.
_STEP_TAKES_NS = 100


class Wire:
    """Keeps the order of what it carries, as the middleware does."""

    def __init__(self, world: "HostileWorld") -> None:
        self._world = world
        self._last_arrival_ns = 0
        # The observation that a lockstep bridge waits with.
        self._asked_ns: int | None = None

    def ask(self, stamp_ns: int) -> None:
        """Lockstep: physics waits until this observation is answered."""
        self._asked_ns = stamp_ns

    def publish(self, command: Any, now: Instant, origin: str, computing_ns: int) -> None:
        """Take a command that was computed in `computing_ns` from what was given at `now`."""
        world = self._world
        sent = SentTrajectory(
            trajectory=command.arm,
            stamp_ns=command.stamp_ns,
            given_ros_ns=now.ros_ns,
            given_steady_ns=world.now_ns,
            splice_end_ns=now.ros_ns + world.history.splice_ns,
            origin=origin,
            number=len(world.history.sent),
            published_steady_ns=world.now_ns + computing_ns,
            computing_ns=computing_ns,
        )
        world.history.sent.append(sent)
        if np.any(np.diff(np.rint(command.arm.times_s * NANOSECONDS)) <= 0):
            world.totals.violate("times", world.example("two points have the same nanosecond"))
        if world.mode.lockstep:
            world.at(world.now_ns, lambda: self._answer(sent))
            return
        wild = world.disturbances
        if wild.happens("lost_trajectories", 0.15):
            sent.fate.add("lost")
            world.totals.disturbed["lost_trajectories"] += 1
            return
        delay_s = float(world.random.uniform(2e-4, 3e-3))
        if wild.happens("late_pickup", 0.5):
            delay_s += wild.uniform("late_pickup", 0.0, 0.05)
        arrival_ns = sent.published_steady_ns + round(delay_s * NANOSECONDS)
        self._last_arrival_ns = max(arrival_ns, self._last_arrival_ns + 1)
        world.at(self._last_arrival_ns, lambda: self._arrive(sent))
        if wild.happens("doubled_trajectories", 0.2):
            again_ns = round(wild.uniform("doubled_trajectories", 0.0, 0.02) * NANOSECONDS)
            world.at(self._last_arrival_ns + again_ns, lambda: self._arrive_again(sent))

    def _answer(self, sent: SentTrajectory) -> None:
        """The bridge takes what answers the observation that it waits with, and once."""
        if sent.stamp_ns != self._asked_ns:
            sent.fate.add("unasked")
            return
        self._asked_ns = None
        self._world.controller.receive(sent, self._world.now_ns)

    def _arrive(self, sent: SentTrajectory) -> None:
        world = self._world
        if "withdrawn" in sent.fate:
            return
        if world.moved_by_hand is not None:
            sent.fate.add("off")
            return
        cycle = world.cycles.picks_up(world.now_ns)
        picked_up_ns = int(world.cycles.steady_ns(cycle, cycle + 1)[0])
        shown_ns = world.clock.read(world.now_ns)
        if world.starts_at_steps and world.cycles.ros_ns(cycle) < sent.stamp_ns <= shown_ns:
            # It starts at the end of the step that the clock shows already. The simulator samples
            # that moment alone, where it is the running motion.
            world.at(picked_up_ns + _STEP_TAKES_NS, lambda: self._arrive(sent))
            return
        # By either clock: one that goes back does not give the motion before its time back.
        overdue = picked_up_ns > sent.given_steady_ns + world.history.splice_ns
        if world.cycles.ros_ns(cycle) > sent.splice_end_ns or (overdue and not world.is_simulated):
            sent.fate.add("late")
        world.controller.receive(sent, world.now_ns)

    def _arrive_again(self, sent: SentTrajectory) -> None:
        # A copy does not overtake what was sent after it.
        world = self._world
        if world.history.sent[-1] is sent and world.moved_by_hand is None:
            world.totals.disturbed["doubled_trajectories"] += 1
            if sent.picked_up_ns is not None:
                world.controller.receive(sent, world.now_ns)
