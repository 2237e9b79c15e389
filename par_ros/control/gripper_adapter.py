# SPDX-License-Identifier: Apache-2.0
"""When a gripper's action is given a new goal, from the guard's gripper trajectories.

The guard sends a trajectory of finger targets 2.5 times a second; an action takes one goal and
works on it for seconds. So a goal is sent only where the target really changed, one at a time, when
the target is due. Whatever stops the guard, the goal stays: the adapter never opens a gripper,
cancels a grasp or changes its force because of a stop, and forgets the targets ahead.

Times are monotonic seconds; targets are metres of one finger. Plain Python: no ROS here.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from par_ros.control.arm_spec import GripperSpec
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory
from par_ros.control.settings import parameter

# A target that turns against the last goal's direction is a new goal from this share of the dead
# band on: a finger on its way to the wrong side is turned round early.
_REVERSAL_SHARE = 0.25


@dataclass(frozen=True)
class AdapterSettings:
    """Times of the adapter; parameters of gripper_adapter_node."""

    look_ahead_s: float = parameter(
        0.02, "a target is sent this long before it is due, for the action's latency; at most the "
        "time between two targets", unit="s", minimum=0.0, maximum=0.05,
    )  # fmt: skip
    max_target_age_s: float = parameter(
        0.5, "a target that has been due for longer is not sent: the guard is silent",
        unit="s", minimum=0.05, maximum=5.0,
    )  # fmt: skip
    answer_timeout_s: float = parameter(
        0.5, "an action server that takes longer to accept or cancel a goal is reported",
        unit="s", minimum=0.05, maximum=1.0,
    )  # fmt: skip
    retry_period_s: float = parameter(
        1.0, "pause before a goal that was rejected, or lost with its server, is sent again",
        unit="s", minimum=0.1, maximum=60.0,
    )  # fmt: skip


@dataclass(frozen=True)
class GripperGoal:
    """What a gripper is asked to do.

    Attributes:
        number: counts the goals; answers and results are matched by it.
        target_m: the finger's target as the guard sent it.
        finger_m: the same within the finger's reach.
        position: finger_m in the unit of the action's joint.
        grasp: whether it closes to squeeze.
    """

    number: int
    target_m: float
    finger_m: float
    position: float
    grasp: bool


class Outcome(Enum):
    """How a goal ended. STALLED: the fingers met something before the goal's position."""

    SUCCEEDED = "succeeded"
    STALLED = "stalled"
    CANCELED = "canceled"
    ABORTED = "aborted"


class Phase(Enum):
    """Phase of the newest goal."""

    IDLE = "idle"
    ASKED = "asked"
    RUNNING = "running"
    CANCELLING = "cancelling"


class Server(Enum):
    """Action server. SILENT: it was available, and has not answered for a second."""

    ABSENT = "absent"
    SILENT = "silent"
    READY = "ready"


@dataclass(frozen=True)
class DueTarget:
    """A finger target and the moment at which it became due."""

    target_m: float
    due_s: float


class TargetTimeline:
    """The targets of the guard's newest trajectory, each at its time.

    A stop of the guard comes as a trajectory, too (Commander.send): several equal targets, the
    first due at the stamp itself; those of a chunk are due behind its splice. Then the target that
    was due stays due, whatever the stop's own is: a target may have been sent the look-ahead
    before the guard stopped, and to take it back would be a new goal.
    """

    def __init__(self, gripper: GripperSpec, look_ahead_s: float) -> None:
        self._gripper = gripper
        self._look_ahead_s = look_ahead_s
        self._due_s: FloatArray = np.empty(0)
        self._targets_m: FloatArray = np.empty(0)
        self._current: DueTarget | None = None

    def take(self, trajectory: JointTrajectory, start_s: float, now_s: float) -> None:
        """Follow `trajectory` from `start_s` on. Raises ValueError, and then changes nothing."""
        trajectory.validate((self._gripper.command_joint_name,))
        if _is_stop(trajectory):
            # What became due and was not sent yet counts, but nothing that is still ahead.
            self._advance(now_s)
            self._due_s, self._targets_m = np.empty(0), np.empty(0)
            return
        self.due(now_s)
        self._due_s = start_s + trajectory.times_s
        self._targets_m = self._gripper.target(trajectory.positions[:, 0])

    def due(self, now_s: float) -> DueTarget | None:
        """The newest target that is due; it stays so until the next one is."""
        self._advance(now_s + self._look_ahead_s)
        return self._current

    def _advance(self, until_s: float) -> None:
        """Drop the targets that are due by then, but for the newest of them."""
        num_due = int(np.searchsorted(self._due_s, until_s, side="right"))
        if num_due > 0:
            row = num_due - 1
            self._current = DueTarget(float(self._targets_m[row]), float(self._due_s[row]))
            self._due_s, self._targets_m = self._due_s[num_due:], self._targets_m[num_due:]


def _is_stop(trajectory: JointTrajectory) -> bool:
    """Whether it is a stop of the guard; a single target at the stamp is one that is due now."""
    targets = trajectory.positions[:, 0]
    return len(targets) > 1 and trajectory.times_s[0] == 0.0 and bool(np.all(targets == targets[0]))


