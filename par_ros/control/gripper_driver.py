# SPDX-License-Identifier: Apache-2.0
"""How a gripper is driven that has an action instead of a trajectory controller.

The `gripper.driver` section of an arm file, read by arm_spec.py. Units: m of one finger, rad.
"""

import math
from dataclasses import dataclass
from typing import Literal

DriverKind = Literal["gripper_command", "parallel_gripper_command", "franka"]

# What each kind needs beside the entries that all of them have.
DRIVER_ENTRIES: dict[DriverKind, tuple[str, ...]] = {
    "gripper_command": (),
    "parallel_gripper_command": ("speed_m_s",),
    "franka": ("speed_m_s", "epsilon_m"),
}


@dataclass(frozen=True)
class KnuckleLinkage:
    """The parallel crank that moves a Robotiq finger: a knuckle angle, 0 when it is open.

    The finger's pad keeps its direction and travels on the crank's circle, so that it stands at
        open_m + across * (cos(angle) - 1) - along * sin(angle)
    from the middle. across and along are the crank at angle 0, from the knuckle's axis to the
    finger tip's, across the gripper and along it, m.

    Attributes:
        joint: the knuckle's name in the driver's joint states.
    """

    joint: str
    crank_across_m: float
    crank_along_m: float
    open_m: float
    closed_rad: float

    def angle(self, finger_m: float) -> float:
        """The knuckle angle with the pad `finger_m` from the middle, rad, from 0 to closed_rad."""
        length_m = math.hypot(self.crank_across_m, self.crank_along_m)
        across_m = finger_m - self.open_m + self.crank_across_m
        turned = math.acos(min(max(across_m / length_m, -1.0), 1.0))
        angle = turned - math.atan2(self.crank_along_m, self.crank_across_m)
        return min(max(angle, 0.0), self.closed_rad)

    def finger(self, angle_rad: float) -> tuple[float, float]:
        """The inverse of angle(): the pad's distance from the middle, m, and its change, m/rad.

        Raises ValueError for an angle that is not finite.
        """
        if not math.isfinite(angle_rad):
            raise ValueError(
                f"{self.joint} must be finite, got {angle_rad}; check the gripper's driver."
            )
        cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
        across_m, along_m = self.crank_across_m, self.crank_along_m
        finger_m = self.open_m + across_m * (cosine - 1.0) - along_m * sine
        return finger_m, -(across_m * sine + along_m * cosine)


@dataclass(frozen=True)
class GripperDriver:
    """The action that drives a gripper, and when it is given a new goal.

    Attributes:
        kind: gripper_command (control_msgs/action/GripperCommand), parallel_gripper_command
            (control_msgs/action/ParallelGripperCommand), franka (franka_msgs/action/Grasp and
            Move, whose width is that of both fingers).
        action: name of the action; franka: the namespace of `grasp` and `move`.
        grasp_below_m: a target at or below it is a grasp.
        dead_band_m: a smaller change of the target is no new goal.
        closed_m: where a finger stands when the gripper is empty and closed; no goal is below it.
        effort: of every goal, in the action's unit (N, or N m for a joint that turns).
        speed_m_s: None where the action has none. franka: of the width.
        epsilon_m: franka: how far the width may end from that of a grasp. None elsewhere.
        linkage: where the action's joint is a knuckle. None: the arm file's command_scale and
            command_offset give the action's position. Always None for franka.
    """

    kind: DriverKind
    action: str
    grasp_below_m: float
    dead_band_m: float
    closed_m: float
    effort: float
    speed_m_s: float | None = None
    epsilon_m: float | None = None
    linkage: KnuckleLinkage | None = None
