# SPDX-License-Identifier: Apache-2.0
"""The guard's settings: those that are parameters of safety_node, and what follows from others."""

from dataclasses import dataclass

import numpy as np

from par_ros.control.joint_trajectory import FloatArray
from par_ros.control.settings import parameter

# Of the splice, what computing may take: the rest is the message's way and the control cycle.
_COMPUTING_SHARE = 2.0 / 3.0
MAX_SPLICE_S = 0.1


@dataclass(frozen=True)
class GuardParameters:
    """The settings that safety_node takes as parameters."""

    step_s: float = parameter(
        0.05, "time between two actions of a chunk", unit="s", minimum=0.001, maximum=1.0
    )
    num_actions: int = parameter(8, "actions in a chunk", minimum=1, maximum=64)
    max_observation_age_s: float = parameter(
        0.4, "a chunk for an older observation is refused", unit="s", minimum=0.0, maximum=10.0
    )
    max_joint_state_age_s: float = parameter(
        0.2,
        "the guard stops the arm if joint states are older",
        unit="s",
        minimum=0.01,
        maximum=10.0,
    )
    max_reference_age_s: float = parameter(
        0.2,
        "the guard stops the arm if the controller's reference is older",
        unit="s",
        minimum=0.05,
        maximum=5.0,
    )
    chunk_start: str = parameter(
        "arrival",
        "when a chunk starts. arrival: when it arrives, with all its actions; observation: at its "
        "observation, without the actions that are already due; control_step: with a simulator's "
        "clock, at the control step at which it arrives, with all its actions",
        choices=("arrival", "observation", "control_step"),
    )
    inference: str = parameter(
        "sequential",
        "the policy's. overlapped: executed_actions goes on until the arm is at rest, and is also "
        "sent for a stop (realtime and chunk_start observation only)",
        choices=("sequential", "overlapped"),
    )
    late_after_s: float = parameter(
        0.1, "the guard holds if no chunk arrives for this long after the end of the last one",
        unit="s", minimum=0.0, maximum=10.0,
    )  # fmt: skip
    policy_timeout_s: float = parameter(
        1.0, "the guard disengages if no chunk arrives for this long after the end of the last one",
        unit="s", minimum=0.05, maximum=60.0,
    )  # fmt: skip
    first_chunk_timeout_s: float = parameter(
        10.0, "longest time from engage to the first chunk", unit="s", minimum=0.1, maximum=600.0
    )
    tail_s: float = parameter(
        0.3, "least duration of the braking tail after a chunk", unit="s",
        minimum=0.0, maximum=0.5,
    )  # fmt: skip
    splice_s: float = parameter(
        0.03, "a new motion equals the running one for this long, so that a controller may pick it "
        "up at any time until then; the guard may compute for two thirds of it", unit="s",
        minimum=0.002, maximum=MAX_SPLICE_S,
    )  # fmt: skip
    limit_share: float = parameter(
        0.95, "share of the velocity, acceleration and jerk limits to plan with; use a small share "
        "for first runs", minimum=0.05, maximum=1.0,
    )  # fmt: skip
    max_engage_speed_rad_s: float = parameter(
        0.1, "a faster arm is not engaged", unit="rad/s", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True)
class GuardSettings(GuardParameters):
    """All that is not about one arm.

    Attributes:
        lockstep: a chunk starts at its stamp, and physics waits for the answer.
        sim_clock: the ROS clock is a simulator's: motions are kept on it.
        expects_reference: the controller's reference must be received.
        dry_run: nothing that is commanded reaches a controller.
    """

    lockstep: bool = False
    sim_clock: bool = False
    expects_reference: bool = True
    dry_run: bool = False

    @property
    def knot_times_s(self) -> FloatArray:
        """When each action of a chunk is due after its start, float64 [L]."""
        return self.step_s * np.arange(1, self.num_actions + 1)

    @property
    def chunk_s(self) -> float:
        """Duration of a chunk."""
        return self.num_actions * self.step_s

    @property
    def send_within_s(self) -> float:
        """What is not published this long after the moment given to the guard is withdrawn."""
        return _COMPUTING_SHARE * self.splice_s

    def validate(self) -> None:
        """Raise ValueError for a splice out of its range, and for overlapped inference of chunks
        that are not timed from their observations."""
        if self.inference == "overlapped" and (self.lockstep or self.chunk_start != "observation"):
            mode = "lockstep" if self.lockstep else "realtime"
            raise ValueError(
                "inference overlapped needs mode realtime and chunk_start observation, got mode "
                f"{mode} and chunk_start {self.chunk_start}."
            )
        if not 0.0 < self.splice_s <= MAX_SPLICE_S:
            raise ValueError(
                f"splice_s must be above 0 and at most {MAX_SPLICE_S:g} s, got {self.splice_s:g} s."
            )
