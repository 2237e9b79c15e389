# SPDX-License-Identifier: Apache-2.0
"""What the guard hears of the arm: joint states, the controller's reports, and its own ticks."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from par_ros.control.joint_trajectory import FloatArray
from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_world import HostileWorld

_FINGER_M = 0.02
_TICK_S = 0.02


@dataclass(frozen=True)
class Heard:
    """A joint state that reached the guard: when, by ROS time too, and its stamp.

    apart_rad: of another source, how far from where the arm is; None: from the arm's own.
    """

    at_ns: int
    ros_ns: int
    stamp_ns: int
    apart_rad: float | None


class HostileSensors:
    """Publishes in the arm's rhythm, or the simulator's."""

    def __init__(self, world: HostileWorld) -> None:
        self._world = world
        self._until_ns: dict[str, int] = {}
        self._offset_ns = 0
        self._num_policies = 1
        self._last: tuple[int, FloatArray] | None = None
        self._foreign_pose = world.spec.home
        self.heard: deque[Heard] = deque(maxlen=200)
        # Where the arm really was, for the verdicts.
        self.places: deque[tuple[int, FloatArray]] = deque(maxlen=200)
        self._joint_period_s = float(world.random.choice([0.01, 0.02, 0.025, 0.04]))
        drawn_s = float(world.random.choice([0.02, 0.025, 0.04]))
        self._report_period_s = world.disturbances.report_period_s or drawn_s
        if world.is_simulated:
            self._joint_period_s = self._report_period_s = 0.0
        world.at(100, self._publish_joints)
        if world.mode.has_reference:
            world.at(120, self._publish_report)
        world.after(0.005, self._tick)

    def _again(self, period_s: float, event: object, offset_ns: int) -> None:
        world = self._world
        if period_s:
            world.after(period_s, event)  # type: ignore[arg-type]
            return
        begins_ns = world.clock.begins_ns  # type: ignore[union-attr]
        step = world.clock.lump(world.now_ns) + 1  # type: ignore[union-attr]
        if step < len(begins_ns):
            world.at(int(begins_ns[step]) + offset_ns, event)  # type: ignore[arg-type]

    def _spell(self, name: str, probability: float, low_s: float, high_s: float) -> bool:
        """Whether a disturbance that lasts is on; it begins with a probability."""
        world = self._world
        if self._until_ns.get(name, -1) > world.now_ns:
            return True
        if not world.disturbances.happens(name, probability):
            return False
        lasts_s = world.disturbances.uniform(name, low_s, high_s)
        self._until_ns[name] = world.now_ns + round(lasts_s * NANOSECONDS)
        world.totals.disturbed[name] += 1
        if name == "past_stamps":
            self._offset_ns = -round(abs(world.disturbances.spread(name, 0.25, 1e3)) * NANOSECONDS)
        elif name == "future_stamps":
            self._offset_ns = round(abs(world.disturbances.spread(name, 0.03, 1e2)) * NANOSECONDS)
        elif name == "foreign_joints":
            self._draw_foreign()
        return True

    # Joint states.

    def _publish_joints(self) -> None:
        world = self._world
        self._again(self._joint_period_s, self._publish_joints, 100)
        place = world.measured()
        self.places.append((world.now_ns, place))
        noise = world.random.normal(0.0, 1.0, len(place)) * world.noise_rad
        positions = np.append(place + noise, _FINGER_M)
        velocities = self._velocities(place)
        stamp_ns = world.clock.read(world.now_ns)
        # Physics waits in lockstep, and messages there are reliable.
        calm = world.mode.lockstep
        if not calm and self._spell("joint_gaps", 0.004, 0.05, 1.0):
            return
        if self._spell("past_stamps", 0.004, 0.3, 3.0) or (
            self._spell("future_stamps", 0.004, 0.3, 3.0)
        ):
            stamp_ns += self._offset_ns
        late = not calm and self._spell("late_joints", 0.006, 0.1, 0.5)
        delay_s = world.random.uniform(2e-4, 1.5e-3)
        if late:
            delay_s = max(self._left_s("late_joints") - 0.05, 0.0) % 0.1
        if calm:
            delay_s = 0.0
        if world.disturbances.happens("nan_joints", 0.003):
            self._give_bad("panda_joint3 must be finite, got nan", delay_s)
        elif world.disturbances.happens("split_joints", 0.003):
            self._give_bad("joints are missing: a part came", delay_s)
        else:
            self._give(stamp_ns, positions, velocities, delay_s)
        if self._spell("foreign_joints", 0.003, 0.03, 3.0):
            foreign = np.append(self._foreign_pose, _FINGER_M)
            # Its own time and its own stamps.
            apart_s = float(world.random.uniform(0.05, 0.95)) * (self._joint_period_s or 0.05)
            apart_rad = float(np.abs(self._foreign_pose - place).max())
            foreign_ns = stamp_ns + round(apart_s * NANOSECONDS)
            zeros = np.zeros_like(foreign)
            self._give(foreign_ns, foreign, zeros, apart_s + delay_s, apart_rad=apart_rad)

    def _velocities(self, place: FloatArray) -> FloatArray | None:
        world = self._world
        last, self._last = self._last, (world.now_ns, place)
        if world.disturbances.has("no_velocities"):
            return None
        if last is None or last[0] == world.now_ns:
            return np.zeros(len(place) + 1)
        elapsed_s = (world.now_ns - last[0]) / NANOSECONDS
        return np.append((place - last[1]) / elapsed_s, 0.0)

    def _left_s(self, name: str) -> float:
        return (self._until_ns[name] - self._world.now_ns) / NANOSECONDS

    def _draw_foreign(self) -> None:
        wild = self._world.disturbances.generator("foreign_joints")
        limits = self._world.spec.limits
        size_rad = float(np.exp(wild.uniform(np.log(0.005), np.log(2.0))))
        pose = self._world.measured() + wild.uniform(-size_rad, size_rad, len(limits.max_jerk))
        self._foreign_pose = np.clip(pose, limits.min_position, limits.max_position)

    def _give(
        self,
        stamp_ns: int,
        positions: FloatArray,
        velocities: FloatArray | None,
        delay_s: float,
        apart_rad: float | None = None,
    ) -> None:
        world = self._world

        def arrive() -> None:
            self.heard.append(
                Heard(world.now_ns, world.clock.read(world.now_ns), stamp_ns, apart_rad)
            )
            world.call(
                "joint_state",
                lambda now: world.guard.on_joint_state(stamp_ns, positions, velocities, now),
                self._computing_s(),
            )

        world.to_guard(float(delay_s), arrive)

    def _give_bad(self, reason: str, delay_s: float) -> None:
        world = self._world
        world.totals.disturbed["bad_joints"] += 1
        world.to_guard(
            float(delay_s),
            lambda: world.call(
                "bad_joint_state",
                lambda now: world.guard.on_bad_joint_state(reason, now),
                self._computing_s(),
            ),
        )

    def _computing_s(self) -> float:
        """Only counts where something is sent."""
        if self._world.mode.lockstep:
            return 0.0
        return float(self._world.random.uniform(3e-4, 2.5e-3))

    # Reports and ticks.

    def _publish_report(self) -> None:
        world = self._world
        self._again(self._report_period_s, self._publish_report, 120)
        if world.moved_by_hand is not None:
            return
        now_ns = world.now_ns
        period_ns = round(max(self._report_period_s, 0.05) * NANOSECONDS)
        if self._spell("lost_references", 0.005, 0.05, 1.0):
            world.history.blind.append((now_ns - period_ns, now_ns + period_ns))
            return
        delay_s = world.random.uniform(2e-4, 2e-3)
        if self._spell("late_references", 0.006, 0.1, 0.5):
            delay_s = world.disturbances.uniform("late_references", 0.0, 0.1)
            arrival_ns = now_ns + round(delay_s * NANOSECONDS)
            world.history.blind.append((now_ns - period_ns, arrival_ns + period_ns))
        stamp_ns, state = world.controller.reference(now_ns)
        world.to_guard(
            0.0 if world.mode.lockstep else float(delay_s),
            lambda: world.call(
                "reference",
                lambda now: world.guard.on_reference(stamp_ns, state, now),
                self._computing_s(),
            ),
        )

    def _tick(self) -> None:
        world = self._world
        world.after(_TICK_S, self._tick)
        self._num_policies = 2 if self._spell("second_policy", 0.001, 0.1, 0.5) else 1
        world.to_guard(
            0.0,
            lambda: world.call(
                "tick",
                lambda now: world.guard.on_tick(self._num_policies, now),
                self._computing_s(),
            ),
        )
