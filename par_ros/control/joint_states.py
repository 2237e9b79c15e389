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
class JointSample:
    """Measured positions float64 [J] at `stamp_ns`; velocities float64 [J].

    velocities is None where the message had none: not known is not zero. The gripper's is 0 where
    only the arm's were known.
    """

    stamp_ns: int
    positions: FloatArray
    velocities: FloatArray | None


class JointStateSelector:
    """Picks the arm's joints out of joint state messages, by name, in the arm's order.

    Some drivers publish the arm and the gripper in messages of their own. Their parts are put
    together where at most 50 ms lie between them; the oldest stamp counts.
    """

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self.joint_names = joint_names
        self._parts: dict[str, _Part] = {}

    def select(
        self,
        stamp_ns: int,
        names: tuple[str, ...],
        positions: FloatArray,
        velocities: FloatArray | None,
    ) -> JointSample:
        """The J joints of one whole message.

        Raises:
            ValueError: a joint is missing or doubled, a length is wrong, or a number is not finite.
        """
        _require_lengths(names, positions)
        missing = [name for name in self.joint_names if name not in names]
        if missing:
            raise ValueError(
                f"joint states must hold {list(self.joint_names)}, missing {missing}; check the "
                "joint_states topic and the arm file's joint names."
            )
        columns = [names.index(name) for name in self.joint_names]
        selected = np.asarray(positions, dtype=np.float64)[columns]
        _require_finite("positions", selected)
        if velocities is None or len(velocities) != len(names):
            return JointSample(stamp_ns, selected, None)
        speeds = np.asarray(velocities, dtype=np.float64)[columns]
        # Nobody asks for the gripper's; several grippers' drivers report NaN.
        if not np.isfinite(speeds[-1]):
            speeds[-1] = 0.0
        _require_finite("velocities", speeds)
        return JointSample(stamp_ns, selected, speeds)

    def take(
        self,
        stamp_ns: int,
        names: tuple[str, ...],
        positions: FloatArray,
        velocities: FloatArray | None,
    ) -> JointSample | None:
        """Like select(), from parts: None until the parts of all J joints are there.

        Raises:
            ValueError: as select(); and where parts lie too far apart in time.
        """
        if set(self.joint_names) <= set(names):
            self._parts.clear()
            return self.select(stamp_ns, names, positions, velocities)
        _require_lengths(names, positions)
        known = velocities is not None and len(velocities) == len(names)
        for column, name in enumerate(names):
            if name in self.joint_names:
                speed = float(velocities[column]) if known and velocities is not None else None
                self._parts[name] = _Part(stamp_ns, float(positions[column]), speed)
        if len(self._parts) < len(self.joint_names):
            return None
        return self._merged()

    @property
    def missing(self) -> tuple[str, ...]:
        """Joints of which no part has come."""
        return tuple(name for name in self.joint_names if name not in self._parts)

    def _merged(self) -> JointSample | None:
        parts = [self._parts[name] for name in self.joint_names]
        stamps_ns = [part.stamp_ns for part in parts]
        if max(stamps_ns) - min(stamps_ns) > MAX_PARTS_APART_S * NANOSECONDS:
            # The older part may just be on its way.
            return None
        positions = np.array([part.position for part in parts])
        arm_speeds = [part.velocity for part in parts[:-1]]
        if any(speed is None for speed in arm_speeds):
            velocities = None
        else:
            velocities = np.array([*arm_speeds, parts[-1].velocity or 0.0], dtype=np.float64)
        self._parts.clear()
        return self.select(min(stamps_ns), self.joint_names, positions, velocities)


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
