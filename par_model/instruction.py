# SPDX-License-Identifier: Apache-2.0
"""Instructions and their embeddings, computed once by a frozen text encoder.

Deployment reads the table from the checkpoint; no text encoder is loaded. par_small's encoder is
a fixed random code per instruction: a table of known sentences, not language understanding.

Shape letters: I instructions, T tokens, C text width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


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


def phi_table(
    texts: tuple[str, ...], folder: Path, padding_PC: Tensor, num_tokens: int
) -> InstructionTable:
    """Embeddings by the Phi text encoder of a NOVA folder, as NOVA computes them: the last hidden
    states of the instruction's own tokens, then the rows of `padding_PC` at the same positions.

    Args:
        folder: holds text_encoder/ and tokenizer/; read by transformers.
        padding_PC: NOVA's learned rows for positions without a token, [P, C].

    Raises:
        ValueError: a sub-folder is missing or transformers cannot read it, or the encoder's width
            is not C.
    """
    from transformers import AutoModel, AutoTokenizer

    for part in ("text_encoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"{folder} has no {part}/; copy NOVA's whole folder, or leave the instructions out."
            )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = AutoModel.from_pretrained(folder / "text_encoder", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"transformers cannot read {folder}'s text encoder: {reason}") from error
    if encoder.config.hidden_size != padding_PC.shape[1]:
        raise ValueError(
            f"{folder}/text_encoder is {encoder.config.hidden_size} wide, but the transformer "
            f"expects {padding_PC.shape[1]}; the parts belong to different models."
        )
    rows = [_phi_rows(text, tokenizer, encoder, padding_PC, num_tokens) for text in texts]
    return InstructionTable(texts, torch.stack(rows))


@torch.no_grad()
def _phi_rows(
    text: str, tokenizer: Any, encoder: nn.Module, padding_PC: Tensor, num_tokens: int
) -> Tensor:
    """[num_tokens, C]. The encoder is causal, so padding after the text would change nothing."""
    ids = tokenizer(text, max_length=num_tokens, truncation=True).input_ids
    if not ids:
        return padding_PC[:num_tokens].float()
    hidden = encoder.eval()(torch.tensor([ids])).last_hidden_state[0].float()
    return torch.cat((hidden, padding_PC[len(ids) : num_tokens].float()))


def empty_table(num_tokens: int, width: int) -> InstructionTable:
    """A table that knows no instruction yet."""
    return InstructionTable((), torch.zeros(0, num_tokens, width))
