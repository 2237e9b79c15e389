# SPDX-License-Identifier: Apache-2.0
"""What is safe: an action chunk passes unchanged, is tracked within the limits, or is not passed.

The chunk's knots are due at fixed times, and stay due then: time is never stretched. In order:

1. `check` (chunk_form.py): joints, shape, times, NaN and Inf, jumps. A chunk that fails is a fault,
   not a motion.
2. The exact curve (knot_spline.py): smoothest C2 curve from the commanded state through the knots,
   then a braking tail to rest. If it keeps every limit at every moment (curve_limits.py), the chunk
   passes unchanged.
3. Tracking (chunk_tracking.py), for the joints that broke a limit only.
4. If the last tracked knot lies too far from the policy's, or one on the way by a jump: no motion.
   The caller holds.

Shapes: L knots, J arm joints, J + 1 with the gripper last.
"""

from typing import TYPE_CHECKING

import numpy as np

from par_ros.control import braking
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.chunk_form import ChunkForm, Fault, RequestedChunk
from par_ros.control.chunk_tracking import ChunkTracker
from par_ros.control.curve_limits import LIMIT_NAMES, BoolArray, CurveLimits
from par_ros.control.filtered_chunk import Change, FilteredChunk, Join, Outcome
from par_ros.control.gripper_limit import limited_targets
from par_ros.control.guard_settings import GuardParameters
from par_ros.control.hermite_curve import Nodes, Pieces, control_points
from par_ros.control.joint_limits import JointLimits
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory, MotionState
from par_ros.control.knot_spline import KnotSpline, knot_spline

if TYPE_CHECKING:
    from par_ros.control.workspace import Workspace

__all__ = (
    "Change",
    "Fault",
    "FilteredChunk",
    "Join",
    "RequestedChunk",
    "SafetyFilter",
    "arm_trajectory",
)

# Moments of each piece at which the tool's place is looked at.
_WORKSPACE_TRIALS = 3


