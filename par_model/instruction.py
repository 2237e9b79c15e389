# SPDX-License-Identifier: Apache-2.0
"""Instructions and their embeddings, computed once by a frozen text encoder.

Deployment reads the table from the checkpoint; no text encoder is loaded. par_small's encoder is
a fixed random code per instruction: a table of known sentences, not language understanding.

Shape letters: I instructions, T tokens, C text width.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InstructionTable:
    """Known instructions and their embedding rows.

    Attributes:
        texts: the I instructions, word for word.
        embeddings_ITC: float32 [I, T, C].
    """

    texts: tuple[str, ...]
    embeddings_ITC: Tensor

    def embedding(self, text: str) -> Tensor:
        """[T, C] of one instruction. Raises ValueError with the list for an unknown one."""
        if text not in self.texts:
            known = "; ".join(repr(known) for known in self.texts)
            raise ValueError(
                f"instruction {text!r} is unknown to this checkpoint; it knows: {known}."
            )
        return self.embeddings_ITC[self.texts.index(text)]


def code_table(texts: tuple[str, ...], num_tokens: int, width: int) -> InstructionTable:
    """A frozen random code per instruction, from the sha256 of its text alone."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.randn(num_tokens, width, generator=generator))
    return InstructionTable(texts, torch.stack(rows))
