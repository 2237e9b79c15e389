# SPDX-License-Identifier: Apache-2.0
"""Watches how badly each observation of an episode was foretold; see direct_loop.EpisodeWatcher."""

from par_model.interface import ImageArray
from par_model.policy import PARPolicy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.surprise import picture_change, surprise


class ObservationWatcher:
    """`watched` has one number for each observation but the first:

    step: control steps since the reset. surprise: `surprise.surprise` of the policy's misfit.
    joints_off, still_motion: of it, see `misfit.Misfit`.
    picture_change: `surprise.picture_change` from the observation before, the rule without a model.
    """

    def __init__(self, arm: ManiSkillArm, policy: PARPolicy) -> None:
        self._arm, self._policy = arm, policy
        self._num_steps = 0
        self._before: ImageArray | None = None
        names = ("step", "surprise", "joints_off", "still_motion", "picture_change")
        self.watched: dict[str, list[float]] = {name: [] for name in names}

    def started(self) -> None:
        """Nothing was observed yet."""

    def chunk_chosen(self) -> None:
        picture = self._arm.capture()
        misfit = self._policy.misfit()
        if misfit is not None and self._before is not None:
            found = {
                "step": self._num_steps,
                "surprise": round(surprise(misfit), 5),
                "joints_off": round(misfit.joints_off, 5),
                "still_motion": round(misfit.still_motion, 5),
                "picture_change": round(picture_change(self._before, picture), 3),
            }
            for name, value in found.items():
                self.watched[name].append(value)
        self._before = picture

    def stepped(self) -> None:
        self._num_steps += 1
