# SPDX-License-Identifier: Apache-2.0
"""Watches how badly each observation of an episode was foretold; see direct_loop.EpisodeWatcher."""

from par_model.interface import ImageArray
from par_model.policy import PARPolicy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.surprise import picture_change, surprise


class ObservationWatcher:
    """`watched` has one number for each observation but the first:

    step: control steps since the reset. surprise: `surprise.surprise` of the policy's errors.
    picture_change: `surprise.picture_change` from the observation before, the rule without a model.
    """

    def __init__(self, arm: ManiSkillArm, policy: PARPolicy) -> None:
        self._arm, self._policy = arm, policy
        self._num_steps = 0
        self._before: ImageArray | None = None
        self.watched: dict[str, list[float]] = {"step": [], "surprise": [], "picture_change": []}

    def started(self) -> None:
        """Nothing was observed yet."""

    def chunk_chosen(self) -> None:
        picture = self._arm.capture()
        errors = self._policy.observed_errors()
        if errors is not None and self._before is not None:
            self.watched["step"].append(self._num_steps)
            self.watched["surprise"].append(round(surprise(errors), 5))
            change = picture_change(self._before, picture)
            self.watched["picture_change"].append(round(change, 3))
        self._before = picture

    def stepped(self) -> None:
        self._num_steps += 1
