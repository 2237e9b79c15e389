# SPDX-License-Identifier: Apache-2.0
"""Joint state messages as they come, and the arm's joints picked out of them.

J joints, gripper last. Stamps are integer nanoseconds of ROS time.
"""

from dataclasses import dataclass

import numpy as np

from par_ros.control.joint_trajectory import NANOSECONDS, FloatArray

# Parts of one joint state (arm, gripper) that come in several messages belong together up to this.
MAX_PARTS_APART_S = 0.05


@dataclass(frozen=True)
class JointReading:
    """One joint states message: N joints of whichever arm or part, in the message's order.

    Attributes:
        positions: rad, m for a gripper; not checked.
        velocities: [N], rad/s or m/s; None where the message has none.
    """

    stamp_ns: int
    names: tuple[str, ...]
    positions: FloatArray
    velocities: FloatArray | None


@dataclass(frozen=True)
class JointSample:
    """Measured positions float64 [J] at `stamp_ns`; velocities float64 [J].

    velocities is None where the message had none: not known is not zero. The gripper's is 0 where
    only the arm's were known.
    """

    stamp_ns: int
    positions: FloatArray
    velocities: FloatArray | None


@dataclass(frozen=True)
class MissingJoints:
    """A part has come, and there is no joint state yet for the joints `names`.

    Attributes:
        reason: why not, and what to check.
    """

    names: tuple[str, ...]
    reason: str


class JointStateSelector:
    """Picks the arm's joints out of joint state messages, by name, in the arm's order.

    Some drivers publish the arm and the gripper, or halves of the arm, in messages of their own.
    Their parts are put together once each arm joint has come again and at most 50 ms lie between
    all parts; the oldest stamp of the arm's joints counts. The gripper's newest part may serve
    several times, as it often comes less often.
    """

    def __init__(self, joint_names: tuple[str, ...], prefix: str = "") -> None:
        """prefix: what the driver puts before the joints' names."""
        self.joint_names = joint_names
        self._prefix = prefix
        self._published = tuple(prefix + name for name in joint_names)
        self._parts: dict[str, _Part] = {}
        # Arm joints that have come since the last sample.
        self._new: set[str] = set()

    def take(self, reading: JointReading) -> JointSample | MissingJoints | None:
        """The J joints of a whole message, or of the parts up to this one.

        Returns:
            None for a message that holds none of the J joints (on some systems all robots share
            one topic), or that brings nothing new of the arm.

        Raises:
            ValueError: a joint is doubled, a length is wrong, or a number is not finite.
        """
        columns = [index for index, name in enumerate(reading.names) if name in self._published]
        if not columns:
            return None if self._parts else self._other_names(reading.names)
        self._require_lengths(reading)
        for column in columns:
            name = reading.names[column]
            speeds = reading.velocities
            speed = None if speeds is None else float(speeds[column])
            self._parts[name] = _Part(reading.stamp_ns, float(reading.positions[column]), speed)
            self._new.add(name)
        if len(columns) == len(self._published):
            return self._merged()
        return self._missing() or self._merged_if_new()

    def _missing(self) -> MissingJoints | None:
        """Joints that have not come, or not for long."""
        absent = tuple(name for name in self._published if name not in self._parts)
        if absent:
            return MissingJoints(
                absent, f"joint states lack {list(absent)}; check the joint_states topic"
            )
        newest_ns = max(part.stamp_ns for part in self._parts.values())
        oldest_ns = newest_ns - round(MAX_PARTS_APART_S * NANOSECONDS)
        late = tuple(name for name in self._published if self._parts[name].stamp_ns < oldest_ns)
        if not late:
            return None
        late_s = (newest_ns - min(self._parts[name].stamp_ns for name in late)) / NANOSECONDS
        return MissingJoints(
            late,
            f"the joint states of {list(late)} may be {MAX_PARTS_APART_S:g} s older than the "
            f"others', they are {late_s:.3f} s older; check the rate and the clock of what "
            "publishes them",
        )

    def _merged_if_new(self) -> JointSample | None:
        return self._merged() if self._new.issuperset(self._published[:-1]) else None

    def _merged(self) -> JointSample:
        parts = [self._parts[name] for name in self._published]
        self._new.clear()
        positions = np.array([part.position for part in parts])
        _require_finite("positions", positions)
        stamp_ns = min(part.stamp_ns for part in parts[:-1] or parts)
        return JointSample(stamp_ns, positions, _velocities([part.velocity for part in parts]))

    def _other_names(self, names: tuple[str, ...]) -> MissingJoints | None:
        """A message of this arm under another name, as far as that shows."""
        first = self.joint_names[0]
        prefixes = [name.removesuffix(first) for name in names if name.endswith(first)]
        if not prefixes or self._prefix in prefixes:
            return None
        return MissingJoints(
            self._published,
            f"joint states lack {self._published[0]} and have {prefixes[0]}{first}; set "
            f"joint_prefix:={prefixes[0] or repr('')}",
        )

    def _require_lengths(self, reading: JointReading) -> None:
        names = reading.names
        if len(reading.positions) != len(names):
            raise ValueError(
                f"joint state positions must have one entry for each of {len(names)} names, got "
                f"{len(reading.positions)}; check the joint_states publisher."
            )
        doubled = sorted({name for name in self._published if names.count(name) > 1})
        if doubled:
            raise ValueError(
                f"joint state names must be unique, got {doubled} twice in one message; check for "
                "two arms with the same names, and their prefixes."
            )


@dataclass(frozen=True)
class _Part:
    """One joint of a part."""

    stamp_ns: int
    position: float
    velocity: float | None


def _velocities(speeds: list[float | None]) -> FloatArray | None:
    """float64 [J]; None where one of the arm's is absent: some drivers report those as NaN.

    Nobody asks for the gripper's, which may be absent alone. Raises ValueError for Inf.
    """
    values = np.array([np.nan if speed is None else speed for speed in speeds], dtype=np.float64)
    if np.any(np.isinf(values)):
        _require_finite("velocities", values)
    if len(values) > 1 and np.isnan(values[-1]):
        values[-1] = 0.0
    return None if np.any(np.isnan(values)) else values


def _require_finite(kind: str, values: FloatArray) -> None:
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"joint state {kind} must be finite, got {values.tolist()}; check the arm's driver."
        )
