# SPDX-License-Identifier: Apache-2.0
"""One case of the fault suite: bring the arm into motion, inject the fault, record the result."""

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from std_msgs.msg import String

from par_ros import messages
from par_ros.proof.fault_judge import Judged, judge
from par_ros.proof.fault_processes import SuiteError
from par_ros.proof.fault_result import FaultResult
from par_ros.proof.fault_rig import (
    ARM_PROCESS,
    CAMERA_PROCESS,
    GRAPH_TIMEOUT_S,
    GUARD_PARAMETERS,
    OVERLAPPED_DELAY_S,
    RUNNER_PROCESS,
    SEEING_PROCESS,
    FaultRig,
)
from par_ros.proof.fault_world import ArmWorld
from par_ros.proof.scripted_policy import CHUNK_S
from par_ros.topics import DISENGAGE, ENGAGE, GUARD, RESET_STOP

SPLICE_S = 0.03
_REST_AFTER_STOP_S = 0.5
_MIN_SPEED_RAD_S = 0.05
_REST_TIMEOUT_S = 5.0
_MOVE_TIMEOUT_S = 8.0
_ENGAGE_TIMEOUT_S = 15.0
_ENGAGE_PERIOD_S = 0.05
_NUM_PHASES = 4
_SMALL_STEP_RAD = 1e-4
# Beyond the deadline of the case's watch: the guard reports once a second.
_OBSERVE_S = 1.6
_GOES_ON_S = 1.3
# A suite that got no CPU for so long says nothing about the guard.
MAX_STALL_S = 0.15


@dataclass(frozen=True)
class Fault:
    """One case: `inject` is called once in full motion.

    Attributes:
        name: of the case.
        expected: what must be seen: the guard's counters, or words that `inject` adds; "a|b" is
            either. Empty if no process is left to count: then the arm at rest is the evidence.
        watch_s: deadline of the watch that finds it.
        holds: whether the arm must come to rest; None: either is right.
        policy: "" for this process, or the module of the process that is the policy.
        supervised: guard and real_arm_node under a runner of their own.
        guard: parameters of the guard.
        world: the arm's from the beginning.
        begins: "moving", "engaged" (and standing), or "disengaged".
        late: trajectories are taken after their splice on purpose: that is no reason to repeat.
        phase_s: how far into a chunk it happens.
        restarted: the process that is started again afterwards; "" where none is.
        fresh_after: guard and arm are restarted for the next case.
        overlapped: the policy's chunks have look-ahead and are timed from their pictures.
    """

    name: str
    expected: tuple[str, ...]
    inject: Callable[[FaultRig], None]
    watch_s: float = 0.0
    holds: bool | None = True
    policy: str = ""
    supervised: bool = False
    guard: tuple[str, ...] = GUARD_PARAMETERS
    world: ArmWorld = field(default_factory=ArmWorld)
    begins: str = "moving"
    late: bool = False
    phase_s: float = 0.2
    restarted: str = ""
    fresh_after: bool = False
    overlapped: bool = False

    @property
    def allowed_s(self) -> float:
        """From the fault to rest."""
        return self.watch_s + _REST_AFTER_STOP_S


