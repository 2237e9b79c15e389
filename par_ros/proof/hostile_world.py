# SPDX-License-Identifier: Apache-2.0
"""The hostile world: clocks, arm, controller and the guard, on one queue of events.

World time is the steady clock in nanoseconds. The guard handles one event after the other, as a
node with one thread: what comes while it computes waits. Who makes the events: hostile_policy.py,
hostile_sensors.py, hostile_operator.py, hostile_weather.py.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray
from par_ros.proof.guard_adapter import GuardMode, Instant, make_guard
from par_ros.proof.hostile_arm import HostileArm
from par_ros.proof.hostile_chunks import STEP_S
from par_ros.proof.hostile_clock import NANOSECONDS
from par_ros.proof.hostile_controller import HostileController, Rule
from par_ros.proof.hostile_cycles import Cycles
from par_ros.proof.hostile_disturbances import Disturbances
from par_ros.proof.hostile_judge import AFTER_CLOCK, KILLED, LimitJudge, StopWatch
from par_ros.proof.hostile_settings import (
    CONTROL_STEP_NS,
    MAX_STEPS,
    arm_cycles,
    arm_settings,
    cmd_timeout_s,
    random_pose,
    simulator_cycles,
)
from par_ros.proof.hostile_totals import HostileTotals
from par_ros.proof.hostile_verdicts import History
from par_ros.proof.hostile_wire import Wire

_STEADY_BEGIN_NS = 5_000 * NANOSECONDS
_ALLOWED_S = {"tracking_error": 1.5}
_STOP_ALLOWED_S = 0.5
_SIMULATOR_WAITS_S = 0.15
# What runs ends by itself: a chunk, and so long to rest.
_TAIL_ALLOWED_S = 0.45
_SENT_AHEAD_S = 0.15
# A simulator in real time shows a control step so long before it samples its target; half of it is
# the guard's own (par_ros.simulated_clock).
_CLOCK_LEAD_NS = 12_000_000


class HostileWorld:
    """Guard, controller, arm and clock on one queue of events; `random` draws no disturbance."""

    def __init__(
        self,
        spec: ArmSpec,
        mode: GuardMode,
        disturbances: Disturbances,
        random: np.random.Generator,
    ) -> None:
        self.spec = spec
        self.mode = mode
        self.disturbances = disturbances
        self.random = random
        self.totals = HostileTotals()
        self.guard = make_guard(spec, mode)
        self.now_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._guard_free_ns = 0
        self._num_noticed = 0
        self._killed_until_ns = 0
        self.latched = False
        self.moved_by_hand: Callable[[int], FloatArray] | None = None
        self._frozen_ros_ns: int | None = None
        self.ros_moves_since_ns = 0
        self.ros_stands_since_ns = 0
        self.closed_watches: list[StopWatch] = []
        self.on_disengaged: list[Callable[[str], None]] = []
        self._engaged_since_ns: int | None = None
        start = random_pose(spec, random)
        rule: Rule = "bridge"
        if self.is_simulated:
            lead_ns = _CLOCK_LEAD_NS if self.starts_at_steps else 0
            self.cycles: Cycles = simulator_cycles(
                disturbances, lockstep=mode.lockstep, lead_ns=lead_ns
            )
        else:
            self.cycles, rule = arm_cycles(disturbances, random)
        self.clock = self.cycles.clock
        self.judge = LimitJudge(spec, self.cycles.period_ns, start)
        arm = HostileArm(
            arm_settings(spec, disturbances), self.cycles.period_ns / NANOSECONDS, start
        )
        self.noise_rad = arm.settings.noise_rad
        timeout_s = 0.0 if self.is_simulated else cmd_timeout_s(disturbances)
        self.controller = HostileController(
            self.cycles, arm, start, self.judge.feed, rule=rule, cmd_timeout_s=timeout_s
        )
        within_s = self.guard.send_within_s
        if self.starts_at_steps and within_s is not None:
            within_s = _CLOCK_LEAD_NS / 2 / NANOSECONDS
        self.history = History(
            has_reference=mode.has_reference,
            rule=rule,
            splice_ns=round(self.guard.splice_s * NANOSECONDS),
            send_within_ns=None if within_s is None else round(within_s * NANOSECONDS),
            sent_while_clock_stood=self.starts_at_steps,
        )
        self.wire = Wire(self)

    @property
    def is_simulated(self) -> bool:
        """Whether a simulator makes the time."""
        return self.mode.lockstep or self.mode.sim_clock

    @property
    def starts_at_steps(self) -> bool:
        """Whether chunks start at a simulator's control steps, as in `sim mode:=realtime`."""
        return self.mode.chunk_start == "control_step"

    # Events.

    def at(self, time_ns: int, event: Callable[[], None]) -> None:
        """Let something happen in the world."""
        heapq.heappush(self._events, (max(time_ns, self.now_ns), next(self._order), event))

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let something happen in the world, from now."""
        self.at(self.now_ns + round(delay_s * NANOSECONDS), event)

    def to_guard(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let something reach the guard; it waits while the guard computes."""

        def when_free() -> None:
            if self.now_ns < self._guard_free_ns:
                self.at(self._guard_free_ns, when_free)
            else:
                event()

        self.after(delay_s, when_free)

    def step(self) -> bool:
        """Let the next event happen; False where none is left."""
        if not self._events:
            return False
        self.now_ns, _, event = heapq.heappop(self._events)
        event()
        return True

    @property
    def is_over(self) -> bool:
        """Whether a simulator's prepared time is used up."""
        return self.is_simulated and self.now_ns > (MAX_STEPS - 200) * CONTROL_STEP_NS

    # The guard.

    def instant(self) -> Instant:
        """What the guard reads now."""
        ros_ns = self.clock.read(self.now_ns)
        if self._frozen_ros_ns is not None:
            ros_ns = self._frozen_ros_ns
        elif self.disturbances.has("clock_reading") and not self.is_simulated:
            ros_ns += round(float(self.disturbances.normal("clock_reading", 2_000.0, 1)[0]))
        return Instant(ros_ns, _STEADY_BEGIN_NS + self.now_ns)

    def freeze_guard_clock(self, frozen: bool) -> None:
        """The guard's ROS clock stands still, or runs again."""
        self._frozen_ros_ns = self.clock.read(self.now_ns) if frozen else None
        self.ros_moves_since_ns = -1 if frozen else self.now_ns
        self.ros_stands_since_ns = self.now_ns

    def call(self, origin: str, ask: Callable[[Instant], Any], computing_s: float = 0.0) -> Any:
        """Give the guard something, and send what it answers. Returns the answer."""
        now = self.instant()
        was_engaged = self.guard.engaged
        answer = ask(now)
        command = getattr(answer, "command", answer)
        self._note_state(was_engaged, origin)
        if origin == "reference":
            self._note_late()
        self._take(command, now, origin, round(computing_s * NANOSECONDS))
        return answer

    def _note_state(self, was_engaged: bool, origin: str) -> None:
        engaged = self.guard.engaged
        if engaged and not was_engaged:
            self._engaged_since_ns = self.now_ns
        if not was_engaged or engaged:
            return
        if self._engaged_since_ns is not None:
            self.totals.engaged_s += (self.now_ns - self._engaged_since_ns) / NANOSECONDS
        kind = origin
        if origin not in ("e_stop", "disengage"):
            kind = self.guard.fault_kind
            self.history.faults.append((self.now_ns, kind))
            self.watch_stop(f"fault_{kind}", _ALLOWED_S.get(kind, _STOP_ALLOWED_S))
        for listener in self.on_disengaged:
            listener(kind)

    def _note_late(self) -> None:
        """Whether the guard has just noticed that something was taken late, or not at all."""
        counters = self.guard.counters
        noticed = counters.get("picked_up_late", 0) + counters.get("not_taken", 0)
        if noticed > self._num_noticed:
            self.history.faults.append((self.now_ns, "noticed"))
        self._num_noticed = noticed

    @property
    def _chunk_s(self) -> float:
        return self.mode.num_actions * STEP_S

    @property
    def _own_end_s(self) -> float:
        """Within this, what was sent last ends at rest, if nothing more is sent."""
        return self._chunk_s + _TAIL_ALLOWED_S

    def watch_killed(self) -> None:
        """From now on there is no guard: what it sent last may have been for a later moment."""
        self.watch_stop(KILLED, self._own_end_s + _SENT_AHEAD_S)

    def watch_stop(self, label: str, allowed_s: float = _STOP_ALLOWED_S) -> None:
        """From now on the command must come to rest."""
        stepped_ns = self.now_ns - NANOSECONDS
        if any(at_ns >= stepped_ns for at_ns, _ in self.history.clock_steps):
            # Nothing is sent after a clock step.
            allowed_s, label = max(allowed_s, self._own_end_s), f"{label}{AFTER_CLOCK}"
        if self.mode.sim_clock:
            # The stop waits for the splice, which is longer there, and for two control steps.
            allowed_s += _SIMULATOR_WAITS_S
        if self.mode.lockstep:
            # Physics runs through its chunk first; the next answer stops it.
            allowed_s, label = allowed_s + self._chunk_s, f"{label}_lockstep"
        allowed_ns = round(allowed_s * NANOSECONDS)
        if label.startswith(KILLED):
            self._killed_until_ns = self.now_ns + allowed_ns
        elif self.now_ns < self._killed_until_ns:
            # What a killed guard had sent ends by itself; the new one has sent nothing.
            allowed_ns = max(allowed_ns, self._killed_until_ns - self.now_ns)
            label = f"{label}_after_kill"
        self.judge_until_now()
        self.judge.watches.append(StopWatch(self.now_ns, allowed_ns, label))

    def close_watches(self) -> None:
        """Whoever engages may move again."""
        self.judge_until_now()
        self.closed_watches += self.judge.watches
        self.judge.watches = []

    def renew_guard(self, *, keeps_latch: bool) -> None:
        """A guard made anew, as configure does."""
        self.totals.outcomes.update(self.guard.counters)
        self.guard = self.guard.renewed(keeps_latch=keeps_latch)

    def is_excused_to_move(self) -> bool:
        """Whether the command may move without the guard's knowledge."""
        begin_ns = self.now_ns - 3 * NANOSECONDS // 2
        strange = any(
            sent.fate & {"lost", "late", "rejected"}
            for sent in self.history.sent[-5:]
            if sent.published_steady_ns >= begin_ns
        )
        unseen = not self.mode.has_reference or self.history.is_blind(
            self.now_ns - NANOSECONDS // 3, self.now_ns
        )
        return strange and unseen

    def judge_until_now(self) -> None:
        """Let the judge see everything up to now."""
        self.controller.change_clock(self.now_ns, lambda: None)

    def _take(self, command: Any, now: Instant, origin: str, computing_ns: int) -> None:
        """What is done with a command: the fingers are looked at, the arm's part is published."""
        executed = command.executed
        if executed is not None and not np.isfinite(executed.positions).all():
            self.totals.violate("executed_not_finite", self.example("executed actions"))
        if command.gripper is not None:
            self._check_gripper(command.gripper.positions)
        if command.arm is None:
            return
        self._guard_free_ns = self.now_ns + computing_ns
        if not self._is_in_time(now, computing_ns):
            self.totals.disturbed["withdrawn"] += 1
            given_ns = self.now_ns
            self.at(self._guard_free_ns, lambda: self._withdraw(given_ns))
            return
        self.totals.num_outputs += 1
        self.wire.publish(command, now, origin, computing_ns)

    def _is_in_time(self, now: Instant, computing_ns: int) -> bool:
        """As safety_node: whether what was planned at `now` may still be sent."""
        within_ns = self.history.send_within_ns
        if within_ns is None or computing_ns <= within_ns:
            return True
        return self.starts_at_steps and self.clock.read(self._guard_free_ns) <= now.ros_ns

    def recall_unsent(self) -> None:
        """The ROS clock has stepped: as safety_node, do not send what was planned before."""
        sent = self.history.sent
        if self.history.send_within_ns is None or not sent:
            return
        last = sent[-1]
        if last.published_steady_ns <= self.now_ns:
            return
        last.fate.add("withdrawn")
        sent.pop()
        self.totals.num_outputs -= 1
        self.totals.disturbed["withdrawn"] += 1
        self.at(self._guard_free_ns, lambda: self._withdraw(last.given_steady_ns))

    def _withdraw(self, given_ns: int) -> None:
        """What was planned at `given_ns` took too long."""
        if any(at_ns >= given_ns for at_ns, _ in self.history.clock_steps):
            for watch in self.judge.watches:
                if watch.stop_ns >= given_ns:
                    watch.follow_clock_step(round(self._own_end_s * NANOSECONDS))
        self.call("withdraw", self.guard.withdraw, float(self.random.uniform(2e-4, 2e-3)))

    def _check_gripper(self, commands: FloatArray) -> None:
        gripper = self.spec.gripper
        targets_m = gripper.target(commands)
        low, high = gripper.min_target_m - 1e-9, gripper.max_target_m + 1e-9
        if not ((targets_m >= low) & (targets_m <= high)).all():
            self.totals.violate("gripper", self.example(f"targets {targets_m.tolist()}"))

    # What everybody asks.

    def measured(self) -> FloatArray:
        """Where the arm really is now [J]."""
        if self.moved_by_hand is not None:
            return self.moved_by_hand(self.now_ns)
        return self.controller.measured(self.now_ns)

    def is_commanded_to_move(self) -> bool:
        """Whether the command has moved within the last two milliseconds."""
        velocity = self.controller.command_velocity(self.now_ns)
        return bool((np.abs(velocity) > 1e-6).any())

    def example(self, text: str, **more: Any) -> dict[str, Any]:
        """One finding, in words."""
        return {"at_s": round(self.now_ns / NANOSECONDS, 4), "text": text, **more}
