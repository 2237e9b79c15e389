# SPDX-License-Identifier: Apache-2.0
"""The picture at the end of a chunk, as a forward model foretells it.

Shapes: V views, one above the other; H, W pixels of a view; C latent channels; h, w latent pixels
of a view; L actions; J joints.
"""

import numpy as np
import torch
from torch.nn import functional

from par_model.forward_model import ForwardModel
from par_model.graphs.policy_graphs import PolicyGraphs, as_float32
from par_model.imagination import joints_after
from par_model.interface import FloatArray, ImageArray, Observation

# Change of a latent pixel, in deviations of a channel, from which it is drawn anew in part, and as
# much again from which it is drawn anew whole (docs/lab_notebook/pictures.md).
_CHANGE = 0.2


def foretold_picture(
    model: ForwardModel,
    graphs: PolicyGraphs,
    observation: Observation,
    latent: object,
    targets: FloatArray,
) -> ImageArray:
    """uint8 [V H, W, 3] at the end of a chunk; 22 ms for par_small on a busy CPU.

    What the model expects to change is drawn by the codec; the rest is the newest picture, which
    shows it better than any codec.

    Args:
        observation: the newest, which the chunk answers.
        latent: of it, as `graphs` encoded it.
        targets: float64 [L, J], the chunk.
    """
    foretold = model.foretell(
        as_float32(latent),
        observation.measured_joint_positions,
        joints_after(observation, targets),
    )
    drawn = graphs.decode(foretold.latent)
    weight = ((foretold.change - _CHANGE) / _CHANGE).clip(0.0, 1.0)
    num_views = graphs.config.num_views
    weights = torch.from_numpy(weight).reshape(num_views, 1, -1, weight.shape[1])
    size = (drawn.shape[0] // num_views, drawn.shape[1])
    weights = functional.interpolate(weights, size, mode="bilinear", align_corners=False)
    share = weights.reshape(*drawn.shape[:2], 1).numpy()
    mixed = share * drawn + (1.0 - share) * observation.image
    picture: ImageArray = mixed.round().astype(np.uint8)
    return picture
