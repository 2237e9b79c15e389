# SPDX-License-Identifier: Apache-2.0
"""What is safe: an action chunk passes unchanged, is tracked within the limits, or is not passed.

The chunk's knots are due at fixed times, and stay due then: time is never stretched. In order:

1. `check`: joints, shape, times, NaN and Inf, jumps. A chunk that fails is a fault, not a motion.
2. The exact curve: smoothest C2 curve from the commanded state through the knots, then a braking
   tail to rest. If it keeps every limit at every moment, the chunk passes unchanged.
3. Tracking, for the joints that broke a limit only. A curve through the same knots with a lower
   peak of acceleration may do. Otherwise the targets are clamped to the position limits and their
   rate to the velocity limit, then smoothed more and more until the curve keeps the limits. A
   scalar reference governor (Gilbert and Kolmanovsky, "Nonlinear tracking control in the presence
   of state and control constraints: a generalized reference governor", Automatica 2002) then goes
   back from that curve towards the one before it as far as the limits allow; limits are convex, so
   the largest step has a closed form. Where that ends too far from the policy's last knot, or no
   smoothing is enough (the policy asks for a step), the joint goes to its last knot as fast as the
   limits allow: a motion that exists from every state that can be stopped.
4. If the last tracked knot lies too far from the policy's, or one on the way by a jump: no motion.
   The caller holds.

"At every moment" is meant literally: limits are compared with Bernstein control points
(hermite_curve.py), and from every moment of the motion a stop must keep the limits too, so that an
emergency stop is always possible.

Shapes: L knots, J arm joints, J + 1 with the gripper last; N nodes; S pieces.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from par_ros.control import braking
from par_ros.control.arm_spec import ArmSpec, JointLimits
from par_ros.control.hermite_curve import (
    SECTION_SIZES,
    SECTIONS,
    ControlPoints,
    Nodes,
    Pieces,
    control_points,
)
from par_ros.control.joint_trajectory import FloatArray, JointTrajectory, MotionState
from par_ros.control.knot_spline import SMOOTHINGS, KnotSpline, knot_spline, resampled

if TYPE_CHECKING:
    from par_ros.control.workspace import Workspace

BoolArray = npt.NDArray[np.bool_]
Outcome = Literal["unchanged", "tracked", "refused"]

LIMIT_NAMES = ("position", "velocity", "acceleration", "jerk", "stop")

# Rounding, relative to a limit.
_TOLERANCE = 1e-9
# A clamped target stays this far inside, so that the curve between targets has room.
_CLAMP_MARGIN_RAD = 0.01
_CLAMP_RATE_SHARE = 0.97
# Between the moments at which stops are tried (6 ms apart) their end may lie this much further.
_STOP_MARGIN_RAD = 0.003
_STOP_TRIALS = 8
# A peak of acceleration beyond this share of the limit cannot be flattened under it (tried on what
# the shipped policy and a motion planner ask for: below 1.4 nearly all can, above 1.55 none).
_HOPELESS_SHARE = 1.6
# Moments of each piece at which the tool's place is looked at.
_WORKSPACE_TRIALS = 3
# Nodes this close in time are the same node, rounded.
_MATCH_S = 1e-9
# A chunk's times may differ from the control step by what floats and messages round.
_TIME_TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class RequestedChunk:
    """What a policy asks for, as it came.

    Attributes:
        stamp_ns: stamp of the observation answered.
        joint_names: names of the columns.
        times_s: float64 [L], time_from_start of the points.
        positions: float64 [L, J + 1].
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray


@dataclass(frozen=True)
class Fault:
    """Why the guard stops and disengages: `kind` is one word for counters, `reason` a sentence."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Change:
    """One joint whose knots were changed.

    Attributes:
        joint_name: which one.
        limits: which limits the policy's own knots broke (of LIMIT_NAMES).
        knots: numbers (1..L) of the changed knots.
        largest: the largest change, rad (gripper: m).
    """

    joint_name: str
    limits: tuple[str, ...]
    knots: tuple[int, ...]
    largest: float

    def __str__(self) -> str:
        knots = ", ".join(str(knot) for knot in self.knots)
        return (
            f"{self.joint_name}: {' and '.join(self.limits)} limit; knots {knots} changed by up to "
            f"{self.largest:.4g}"
        )


@dataclass(frozen=True)
class Join:
    """Where a motion departs from the one that is being executed.

    Attributes:
        start: the state commanded at `time_s`.
        time_s: seconds after the chunk's start; 0 where the new motion starts at once.
    """

    start: MotionState
    time_s: float = 0.0


@dataclass(frozen=True)
class FilteredChunk:
    """What the filter made of a chunk.

    Attributes:
        outcome: unchanged, tracked, or refused (then there is no motion and the caller holds).
        knots: float64 [L, J + 1], the targets as they are sent.
        nodes: states of the arm after the start: the knots, then the braking tail.
        changes: what was changed, joint by joint.
        warnings: limits that were broken but are only reported for this arm.
        reason: why it was refused; empty otherwise.
    """

    outcome: Outcome
    knots: FloatArray
    nodes: Nodes | None
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    reason: str = ""


class SafetyFilter:
    """Limits of one arm applied to chunks; holds no state between calls."""

    def __init__(
        self, spec: ArmSpec, *, num_actions: int, step_s: float, tail_s: float = 0.3
    ) -> None:
        """tail_s: the braking tail lasts at least this long, so that a late chunk joins gently."""
        self.spec = spec
        self.num_actions = num_actions
        self.step_s = step_s
        self._tail_s = tail_s
        self._limits = spec.limits
        enforced = {
            "acceleration": spec.acceleration_check == "enforce",
            "jerk": spec.jerk_check == "enforce",
        }
        self._enforced = np.array([enforced.get(name, True) for name in LIMIT_NAMES])
        self._workspace = _workspace(spec)
        # For the curves of a ladder side by side: exact, and all smoothings of other targets.
        self._ladder_limits = spec.limits.repeated(len(SMOOTHINGS) + 2)

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
        return self.check_form(chunk) or self._check_jumps(
            chunk.positions[:, :-1], commanded, measured
        )

    def check_form(self, chunk: RequestedChunk) -> Fault | None:
        """The part of check() that needs no knowledge of the arm's position."""
        return self._check_joints(chunk) or self._check_finite(chunk) or self._check_times(chunk)

    def apply(
        self, join: Join, knots: FloatArray, gripper_before_m: float, first_knot: int = 0
    ) -> FilteredChunk:
        """Pass, track or refuse the knots [L, J + 1] of a chunk that `check` let through.

        Args:
            gripper_before_m: the last gripper target.
            first_knot: knots before this one are past and not sent.
        """
        arm_targets = knots[first_knot:, :-1]
        spline = knot_spline(join.time_s, tuple(self.knot_times_s[first_knot:].tolist()))
        nodes = spline.exact(join.start, arm_targets)
        broken = self._broken(nodes)
        tail, tail_broken = self._tail(nodes)
        broken[:, :] |= tail_broken
        warnings = self._warnings(broken)
        gripper, gripper_change = self._limit_gripper(knots[first_knot:, -1], gripper_before_m)
        changes = [gripper_change] if gripper_change is not None else []
        if np.any(broken[self._enforced]):
            tracked = self._track(spline, join, arm_targets, nodes, broken)
            if isinstance(tracked, str):
                return FilteredChunk("refused", knots, None, (), warnings, tracked)
            nodes, tail = tracked
            deviation = np.abs(spline.knots_of(nodes) - arm_targets)
            changes = self._changes(broken, deviation, first_knot) + changes
        if self._workspace is not None:
            way = Pieces.between(tail.after(nodes)).states(_WORKSPACE_TRIALS)[0]
            way = np.concatenate((way, tail.positions[-1:]))
            outside = self._workspace.why_outside(way)
            if outside:
                return FilteredChunk("refused", knots, None, (), warnings, outside)
        sent = knots.copy()
        sent[first_knot:, :-1] = spline.knots_of(nodes)
        sent[first_knot:, -1] = gripper
        outcome: Outcome = "tracked" if changes else "unchanged"
        ahead = Nodes(
            nodes.times_s[1:], nodes.positions[1:], nodes.velocities[1:], nodes.accelerations[1:]
        )
        return FilteredChunk(outcome, sent, tail.after(ahead), tuple(changes), warnings)

    # What is wrong before any limit is looked at.

    def _check_joints(self, chunk: RequestedChunk) -> Fault | None:
        expected = self.spec.joint_names
        if chunk.joint_names != expected:
            same = sorted(chunk.joint_names) == sorted(expected)
            return Fault(
                "joint_order" if same else "joints",
                f"a chunk's joints must be {list(expected)} in this order, got "
                f"{list(chunk.joint_names)}; check the checkpoint's arm and the arm file.",
            )
        shape = (self.num_actions, len(expected))
        if chunk.positions.shape != shape or chunk.times_s.shape != shape[:1]:
            return Fault(
                "shape",
                f"a chunk must have {shape[0]} points of {shape[1]} positions, got shape "
                f"{chunk.positions.shape}; check the policy's number of actions.",
            )
        return None

    def _check_finite(self, chunk: RequestedChunk) -> Fault | None:
        finite = np.isfinite(chunk.positions)
        if np.all(finite) and np.all(np.isfinite(chunk.times_s)):
            return None
        joints = [
            name
            for name, good in zip(chunk.joint_names, finite.all(axis=0), strict=True)
            if not good
        ]
        return Fault(
            "not_finite",
            f"a chunk's numbers must be finite, got NaN or Inf for {joints or 'its times'}; check "
            "the policy.",
        )

    def _check_times(self, chunk: RequestedChunk) -> Fault | None:
        if np.any(np.abs(chunk.times_s - self.knot_times_s) > _TIME_TOLERANCE_S):
            return Fault(
                "times",
                f"a chunk's points must be {self.step_s:g} s apart from {self.step_s:g} s on, got "
                f"times {np.round(chunk.times_s, 6).tolist()}; check the policy's step_s.",
            )
        return None

    def _check_jumps(
        self, arm: FloatArray, commanded: FloatArray, measured: FloatArray | None
    ) -> Fault | None:
        limit = self.spec.max_jump_rad
        steps = np.abs(np.diff(np.concatenate((commanded[None], arm)), axis=0))
        if np.any(steps > limit):
            knot, joint = divmod(int(np.argmax(steps)), steps.shape[1])
            return Fault(
                "jump",
                f"{self.spec.arm_joint_names[joint]} may move {limit:g} rad from one target to the "
                f"next, knot {knot + 1} asks for {steps[knot, joint]:.3g} rad; check the policy.",
            )
        if measured is None:
            return None
        # A soft arm lags behind its command: that much more than a step is still no jump.
        apart = np.abs(arm[0] - measured) - self.spec.max_tracking_error_rad
        if np.any(apart > limit):
            joint = int(np.argmax(apart))
            return Fault(
                "jump",
                f"{self.spec.arm_joint_names[joint]}'s first target lies "
                f"{abs(arm[0, joint] - measured[joint]):.3g} rad from the measured position, at "
                f"most {limit + self.spec.max_tracking_error_rad:g} rad is a motion; check the "
                "policy and joint_states.",
            )
        return None

    # Limits of a curve.

    def _broken(self, nodes: Nodes, limits: JointLimits | None = None) -> BoolArray:
        """Which limits [5, J] the curve through `nodes` breaks."""
        limits = self._limits if limits is None else limits
        pieces = Pieces.between(nodes)
        broken = _beyond(pieces.control_points(), limits)
        broken[4] = _stop_breaks(pieces, nodes, limits)
        return broken

    def _tail(self, nodes: Nodes) -> tuple[Nodes, BoolArray]:
        """The braking tail after the last node, and which limits [5, J] it breaks.

        The gentle tail first; where that runs into a position limit, the firm one.
        """
        last = _last_state(nodes)
        for tail_s in (self._tail_s, 0.0):
            ahead = braking.stop(last, self._limits, tail_s)
            whole = ahead.after(_first(last))
            broken = _beyond(control_points(whole), self._limits)
            if not np.any(broken[self._enforced]):
                break
        offset_s = nodes.times_s[-1]
        tail = Nodes(
            ahead.times_s + offset_s, ahead.positions, ahead.velocities, ahead.accelerations
        )
        return tail, broken

    def _warnings(self, broken: BoolArray) -> tuple[str, ...]:
        checks = {"acceleration": self.spec.acceleration_check, "jerk": self.spec.jerk_check}
        warnings = []
        for row, name in enumerate(LIMIT_NAMES):
            if checks.get(name) == "warn" and np.any(broken[row]):
                joints = [
                    joint
                    for joint, bad in zip(self.spec.arm_joint_names, broken[row], strict=True)
                    if bad
                ]
                warnings.append(f"{name} limit exceeded by {', '.join(joints)}")
        return tuple(warnings)

    # Tracking.

    def _track(
        self, spline: KnotSpline, join: Join, wanted: FloatArray, exact: Nodes, broken: BoolArray
    ) -> tuple[Nodes, Nodes] | str:
        """Nodes near `wanted` [L, J] that keep the limits, and their tail; or why not."""
        open_joints = np.any(broken[self._enforced], axis=0)
        nodes = self._track_joints(spline, join, wanted, exact, open_joints)
        tail, tail_broken = self._tail(nodes)
        if np.any((self._broken(nodes) | tail_broken)[self._enforced]):
            return (
                f"the tracked curve of {self._names(open_joints)} breaks a limit at its join or end"
            )
        far = self._too_far(spline.knots_of(nodes), wanted)
        if np.any(far):
            joint = int(np.argmax(far))
            deviation = np.abs(spline.knots_of(nodes) - wanted)[:, joint]
            return (
                f"{self.spec.arm_joint_names[joint]} could only be tracked to "
                f"{deviation[-1]:.3g} rad at the last knot and {deviation.max():.3g} rad on the "
                f"way, {self.spec.max_tracking_deviation_rad:g} and {self.spec.max_jump_rad:g} rad "
                "are allowed"
            )
        return nodes, tail

    def _too_far(self, knots: FloatArray, wanted: FloatArray) -> BoolArray:
        """Joints [J] that would not arrive, or lag by more than what is still a motion."""
        deviation = np.abs(knots - wanted)
        result: BoolArray = (deviation[-1] > self.spec.max_tracking_deviation_rad) | (
            deviation.max(axis=0) > self.spec.max_jump_rad
        )
        return result

    def _track_joints(
        self, spline: KnotSpline, join: Join, wanted: FloatArray, exact: Nodes, joints: BoolArray
    ) -> Nodes:
        """Replace the columns `joints` of `exact` by tracked ones."""
        flat = self._flatten_joints(spline, join, wanted, exact, joints)
        flat_good = np.zeros_like(joints)
        if flat is not None:
            flat_good = joints & ~np.any(self._broken(flat)[self._enforced], axis=0)
        rest = joints & ~flat_good
        curve = exact
        stepping = np.zeros_like(joints)
        if np.any(rest):
            curve, smooth = self._smooth_joints(spline, join, wanted, exact, rest)
            stepping = rest & (~smooth | self._too_far(spline.knots_of(curve), wanted))
        if flat is not None and np.any(flat_good):
            curve = _where(flat_good, flat, spline.refined(curve))
        if np.any(stepping):
            curve = self._move_joints(join, wanted[-1], curve, stepping)
        return curve

    def _move_joints(self, join: Join, goal: FloatArray, curve: Nodes, joints: BoolArray) -> Nodes:
        """The columns `joints` go to `goal` [J] as fast as the limits allow; `curve` elsewhere."""
        columns = np.flatnonzero(joints)
        limits = self._limits.of_joints(columns)
        limits = dataclasses.replace(limits, max_velocity=_CLAMP_RATE_SHARE * limits.max_velocity)
        goal = np.clip(
            goal[columns],
            limits.min_position + _CLAMP_MARGIN_RAD,
            limits.max_position - _CLAMP_MARGIN_RAD,
        )
        start = join.start.of_joints(columns)
        moved = braking.move_towards(start, goal, limits, curve.times_s[1:] - join.time_s)
        times_s = np.concatenate((curve.times_s[:1], moved.times_s + join.time_s))
        # The nodes of `curve` are among them, to the last bit.
        times_s[times_s.searchsorted(curve.times_s - _MATCH_S)] = curve.times_s
        result = resampled(curve, times_s)
        result.positions[1:, columns] = moved.positions
        result.velocities[1:, columns] = moved.velocities
        result.accelerations[1:, columns] = moved.accelerations
        return result

    def _flatten_joints(
        self, spline: KnotSpline, join: Join, wanted: FloatArray, exact: Nodes, joints: BoolArray
    ) -> Nodes | None:
        """`exact`, refined, with a lower peak in those of `joints` where that may be enough.

        None where it can be enough in no joint.
        """
        limit = self._limits.max_acceleration
        peaks = np.abs(Pieces.between(exact).accelerations()).max(axis=(0, 1))
        columns = np.flatnonzero(joints & (peaks < _HOPELESS_SHARE * limit))
        if len(columns) == 0:
            return None
        refined = spline.refined(exact)
        flat = spline.flattened(join.start.of_joints(columns), wanted[:, columns], limit[columns])
        result = Nodes(
            refined.times_s,
            refined.positions.copy(),
            refined.velocities.copy(),
            refined.accelerations.copy(),
        )
        result.positions[:, columns] = flat.positions
        result.velocities[:, columns] = flat.velocities
        result.accelerations[:, columns] = flat.accelerations
        return result

    def _smooth_joints(
        self, spline: KnotSpline, join: Join, wanted: FloatArray, exact: Nodes, joints: BoolArray
    ) -> tuple[Nodes, BoolArray]:
        """The columns `joints` on the least smoothed curve that keeps the limits.

        And for which joints [J] there is one.
        """
        targets = self._reachable_targets(join, wanted)
        ladder = [
            exact,
            spline.exact(join.start, targets),
            *(spline.smoothed(level, join.start, targets) for level in range(len(SMOOTHINGS))),
        ]
        bad = self._breaks_on_ladder(ladder)
        level = np.argmin(bad, axis=0)
        safe = _pick(ladder, level)
        better = self._towards(_pick(ladder, np.maximum(level - 1, 0)), safe)
        good = ~np.any(self._broken(better)[self._enforced], axis=0)
        return _where(joints, _where(good, better, safe), exact), ~np.all(bad, axis=0)

    def _breaks_on_ladder(self, ladder: list[Nodes]) -> BoolArray:
        """Which curves break an enforced limit in which joint, [levels, J]; all in one go."""
        num = len(ladder)
        side_by_side = Nodes(
            ladder[0].times_s,
            np.concatenate([nodes.positions for nodes in ladder], axis=1),
            np.concatenate([nodes.velocities for nodes in ladder], axis=1),
            np.concatenate([nodes.accelerations for nodes in ladder], axis=1),
        )
        broken = self._broken(side_by_side, self._ladder_limits)
        result: BoolArray = np.any(broken[self._enforced], axis=0).reshape(num, -1)
        return result

    def _reachable_targets(self, join: Join, wanted: FloatArray) -> FloatArray:
        """`wanted` clamped to the position limits, its rate limited to the velocity limit."""
        limits = self._limits
        clamped = np.clip(
            wanted, limits.min_position + _CLAMP_MARGIN_RAD, limits.max_position - _CLAMP_MARGIN_RAD
        )
        step = _CLAMP_RATE_SHARE * limits.max_velocity * self.step_s
        targets = np.empty_like(clamped)
        before = join.start.positions
        for knot, target in enumerate(clamped):
            before = before + np.clip(target - before, -step, step)
            targets[knot] = before
        return targets

    def _towards(self, wanted: Nodes, safe: Nodes) -> Nodes:
        """As far from `safe` towards `wanted` as the limits allow, joint by joint."""
        share = self._largest_share(control_points(wanted), control_points(safe))
        return Nodes(
            safe.times_s,
            safe.positions + share * (wanted.positions - safe.positions),
            safe.velocities + share * (wanted.velocities - safe.velocities),
            safe.accelerations + share * (wanted.accelerations - safe.accelerations),
        )

    def _largest_share(self, wanted: ControlPoints, safe: ControlPoints) -> FloatArray:
        """Largest s in [0, 1], [J], with safe + s (wanted - safe) inside the enforced limits."""
        low, high = (np.repeat(bound, SECTION_SIZES, axis=0) for bound in self._limits.bounds)
        near = safe.values
        step = wanted.values - near
        room = np.where(step > 0.0, high - near, near - low)
        size = np.maximum(np.abs(step), 1e-15)
        shares = (np.maximum(room, 0.0) / size).min(axis=0)
        rows = np.minimum.reduceat(shares, SECTIONS, axis=0)[self._enforced[: len(SECTIONS)]]
        result: FloatArray = np.clip(0.999 * rows.min(axis=0), 0.0, 1.0)
        return result

    # The gripper, and what is reported.

    def _limit_gripper(
        self, wanted_m: FloatArray, before_m: float
    ) -> tuple[FloatArray, Change | None]:
        gripper = self.spec.gripper
        limited = np.clip(wanted_m, gripper.min_target_m, gripper.max_target_m)
        broken = ["position"] if np.any(limited != wanted_m) else []
        step = gripper.max_target_speed_m_s * self.step_s
        paced = np.empty_like(limited)
        for knot, target in enumerate(limited):
            # Only a step that is too long is replaced: a + (b - a) is not b to the last bit.
            near = abs(target - before_m) <= step * (1 + _TOLERANCE)
            before_m = target if near else before_m + float(np.sign(target - before_m)) * step
            paced[knot] = before_m
        if np.any(paced != limited):
            broken.append("velocity")
        changed = np.flatnonzero(paced != wanted_m)
        if len(changed) == 0:
            return paced, None
        first = self.num_actions - len(wanted_m)
        return paced, Change(
            gripper.joint_name,
            tuple(broken),
            tuple(int(knot) + 1 + first for knot in changed),
            float(np.max(np.abs(paced - wanted_m))),
        )

    def _changes(self, broken: BoolArray, deviation: FloatArray, first_knot: int) -> list[Change]:
        changes = []
        for joint in np.flatnonzero(np.any(deviation > 0.0, axis=0)):
            limits = tuple(
                name
                for row, name in enumerate(LIMIT_NAMES)
                if broken[row, joint] and self._enforced[row]
            )
            knots = np.flatnonzero(deviation[:, joint] > 0.0) + 1 + first_knot
            changes.append(
                Change(
                    self.spec.arm_joint_names[joint],
                    limits,
                    tuple(int(knot) for knot in knots),
                    float(deviation[:, joint].max()),
                )
            )
        return changes

    def _names(self, joints: BoolArray) -> str:
        names = [
            name for name, chosen in zip(self.spec.arm_joint_names, joints, strict=True) if chosen
        ]
        return ", ".join(names)