class GripperAdapter:
    """Converts due targets into goals of one action, and stores how each goal ended.

    Each step() says what to do now: send a goal, cancel the running one, or nothing. The owner
    reports the action server's answers by on_answer() and on_result().
    """

    def __init__(self, gripper: GripperSpec, settings: AdapterSettings) -> None:
        assert gripper.driver is not None, "a gripper with a trajectory controller needs no adapter"
        self._gripper = gripper
        self._driver = gripper.driver
        self._settings = settings
        self._timeline = TargetTimeline(gripper, settings.look_ahead_s)
        self._goal: GripperGoal | None = None
        self._phase = Phase.IDLE
        self._asked_s = 0.0
        self._closing: bool | None = None
        # Whether the last goal never got to work, and may be sent again.
        self._undone = False
        self._failure = ""

    @property
    def goal(self) -> GripperGoal | None:
        """The last goal that was sent."""
        return self._goal

    @property
    def phase(self) -> Phase:
        """Phase of the newest goal."""
        return self._phase

    def take(self, trajectory: JointTrajectory, start_s: float, now_s: float) -> None:
        """A trajectory came that starts at `start_s`. Raises ValueError, and changes nothing."""
        self._timeline.take(trajectory, start_s, now_s)

    def step(self, now_s: float, server: Server) -> GripperGoal | Literal["cancel"] | None:
        """What to do now. A goal that is given back counts as sent."""
        if server is Server.ABSENT:
            self._lose_goal()
        if server is not Server.READY:
            return None
        due = self._timeline.due(now_s)
        if due is None or now_s - due.due_s > self._settings.max_target_age_s:
            return None
        if not self._is_new(due.target_m, now_s):
            return None
        if self._phase is Phase.RUNNING:
            self._phase, self._asked_s = Phase.CANCELLING, now_s
            return "cancel"
        return self._send(due.target_m, now_s) if self._phase is Phase.IDLE else None

    def on_answer(self, number: int, accepted: bool) -> None:
        """The action server took goal `number`, or refused it."""
        if not self._waits_for(number, Phase.ASKED):
            return
        self._phase = Phase.RUNNING if accepted else Phase.IDLE
        self._undone = not accepted
        if not accepted:
            self._failure = (
                f"{self._described()} was rejected by {self._driver.action}; check that the "
                "gripper's driver and controller are active"
            )

    def on_result(self, number: int, outcome: Outcome, reason: str = "") -> None:
        """Goal `number` has ended. A grasp that stalls on an object has succeeded."""
        if not self._waits_for(number, Phase.RUNNING, Phase.CANCELLING):
            return
        asked_for = self._phase is Phase.CANCELLING
        self._phase = Phase.IDLE
        held = outcome is Outcome.STALLED and self._goal is not None and self._goal.grasp
        if outcome is Outcome.SUCCEEDED or held or asked_for:
            return
        self._failure = (
            f"{self._described()} was {outcome.value}{f' ({reason})' if reason else ''}; it is not "
            "repeated until the target changes; look at the gripper"
        )

    def on_unknown(self, number: int) -> None:
        """The server does not know goal `number` (any more): it was restarted."""
        if self._waits_for(number, Phase.RUNNING, Phase.CANCELLING):
            self._lose_goal()

    def problem(self, now_s: float, server: Server) -> str:
        """What is wrong, in one sentence without its full stop; empty where nothing is."""
        if server is Server.ABSENT:
            return (
                f"action server {self._driver.action} is not available; start the gripper's "
                "driver, or check gripper.driver.action in the arm file"
            )
        if server is Server.SILENT:
            return (
                f"action server {self._driver.action} does not answer; nothing is sent until it "
                "does; check whether the gripper's driver still runs"
            )
        if self._phase in (Phase.ASKED, Phase.CANCELLING):
            waited_s = now_s - self._asked_s
            if waited_s > self._settings.answer_timeout_s:
                return (
                    f"{self._driver.action} has not answered for {waited_s:.1f} s "
                    f"({self._phase.value}); nothing else is sent; check the gripper's driver"
                )
        return self._failure

    def _is_new(self, target_m: float, now_s: float) -> bool:
        goal = self._goal
        if goal is None:
            return True
        if self._undone and now_s - self._asked_s >= self._settings.retry_period_s:
            return True
        dead_band_m = self._driver.dead_band_m
        if goal.grasp:
            return target_m > self._driver.grasp_below_m + dead_band_m
        if target_m <= self._driver.grasp_below_m:
            return True
        change_m = target_m - goal.target_m
        reverses = self._closing is not None and (change_m < 0.0) is not self._closing
        return abs(change_m) > dead_band_m * (_REVERSAL_SHARE if reverses else 1.0)

    def _send(self, target_m: float, now_s: float) -> GripperGoal:
        before = self._goal
        grasp = target_m <= self._driver.grasp_below_m
        finger_m = self._driver.closed_m if grasp else min(target_m, self._gripper.max_target_m)
        number = 1 if before is None else before.number + 1
        self._closing = None if before is None else target_m < before.target_m
        self._goal = GripperGoal(number, target_m, finger_m, self._position(finger_m), grasp)
        self._phase, self._asked_s, self._undone, self._failure = Phase.ASKED, now_s, False, ""
        return self._goal

    def _position(self, finger_m: float) -> float:
        if self._driver.linkage is not None:
            return self._driver.linkage.angle(finger_m)
        return float(self._gripper.command(np.array([finger_m]))[0])

    def _lose_goal(self) -> None:
        """What was in flight is lost with the server; a goal that had ended stays done."""
        if self._phase is not Phase.IDLE:
            self._undone = True
            self._failure = f"{self._described()} was lost with {self._driver.action}"
        self._phase = Phase.IDLE

    def _waits_for(self, number: int, *phases: Phase) -> bool:
        return self._goal is not None and self._goal.number == number and self._phase in phases

    def _described(self) -> str:
        assert self._goal is not None
        verb = "grasp" if self._goal.grasp else "move"
        return f"goal {self._goal.number} ({verb} to {self._goal.finger_m:.4f} m)"