class SafetyFilter:
    """Limits of one arm applied to chunks; holds no state between calls."""

    def __init__(
        self,
        spec: ArmSpec,
        *,
        num_actions: int,
        step_s: float,
        tail_s: float = GuardParameters.tail_s,
    ) -> None:
        """tail_s: the braking tail lasts at least this long, so that a late chunk joins gently."""
        self.spec = spec
        self.num_actions = num_actions
        self.step_s = step_s
        self._tail_s = tail_s
        self._form = ChunkForm(spec, num_actions, step_s)
        enforced = {
            "acceleration": spec.acceleration_check == "enforce",
            "jerk": spec.jerk_check == "enforce",
        }
        self._limits = CurveLimits(
            spec.limits, np.array([enforced.get(name, True) for name in LIMIT_NAMES])
        )
        self._tracker = ChunkTracker(spec, self._limits, step_s)
        self._workspace = _workspace(spec)
        self._knot_times_s = tuple(self.knot_times_s.tolist())

    @property
    def knot_times_s(self) -> FloatArray:
        """When the L knots are due, seconds from the chunk's start."""
        return self.step_s * np.arange(1, self.num_actions + 1)

    def check(
        self, chunk: RequestedChunk, commanded: FloatArray, measured: FloatArray | None
    ) -> Fault | None:
        """What is wrong with a chunk before any limit is looked at; NaN comes before any clamp.

        Args:
            commanded, measured: arm positions [J] now; measured None where none are known.
        """
        return self.check_form(chunk) or self._form.check_jumps(
            chunk.positions[:, :-1], commanded, measured
        )

    def check_form(self, chunk: RequestedChunk) -> Fault | None:
        """The part of check() that needs no knowledge of the arm's position."""
        return self._form.check(chunk)

    def why_no_start(self, positions: FloatArray) -> str:
        """Why no chunk can depart from `positions` [J]; empty where one can."""
        beyond = self._limits.outside(positions)
        joint = int(np.argmax(beyond))
        if beyond[joint] <= 0.0:
            return ""
        return (
            f"{self.spec.arm_joint_names[joint]} is {beyond[joint]:.3g} rad nearer to its position "
            "limit than the guard plans, so no chunk could begin there; move it away from the "
            "limit by hand"
        )

    def apply(
        self, join: Join, knots: FloatArray, gripper_before_m: float, first_knot: int = 0
    ) -> FilteredChunk:
        """Pass, track or refuse the knots [L, J + 1] of a chunk that `check` let through.

        Args:
            gripper_before_m: the last gripper target.
            first_knot: knots before this one are past and not sent.
        """
        wanted = knots[first_knot:, :-1]
        spline = knot_spline(join.time_s, self._knot_times_s[first_knot:])
        nodes = spline.exact(join.start, wanted)
        points = control_points(nodes)
        tail, broken = self._tail(nodes)
        broken |= self._limits.broken(points)
        warnings = self._warnings(broken)
        open_joints = self._limits.any_enforced(broken)
        if open_joints.any():
            peaks = np.abs(points.accelerations).max(axis=(0, 1))
            nodes = self._tracker.tracked(spline, join, wanted, nodes, peaks, open_joints)
            tail, tail_broken = self._tail(nodes)
            reason = self._why_not_tracked(spline, nodes, wanted, tail_broken, open_joints)
            if reason:
                reason = self.why_no_start(join.start.positions) or reason
                return FilteredChunk("refused", knots, None, (), warnings, reason)
        whole = tail.after(nodes)
        outside = self._why_outside(whole)
        if outside:
            return FilteredChunk("refused", knots, None, (), warnings, outside)
        sent = knots.copy()
        sent[first_knot:, :-1] = spline.knots_of(nodes)
        gripper_m, gripper_limits = limited_targets(
            self.spec.gripper, knots[first_knot:, -1], gripper_before_m, self.step_s
        )
        sent[first_knot:, -1] = gripper_m
        changes = self._changes(knots, sent, broken, gripper_limits, first_knot)
        outcome: Outcome = "tracked" if changes else "unchanged"
        return FilteredChunk(outcome, sent, whole.pick(slice(1, None)), changes, warnings)

    def _tail(self, nodes: Nodes) -> tuple[Nodes, BoolArray]:
        """The braking tail after the last node, and which limits [5, J] it breaks.

        The gentle tail first; where that runs into a position limit, the firm one.
        """
        last = _tamed(nodes.last_state, self._limits.joints)
        for tail_s in (self._tail_s, 0.0):
            tail = braking.stop(last, self._limits.joints, tail_s)
            points = control_points(tail.after(Nodes.at(0.0, last)))
            broken = self._limits.broken(points, is_stop=True)
            if not self._limits.any_enforced(broken).any():
                break
        return tail.shifted(nodes.times_s[-1]), broken

    def _why_not_tracked(
        self,
        spline: KnotSpline,
        nodes: Nodes,
        wanted: FloatArray,
        tail_broken: BoolArray,
        open_joints: BoolArray,
    ) -> str:
        """Why the tracked `nodes` are no motion for `wanted` [L, J]; empty where they are."""
        broken = self._limits.broken(control_points(nodes)) | tail_broken
        if self._limits.any_enforced(broken).any():
            names = ", ".join(self._names(open_joints))
            return f"the tracked curve of {names} breaks a limit at its join or end"
        far = self._tracker.too_far(spline.knots_of(nodes), wanted)
        if not far.any():
            return ""
        joint = int(np.argmax(far))
        deviation = np.abs(spline.knots_of(nodes) - wanted)[:, joint]
        return (
            f"{self.spec.arm_joint_names[joint]} could only be tracked to "
            f"{deviation[-1]:.3g} rad at the last knot and {deviation.max():.3g} rad on the "
            f"way, {self.spec.max_tracking_deviation_rad:g} and {self.spec.max_jump_rad:g} rad "
            "are allowed"
        )

    def _why_outside(self, whole: Nodes) -> str:
        """Where the tool would leave the arm's box; empty where it has none."""
        if self._workspace is None:
            return ""
        way = Pieces(whole).states(_WORKSPACE_TRIALS)[0]
        return self._workspace.why_outside(np.concatenate((way, whole.positions[-1:])))

    # What is reported.

    def _warnings(self, broken: BoolArray) -> tuple[str, ...]:
        checks = {"acceleration": self.spec.acceleration_check, "jerk": self.spec.jerk_check}
        return tuple(
            f"{name} limit exceeded by {', '.join(self._names(broken[row]))}"
            for row, name in enumerate(LIMIT_NAMES)
            if checks.get(name) == "warn" and broken[row].any()
        )

    def _changes(
        self,
        knots: FloatArray,
        sent: FloatArray,
        broken: BoolArray,
        gripper_limits: tuple[str, ...],
        first_knot: int,
    ) -> tuple[Change, ...]:
        """Of each column of `knots` [L, J + 1] that was changed."""
        limits = [
            *(
                tuple(name for name, bad in zip(LIMIT_NAMES, rows, strict=True) if bad)
                for rows in (broken & self._limits.enforced[:, None]).T.tolist()
            ),
            gripper_limits,
        ]
        return tuple(
            Change.between(
                self.spec.joint_names[column],
                limits[column],
                knots[first_knot:, column],
                sent[first_knot:, column],
                first_knot,
            )
            for column in np.flatnonzero((sent != knots).any(axis=0))
        )

    def _names(self, joints: BoolArray) -> list[str]:
        return [
            name for name, chosen in zip(self.spec.arm_joint_names, joints, strict=True) if chosen
        ]


def _workspace(spec: ArmSpec) -> "Workspace | None":
    """pinocchio is loaded only for arms that have a box."""
    if spec.workspace is None:
        return None
    from par_ros.control.workspace import Workspace

    return Workspace(spec.workspace, spec.arm_joint_names)


def _tamed(state: MotionState, limits: JointLimits) -> MotionState:
    """The same, but not absurdly fast: from 60 rad/s ruckig finds no stop.

    The curve that ends so breaks the velocity limit before that, which is always enforced.
    """
    fastest, hardest = 3.0 * limits.max_velocity, 20.0 * limits.max_acceleration
    return MotionState(
        state.positions,
        np.clip(state.velocities, -fastest, fastest),
        np.clip(state.accelerations, -hardest, hardest),
    )


def arm_trajectory(spec: ArmSpec, nodes: Nodes) -> JointTrajectory:
    """Nodes as the trajectory that the arm's controller is sent."""
    return JointTrajectory(
        spec.arm_joint_names, nodes.times_s, nodes.positions, nodes.velocities, nodes.accelerations
    )
