# SPDX-License-Identifier: Apache-2.0
"""Attention weights of the transformer, kept while a clip is encoded (paper, section 5.4.2).

Shape letters: B batch, H heads, S queries, M keys, R recorded queries, D head width.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from par_model.layers import Attend


@dataclass
class RecordedAttention:
    """`attend_masked` that also keeps the weights of the last queries.

    The attended values are those of `attend_masked`: recording changes no output.

    Attributes:
        num_queries: R, how many of the last queries are recorded.
        layers: float [B, H, R, M] of each layer, in order; rows sum to 1.
    """

    num_queries: int
    layers: list[Tensor] = field(default_factory=list)

    def attend_masked(self, mask_SM: Tensor) -> Attend:
        """As `transformer.attend_masked`."""

        def attend(q_BHSD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor) -> Tensor:
            last_BHRD = q_BHSD[:, :, -self.num_queries :]
            scores = last_BHRD @ k_BHMD.transpose(-2, -1) / math.sqrt(q_BHSD.shape[-1])
            hidden_RM = ~mask_SM[-self.num_queries :]
            self.layers.append(scores.float().masked_fill(hidden_RM, -torch.inf).softmax(dim=-1))
            return functional.scaled_dot_product_attention(
                q_BHSD, k_BHMD, v_BHMD, attn_mask=mask_SM
            )

        return attend
