# SPDX-License-Identifier: Apache-2.0
"""Episodes that a policy continues in pictures of its own (paper, Fig. 4).

Shapes: L actions of a chunk; J joints; V views; H, W pixels.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from par_model.interface import ActionChunk, FloatArray, ImageArray, Observation

if TYPE_CHECKING:
    from par_model.policy import PARPolicy

# A finger that stands this far above its target is held open by something.
_HELD_OPEN_M = 0.005


def imagine(
    policy: "PARPolicy", observation: Observation, chunk: ActionChunk, num_slots: int
) -> list[ImageArray]:
    """What a policy expects to see at the end of `chunk`, and of each of the chunks that it would
    go on with: `num_slots` pictures, uint8 [V H, W, 3]. The policy is not changed.

    From the second picture on everything is the policy's own: it observes the picture that it has
    drawn, with the chunk as executed and the joints where `joints_after` says. A picture takes as
    long as `PARPolicy.predict_frame`.

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
    # With overlapped inference it goes on beyond the next observation.
    chunk = dataclasses.replace(
        chunk, joint_positions=chunk.joint_positions[: policy.spec.num_actions]
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


def joints_after(before: Observation, targets: FloatArray) -> FloatArray:
    """Where the joints are after a chunk of `targets` [L, J] that answers `before`: float64 [J].

    The arm is as many control steps behind its targets as it was at `before` (in the simulator
    about two); the gripper is at its last target, or where it stands if something holds it open.
    """
    finger, told = before.measured_joint_positions[-1], before.executed_actions
    joints = np.array(targets[-1 - _steps_behind(before, len(targets))], dtype=np.float64)
    joints[-1] = targets[-1, -1]
    is_held_open = told is not None and finger > told[-1, -1] + _HELD_OPEN_M
    if is_held_open and targets[-1, -1] < finger - _HELD_OPEN_M:
        joints[-1] = finger
    return joints


def _steps_behind(before: Observation, num_targets: int) -> int:
    """How many targets ago the arm was sent nearest to where it was measured."""
    if before.executed_actions is None:
        return 0
    sent = before.executed_actions[:, :-1]
    off = np.square(sent - before.measured_joint_positions[:-1]).sum(axis=1)
    return min(int(off[::-1].argmin()), num_targets - 1)


def _imagined(before: Observation, chunk: ActionChunk, picture: ImageArray) -> Observation:
    """The observation at the end of `chunk`, which answered `before`."""
    targets = chunk.joint_positions
    return dataclasses.replace(
        before,
        image=picture,
        measured_joint_positions=joints_after(before, targets),
        executed_actions=targets,
        stamp_s=before.stamp_s + len(targets) * chunk.step_s,
    )
