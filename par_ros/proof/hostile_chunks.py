# SPDX-License-Identifier: Apache-2.0
"""Chunks that a policy could send, and many that it never would.

Shapes: L actions, J arm joints, the gripper last. Units: rad, m, s.
"""

from collections.abc import Callable

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.safety_filter import RequestedChunk
from par_ros.proof.hostile_clock import NANOSECONDS

STEP_S = 0.05
Generator = np.random.Generator


class ChunkSource:
    """Makes chunks around what is commanded; the same generator gives the same chunks."""

    def __init__(
        self, spec: ArmSpec, random: Generator, *, num_actions: int = 8, lockstep: bool = False
    ) -> None:
        self._spec = spec
        self._random = random
        self._lockstep = lockstep
        self._num_actions = num_actions
        self._numbers = np.arange(1, num_actions + 1)
        self._positions = spec.home
        self._velocities = np.zeros_like(spec.home)
        self._last: RequestedChunk | None = None

    def make(
        self, stamp_ns: int, positions: FloatArray, velocities: FloatArray, *, hostile: bool
    ) -> tuple[str, RequestedChunk]:
        """The kind and a chunk, from what is commanded [J]; hostile: any kind, else a good one."""
        self._positions, self._velocities = positions, velocities
        makers = _MAKERS if hostile else _MAKERS[:_NUM_GOOD]
        kind, make = makers[self._random.integers(len(makers))]
        chunk = make(self, stamp_ns)
        self._last = chunk
        return kind, chunk

    def _chunk(
        self, stamp_ns: int, arm: FloatArray, gripper: FloatArray | None = None
    ) -> RequestedChunk:
        if gripper is None:
            gripper = self._random.uniform(-0.02, 0.05, self._num_actions)
        times_s = STEP_S * self._numbers
        return RequestedChunk(
            stamp_ns, self._spec.joint_names, times_s, np.column_stack((arm, gripper))
        )

    def random_pose(self) -> FloatArray:
        """Arm positions [J] inside the limits."""
        limits = self._spec.limits
        share = self._random.uniform(0.05, 0.95, self._spec.num_arm_joints)
        return limits.min_position + share * (limits.max_position - limits.min_position)

    def ramp(self, stamp_ns: int) -> RequestedChunk:
        """Constant velocity of up to the limit and beyond."""
        share = self._random.uniform(-1.2, 1.2, self._spec.num_arm_joints)
        share *= self._random.choice([0.05, 0.3, 1.0])
        step = STEP_S * share * self._spec.limits.max_velocity
        return self._chunk(stamp_ns, self._positions + np.outer(self._numbers, step))

    def continuation(self, stamp_ns: int) -> RequestedChunk:
        """The speed changes smoothly: what a good policy asks for."""
        acceleration = self._random.uniform(-0.3, 0.3, self._spec.num_arm_joints)
        acceleration *= self._spec.limits.max_acceleration * self._random.choice([0.03, 0.2, 1.0])
        times = STEP_S * self._numbers[:, None]
        moved = self._velocities * times + 0.5 * acceleration * times**2
        return self._chunk(stamp_ns, self._positions + moved)

    def noisy(self, stamp_ns: int) -> RequestedChunk:
        """A continuation with sampling noise."""
        chunk = self.continuation(stamp_ns)
        sigma = 10.0 ** self._random.uniform(-4.0, -1.0)
        noise = self._random.normal(0.0, sigma, (self._num_actions, self._spec.num_arm_joints))
        return self._chunk(stamp_ns, chunk.positions[:, :-1] + noise)

    def steps(self, stamp_ns: int) -> RequestedChunk:
        """Steps as large as is not yet a jump, at random knots."""
        shape = (self._num_actions, self._spec.num_arm_joints)
        size = self._spec.max_jump_rad * self._random.uniform(-1.0, 1.0, shape)
        taken = self._random.random(shape) < 0.3
        return self._chunk(stamp_ns, self._positions + np.cumsum(size * taken, axis=0))

    def alternating(self, stamp_ns: int) -> RequestedChunk:
        """Back and forth at every knot: the most acceleration for the least motion."""
        size = self._random.uniform(0.0, 0.15, self._spec.num_arm_joints)
        sign = np.where(self._numbers % 2 == 0, 1.0, -1.0)
        return self._chunk(stamp_ns, self._positions + np.outer(sign, size))

    def towards_limit(self, stamp_ns: int) -> RequestedChunk:
        """Fast at a position limit, and past it."""
        limits = self._spec.limits
        high = self._random.random(self._spec.num_arm_joints) < 0.5
        goal = np.where(high, limits.max_position + 0.1, limits.min_position - 0.1)
        speed = self._random.uniform(0.2, 1.3) * limits.max_velocity
        left = np.abs(goal - self._positions)
        way = np.minimum(STEP_S * self._numbers[:, None] * speed, left)
        return self._chunk(stamp_ns, self._positions + np.sign(goal - self._positions) * way)

    def anywhere(self, stamp_ns: int) -> RequestedChunk:
        """Poses at random."""
        return self._chunk(
            stamp_ns, np.array([self.random_pose() for _ in range(self._num_actions)])
        )

    def not_finite(self, stamp_ns: int) -> RequestedChunk:
        """NaN, Inf or numbers near the end of the range, somewhere."""
        chunk = self.continuation(stamp_ns)
        positions = chunk.positions.copy()
        bad = [np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324]
        row, column = (
            self._random.integers(self._num_actions),
            self._random.integers(positions.shape[1]),
        )
        positions[row, column] = bad[self._random.integers(len(bad))]
        return RequestedChunk(stamp_ns, chunk.joint_names, chunk.times_s, positions)

    def wrong_form(self, stamp_ns: int) -> RequestedChunk:
        """Joints, shape or times that are not the arm's."""
        chunk = self.continuation(stamp_ns)
        names, times, positions = chunk.joint_names, chunk.times_s, chunk.positions
        lot = self._random.integers(7)
        if lot == 0:
            names = (*names[1:], names[0])
        elif lot == 1:
            names, positions = names[:-1], positions[:, :-1]
        elif lot == 2:
            times, positions = times[:5], positions[:5]
        elif lot == 3:
            times = times[::-1].copy()
        elif lot == 4:
            times = times * self._random.uniform(0.0, 2.0)
        elif lot == 5:
            times = times - 0.2
        else:
            names, times, positions = (), np.empty(0), np.empty((0, 0))
        return RequestedChunk(stamp_ns, names, times, positions)

    def wrong_stamp(self, stamp_ns: int) -> RequestedChunk:
        """Early, late, doubled, zero or negative stamps."""
        # A lockstep stamp a little ahead is what a chunk that outran its joint state has: the
        # guard must believe it, and a bridge would not have asked for it.
        ahead_s = 0.5 if self._lockstep else 0.02
        offset_s = self._random.choice([-1e6, -10.0, -0.5, -0.41, -0.4, ahead_s, 0.5, 1e6])
        last_ns = stamp_ns if self._last is None else self._last.stamp_ns
        stamps = [stamp_ns + round(offset_s * NANOSECONDS), last_ns, last_ns - 1, 0]
        return self.continuation(int(stamps[self._random.integers(len(stamps))]))

    def mutation(self, stamp_ns: int) -> RequestedChunk:
        """The last chunk with a column or a row changed, reversed, or sent again as it was."""
        if self._last is None or self._last.positions.shape != (
            self._num_actions,
            len(self._spec.joint_names),
        ):
            return self.continuation(stamp_ns)
        positions = self._last.positions.copy()
        lot = self._random.integers(4)
        if lot == 0:
            column = self._random.integers(positions.shape[1])
            positions[:, column] *= self._random.uniform(-2.0, 2.0)
        elif lot == 1:
            positions[self._random.integers(self._num_actions)] += self._random.normal(0.0, 0.1)
        elif lot == 2:
            positions = positions[::-1].copy()
        return RequestedChunk(stamp_ns, self._last.joint_names, self._last.times_s, positions)


_MAKERS: tuple[tuple[str, Callable[[ChunkSource, int], RequestedChunk]], ...] = (
    ("continuation", ChunkSource.continuation),
    ("continuation", ChunkSource.continuation),
    ("continuation", ChunkSource.continuation),
    ("ramp", ChunkSource.ramp),
    ("ramp", ChunkSource.ramp),
    ("noisy", ChunkSource.noisy),
    ("noisy", ChunkSource.noisy),
    ("noisy", ChunkSource.noisy),
    ("towards_limit", ChunkSource.towards_limit),
    ("towards_limit", ChunkSource.towards_limit),
    ("steps", ChunkSource.steps),
    ("alternating", ChunkSource.alternating),
    ("anywhere", ChunkSource.anywhere),
    ("not_finite", ChunkSource.not_finite),
    ("wrong_form", ChunkSource.wrong_form),
    ("wrong_stamp", ChunkSource.wrong_stamp),
    ("mutation", ChunkSource.mutation),
)
# Those that a policy could send, and that keep the arm in motion.
_NUM_GOOD = 10
