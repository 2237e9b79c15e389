# SPDX-License-Identifier: Apache-2.0
"""What policy_node does about observations that its model finds unlikely: its parameters."""

from dataclasses import dataclass

from par_ros.control.settings import parameter


@dataclass(frozen=True)
class SurpriseSettings:
    """See surprise_watch.SurpriseWatch."""

    surprise: str = parameter(
        "off",
        "what is done about observations that the model finds unlikely, by the thresholds in the "
        "checkpoint's surprise.json. off: nothing is computed; report: published and counted; "
        "stop: above the second threshold the guard is also told to disengage",
        choices=("off", "report", "stop"),
    )
    surprise_resume: str = parameter(
        "engage",
        "who resumes after a stop by surprise. engage: only a call of the guard's ~/engage; auto: "
        "this node calls it, in simulated time only",
        choices=("engage", "auto"),
    )
