# SPDX-License-Identifier: Apache-2.0
"""What the guard gives out after one input."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from par_ros.control.joint_trajectory import JointTrajectory

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Event:
    """One line for the log."""

    level: Level
    text: str


@dataclass(frozen=True)
class Command:
    """What goes out after one input; None where there is nothing of that kind.

    Attributes:
        arm, gripper: trajectories.
        stamp_ns: header.stamp of both, ROS time: zero of their times.
        executed: points of all joints as they are really sent, L of them with sequential inference;
            executed_stamp_ns is that of the chunk answered last; executed_holds whether that chunk
            is not, or no longer, followed.
        events: for the log.
        has_splice: whether `arm` departs from the running motion at the splice's end, so that it
            must be sent in time.
    """

    arm: JointTrajectory | None = None
    gripper: JointTrajectory | None = None
    stamp_ns: int = 0
    executed: JointTrajectory | None = None
    executed_stamp_ns: int = 0
    executed_holds: bool = False
    events: tuple[Event, ...] = ()
    has_splice: bool = True

    def saying(self, level: Level, text: str) -> "Command":
        """The same with one more event, the first."""
        return dataclasses.replace(self, events=(Event(level, text), *self.events))

    def telling(
        self, executed: JointTrajectory, stamp_ns: int, *, holds: bool = False
    ) -> "Command":
        """The same with what the policy is told of the chunk of `stamp_ns`."""
        return dataclasses.replace(
            self, executed=executed, executed_stamp_ns=stamp_ns, executed_holds=holds
        )


@dataclass(frozen=True)
class Reply:
    """Answer of a service: whether it was done, a sentence, and what goes out."""

    success: bool
    message: str
    command: Command = field(default_factory=Command)


def log(level: Level, text: str) -> Command:
    """A command of one event."""
    return Command(events=(Event(level, text),))
