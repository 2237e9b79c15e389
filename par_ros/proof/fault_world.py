# SPDX-License-Identifier: Apache-2.0
"""Faults of the fault suite's arm, as data that is sent to its process.

Topics here are the suite's own; no other program knows them.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

# std_msgs/String to the processes, and what they report.
ARM_WORLD = "fault_arm_world"
ARM_EVENTS = "fault_arm_events"
CAMERA_WORLD = "fault_camera_world"
# Where the arm writes its command, cycle by cycle.
CYCLES_VARIABLE = "PAR_FAULT_CYCLES"

JointStates = Literal[
    "good",
    "stopped",
    "missing",
    "nan",
    "jump",
    "pushed",
    "stale",
    "future",
    "stalled",
    "no_velocities",
    "foreign",
    "second_source",
    "split",
    "gripper_nan",
]
CameraWorld = Literal["good", "stopped", "frozen", "stalled", "black", "smaller", "encoding", "old"]


@dataclass(frozen=True)
class ArmWorld:
    """The faults that the arm has at one time.

    Attributes:
        number: counts up; the arm reports which one it is in.
        pickup_s: when the controller takes a trajectory, after the guard sent it: drawn evenly.
        lost_share: of the trajectories that never arrive.
        lose_next, reject_next: so many of the next trajectories are lost on the way, or rejected by
            the controller.
        doubled_s: each trajectory arrives once more so long after the first time; None: it does
            not.
        reference_silent: the controller says nothing.
        speed: of the controller, against time.
        holds_measured: the controller goes to where the arm is measured, in one step (cmd_timeout).
        joint_states: what is wrong with them.
        sag_rad, lag_s: where the arm is measured, below and behind its command.
    """

    number: int = 0
    pickup_s: tuple[float, float] = (0.0, 0.008)
    lost_share: float = 0.0
    lose_next: int = 0
    reject_next: int = 0
    doubled_s: float | None = None
    reference_silent: bool = False
    speed: float = 1.0
    holds_measured: bool = False
    joint_states: JointStates = "good"
    sag_rad: float = 0.0
    lag_s: float = 0.0

    def text(self) -> str:
        """For a message."""
        return json.dumps(asdict(self))

    @staticmethod
    def of_text(text: str) -> "ArmWorld":
        """The inverse of text()."""
        values = json.loads(text)
        values["pickup_s"] = tuple(values["pickup_s"])
        return ArmWorld(**values)


@dataclass(frozen=True)
class PickUp:
    """A trajectory that the controller took, or did not.

    Attributes:
        kind: "taken", "lost" or "rejected".
        sent_ns, taken_ns: on the steady clock; taken_ns is the control cycle's.
    """

    kind: str
    sent_ns: int
    taken_ns: int


@dataclass(frozen=True)
class WorldTaken:
    """The arm is in the world of this number."""

    number: int
    kind: str = "world"


@dataclass(frozen=True)
class OwnStep:
    """In this control cycle the controller stepped by itself."""

    cycle: int
    kind: str = "own_step"


@dataclass(frozen=True)
class Stall:
    """The arm's process came so late to a cycle, s."""

    stall_s: float
    kind: str = "stall"


ArmEvent = PickUp | WorldTaken | OwnStep | Stall
_EVENTS = {kind.kind: kind for kind in (WorldTaken, OwnStep, Stall)}


def event_text(event: ArmEvent) -> str:
    """For a message."""
    return json.dumps(asdict(event))


def event_of_text(text: str) -> ArmEvent:
    """The inverse of event_text()."""
    values = json.loads(text)
    return _EVENTS.get(values["kind"], PickUp)(**values)
