# SPDX-License-Identifier: Apache-2.0
"""The policy of the hostile world: chunks in time, late, lost, doubled, in bursts and hostile."""

from collections.abc import Callable

import numpy as np

from par_ros.control.safety_filter import RequestedChunk
from par_ros.proof.hostile_chunks import ChunkSource
from par_ros.proof.hostile_world import HostileWorld

_LATENCIES_S = (0.0, 0.02, 0.06, 0.1, 0.15, 0.2)
_LATE_S = (0.39, 0.45, 0.8)
# Of 18 actions some are left, one, or none.
_LATE_OVERLAPPED_S = (0.39, 0.78, 0.95)
_CHUNK_S = 0.4


class HostilePolicy:
    """Observes, thinks and sends until `num_chunks` have been given to the guard."""

    def __init__(self, world: HostileWorld, num_chunks: int) -> None:
        self._world = world
        self._left = num_chunks
        self._source = ChunkSource(
            world.spec,
            world.random,
            num_actions=world.mode.num_actions,
            lockstep=world.mode.lockstep,
        )
        self._observed = (world.spec.home, np.zeros(world.spec.num_arm_joints))
        # Told of every chunk that the guard was given.
        self.listeners: tuple[Callable[[], None], ...] = ()
        self._burst: list[tuple[str, RequestedChunk]] = []
        world.at(self._border_ns(14), self._observe)

    @property
    def is_done(self) -> bool:
        """All were sent."""
        return self._left <= 0

    def _observe(self) -> None:
        if self.is_done:
            return
        world = self._world
        if world.mode.lockstep:
            stamp_ns = world.clock.read(world.now_ns)
            world.wire.ask(stamp_ns)
            self._send(stamp_ns)
            world.at(self._border_ns(8), self._observe)
            return
        stamp_ns = world.clock.read(world.now_ns)
        self._observed = self._commanded()
        latency_s = float(world.random.choice(_LATENCIES_S))
        if world.disturbances.happens("late_chunks", 0.15):
            world.totals.disturbed["late_chunks"] += 1
            late_s = _LATE_OVERLAPPED_S if world.mode.overlapped else _LATE_S
            latency_s = float(world.disturbances.generator("late_chunks").choice(late_s))
        if world.mode.chunk_start == "observation":
            next_s = max(_CHUNK_S * float(world.random.uniform(0.6, 1.1)), latency_s)
        else:
            next_s = latency_s + float(world.random.uniform(0.15, 0.45))
        if not world.guard.engaged:
            next_s += 0.2
        if world.disturbances.happens("pauses", 0.15):
            world.totals.disturbed["pauses"] += 1
            next_s += world.disturbances.uniform("pauses", 0.3, 1.3)
        world.after(latency_s, lambda: self._arrive(stamp_ns))
        world.after(next_s, self._observe)

    def _border_ns(self, num_steps: int) -> int:
        """Just after the simulator's step has ended, `num_steps` from now."""
        step_ns = 50_000_000
        return (self._world.now_ns // step_ns + num_steps) * step_ns + 200

    def _arrive(self, stamp_ns: int) -> None:
        if self._world.disturbances.happens("lost_chunks", 0.2):
            self._world.totals.disturbed["lost_chunks"] += 1
            return
        self._send(stamp_ns)

    def _send(self, stamp_ns: int) -> None:
        world = self._world
        positions, velocities = self._commanded()
        if world.mode.chunk_start == "observation" and not world.mode.lockstep:
            positions, velocities = self._observed
        kind, chunk = self._source.make(
            stamp_ns, positions, velocities, hostile=world.disturbances.happens("hostile_chunks", 1)
        )
        self._burst.append((kind, chunk))
        if world.disturbances.happens("late_chunks", 0.1) and len(self._burst) < 4:
            # Kept back; comes together with the next.
            return
        burst, self._burst = self._burst, []
        for one in burst:
            self._give(*one)
            if world.disturbances.happens("doubled_chunks", 0.2):
                world.totals.disturbed["doubled_chunks"] += 1
                self._give(*one)

    def _commanded(self) -> tuple[np.ndarray, np.ndarray]:
        controller, now_ns = self._world.controller, self._world.now_ns
        return controller.commanded(now_ns), controller.command_velocity(now_ns)

    def _give(self, kind: str, chunk: RequestedChunk) -> None:
        self._left -= 1
        self._world.totals.chunk_kinds[kind] += 1
        self._world.totals.num_chunks += 1
        self._world.to_guard(0.0, lambda: self._be_taken(chunk))

    def _be_taken(self, chunk: RequestedChunk) -> None:
        world = self._world
        computing_s = float(world.random.uniform(0.001, 0.006))
        if world.mode.lockstep:
            computing_s = 0.0
        elif world.disturbances.happens("computing", 0.3):
            computing_s = world.disturbances.uniform("computing", 0.005, 0.04)
        world.call("chunk", lambda now: world.guard.on_chunk(chunk, now), computing_s)
        for listener in self.listeners:
            listener()
