# SPDX-License-Identifier: Apache-2.0
"""The guard's settings, one frozen dataclass."""

from dataclasses import dataclass

from par_ros.control.action_schedule import ChunkStart

# Of the splice, what computing may take: the rest is the message's way and the control cycle.
_COMPUTING_SHARE = 2.0 / 3.0
MAX_SPLICE_S = 0.1


@dataclass(frozen=True)
class GuardSettings:
    """All that is not about one arm. See parameters.SafetyNodeParameters for the meanings."""

    lockstep: bool = False
    # The ROS clock is a simulator's: motions are kept on it.
    sim_clock: bool = False
    chunk_start: ChunkStart = "arrival"
    num_actions: int = 8
    step_s: float = 0.05
    max_observation_age_s: float = 0.4
    max_joint_state_age_s: float = 0.2
    late_after_s: float = 0.1
    policy_timeout_s: float = 1.0
    first_chunk_timeout_s: float = 10.0
    tail_s: float = 0.3
    splice_s: float = 0.03
    limit_share: float = 0.95
    expects_reference: bool = True
    max_engage_speed_rad_s: float = 0.1

    @property
    def send_within_s(self) -> float:
        """What is not published this long after the moment given to the guard is withdrawn."""
        return _COMPUTING_SHARE * self.splice_s

    def validate(self) -> None:
        """Raise ValueError where the splice is out of its range."""
        if not 0.0 < self.splice_s <= MAX_SPLICE_S:
            raise ValueError(
                f"splice_s must be above 0 and at most {MAX_SPLICE_S:g} s, got {self.splice_s:g} s."
            )
