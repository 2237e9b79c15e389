# SPDX-License-Identifier: Apache-2.0
"""The hostile world's modes: clock, start of a chunk, whether the controller reports."""

from collections.abc import Mapping

from par_ros.proof.guard_adapter import GuardMode

MODES: Mapping[str, GuardMode] = {
    "arm": GuardMode(False, False, "arrival", True),
    "arm_observation": GuardMode(False, False, "observation", True),
    "arm_unreported": GuardMode(False, False, "arrival", False),
    "arm_observation_unreported": GuardMode(False, False, "observation", False),
    "simulator": GuardMode(False, True, "control_step", True),
    "simulator_observation": GuardMode(False, True, "observation", True),
    "arm_overlapped": GuardMode(False, False, "observation", True, overlapped=True),
    "simulator_overlapped": GuardMode(False, True, "observation", True, overlapped=True),
    "lockstep": GuardMode(True, False, "arrival", True),
}
# By the last digit of the seed; those of overlapped inference run where they are named.
_MODES_OF_SEEDS = (
    "arm", "arm_observation", "simulator", "arm", "arm_unreported", "arm_observation",
    "simulator_observation", "arm", "lockstep", "arm_observation_unreported",
)  # fmt: skip


def mode_of_seed(seed: int) -> str:
    """The mode of a run that names none."""
    return _MODES_OF_SEEDS[seed % len(_MODES_OF_SEEDS)]
