# SPDX-License-Identifier: Apache-2.0
"""What the guard knows of one arm."""

from dataclasses import dataclass

from par_ros.control.commanded_motion import MotionHistory
from par_ros.control.joint_watch import JointWatch
from par_ros.control.reference_watch import ReferenceWatch


@dataclass(frozen=True)
class ArmView:
    """One arm, as it is commanded and as it is seen.

    Attributes:
        motions: what it was commanded.
        joints: what is measured.
        reference: what its controller reports that it commands.
    """

    motions: MotionHistory
    joints: JointWatch
    reference: ReferenceWatch

    @property
    def awaits_reference(self) -> bool:
        """True while the controller has not shown yet whether it took the newest motion."""
        moves = bool(self.motions) and self.motions.running.kind != "standing"
        return moves and not self.reference.confirmed

    def withdraw(self) -> None:
        """Forget the newest motion, which the controller did not take; the one before runs."""
        self.motions.withdraw()
        self.reference.begin()
