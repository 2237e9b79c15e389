# SPDX-License-Identifier: Apache-2.0
"""Where the action tokens look in the newest picture (paper, section 5.4.2, Fig. 5): numpy only.

Weights are the mean over the newest slot's L action tokens. A picture's map has one value for each
of its K frame tokens and is drawn as squares: nothing is interpolated.

Shape letters: Y layers, H heads, L actions, K frame tokens, S all tokens of the context, r rows and
c columns of frame tokens.
"""

import numpy as np
import numpy.typing as npt

from par_model.config import ModelConfig
from par_model.interface import ImageArray

Float32Array = npt.NDArray[np.float32]

KINDS = ("instruction", "earlier frames", "earlier actions", "this frame", "own actions")
# How dark a token is drawn that nothing looks at.
_SHADE = 0.75
# A frame token with this weight is drawn as bright as the picture, or one with the most.
_LEAST_SHOWN = 0.02


def token_kinds(config: ModelConfig, num_tokens: int) -> npt.NDArray[np.int64]:
    """Index into KINDS of each of the context's S tokens."""
    num_frame, length = config.num_frame_tokens, config.slot_length
    place = np.arange(num_tokens - config.num_text_tokens)
    is_action = place % length >= num_frame
    is_newest = place >= len(place) - length
    slots = np.where(is_newest, np.where(is_action, 4, 3), np.where(is_action, 2, 1))
    return np.concatenate((np.zeros(config.num_text_tokens, np.int64), slots))


def frame_map(weights_YHS: Float32Array, config: ModelConfig) -> Float32Array:
    """float32 [Y, H, rows, columns]: the weight on each frame token of the newest picture."""
    newest = weights_YHS[..., token_kinds(config, weights_YHS.shape[-1]) == 3]
    return newest.reshape(*newest.shape[:2], config.frame_rows, config.frame_columns)


def shaded(picture: ImageArray, weights_rc: Float32Array) -> ImageArray:
    """The picture uint8 [H, W, 3], darker where less is looked at; dark where nothing is.

    weights_rc: [r, c], the weight on each frame token; H and W need not be multiples of r and c.
    """
    height, width = picture.shape[:2]
    rows = np.arange(height) * weights_rc.shape[0] // height
    columns = np.arange(width) * weights_rc.shape[1] // width
    shown = weights_rc / max(float(weights_rc.max()), _LEAST_SHOWN)
    brightness = 1.0 - _SHADE * (1.0 - shown[rows][:, columns, None])
    return np.rint(picture * brightness).astype(np.uint8)
