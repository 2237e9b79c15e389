# SPDX-License-Identifier: Apache-2.0
"""What it takes to engage, and from where the guard then commands. J arm joints."""

from dataclasses import dataclass

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray, MotionState
from par_ros.control.joint_watch import JointWatch
from par_ros.control.reference_watch import ReferenceSample, ReferenceWatch
from par_ros.control.timeline import Moment


@dataclass(frozen=True)
class Start:
    """Where the arm is commanded to stand at first.

    Attributes:
        state: the controller's reference, or where the arm was measured, at rest.
        gripper_m: the gripper's target.
        settles: whether the controller's reference is not known, so that it has to be led there.
    """

    state: MotionState
    gripper_m: float
    settles: bool


class Engaging:
    """Looks at joints and reference of one arm."""

    def __init__(
        self,
        spec: ArmSpec,
        joints: JointWatch,
        reference: ReferenceWatch,
        *,
        lockstep: bool,
        expects_reference: bool,
        dry_run: bool,
    ) -> None:
        self._spec = spec
        self._joints = joints
        self._reference = reference
        self._lockstep = lockstep
        self._expects_reference = expects_reference
        self._dry_run = dry_run

    def why_not(self, moment: Moment, commanded: FloatArray | None) -> str:
        """Why the arm must not be engaged; empty where it may.

        Args:
            commanded: float64 [J], where the arm was sent last; None where it was sent nowhere.
        """
        if self._lockstep:
            return self._joints.why_not_known(moment) or self._why_not_reported()
        refusal = self._joints.why_not_standing(moment)
        if refusal or not self._expects_reference:
            return refusal or self._why_led_far(commanded)
        return self._why_no_reference(moment)

    @property
    def is_start_known(self) -> bool:
        """Whether start() can tell; in lockstep an expected reference has to be there."""
        waits = self._lockstep and self._expects_reference and self._usable_reference() is None
        return self._joints.newest is not None and not waits

    def start(self) -> Start:
        """Where to begin, once why_not() is empty."""
        sample = self._joints.newest
        assert sample is not None
        gripper = self._spec.gripper
        finger_m = float(np.clip(sample.positions[-1], gripper.min_target_m, gripper.max_target_m))
        measured = sample.positions[:-1]
        reference = self._usable_reference()
        if reference is not None:
            state = MotionState(
                reference.positions.copy(), reference.velocities, reference.accelerations
            )
            return Start(state, finger_m, False)
        return Start(MotionState.at_rest(measured), finger_m, not self._lockstep)

    def _why_led_far(self, commanded: FloatArray | None) -> str:
        """Why a controller of which nothing is heard must not lead the arm to where it is.

        In a dry run no controller got a command, and the arm is expected to be elsewhere.
        """
        sample = self._joints.newest
        if self._dry_run or sample is None or commanded is None:
            return ""
        apart = np.abs(sample.positions[:-1] - commanded)
        joint = int(np.argmax(apart))
        if apart[joint] <= self._spec.max_tracking_error_rad:
            return ""
        return (
            f"{self._spec.arm_joint_names[joint]} is {apart[joint]:.3g} rad from where it was sent "
            "last, and the controller does not say what it holds: deactivate and activate the "
            "controller, so that it holds the arm where it is, then configure the guard anew"
        )

    def _usable_reference(self) -> ReferenceSample | None:
        """The controller's reference; in lockstep only one of the newest joint state's moment."""
        sample, reference = self._joints.newest, self._reference.newest
        if sample is None or reference is None:
            return None
        if self._lockstep and reference.stamp_ns < sample.stamp_ns:
            return None
        return reference if self._expects_reference else None

    def _why_no_reference(self, moment: Moment) -> str:
        reference = self._reference
        if not reference.is_heard(moment) or reference.newest is None:
            causes = "check that the controller is active and its controller_state topic"
            return (
                f"the controller's reference has not come within {reference.max_age_s:g} s; "
                f"{reference.why_unusable or causes}"
            )
        if reference.is_slowed:
            return why_slowed(reference.newest.speed_scaling)
        if not reference.is_at_rest:
            return "the controller still moves the arm; wait until it is at rest"
        return self._why_apart()

    def _why_not_reported(self) -> str:
        """Lockstep: the reference of the newest joint state's moment must be known."""
        if self._expects_reference and self._usable_reference() is None:
            cause = self._reference.why_unusable or "try again"
            return f"what the arm is commanded at the newest joint state is not known; {cause}"
        if self._expects_reference and not self._reference.is_at_rest:
            return "the controller still moves the arm; wait until it is at rest"
        return self._why_apart()

    def _why_apart(self) -> str:
        """Why measured and reference cannot be the same arm; empty where they can."""
        sample, reference = self._joints.newest, self._usable_reference()
        if sample is None or reference is None:
            return ""
        apart = np.abs(sample.positions[:-1] - reference.positions)
        joint = int(np.argmax(apart))
        if apart[joint] <= self._spec.max_tracking_error_rad:
            return ""
        return (
            f"{self._spec.arm_joint_names[joint]} is measured {apart[joint]:.3g} rad from the "
            "controller's reference; check joint_states and the controller"
        )


def why_slowed(speed_scaling: float) -> str:
    """The sentence for a controller that runs slower than time."""
    share = f"{100 * speed_scaling:.0f} %"
    if speed_scaling <= 0.0:
        return (
            f"the controller's speed scaling is {share}: a protective stop, an emergency stop or a "
            "paused program of the robot; clear it at the robot"
        )
    return f"the controller's speed scaling is {share}; set the speed slider to 100 %"
