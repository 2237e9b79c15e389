# SPDX-License-Identifier: Apache-2.0
"""The variants of a model that show what each part is worth (paper, section 5.3, and ours).

All are trained by the same command on the same latents, with the same seed, number of steps and
slots a batch: the budget is equal in data seen, not in seconds, since some variants are faster.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from par_model.config import ModelConfig
from par_model.presets import ABLATIONS as PAPER_ABLATIONS
from par_model.training.clip_config import ClipConfig

FULL = "full"


@dataclass(frozen=True)
class Ablation:
    """One variant: how the model and the clips differ from the full one.

    Attributes:
        title: what tables call it.
        model: the full model's configuration to the variant's, its name aside.
        clips: the same for how clips are drawn.
    """

    title: str
    model: Callable[[ModelConfig], ModelConfig] = lambda config: config
    clips: Callable[[ClipConfig], ClipConfig] = lambda config: config


def _without_frame_loss(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, frame_weight=0.0))


def _without_action_to_frame(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, action_sees_frame=False)


def _with_one_observation(config: ModelConfig) -> ModelConfig:
    sampling = dataclasses.replace(config.sampling, context_slots=1)
    return dataclasses.replace(config, sampling=sampling)


def _single_slots(clips: ClipConfig) -> ClipConfig:
    """Every clip is what a policy without memory sees: one observation, at slot 0."""
    return dataclasses.replace(clips, single_slot_share=1.0, offset_share=0.0)


ABLATIONS: dict[str, Ablation] = {
    FULL: Ablation("PAR-Full"),
    "noar": Ablation("PAR-NoAR", PAPER_ABLATIONS["noar"]),
    "discrete": Ablation("PAR-Discrete", PAPER_ABLATIONS["discrete"]),
    "no_frame_loss": Ablation("no frame loss", _without_frame_loss),
    "no_action_to_frame": Ablation("actions do not see their frame", _without_action_to_frame),
    "memoryless": Ablation("history length 1", _with_one_observation, _single_slots),
}


def ablated_model(name: str, config: ModelConfig) -> ModelConfig:
    """The configuration of variant `name`, called CONFIG_NAME. Raises ValueError if unknown."""
    if name not in ABLATIONS:
        raise ValueError(f"ablation {name!r} is unknown; there are {', '.join(ABLATIONS)}.")
    if name == FULL:
        return config
    return dataclasses.replace(ABLATIONS[name].model(config), name=f"{config.name}_{name}")
