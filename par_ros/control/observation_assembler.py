# SPDX-License-Identifier: Apache-2.0
"""Image, joint states and executed actions, matched by stamp: an observation, or why there is none.

Shapes: H, W image; J joints (gripper last); L actions of a chunk. Stamps are integer nanoseconds of
the node's clock; durations are seconds.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_ros.control.joint_states import (
    JointReading,
    JointSample,
    JointStateSelector,
    MissingJoints,
)
from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray
from par_ros.control.settings import parameter

ImageArray = npt.NDArray[np.uint8]

# Joint states kept for matching: two seconds at 1 kHz.
_NUM_JOINT_STATES_KEPT = 2000
# Further apart than this, it is another clock and no delay.
_ANOTHER_CLOCK_S = 10.0


@dataclass(frozen=True)
class AssemblerSettings:
    """Limits of what may be put together.

    Attributes:
        chunk_end_tolerance_s: an image taken this long before the end of a chunk still answers it.
    """

    max_image_age_s: float = parameter(
        0.4, "realtime: an older picture is not answered", unit="s", minimum=0.01, maximum=10.0
    )
    max_joint_skew_s: float = parameter(
        0.05, "most time between an image and the joint states used with it", unit="s",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    # The clocks of two machines differ.
    max_future_s: float = parameter(
        0.01, "how far ahead of the clock a picture's stamp may lie", unit="s",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    chunk_end_tolerance_s: float = 0.001


@dataclass(frozen=True)
class AssembledObservation:
    """What a policy may be shown.

    Attributes:
        stamp_ns: when the image was taken.
        image: uint8 [H, W, 3], RGB.
        joint_names: the J joints.
        measured_joint_positions: float64 [J].
        executed_actions: float64 [M, J], what the arm was sent since the last observation, M = L
            with sequential inference; None for the first one after reset().
        joint_stamp_ns: the joint state's stamp.
        recent_images: uint8 [4, H, W, 3], the pictures on the way, `image` last, and their stamps;
            for a policy that sees in clips.
    """

    stamp_ns: int
    image: ImageArray
    joint_names: tuple[str, ...]
    measured_joint_positions: FloatArray
    executed_actions: FloatArray | None
    joint_stamp_ns: int
    recent_images: ImageArray | None = None
    recent_stamps_ns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why there is no observation.

    Attributes:
        kind: one word for counters: skew, joints, clock, not_due, and the camera's
            (camera_check.CAMERA_FAULTS).
        reason: a sentence with what was expected, what came and what to check.
    """

    kind: str
    reason: str


