# SPDX-License-Identifier: Apache-2.0
"""Coming to rest within acceleration and jerk limits: a chunk's tail, the hold, the retreat.

ruckig (Berscheid and Kroeger, "Jerk-limited Real-time Trajectory Generation with Arbitrary Target
States", RSS 2021; Community Version) finds time-optimal profiles of constant jerk. Sent as points
at the profiles' switching times with position, velocity and acceleration, the controller's quintic
between two points is the profile itself.

Shapes: N points, J joints, S states.
"""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import ruckig

from par_ros.control.hermite_curve import Nodes
from par_ros.control.joint_limits import JointLimits
from par_ros.control.joint_trajectory import FloatArray, MotionState

# Points closer than this are one: a controller's cycle is of this order.
_MIN_SPACING_S = 0.002
# Moments in each of a stop's three phases.
_NUM_STOP_SAMPLES = 12


def stop(state: MotionState, limits: JointLimits, minimum_duration_s: float = 0.0) -> Nodes:
    """From `state` to rest; the N nodes after `state`, times from now.

    Args:
        minimum_duration_s: 0 stops each joint as fast as it can; more stops all joints together,
            after at least this time, with less deceleration.

    Raises:
        RuntimeError: ruckig found no profile (non-finite state: a bug of the caller).
    """
    request = _request(state, limits)
    request.control_interface = ruckig.ControlInterface.Velocity
    if minimum_duration_s > 0.0:
        request.minimum_duration = minimum_duration_s
        request.synchronization = ruckig.Synchronization.Time
    return _nodes(request, state)


def move_to_rest(state: MotionState, positions: FloatArray, limits: JointLimits) -> Nodes:
    """From `state` to standing at `positions` [J] within all limits; the nodes after `state`."""
    request = _request(state, limits)
    request.control_interface = ruckig.ControlInterface.Position
    request.target_position = positions.tolist()
    request.max_velocity = limits.max_velocity.tolist()
    return _nodes(request, state)


def move_towards(
    state: MotionState, positions: FloatArray, limits: JointLimits, times_s: FloatArray
) -> Nodes:
    """The part of move_to_rest() up to the last of `times_s` [N], with nodes at each of them.

    Nodes at switching times lie between; each joint moves as fast as its limits allow.
    """
    request = _request(state, limits)
    request.control_interface = ruckig.ControlInterface.Position
    request.target_position = positions.tolist()
    request.max_velocity = limits.max_velocity.tolist()
    trajectory = _calculated(request, state)
    return _states_at(trajectory, _between(_switching_times(trajectory), times_s))


