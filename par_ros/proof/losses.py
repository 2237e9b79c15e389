# SPDX-License-Identifier: Apache-2.0
"""Messages that are lost on purpose, each written to the log. For the soak.

`python -m par_ros.proof.losses` is the loopback arm that loses trajectories.
"""

import os
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.interface import ActionChunk, FloatArray
from par_ros.control.policy_turn import Question
from par_ros.control.trajectory_follower import TrajectoryFollower
from par_ros.loopback_arm_node import LoopbackArmNode
from par_ros.messages import Picture
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_node import LoadPolicy, PolicyNode
from par_ros.policy_outputs import PolicyOutputs
from par_ros.process import run_node

# Share of the messages of each kind.
LOSS_VARIABLE = "PAR_SOAK_LOSS"
_WORDS = "injected loss"
_LINE = re.compile(rf"\[(\d+\.\d+)\].*{_WORDS}: (\w+)")


@dataclass(frozen=True)
class Loss:
    """A message that was lost: when, ROS seconds, and what: picture, chunk, report, trajectory."""

    time_s: float
    kind: str


def losses_of(log_folder: Path) -> list[Loss]:
    """What the processes have written to their logs, in order of time."""
    text = "\n".join(path.read_text(errors="replace") for path in log_folder.glob("*"))
    return sorted(
        (Loss(float(time_s), kind) for time_s, kind in _LINE.findall(text)),
        key=lambda loss: loss.time_s,
    )


class _Lot:
    """Decides for one node which messages are lost."""

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()
        self._share = float(os.environ.get(LOSS_VARIABLE, "0"))
        self._random = random.Random(0)

    def loses(self, kind: str) -> bool:
        is_lost = self._random.random() < self._share
        if is_lost:
            self._logger.info(f"{_WORDS}: {kind}")
        return is_lost


class _LossyOutputs(PolicyOutputs):
    """Loses chunks."""

    def __init__(self, node: Any, lot: _Lot) -> None:
        super().__init__(node)
        self._lot = lot

    def publish_chunk(
        self,
        chunk: ActionChunk,
        question: Question[Picture],
        parameters: PolicyNodeParameters,
        num_steps: int | None,
        followed: FloatArray | None,
    ) -> None:
        if not self._lot.loses("chunk"):
            super().publish_chunk(chunk, question, parameters, num_steps, followed)


class LossyPolicyNode(PolicyNode):
    """Loses pictures, the guard's reports and its own chunks."""

    def __init__(self, load_policy: LoadPolicy) -> None:
        super().__init__(load_policy)
        self._lot = _Lot(self)

    def _make_outputs(self) -> PolicyOutputs:
        return _LossyOutputs(self, self._lot)

    def _on_image(self, message: Picture, publisher: str, view: str) -> None:
        if not self._lot.loses("picture"):
            super()._on_image(message, publisher, view)

    def _on_executed_actions(self, message: JointTrajectoryMessage) -> None:
        if not self._lot.loses("report"):
            super()._on_executed_actions(message)


class LossyArmNode(LoopbackArmNode):
    """Loses the arm's trajectories; the gripper's arrive."""

    def __init__(self) -> None:
        super().__init__()
        self._lot = _Lot(self)

    def _on_trajectory(self, message: JointTrajectoryMessage, follower: TrajectoryFollower) -> None:
        if not (follower is self._arm and self._lot.loses("trajectory")):
            super()._on_trajectory(message, follower)


if __name__ == "__main__":
    sys.exit(run_node(LossyArmNode))