class ObservationAssembler:
    """Keeps the newest joint states and the last executed chunk; reset() starts an episode."""

    def __init__(
        self,
        joint_names: tuple[str, ...],
        settings: AssemblerSettings | None = None,
        joint_prefix: str = "",
    ) -> None:
        """joint_prefix: what the driver puts before the joints' names."""
        self.joint_names = joint_names
        self._settings = settings if settings is not None else AssemblerSettings()
        self._selector = JointStateSelector(joint_names, joint_prefix)
        self.reset()

    def reset(self) -> None:
        """Forget joint states, executed actions and the running chunk."""
        self._joint_samples: deque[JointSample] = deque(maxlen=_NUM_JOINT_STATES_KEPT)
        self._joint_fault: str | None = None
        self._missing = ""
        self._executed_actions: FloatArray | None = None
        self._chunk_end_ns: int | None = None
        # When the first image began to wait for joints; None: none waits.
        self._waits_since_ns: int | None = None
        self._joints_are_late = False

    @property
    def chunk_end_ns(self) -> int | None:
        """When the last executed chunk ends; None before the first."""
        return self._chunk_end_ns

    @property
    def newest_arm_positions(self) -> FloatArray | None:
        """float64 [J - 1], without the gripper; None before any joint state."""
        return self._joint_samples[-1].positions[:-1] if self._joint_samples else None

    def awaits_joints(self, image_stamp_ns: int, steady_ns: int) -> bool:
        """Whether the joint state of an image's time may still come: it is published beside the
        image, and may be received after it.

        So it is while the newest one is from before the image, no further than may be put together
        with it, until as long has passed since the first image that waited. Where none of its time
        has come then, images wait no more until reset(). In lockstep that is no time.

        Args:
            steady_ns: now, by the steady clock.
        """
        if self._joints_are_late or not self._joint_samples or self._joint_fault is not None:
            return False
        most_ns = round(self._settings.max_joint_skew_s * NANOSECONDS)
        older_ns = image_stamp_ns - self._joint_samples[-1].stamp_ns
        if older_ns <= 0:
            self._waits_since_ns = None
            return False
        if self._waits_since_ns is None:
            if older_ns > most_ns:
                return False
            self._waits_since_ns = steady_ns
        has_waited = steady_ns - self._waits_since_ns >= most_ns
        self._joints_are_late = has_waited or older_ns > most_ns
        return not self._joints_are_late

    def add_joint_state(self, reading: JointReading) -> bool:
        """Take one joint state or a part of one; a bad one is the reason for the next refusal.

        Returns:
            False for another robot's or part's, which changes nothing.

        Raises:
            ValueError: a joint is doubled, a length is wrong, or a number is not finite.
        """
        try:
            taken = self._selector.take(reading)
        except ValueError as error:
            self._joint_fault = str(error)
            raise
        if taken is None:
            return False
        self._joint_fault = None
        self._missing = taken.reason if isinstance(taken, MissingJoints) else ""
        if isinstance(taken, JointSample):
            self._joint_samples.append(taken)
        return True

    def add_executed_actions(self, positions: FloatArray, end_ns: int) -> None:
        """Take what the guard really sent: float64 [L, J], and when its last point is due."""
        self._executed_actions = np.array(positions, dtype=np.float64)
        self._chunk_end_ns = end_ns

    def is_due(self, image_stamp_ns: int) -> bool:
        """True where an image of this stamp answers the running chunk (or there is none)."""
        if self._chunk_end_ns is None:
            return True
        tolerance_ns = round(self._settings.chunk_end_tolerance_s * NANOSECONDS)
        return image_stamp_ns >= self._chunk_end_ns - tolerance_ns

    def assemble(
        self, image: ImageArray, stamp_ns: int, now_ns: int
    ) -> AssembledObservation | Refusal:
        """Match the image with the joint state nearest to its stamp, or say why not."""
        if not self.is_due(stamp_ns):
            return Refusal("not_due", "the running chunk has not ended; a later image answers it.")
        refusal = self.check_age(stamp_ns, now_ns)
        if refusal is not None:
            return refusal
        if self._joint_fault is not None:
            return Refusal("joints", self._joint_fault)
        if not self._joint_samples:
            return Refusal(
                "joints",
                f"{self._missing or self._none_has_come()}.",
            )
        sample = min(self._joint_samples, key=lambda candidate: abs(candidate.stamp_ns - stamp_ns))
        skew_s = (sample.stamp_ns - stamp_ns) / NANOSECONDS
        if abs(skew_s) > self._settings.max_joint_skew_s:
            return Refusal(
                "skew",
                f"image and joint state must be within {self._settings.max_joint_skew_s:g} s, the "
                f"nearest joint state is {skew_s:+.3f} s away; "
                f"{self._skew_cause(now_ns)}.",
            )
        return AssembledObservation(
            stamp_ns=stamp_ns,
            image=image,
            joint_names=self.joint_names,
            measured_joint_positions=sample.positions.copy(),
            executed_actions=self._executed_actions,
            joint_stamp_ns=sample.stamp_ns,
        )

    def _none_has_come(self) -> str:
        return f"no joint state has come for {list(self.joint_names)}; check the joint_states topic"

    def _skew_cause(self, now_ns: int) -> str:
        """Whose stamps are late: the image's age has been checked."""
        if self._missing:
            return self._missing
        late_s = (now_ns - max(sample.stamp_ns for sample in self._joint_samples)) / NANOSECONDS
        if abs(late_s) <= self._settings.max_joint_skew_s:
            return "check the camera's delay and its clock"
        side = "behind" if late_s > 0.0 else "ahead of"
        return (
            f"the newest joint state's stamp is {abs(late_s):.3f} s {side} the clock: check the "
            "clock of the arm's driver, and its rate"
        )

    def check_age(self, stamp_ns: int, now_ns: int) -> Refusal | None:
        """Whether an image of this stamp shows what is now."""
        age_s = (now_ns - stamp_ns) / NANOSECONDS
        if age_s > self._settings.max_image_age_s:
            return Refusal(
                "stale",
                f"an image may be {self._settings.max_image_age_s:g} s old, this one is "
                f"{age_s:.3f} s old; {_clock_cause(stamp_ns, now_ns)}.",
            )
        if age_s < -self._settings.max_future_s:
            return Refusal(
                "future",
                f"an image's stamp must not lie in the future, this one is {-age_s:.3f} s ahead; "
                f"{_clock_cause(stamp_ns, now_ns)}.",
            )
        return None


def _clock_cause(stamp_ns: int, now_ns: int) -> str:
    """What to check where an image's stamp is far from the clock."""
    if now_ns == 0:
        return "use_sim_time is true and nothing has come on /clock: start what publishes it"
    if abs(now_ns - stamp_ns) < _ANOTHER_CLOCK_S * NANOSECONDS:
        return "check the camera's delay and its clock"
    return (
        f"its stamp is {stamp_ns / NANOSECONDS:.3f} s where the clock shows "
        f"{now_ns / NANOSECONDS:.3f} s: check which clock the camera's driver stamps with, and "
        "use_sim_time"
    )
