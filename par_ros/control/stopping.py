# SPDX-License-Identifier: Apache-2.0
"""Coming to rest from the state in which a lead ends: stops, and the retreat from an obstacle.

Of several candidates the caller sends the first that the outgoing check lets pass.
"""

from collections.abc import Iterator

import numpy as np

from par_ros.control import braking
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.hermite_curve import Nodes
from par_ros.control.joint_limits import JointLimits
from par_ros.control.joint_trajectory import FloatArray, MotionState

# A retreat is slow, short, and not worth more time than this.
_RETREAT_SPEED_SHARE = 0.25
_MAX_RETREAT_S = 1.0
# A stop that the planning limits do not allow (a motion at their edge, and rounding) may brake
# with less, or with more, of them.
_STOP_SHARES = (1.0, 0.9, 1.04)
_SETTLING_SHARE = 0.1
# From the middle of settling, at no more than 10 % of the velocity, to an arm that is no further
# away than the allowed tracking error: within the acceleration limits, and at rest within 0.5 s
# however late it is taken.
SETTLED_STOP_S = 0.4
# Peaks of the quintic from rest to rest over a way of 1 in a time of 1.
_QUINTIC_VELOCITY = 1.875
_QUINTIC_ACCELERATION = 10.0 / np.sqrt(3.0)
_QUINTIC_JERK = 60.0


def stops(begin: MotionState, limits: JointLimits) -> Iterator[Nodes]:
    """Stops from `begin`; times of the nodes are seconds from there."""
    for share in _STOP_SHARES:
        yield braking.stop(begin, limits.scaled(share))


def retreat(begin: MotionState, measured: FloatArray, spec: ArmSpec, limits: JointLimits) -> Nodes:
    """Brakes first, then goes to where the arm was measured [J]; a plain stop where that is far.

    Far is beyond the tracking error that is allowed and the arm's lag at full speed, or more than a
    second at a quarter of the velocity limit.
    """
    stop = braking.stop(begin, limits)
    at_rest = MotionState.at_rest(stop.positions[-1])
    target = np.clip(measured, limits.min_position, limits.max_position)
    way = np.abs(target - at_rest.positions)
    if np.any(way > spec.max_tracking_error_rad + spec.tracking_lag_s * limits.max_velocity):
        return stop
    slow = limits.with_velocity(_RETREAT_SPEED_SHARE * limits.max_velocity)
    back = braking.move_to_rest(at_rest, target, slow)
    if back.times_s[-1] > _MAX_RETREAT_S:
        return stop
    return back.shifted(stop.times_s[-1]).after(stop)


def settling_duration_s(spec: ArmSpec) -> float:
    """So long that a quintic from rest to rest over the allowed tracking error is gentle.

    Gentle: 10 % of each limit. A controller whose reference is not known is at most that far away.
    """
    limits = spec.limits.scaled(_SETTLING_SHARE)
    way_rad = spec.max_tracking_error_rad
    return float(
        max(
            np.max(_QUINTIC_VELOCITY * way_rad / limits.max_velocity),
            np.max(np.sqrt(_QUINTIC_ACCELERATION * way_rad / limits.max_acceleration)),
            np.max(np.cbrt(_QUINTIC_JERK * way_rad / limits.max_jerk)),
        )
    )