def _workspace(spec: ArmSpec) -> "Workspace | None":
    """pinocchio is loaded only for arms that have a box."""
    if spec.workspace is None:
        return None
    from par_ros.control.workspace import Workspace

    return Workspace(spec.workspace, spec.arm_joint_names)


def arm_trajectory(spec: ArmSpec, nodes: Nodes) -> JointTrajectory:
    """Nodes as the trajectory that the arm's controller is sent."""
    return JointTrajectory(
        spec.arm_joint_names, nodes.times_s, nodes.positions, nodes.velocities, nodes.accelerations
    )


def _beyond(points: ControlPoints, limits: JointLimits) -> BoolArray:
    """Which of the first four limits [5, J] control points break; the fifth row is left False."""
    low, high = limits.bounds
    slack = _TOLERANCE * (high - low)
    lowest, highest = points.extremes()
    broken = np.zeros((len(LIMIT_NAMES), low.shape[1]), dtype=np.bool_)
    # A number that is none is within no limit.
    broken[: len(low)] = ~((lowest >= low - slack) & (highest <= high + slack))
    return broken


def _stop_breaks(pieces: Pieces, nodes: Nodes, limits: JointLimits) -> BoolArray:
    """Joints [J] for which a stop from somewhere on the curve would leave the limits."""
    positions, velocities, accelerations = (
        np.concatenate((inner, last[-1:]))
        for inner, last in zip(
            pieces.states(_STOP_TRIALS),
            (nodes.positions, nodes.velocities, nodes.accelerations),
            strict=True,
        )
    )
    speeds = np.abs(braking.peak_velocities(velocities, accelerations, limits)).max(axis=0)
    broken: BoolArray = speeds > limits.max_velocity * (1 + _TOLERANCE)
    # No stop goes further than this; most joints are further from their position limits.
    fastest = np.maximum(speeds, np.abs(velocities).max(axis=0))
    hardest = np.abs(accelerations).max(axis=0)
    furthest = braking.longest_stop(fastest, hardest, limits) + _STOP_MARGIN_RAD
    near = (positions.min(axis=0) - furthest < limits.min_position) | (
        positions.max(axis=0) + furthest > limits.max_position
    )
    columns = np.flatnonzero(near)
    if len(columns):
        broken[columns] |= _stop_leaves(
            positions[:, columns],
            velocities[:, columns],
            accelerations[:, columns],
            limits.of_joints(columns),
        )
    return broken


