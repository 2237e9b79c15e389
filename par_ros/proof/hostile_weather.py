# SPDX-License-Identifier: Apache-2.0
"""What befalls the whole world: clocks that step, slew and stop, obstacles, and a pushing hand."""

import numpy as np

from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.timeline import MAX_DIVERGENCE_NS
from par_ros.proof.hostile_clock import NANOSECONDS, RosClock
from par_ros.proof.hostile_world import HostileWorld


class HostileWeather:
    """Draws after each chunk what happens before the next."""

    def __init__(self, world: HostileWorld) -> None:
        self._world = world
        self._is_stuck = False
        world.on_disengaged.append(self._on_disengaged)

    def on_chunk(self) -> None:
        """A chunk was just given."""
        wild, world = self._world.disturbances, self._world
        if not world.is_simulated:
            if wild.happens("small_clock_steps", 0.08):
                step_s = wild.spread("small_clock_steps", 1e-3, 0.25)
                delay_s = wild.uniform("small_clock_steps", 0.0, 0.4)
                world.after(delay_s, lambda: self._step_clock(step_s))
            if wild.happens("large_clock_steps", 0.05):
                step_s = wild.spread("large_clock_steps", 0.25, 10.0)
                delay_s = wild.uniform("large_clock_steps", 0.0, 0.4)
                world.after(delay_s, lambda: self._step_clock(step_s))
            if wild.happens("clock_slews", 0.15):
                self._slew(wild.uniform("clock_slews", -500.0, 500.0))
            if wild.happens("clock_stops", 0.05):
                self._stop_clock(wild.uniform("clock_stops", 0.3, 3.0))
        if wild.happens("collisions", 0.06) and not self._is_stuck:
            delay_s = wild.uniform("collisions", 0.0, 0.4)
            world.after(delay_s, self._collide)

    # Clocks.

    def _step_clock(self, step_s: float) -> None:
        world = self._world
        step_ns = round(step_s * NANOSECONDS)
        world.totals.disturbed["clock_steps"] += 1
        world.history.clock_steps.append((world.now_ns, step_ns))
        clock = world.clock
        assert isinstance(clock, RosClock)
        world.controller.change_clock(world.now_ns, lambda: clock.step(world.now_ns, step_ns))
        if abs(step_ns) > MAX_DIVERGENCE_NS:
            world.recall_unsent()

    def _slew(self, rate_ppm: float) -> None:
        world = self._world
        clock = world.clock
        assert isinstance(clock, RosClock)
        world.totals.disturbed["clock_slews"] += 1
        world.controller.change_clock(world.now_ns, lambda: clock.set_rate(world.now_ns, rate_ppm))

    def _stop_clock(self, duration_s: float) -> None:
        world = self._world
        world.totals.disturbed["clock_stops"] += 1
        world.freeze_guard_clock(True)
        # For the guard's clock only; the controller's goes on.
        world.history.clock_steps.append((world.now_ns, round(duration_s * NANOSECONDS)))

        def run_again() -> None:
            world.freeze_guard_clock(False)
            world.history.clock_steps.append((world.now_ns, round(duration_s * NANOSECONDS)))

        world.after(duration_s, run_again)

    # The arm.

    def _collide(self) -> None:
        world, wild = self._world, self._world.disturbances
        if world.moved_by_hand is not None:
            return
        world.totals.disturbed["collisions"] += 1
        self._is_stuck = True
        generator = wild.generator("collisions")
        stuck = generator.random(world.spec.num_arm_joints) < generator.choice([0.2, 1.0])
        places = world.controller.place(world.now_ns)
        world.controller.hold_fast(world.now_ns, np.where(stuck, places, np.nan))
        world.after(wild.uniform("collisions", 0.2, 2.0), self._get_loose)

    def _get_loose(self) -> None:
        self._is_stuck = False
        world = self._world
        world.controller.hold_fast(world.now_ns, np.full(world.spec.num_arm_joints, np.nan))

    def _on_disengaged(self, kind: str) -> None:
        wild = self._world.disturbances
        # Nobody pushes while physics waits.
        if wild.happens("moved_by_hand", 0.5) and not self._world.mode.lockstep:
            self._world.after(wild.uniform("moved_by_hand", 0.55, 1.2), self._push)

    def _push(self) -> None:
        """The controller is switched off, the arm moved, and the controller switched on."""
        world, wild = self._world, self._world.disturbances
        busy = world.guard.engaged or world.moved_by_hand is not None or self._is_stuck
        if busy or world.is_commanded_to_move():
            return
        world.totals.disturbed["moved_by_hand"] += 1
        begin_ns, begin = world.now_ns, world.measured()
        limits = world.spec.limits
        size = wild.generator("moved_by_hand").uniform(0.15, 0.8, len(begin))
        speed = size * wild.generator("moved_by_hand").choice([-1.0, 1.0], len(begin))

        def places(now_ns: int) -> FloatArray:
            moved = begin + speed * ((now_ns - begin_ns) / NANOSECONDS)
            inside: FloatArray = np.clip(
                moved, limits.min_position + 0.05, limits.max_position - 0.05
            )
            return inside

        world.moved_by_hand = places
        world.after(wild.uniform("moved_by_hand", 0.3, 1.5), self._let_go)

    def _let_go(self) -> None:
        world = self._world
        assert world.moved_by_hand is not None
        place = world.moved_by_hand(world.now_ns)
        world.moved_by_hand = None
        world.controller.restart_at(world.now_ns, place)
        world.judge.restart(place)
