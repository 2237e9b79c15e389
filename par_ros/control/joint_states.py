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
    """A part has come, and none of the joints `names`; empty: the parts lie too far apart."""

    names: tuple[str, ...]


class JointStateSelector:
    """Picks the arm's joints out of joint state messages, by name, in the arm's order.

    Some drivers publish the arm and the gripper in messages of their own. Their parts are put
    together where at most 50 ms lie between them; the oldest stamp counts.
    """

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self.joint_names = joint_names
        self._parts: dict[str, _Part] = {}

    def take(self, reading: JointReading) -> JointSample | MissingJoints | None:
        """The J joints of a whole message, or of the parts up to this one.

        Returns:
            None for a message that holds none of the J joints: on some systems all robots share one
            topic.

        Raises:
            ValueError: a joint is doubled, a length is wrong, or a number is not finite.
        """
        if set(self.joint_names).isdisjoint(reading.names):
            return None
        _require_lengths(reading.names, reading.positions)
        if set(self.joint_names) <= set(reading.names):
            self._parts.clear()
            return self._selected(reading)
        for column, name in enumerate(reading.names):
            if name in self.joint_names:
                speeds = reading.velocities
                speed = None if speeds is None else float(speeds[column])
                self._parts[name] = _Part(reading.stamp_ns, float(reading.positions[column]), speed)
        missing = tuple(name for name in self.joint_names if name not in self._parts)
        return MissingJoints(missing) if missing else self._merged()

    def _selected(self, reading: JointReading) -> JointSample:
        columns = [reading.names.index(name) for name in self.joint_names]
        positions = np.asarray(reading.positions, dtype=np.float64)[columns]
        _require_finite("positions", positions)
        if reading.velocities is None:
            return JointSample(reading.stamp_ns, positions, None)
        speeds = np.asarray(reading.velocities, dtype=np.float64)[columns]
        # Nobody asks for the gripper's; several grippers' drivers report NaN.
        if not np.isfinite(speeds[-1]):
            speeds[-1] = 0.0
        _require_finite("velocities", speeds)
        return JointSample(reading.stamp_ns, positions, speeds)

    def _merged(self) -> JointSample | MissingJoints:
        parts = [self._parts[name] for name in self.joint_names]
        stamps_ns = [part.stamp_ns for part in parts]
        if max(stamps_ns) - min(stamps_ns) > MAX_PARTS_APART_S * NANOSECONDS:
            # A newer one may just be on its way.
            return MissingJoints(())
        positions = np.array([part.position for part in parts])
        arm_speeds = [part.velocity for part in parts[:-1]]
        if any(speed is None for speed in arm_speeds):
            velocities = None
        else:
            velocities = np.array([*arm_speeds, parts[-1].velocity or 0.0], dtype=np.float64)
        self._parts.clear()
        return self._selected(JointReading(min(stamps_ns), self.joint_names, positions, velocities))


@dataclass(frozen=True)
class _Part:
    """One joint of a part."""

    stamp_ns: int
    position: float
    velocity: float | None


def _require_lengths(names: tuple[str, ...], positions: FloatArray) -> None:
    if len(positions) != len(names):
        raise ValueError(
            f"joint state positions must have one entry for each of {len(names)} names, got "
            f"{len(positions)}; check the joint_states publisher."
        )
    if len(set(names)) != len(names):
        raise ValueError(
            f"joint state names must be unique, got {list(names)}; check for two publishers."
        )


def _require_finite(kind: str, values: FloatArray) -> None:
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"joint state {kind} must be finite, got {values.tolist()}; check the arm's driver."
        )