def _stop_leaves(
    positions: FloatArray, velocities: FloatArray, accelerations: FloatArray, limits: JointLimits
) -> BoolArray:
    """Joints [J] for which a stop from one of the states [M, J] ends beyond a position limit."""
    ends = braking.stopping_positions(positions, velocities, accelerations, limits)
    lowest, highest = ends.min(axis=0), ends.max(axis=0)
    # Standing near a limit is no danger: only what a stop adds to the curve counts.
    too_low = (lowest < limits.min_position + _STOP_MARGIN_RAD) & (
        lowest < positions.min(axis=0) - _TOLERANCE
    )
    too_high = (highest > limits.max_position - _STOP_MARGIN_RAD) & (
        highest > positions.max(axis=0) + _TOLERANCE
    )
    result: BoolArray = too_low | too_high
    return result


def _where(joints: BoolArray, chosen: Nodes, other: Nodes) -> Nodes:
    """`chosen` in the columns `joints`, `other` elsewhere."""
    return Nodes(
        other.times_s,
        np.where(joints, chosen.positions, other.positions),
        np.where(joints, chosen.velocities, other.velocities),
        np.where(joints, chosen.accelerations, other.accelerations),
    )


def _pick(ladder: list[Nodes], level: npt.NDArray[np.intp]) -> Nodes:
    """The curve of each joint's own level [J]."""
    joints = np.arange(len(level))
    return Nodes(
        ladder[0].times_s,
        np.stack([nodes.positions for nodes in ladder])[level, :, joints].T,
        np.stack([nodes.velocities for nodes in ladder])[level, :, joints].T,
        np.stack([nodes.accelerations for nodes in ladder])[level, :, joints].T,
    )


def _first(state: MotionState) -> Nodes:
    return Nodes(
        np.zeros(1), state.positions[None], state.velocities[None], state.accelerations[None]
    )


def _last_state(nodes: Nodes) -> MotionState:
    return MotionState(nodes.positions[-1], nodes.velocities[-1], nodes.accelerations[-1])
