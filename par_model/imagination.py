# SPDX-License-Identifier: Apache-2.0
"""Episodes that a policy continues in pictures of its own (paper, Fig. 4).

Shapes: L actions of a chunk; J joints; V views; H, W pixels.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from par_model.config import ModelConfig
from par_model.interface import ActionChunk, ImageArray, Observation

if TYPE_CHECKING:
    from par_model.policy import PARPolicy

# A finger that stands this far above its target is held open by something.
_HELD_OPEN_M = 0.005


@dataclass(frozen=True)
class Drawing:
    """How a picture is drawn: its tokens in so many sets, each by so many sampling steps."""

    num_sets: int
    num_steps: int

    def __str__(self) -> str:
        return f"{self.num_sets}x{self.num_steps}"

    def as_default_of(self, config: ModelConfig) -> ModelConfig:
        """`config` with this as the default."""
        sampling = dataclasses.replace(
            config.sampling, frame_num_sets=self.num_sets, frame_num_steps=self.num_steps
        )
        return dataclasses.replace(config, sampling=sampling)

    @staticmethod
    def of_config(config: ModelConfig) -> "Drawing":
        """The default of a checkpoint."""
        return Drawing(config.sampling.frame_num_sets, config.sampling.frame_num_steps)

    @staticmethod
    def of(text: str) -> "Drawing":
        """Of SETSxSTEPS. Raises ValueError for another text."""
        sets, cross, steps = text.partition("x")
        if not (cross and sets.isdigit() and steps.isdigit() and int(sets) and int(steps)):
            raise ValueError(f"a drawing is SETSxSTEPS, such as 8x25, got {text!r}.")
        return Drawing(int(sets), int(steps))


def imagine(
    policy: "PARPolicy", observation: Observation, chunk: ActionChunk, num_slots: int
) -> list[ImageArray]:
    """What a policy expects to see at the end of `chunk`, and of each of the chunks that it would
    go on with: `num_slots` pictures, uint8 [V H, W, 3]. The policy is not changed.

    From the second picture on everything is the policy's own: it observes the picture that it has
    drawn, with the chunk as executed and the joints at its last targets, the gripper where it
    stands if something holds it open. A picture takes as long as `PARPolicy.predict_frame`.

    Args:
        policy: of backend "eager" for more than one picture.
        observation: the newest that it has observed.
        chunk: what the arm will be sent.

    Raises:
        ValueError: no observation since the reset; a policy that observes clips, whose pictures
            in between are not drawn.
    """
    if policy.spec.observation_mode != "image":
        raise ValueError(
            "a policy that observes clips cannot go on from one picture of its own; take one that "
            "observes pictures (observation_mode image)."
        )
    mind = policy.forked() if num_slots > 1 else policy
    pictures = []
    for slot in range(num_slots):
        if slot:
            chunk = mind.act()
        pictures.append(mind.predict_frame())
        if slot + 1 < num_slots:
            observation = _imagined(observation, chunk, pictures[-1])
            mind.observe(observation)
    return pictures


def _imagined(before: Observation, chunk: ActionChunk, picture: ImageArray) -> Observation:
    """The observation at the end of `chunk`, which answered `before`."""
    targets = chunk.joint_positions
    joints = np.array(targets[-1], dtype=np.float64)
    finger, told = before.measured_joint_positions[-1], before.executed_actions
    is_held_open = told is not None and finger > told[-1, -1] + _HELD_OPEN_M
    if is_held_open and targets[-1, -1] < finger - _HELD_OPEN_M:
        joints[-1] = finger
    return dataclasses.replace(
        before,
        image=picture,
        measured_joint_positions=joints,
        executed_actions=targets,
        stamp_s=before.stamp_s + len(targets) * chunk.step_s,
    )
