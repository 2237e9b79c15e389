# SPDX-License-Identifier: Apache-2.0
"""How policy_node joins a chunk to the motion that it takes over from (par_model/seam.py)."""

import dataclasses
from dataclasses import dataclass

from par_model.interface import ActionChunk, FloatArray
from par_model.seam import join
from par_ros.control.settings import parameter


@dataclass(frozen=True)
class SeamParameters:
    """The settings of policy_node that are about where one chunk takes over from another."""

    max_prefix_steps: int = parameter(
        0,
        "overlapped inference: committed actions that the policy is told to go on from, at most "
        "the checkpoint's max_delay_steps; with more the wanted motion jumps less from chunk to "
        "chunk, and the included policy succeeds less often",
        minimum=0,
        maximum=100,
    )
    seam_smoothness: float = parameter(
        3.0,
        "overlapped inference: weight of the squared second differences of the arm joints' targets "
        "against their squared distance to the chunk's; more is smoother; 0: the targets as they "
        "are",
        minimum=0.0,
        maximum=1e4,
    )


def joined(chunk: ActionChunk, followed: FloatArray | None, smoothness: float) -> ActionChunk:
    """The chunk as par_model.seam.join joins it to what was followed; None: itself."""
    if followed is None:
        return chunk
    positions = join(chunk.joint_positions, followed, smoothness)
    return dataclasses.replace(chunk, joint_positions=positions)
