# SPDX-License-Identifier: Apache-2.0
"""Who calls the guard's services: an operator with good manners, and one without."""

import numpy as np

from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_sensors import HostileSensors
from par_ros.proof.hostile_world import HostileWorld

_LOOK_S = 0.1
# A clock that has stood for less is not apart from the steady one by what counts as a step.
_UNSEEN_NS = 2_000_000
# What the guard must have seen before it lets anybody engage.
_FRESH_S = 0.25
_LOOK_BACK_S = 0.2
_ARM_MOVES_RAD = 0.02
# Twice what samples that agree may differ by.
_DISAGREE_RAD = 0.004
# Between two joint states, which come every 10 to 40 ms.
_ARM_MOVES_NOW_RAD = 0.004


class HostileOperator:
    """Engages when the guard has let go, stops it, and judges whether an engage was right."""

    def __init__(self, world: HostileWorld, sensors: HostileSensors) -> None:
        self._world = world
        self._sensors = sensors
        self._engage_from_ns = round(0.4 * NANOSECONDS)
        self._killed_ns = -10 * NANOSECONDS
        world.on_disengaged.append(self._on_disengaged)
        world.after(0.1, self._look)

    def on_chunk(self) -> None:
        """A chunk was just given: now and then something follows."""
        wild, world = self._world.disturbances, self._world
        if wild.happens("e_stops", 0.06):
            world.to_guard(wild.uniform("e_stops", 0.0, 0.4), self.e_stop)
        if wild.happens("disengages", 0.06):
            world.to_guard(wild.uniform("disengages", 0.0, 0.4), self.disengage)
        if wild.happens("stops_after_chunks", 0.2):
            stop = (self.e_stop, self.disengage)[int(wild.uniform("stops_after_chunks", 0, 2))]
            delay_s = wild.uniform("stops_after_chunks", 0.0, 0.06)
            if wild.uniform("stops_after_chunks", 0.0, 1.0) < 0.5:
                # Around the end of the chunk's splice.
                delay_s = world.guard.splice_s + wild.uniform("stops_after_chunks", -2e-3, 1e-3)
            world.to_guard(delay_s, stop)
        if wild.happens("rude_engages", 0.08):
            world.to_guard(wild.uniform("rude_engages", 0.0, 0.5), self.engage)
        if wild.happens("lifecycle", 0.03):
            self._remake(killed=wild.uniform("lifecycle", 0.0, 1.0) < 0.3)

    def _on_disengaged(self, kind: str) -> None:
        wild, world = self._world.disturbances, self._world
        wait_s = float(world.random.uniform(0.7, 1.3))
        self._engage_from_ns = world.now_ns + round(wait_s * NANOSECONDS)
        if kind == "tracking_error":
            world.totals.disturbed["retreats"] += 1
            if wild.happens("stops_in_retreat", 0.7):
                stop = (self.e_stop, self.disengage)[int(wild.uniform("stops_in_retreat", 0, 2))]
                world.to_guard(wild.uniform("stops_in_retreat", 0.01, 0.8), stop)
            if wild.happens("engages_in_retreat", 0.5):
                world.to_guard(wild.uniform("engages_in_retreat", 0.01, 0.8), self.engage)
        elif wild.happens("rude_engages", 0.3):
            world.to_guard(wild.uniform("rude_engages", 0.0, 0.5), self.engage)

    def _look(self) -> None:
        world = self._world
        world.after(_LOOK_S, self._look)
        if world.guard.engaged or world.now_ns < self._engage_from_ns:
            return
        self._engage_from_ns = world.now_ns + round(0.3 * NANOSECONDS)
        world.to_guard(0.0, self._recover)

    def _recover(self) -> None:
        if self._world.guard.stop_latched:
            self.reset_stop()
        self.engage()

    # Services.

    def reset_stop(self) -> None:
        """Clear the latch."""
        if self._world.guard.reset_stop().success:
            self._world.latched = False

    def e_stop(self) -> None:
        """The command must come to rest, and stay there until somebody clears and engages."""
        self._world.totals.stops["e_stop"] += 1
        self._world.watch_stop("e_stop")
        self._world.latched = True
        self._call("e_stop", self._world.guard.e_stop)

    def disengage(self) -> None:
        """The command must come to rest."""
        self._world.totals.stops["disengage"] += 1
        self._world.watch_stop("disengage")
        self._call("disengage", self._world.guard.disengage)

    def engage(self) -> None:
        """Ask; where the guard agrees although it must not, that is a violation."""
        world = self._world
        # Whoever is engaged already may say so; what it then sends is judged like everything.
        wrong = [] if world.guard.engaged else self._why_not()
        reply = self._call("engage", world.guard.engage)
        world.totals.disturbed["engage_accepted" if reply.success else "engage_refused"] += 1
        if not reply.success:
            return
        for kind, text in wrong:
            world.totals.violate(kind, world.example(text))
        world.judge_until_now()
        world.close_watches()

    def _call(self, name: str, service: object) -> object:
        world = self._world
        computing_s = 0.0 if world.mode.lockstep else float(world.random.uniform(3e-4, 2.5e-3))
        return world.call(name, service, computing_s)  # type: ignore[arg-type]

    def _remake(self, *, killed: bool) -> None:
        """Deactivate, clean up and configure; or kill and start."""
        world, wild = self._world, self._world.disturbances
        world.totals.disturbed["killed" if killed else "lifecycle"] += 1
        if not killed:
            world.to_guard(0.0, self.disengage)

        def start() -> None:
            if killed:
                self._killed_ns = world.now_ns
                world.latched = False
                world.watch_killed()
            world.renew_guard(keeps_latch=not killed)
            self._engage_from_ns = world.now_ns + round(0.4 * NANOSECONDS)

        world.to_guard(wild.uniform("lifecycle", 0.01, 0.6), start)

    # The verdict on engaging.

    def _why_not(self) -> list[tuple[str, str]]:
        """Every reason not to engage now, as a kind of violation and a sentence."""
        world = self._world
        found = []
        if world.latched:
            found.append(("engage_latched", "engaged although the emergency stop is latched"))
        # A new process cannot know that the one before led the arm to its start, if nobody reports.
        blind = not world.mode.has_reference and world.now_ns - self._killed_ns < 2 * NANOSECONDS
        if world.is_commanded_to_move() and not (blind or world.is_excused_to_move()):
            speed = np.abs(world.controller.command_velocity(world.now_ns)).max()
            found.append(("engage_moving", f"engaged while the command moves at {speed:.3g} rad/s"))
        if not world.mode.lockstep:
            found += self._why_not_heard()
        stands = world.ros_moves_since_ns < 0
        if stands and world.now_ns - world.ros_stands_since_ns > _UNSEEN_NS:
            found.append(("engage_clock", "engaged while the guard's ROS clock stands still"))
        return found

    def _why_not_heard(self) -> list[tuple[str, str]]:
        world = self._world
        found = []
        begin_ns = world.now_ns - round(_LOOK_BACK_S * NANOSECONDS)
        fresh_ns = _FRESH_S * NANOSECONDS
        own = [
            heard
            for heard in self._sensors.heard
            if heard.apart_rad is None and world.now_ns - heard.at_ns <= fresh_ns
        ]
        good = [heard for heard in own if abs(heard.ros_ns - heard.stamp_ns) <= fresh_ns]
        if not own:
            found.append(("engage_silent", "engaged without fresh joint states"))
        elif not good:
            off_s = (own[-1].ros_ns - own[-1].stamp_ns) / NANOSECONDS
            found.append(("engage_stale", f"engaged on joint states stamped {off_s:.3g} s ago"))
        apart_rad = max(
            (heard.apart_rad or 0.0 for heard in self._sensors.heard if heard.at_ns >= begin_ns),
            default=0.0,
        )
        if apart_rad > _DISAGREE_RAD:
            text = f"engaged while two sources of joint states are {apart_rad:.3g} rad apart"
            found.append(("engage_foreign", text))
        # What it was told: joint states that were lost tell nobody.
        told_ns = own[-1].at_ns if own else begin_ns
        places = [place for at_ns, place in self._sensors.places if begin_ns <= at_ns <= told_ns]
        if len(places) > 1:
            moved_rad = float(np.ptp(np.array(places), axis=0).max())
            last_rad = float(np.abs(places[-1] - places[-2]).max())
            if last_rad > _ARM_MOVES_NOW_RAD:
                found.append(
                    ("engage_arm_moves", f"engaged while the arm moves {last_rad:.3g} rad")
                )
            elif moved_rad > _ARM_MOVES_RAD:
                text = f"engaged although the arm has just moved {moved_rad:.3g} rad"
                found.append(("engage_arm_moved", text))
        return found
