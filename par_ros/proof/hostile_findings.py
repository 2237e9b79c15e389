# SPDX-License-Identifier: Apache-2.0
"""Known ways in which a guard was wrong, and the disturbances that show each.

Numbers are those of the review that found them in the guard of b4ea460. A finding is there where
runs with all of its disturbances have violations of its kinds, and runs without the one that it
needs have none.
"""

from dataclasses import dataclass

from par_ros.proof.hostile_verdicts import LATE

_STEPS = ("step",)
_LIMITS = ("step", "acceleration", "jerk", "velocity")


@dataclass(frozen=True)
class Finding:
    """One row.

    Attributes:
        needs: the disturbance without which it is not seen; others: those that are on beside it.
        kinds: violations that count; is_late: they are of class (b).
    """

    number: str
    text: str
    mode: str
    needs: str
    others: tuple[str, ...]
    kinds: tuple[str, ...]
    is_late: bool = False

    @property
    def disturbances(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.others, self.needs)


FINDINGS = (
    Finding(
        "1", "a stop in a retreat is ignored", "arm", "stops_in_retreat",
        ("collisions", "arm_lag"),
        ("rest_after_e_stop", "rest_after_disengage"),
    ),
    Finding(
        "2", "engage is accepted in a retreat", "arm", "engages_in_retreat",
        ("collisions", "arm_lag"), ("engage_moving",),
    ),
    Finding(
        "3", "engaging where the arm sags steps the command", "arm", "arm_sag", ("disengages",),
        _STEPS,
    ),
    Finding(
        "4", "absent velocities count as zero: a moving arm is engaged", "arm", "no_velocities",
        ("disengages", "moved_by_hand", "rude_engages"), ("engage_arm_moves",),
    ),
    Finding(
        "5", "what was computed for longer than the splice is sent", "arm", "computing", (),
        _STEPS,
    ),
    Finding(
        "6", "pick-ups beyond 10 ms break limits", "arm", "late_pickup", (), (LATE,), is_late=True,
    ),
    Finding(
        "7", "small clock steps are not noticed", "arm", "small_clock_steps", (), _STEPS,
    ),
    Finding(
        "8", "the stop after a noticed clock step breaks limits", "arm", "large_clock_steps", (),
        _STEPS,
    ),
    Finding(
        "9", "joint states stamped long ago engage", "arm", "past_stamps", ("disengages",),
        ("engage_stale",),
    ),
    Finding(
        "10", "a stop shortly after a chunk begins on another curve", "arm", "stops_after_chunks",
        (), ("step", "jerk"),
    ),
    Finding(
        "11", "stamp 0 breaks limits where a simulator's steps vary", "simulator", "lumpy_clock",
        (), _LIMITS,
    ),
    Finding(
        "12", "engage while the ROS clock stands still", "arm", "clock_stops", ("disengages",),
        ("engage_clock",),
    ),
    Finding(
        "13", "a lost trajectory is believed to have run", "arm", "lost_trajectories", (), _STEPS,
    ),
    Finding(
        "14", "the controller's own hold is not noticed", "arm", "cmd_timeout",
        ("arm_lag", "pauses"), _STEPS,
    ),
    Finding(
        "15", "two sources of joint states: engage, and a stop from a foreign pose", "arm",
        "foreign_joints", ("disengages",), ("engage_foreign", *_STEPS),
    ),
    Finding(
        "16", "the latch dies with the lifecycle", "arm", "lifecycle", ("e_stops",),
        ("engage_latched",),
    ),
)  # fmt: skip
