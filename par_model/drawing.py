# SPDX-License-Identifier: Apache-2.0
"""In how many sets and sampling steps a picture is drawn."""

import dataclasses
from dataclasses import dataclass

from par_model.config import ModelConfig


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