class FaultCases:
    """Runs cases one after the other; guard and arm are kept from one to the next."""

    def __init__(self, rig: FaultRig) -> None:
        self._rig = rig
        self._running: tuple[tuple[str, ...], bool] | None = None
        self._first_row = 0
        self._first_ns = 0

    def run(self, fault: Fault) -> FaultResult:
        """Bring the arm into motion, inject, observe; and start again what was killed.

        Raises SuiteError where the fault could not even be injected.
        """
        rig = self._rig
        try:
            self._prepare(fault)
            before = dict(rig.reports.counters)
            rig.seen.clear()
            rig.reports.camera_faults.clear()
            rig.mark()
            fault.inject(rig)
            fault_ns = rig.fault_ns
            rig.spin_for(fault.watch_s + _OBSERVE_S if fault.holds else _GOES_ON_S)
            result = self._result(fault, before, fault_ns)
            if fault.restarted:
                result = self._with_recovery(fault, result)
        except SuiteError:
            self.start_again()
            raise
        if fault.fresh_after or fault.restarted or not result.passed:
            self.start_again()
        return result

    def start_again(self) -> None:
        """Restart guard and arm before the next case."""
        self._rig.pause_policy()
        self._rig.processes.end_all()
        self._running = None

    # Before.

    def _prepare(self, fault: Fault) -> None:
        rig = self._rig
        rig.pause_policy()
        rig.mangle_chunk = None
        rig.overlapped, rig.delay_s = fault.overlapped, OVERLAPPED_DELAY_S
        rig.injected = None
        self._start(fault)
        rig.set_world(fault.world)
        rig.trigger(RESET_STOP.client_name)
        rig.trigger(DISENGAGE.client_name)
        if not rig.spin_until(lambda: rig.speed_rad_s() == 0.0, _REST_TIMEOUT_S):
            raise SuiteError("the arm does not come to rest.")
        self._first_row = max(rig.log.num_rows - 1, 0)
        self._first_ns = time.monotonic_ns()
        rig.pick_ups.clear()
        rig.own_steps.clear()
        rig.largest_stall_s = 0.0
        if fault.begins == "disengaged":
            rig.spin_for(0.5)
            return
        self._move(fault)

    def _start(self, fault: Fault) -> None:
        rig, running = self._rig, (fault.guard, fault.supervised)
        alive = rig.processes.is_alive(ARM_PROCESS) and rig.processes.is_alive(
            RUNNER_PROCESS if fault.supervised else GUARD
        )
        if fault.policy != SEEING_PROCESS:
            rig.end_policy_processes()
        else:
            rig.end_policy_processes(but=(SEEING_PROCESS, CAMERA_PROCESS))
            rig.camera.publish(String(data="good"))
        if running != self._running or not alive:
            self.start_again()
            rig.start_arm()
            rig.start_guard(fault.guard, supervised=fault.supervised)
            self._running = running

    def _move(self, fault: Fault) -> None:
        """Engaged, and in full motion at the case's phase of a chunk; or just engaged."""
        rig = self._rig
        # policy_node is engaged when it is up, as by an operator.
        if fault.policy == SEEING_PROCESS:
            rig.start_policy(fault.policy)
        elif fault.policy:
            rig.make_way_for(fault.policy)
        self._engage(fault)
        if fault.begins == "engaged":
            return
        taken = len(rig.pick_ups)
        if fault.policy != SEEING_PROCESS:
            rig.start_policy(fault.policy)
        moves = rig.spin_until(
            lambda: len(rig.pick_ups) >= taken + 2 and self._is_moving(), _MOVE_TIMEOUT_S
        )
        if not moves:
            raise SuiteError(f"the arm did not move: {self._state()}.")
        for _ in range(_NUM_PHASES):
            if not fault.policy:
                sent = rig.num_chunks
                rig.spin_until(lambda sent=sent: rig.num_chunks > sent, CHUNK_S)
            rig.spin_for(fault.phase_s)
            if not rig.reports.engaged:
                raise SuiteError(f"the guard was disengaged before the fault: {self._state()}.")
            # The swing stands still where it turns.
            if self._is_moving():
                return
        raise SuiteError(f"the arm moved no more: {self._state()}.")

    def _engage(self, fault: Fault) -> None:
        timeout_s = GRAPH_TIMEOUT_S if fault.restarted else _ENGAGE_TIMEOUT_S
        end_s = time.monotonic() + timeout_s
        while True:
            response = self._rig.trigger(ENGAGE.client_name)
            if response.success:
                return
            if time.monotonic() > end_s:
                raise SuiteError(f"the guard did not engage: {response.message}.")
            self._rig.spin_for(_ENGAGE_PERIOD_S)

    def _is_moving(self) -> bool:
        return self._rig.speed_rad_s() > _MIN_SPEED_RAD_S

    def _state(self) -> str:
        rig = self._rig
        state = rig.reports.state
        values = {} if state is None else state.to_values()
        words = [f"{name} {value}" for name, value in values.items() if value]
        taken = ", ".join(f"{1e3 * delay_s:.0f}" for delay_s, _ in self._delays_s())
        return (
            f"{', '.join(words)}; stalled for {rig.largest_stall_s:.2f} s; trajectories taken "
            f"{taken or 'never'} ms after what they answer"
        )

    # After.

    def _result(self, fault: Fault, before: dict[str, int], fault_ns: int) -> FaultResult:
        rig = self._rig
        goes_on = None
        if fault.holds is False:
            engaged = bool(rig.reports.engaged)
            goes_on = engaged and any(
                one.sent_ns > fault_ns and one.kind == "taken" for one in rig.pick_ups
            )
        rig.pause_policy()
        seen = self._seen(before)
        late = self._late_cycles()
        rows, from_cycle = rig.log.rows(self._first_row), fault_ns // 1_000_000
        judged = judge(rig.spec, rows, from_cycle, (*rig.own_steps, *late))
        everything = judge(rig.spec, rows, from_cycle, tuple(rig.own_steps))
        if everything.largest_step_rad < _SMALL_STEP_RAD:
            seen.add("small_step")
        time_to_hold_s = self._time_to_hold_s(judged, fault_ns)
        detected = all(any(word in seen for word in words.split("|")) for words in fault.expected)
        if not fault.expected:
            detected = time_to_hold_s is not None or bool(goes_on)
        return FaultResult(
            name=fault.name,
            detected=detected,
            expected=fault.expected,
            seen=tuple(sorted(seen)),
            noticed_s=self._noticed_s(fault, before, fault_ns),
            holds=fault.holds,
            time_to_hold_s=time_to_hold_s if fault.holds is not False else None,
            allowed_s=fault.allowed_s,
            goes_on=goes_on,
            limit_violations=judged.num_violations,
            late_violations=everything.num_violations - judged.num_violations,
            largest_step_rad=everything.largest_step_rad,
            largest_velocity_share=judged.largest["velocity"],
            largest_acceleration_share=judged.largest["acceleration"],
            largest_jerk_share=judged.largest["jerk"],
            examples=judged.examples,
            late_pick_ups=len(late),
            rig_late=self._why_late(fault, len(late)),
        )

    def _seen(self, before: dict[str, int]) -> set[str]:
        rig = self._rig
        seen = {name for name, count in rig.reports.counters.items() if count > before.get(name, 0)}
        if rig.reports.stop_latched:
            seen.add("stop_latched")
        if rig.reports.engaged is False:
            seen.add("disengaged")
        return seen | rig.seen | rig.reports.camera_faults | self._answer()

    def _answer(self) -> set[str]:
        """How the guard answered the changed chunk."""
        message = self._rig.injected
        if message is None:
            return set()
        executed = self._rig.reports.executed.get(messages.stamp_ns(message))
        if executed is None:
            return {"answer_missing"}
        asked = messages.read_joint_trajectory(message).positions
        return {"answer_unchanged" if np.array_equal(asked, executed) else "answer_changed"}

    def _noticed_s(self, fault: Fault, before: dict[str, int], fault_ns: int) -> float | None:
        rig = self._rig
        times_s = [
            rig.reports.counted_s[word]
            for words in fault.expected
            for word in words.split("|")
            if rig.reports.counters.get(word, 0) > before.get(word, 0)
        ]
        return max(min(times_s) - fault_ns * 1e-9, 0.0) if times_s else None

    def _time_to_hold_s(self, judged: Judged, fault_ns: int) -> float | None:
        """None: it moves still. An arm whose process is gone moves no more."""
        if not judged.is_at_rest and self._rig.processes.is_alive(ARM_PROCESS):
            return None
        if judged.last_motion is None:
            return 0.0
        return max(judged.last_motion - fault_ns // 1_000_000, 0) / 1000.0

    def _delays_s(self) -> list[tuple[float, int]]:
        """Of each trajectory that was taken: how long after what the guard was given, and when."""
        moments = sorted(self._rig.reports.moments_ns)
        delays = []
        for one in self._rig.pick_ups:
            if one.kind == "taken" and one.sent_ns >= self._first_ns:
                index = bisect.bisect_right(moments, one.sent_ns)
                given_ns = moments[index - 1] if index else one.sent_ns
                delays.append(((one.taken_ns - given_ns) * 1e-9, one.taken_ns // 1_000_000))
        return delays

    def _late_cycles(self) -> tuple[int, ...]:
        return tuple(cycle for delay_s, cycle in self._delays_s() if delay_s > SPLICE_S)

    def _why_late(self, fault: Fault, late: int) -> str:
        if late and not fault.late:
            return f"{late} trajectories were taken after their splice"
        stall_s = self._rig.largest_stall_s
        return f"it got no CPU for {stall_s:.2f} s" if stall_s > MAX_STALL_S else ""

    # Again.

    def _with_recovery(self, fault: Fault, result: FaultResult) -> FaultResult:
        """Whether the arm moves again after a new start of what was killed, and after how long."""
        rig = self._rig
        begin_s = time.monotonic()
        try:
            if fault.restarted == GUARD:
                rig.processes.end(RUNNER_PROCESS if fault.supervised else GUARD)
                rig.start_guard(fault.guard, supervised=fault.supervised)
            elif fault.restarted == ARM_PROCESS:
                rig.processes.end(ARM_PROCESS)
                rig.start_arm()
            else:
                rig.processes.end(fault.restarted)
            if fault.restarted == fault.policy:
                # Until its lease ends a killed policy stays in the graph, where the guard sees it.
                rig.wait_for_no_policy()
            elif fault.policy == SEEING_PROCESS:
                rig.start_camera()
            rig.trigger(RESET_STOP.client_name)
            self._move(fault)
        except SuiteError as error:
            return replace(result, recovered=False, examples=(*result.examples, str(error)))
        return replace(result, recovered=True, recovery_s=time.monotonic() - begin_s)
