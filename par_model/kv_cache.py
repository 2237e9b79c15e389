# SPDX-License-Identifier: Apache-2.0
"""The history of an episode as keys and values (paper, section 4.2.6): tensors of a fixed size and
a length.

Shape letters: Y layers, B batch, H heads, S tokens, D head width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the first `length` tokens; rows beyond it have no meaning.

    The tensors are shared between the caches that `advance` and `rewind` return: writing happens
    in place and always at or after `length`, so what a shorter cache holds is never touched by a
    longer one, and a shorter one's next write replaces what the longer one held.

    Attributes:
        keys_YBHSD, values_YBHSD: [layers, batch, heads, capacity, head width].
        length: tokens that are valid.
    """

    keys_YBHSD: Tensor
    values_YBHSD: Tensor
    length: int

    @staticmethod
    def allocate(
        num_layers: int,
        batch_size: int,
        num_heads: int,
        capacity: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "KVCache":
        shape = (num_layers, batch_size, num_heads, capacity, head_width)
        # Zeros, not empty: a masked row may still be multiplied by 0, and 0 * NaN is NaN.
        return KVCache(
            torch.zeros(shape, dtype=dtype, device=device),
            torch.zeros(shape, dtype=dtype, device=device),
            0,
        )

    @property
    def capacity(self) -> int:
        return self.keys_YBHSD.shape[3]

    def append(self, layer: int, keys_BHSD: Tensor, values_BHSD: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new rows after `length`; returns all rows up to and with them.

        `length` itself moves once all layers are written, by `advance`.

        Raises:
            ValueError: the rows do not fit into the capacity.
        """
        end = self.length + keys_BHSD.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"the KV cache holds {self.capacity} tokens and {end} were asked for; "
                "choose an overflow mode or a larger num_slots."
            )
        self.keys_YBHSD[layer, :, :, self.length : end] = keys_BHSD
        self.values_YBHSD[layer, :, :, self.length : end] = values_BHSD
        return self.keys_YBHSD[layer, :, :, :end], self.values_YBHSD[layer, :, :, :end]

    def advance(self, num_tokens: int) -> "KVCache":
        """The cache that also holds the rows just written."""
        return replace(self, length=self.length + num_tokens)

    def rewind(self, length: int) -> "KVCache":
        """The cache as it was at `length` tokens.

        Raises:
            ValueError: `length` is negative or more than what is held.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"the KV cache holds {self.length} tokens; cannot rewind to {length}.")
        return replace(self, length=length)

    def evict(self, start: int, num_tokens: int) -> "KVCache":
        """The cache without the rows [start, start + num_tokens), later rows moved down."""
        end = start + num_tokens
        if not 0 <= start <= end <= self.length:
            raise ValueError(
                f"the KV cache holds {self.length} tokens; cannot evict {start} to {end}."
            )
        for rows in (self.keys_YBHSD, self.values_YBHSD):
            rows[:, :, :, start : self.length - num_tokens] = rows[
                :, :, :, end : self.length
            ].clone()
        return replace(self, length=self.length - num_tokens)