@dataclass(frozen=True)
class StopProfiles:
    """stop() of S states in closed form, float64 [S, J] each; as if every joint moved forwards.

    The acceleration goes to -`peak` within `first_s`, stays there for `plateau_s`, and goes back to
    zero within `last_s`; the first and last with the stop's jerk.
    """

    positions: FloatArray
    sign: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    jerk: FloatArray
    peak: FloatArray
    first_s: FloatArray
    plateau_s: FloatArray
    last_s: FloatArray

    @staticmethod
    def of(
        positions: FloatArray,
        velocities: FloatArray,
        accelerations: FloatArray,
        limits: JointLimits,
    ) -> "StopProfiles":
        """The stops from states [S, J]."""
        jerk = limits.stop_jerk
        # Velocity left when the acceleration has been taken to zero at once tells the direction.
        remaining = velocities + 0.5 * accelerations * np.abs(accelerations) / jerk
        sign = np.where(remaining >= 0.0, 1.0, -1.0)
        velocity, acceleration = sign * velocities, sign * accelerations
        peak = np.minimum(
            limits.stop_acceleration,
            np.sqrt(np.maximum(jerk * velocity + 0.5 * acceleration**2, 0.0)),
        )
        # Deceleration already beyond the peak (allowed only with checks off) counts as at the peak.
        first_s = np.maximum((acceleration + peak) / jerk, 0.0)
        last_s = peak / jerk
        after_first = velocity + acceleration * first_s - 0.5 * jerk * first_s**2
        plateau_s = np.maximum(after_first - 0.5 * peak * last_s, 0.0) / np.maximum(peak, 1e-12)
        return StopProfiles(
            positions, sign, velocity, acceleration, jerk, peak, first_s, plateau_s, last_s
        )

    def ends(self) -> FloatArray:
        """Where the stops end."""
        return self.states(self.first_s, self.plateau_s, self.last_s)[0]

    def sampled(self) -> tuple[FloatArray, FloatArray]:
        """Positions and velocities [36, S, J]: twelve in each phase, the end included."""
        shares = np.linspace(0.0, 1.0, _NUM_STOP_SAMPLES + 1)[1:, None, None]
        zero, one = np.zeros_like(shares), np.ones_like(shares)
        first = np.concatenate((shares, one, one)) * self.first_s
        plateau = np.concatenate((zero, shares, one)) * self.plateau_s
        last = np.concatenate((zero, zero, shares)) * self.last_s
        return self.states(first, plateau, last)

    def states(
        self, first_s: FloatArray, plateau_s: FloatArray, last_s: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Positions and velocities after these parts of the three phases."""
        jerk, peak, acceleration = self.jerk, self.peak, self.acceleration
        way = first_s * (self.velocity + first_s * (0.5 * acceleration - jerk / 6 * first_s))
        velocity = self.velocity + first_s * (acceleration - 0.5 * jerk * first_s)
        way += plateau_s * (velocity - 0.5 * peak * plateau_s)
        velocity = velocity - peak * plateau_s
        way += last_s * (velocity + last_s * (jerk / 6 * last_s - 0.5 * peak))
        velocity = velocity + last_s * (0.5 * jerk * last_s - peak)
        return self.positions + self.sign * way, self.sign * velocity


def longest_stop(speeds: FloatArray, accelerations: FloatArray, limits: JointLimits) -> FloatArray:
    """No stop() is longer, rad [J], from states up to these.

    speeds: the largest, also of peak_velocities(). First the acceleration goes to zero, then a
    stop from its peak velocity takes no longer than v / a + a / j (twice the root of v / j, where
    full deceleration is not reached, is less), at half that velocity on average.
    """
    ramp_s = np.maximum(accelerations, limits.stop_acceleration) / limits.stop_jerk
    ways: FloatArray = speeds * (1.5 * ramp_s + 0.5 * speeds / limits.stop_acceleration)
    return ways


def peak_velocities(
    velocities: FloatArray, accelerations: FloatArray, limits: JointLimits
) -> FloatArray:
    """The largest speed that stop() of each state passes through, with its sign, [S, J]."""
    peaks: FloatArray = velocities + 0.5 * accelerations * np.abs(accelerations) / limits.stop_jerk
    return peaks


def _request(state: MotionState, limits: JointLimits) -> ruckig.InputParameter:
    num_joints = len(state.positions)
    request = ruckig.InputParameter(num_joints)
    request.current_position = state.positions.tolist()
    request.current_velocity = state.velocities.tolist()
    request.current_acceleration = state.accelerations.tolist()
    request.target_velocity = [0.0] * num_joints
    request.target_acceleration = [0.0] * num_joints
    request.max_acceleration = limits.stop_acceleration.tolist()
    request.max_jerk = limits.stop_jerk.tolist()
    request.synchronization = ruckig.Synchronization.No
    return request


def _nodes(request: ruckig.InputParameter, state: MotionState) -> Nodes:
    trajectory = _calculated(request, state)
    end_s = max(trajectory.duration, _MIN_SPACING_S)
    nodes = _states_at(trajectory, _between(_switching_times(trajectory), np.array([end_s])))
    states = nodes.states.copy()
    states[1:, -1] = 0.0
    return Nodes.of_states(nodes.times_s, states)


def _calculated(request: ruckig.InputParameter, state: MotionState) -> ruckig.Trajectory:
    num_joints = len(state.positions)
    trajectory = ruckig.Trajectory(num_joints)
    result = ruckig.Ruckig(num_joints).calculate(request, trajectory)
    if result not in (ruckig.Result.Working, ruckig.Result.Finished):
        raise RuntimeError(f"ruckig found no motion to rest ({result}) from {state}")
    return trajectory


def _states_at(trajectory: ruckig.Trajectory, times_s: FloatArray) -> Nodes:
    states = np.array([trajectory.at_time(time_s) for time_s in times_s.tolist()])
    return Nodes.of_states(times_s, states.swapaxes(0, 1).copy())


def _switching_times(trajectory: ruckig.Trajectory) -> list[float]:
    """When any joint's jerk changes, in order."""
    times: list[float] = []
    for profile in trajectory.profiles[0]:
        times += accumulate((*profile.brake.t, *profile.t))
    return sorted(times)


def _between(switching_s: list[float], fixed_s: FloatArray) -> FloatArray:
    """`fixed_s` [N] and the switching times before its last, all at least _MIN_SPACING_S apart."""
    kept: list[float] = []
    before_s = 0.0
    waiting = iter(switching_s)
    time_s = next(waiting, np.inf)
    for next_s in fixed_s.tolist():
        while time_s < next_s:
            if time_s - before_s >= _MIN_SPACING_S and next_s - time_s >= _MIN_SPACING_S:
                kept.append(time_s)
                before_s = time_s
            time_s = next(waiting, np.inf)
        kept.append(next_s)
        before_s = next_s
    return np.array(kept)
