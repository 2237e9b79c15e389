# SPDX-License-Identifier: Apache-2.0
"""New defaults of inference for a model: what `release` and `train` take on the command line."""

import dataclasses
from dataclasses import dataclass
from typing import get_args

from par_model.config import ModelConfig, TimestepSpacing
from par_model.diffusion import make_scheduler


@dataclass(frozen=True)
class InferenceDefaults:
    """What changes; None leaves it as it is.

    Attributes:
        sampler: of the action head, with num_steps.
        num_steps: of the action head.
        spacing: of its steps.
        context_slots: how many observations are remembered.
    """

    sampler: str | None = None
    num_steps: int | None = None
    spacing: TimestepSpacing | None = None
    context_slots: int | None = None

    def of(self, config: ModelConfig) -> ModelConfig:
        """`config` with these defaults. Raises ValueError for what does not fit the model."""
        sampling, diffusion = config.sampling, config.action_diffusion
        if self.sampler is not None and self.num_steps is not None:
            sampling = dataclasses.replace(
                sampling, action_sampler=self.sampler, action_num_steps=self.num_steps
            )
            if self.spacing is not None:
                diffusion = dataclasses.replace(diffusion, spacing=self.spacing)
            # Raises ValueError for what does not fit.
            make_scheduler(diffusion, self.sampler, self.num_steps)
        if self.context_slots is not None:
            sampling = dataclasses.replace(sampling, context_slots=self.context_slots)
        config = dataclasses.replace(config, sampling=sampling, action_diffusion=diffusion)
        config.validate()
        return config


def read_defaults(sampling: str | None, context_slots: int | None) -> InferenceDefaults:
    """From --sampling, "ddim:4" or "ddim:4:trailing", and --context-slots.

    Raises ValueError for a sampling of another form.
    """
    if sampling is None:
        return InferenceDefaults(context_slots=context_slots)
    sampler, num_steps, spacing = [*sampling.split(":"), None, None][:3]
    known = (None, *get_args(TimestepSpacing))
    if num_steps is None or not num_steps.isdecimal() or spacing not in known:
        raise ValueError(
            f"--sampling {sampling!r} is not SAMPLER:STEPS or SAMPLER:STEPS:SPACING with a spacing "
            f"of {', '.join(get_args(TimestepSpacing))}."
        )
    return InferenceDefaults(sampler, int(num_steps), spacing, context_slots)  # type: ignore[arg-type]
