# SPDX-License-Identifier: Apache-2.0
"""The operations that runtimes spell differently, and two ways to attend.

Shape letters: S tokens of the new slots, M capacity, H heads, D head width, P rotary pairs.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# (cache [1, H, M, D], rows [1, H, S, D], position int64 [1]) to the cache with the rows in it.
WriteRows = Callable[[Tensor, Tensor, Tensor], Tensor]
# (x [1, H, S, D], cos [S, P], sin [S, P]) to x with its first 2P dimensions rotated in pairs.
RotatePairs = Callable[[Tensor, Tensor, Tensor], Tensor]
# (queries [1, H, S, D], keys and values [1, H, M, D], bool [1, 1, S, M] or None) to [1, H, S, D];
# where the mask is True a query sees a key, and None shows all.
AttendMasked = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class GraphOperations(Protocol):
    """The three operations that runtimes spell differently."""

    write_rows: WriteRows
    rotate_pairs: RotatePairs
    attend: AttendMasked


def attend_fused(
    queries_1HSD: Tensor, keys_1HMD: Tensor, values_1HMD: Tensor, mask_11SM: Tensor | None = None
) -> Tensor:
    """An AttendMasked that exporters keep as one operator where their dialect has it."""
    return functional.scaled_dot_product_attention(
        queries_1HSD, keys_1HMD, values_1HMD, attn_mask=mask_11SM
    )


def attend_by_products(
    queries_1HSD: Tensor, keys_1HMD: Tensor, values_1HMD: Tensor, mask_11SM: Tensor | None = None
) -> Tensor:
    """An AttendMasked without a fused operator; softmax in float32."""
    queries_1HSD = queries_1HSD * queries_1HSD.shape[-1] ** -0.5
    scores_1HSM = queries_1HSD @ keys_1HMD.transpose(-1, -2)
    if mask_11SM is not None:
        scores_1HSM = torch.where(mask_11SM, scores_1HSM, -torch.inf)
    weights_1HSM = torch.softmax(scores_1HSM, dim=-1, dtype=torch.float32).to(queries_1HSD.dtype)
    return weights_1HSM @ values_1HMD
