# SPDX-License-Identifier: Apache-2.0
"""How an arm follows what it is sent: joint_trajectory_controller's replacement rule.

The rule (joint_trajectory_controller of humble, jazzy and kilted, read from source; ROS 2 control
documentation, "Trajectory replacement"): a valid message replaces the old trajectory as a whole.
Stamp zero starts it at the control cycle that picks it up, another stamp at that time. Up to the
first point that lies ahead the arm moves on the curve from the last command
(interpolate_from_desired_state) to that point; points already past are skipped without blending.
After the last point it stands there. The bridge and the loopback arm both use this class.
"""

import numpy as np

from par_ros.control.joint_trajectory import (
    NANOSECONDS,
    FloatArray,
    JointTrajectory,
    Motion,
    MotionState,
)


class TrajectoryFollower:
    """The command of J joints over time; one object for an arm's controller, one for a gripper's.

    Times are integer nanoseconds on one clock, chosen by the caller, and must not decrease between
    calls (a clock that steps back keeps the last command until it has caught up).
    """

    def __init__(self, joint_names: tuple[str, ...], positions: FloatArray) -> None:
        self.joint_names = joint_names
        self.reset(positions)

    def reset(self, positions: FloatArray) -> None:
        """Forget every trajectory and stand at `positions` [J]."""
        self._command = MotionState.at_rest(np.asarray(positions, dtype=np.float64))
        self._command_time_ns: int | None = None
        self._pending: tuple[JointTrajectory, int] | None = None
        self._motion: Motion | None = None
        self._start_ns = 0

    @property
    def command(self) -> MotionState:
        """The last sampled command."""
        return self._command

    def follow(self, trajectory: JointTrajectory, stamp_ns: int, now_ns: int) -> None:
        """Take a trajectory; it is picked up at the next pick_up() or sample().

        Args:
            stamp_ns: the message's header.stamp; 0 starts the trajectory when it is picked up.

        Raises:
            ValueError: the controller would reject it (the old trajectory then goes on).
        """
        trajectory.validate(self.joint_names)
        if stamp_ns != 0 and stamp_ns + round(trajectory.duration_s * NANOSECONDS) < now_ns:
            ended_s = (now_ns - stamp_ns) / NANOSECONDS - trajectory.duration_s
            raise ValueError(
                f"the trajectory ended {ended_s:.3f} s ago; check that sender and controller "
                "use the same clock (use_sim_time)."
            )
        self._pending = (trajectory.reordered(self.joint_names), stamp_ns)

    def pick_up(self, now_ns: int) -> None:
        """Start what is pending, as the control cycle at `now_ns` would."""
        if self._pending is None:
            return
        trajectory, stamp_ns = self._pending
        self._pending = None
        self._start_ns = stamp_ns if stamp_ns != 0 else now_ns
        before_ns = now_ns if self._command_time_ns is None else self._command_time_ns
        start_time_s = (before_ns - self._start_ns) / NANOSECONDS
        self._motion = Motion(trajectory, self._command, start_time_s)

    def sample(self, now_ns: int) -> MotionState:
        """The command at `now_ns`; picks up what is pending first."""
        self.pick_up(now_ns)
        if self._command_time_ns is not None and now_ns < self._command_time_ns:
            return self._command
        if self._motion is not None:
            self._command = self._motion.state_at((now_ns - self._start_ns) / NANOSECONDS)
        self._command_time_ns = now_ns
        return self._command
