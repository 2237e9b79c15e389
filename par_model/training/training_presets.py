# SPDX-License-Identifier: Apache-2.0
"""What each preset is trained with by default. Torch-free.

par_small's numbers make up for what a small network trained from nothing on few demonstrations
lacks: single observations, noise on the history, side tasks. A network that begins with NOVA's
weights is trained as the paper states: whole histories, Eq. 11 alone; learning rate and weight
decay are NOVA's. The draws of t and the weights of Eq. 11 are in the model's `loss`.
"""

from collections.abc import Mapping

from par_model.config import ModelConfig
from par_model.presets import PRESETS
from par_model.training.clip_config import ClipConfig
from par_model.training.policy_training_config import PolicyTrainingConfig

SMALL = PolicyTrainingConfig()
FULL_SIZE = PolicyTrainingConfig(
    learning_rate=1e-4,
    num_warmup_steps=500,
    weight_decay=0.02,
    gradient_clip=1.0,
    average_decay=0.999,
    scene_weight=0.0,
    chunk_weight=0.0,
    # A state is 11 GB.
    save_every=1000,
    validate_every=1000,
    clips=ClipConfig(
        slots_per_batch=256,
        # The others begin as after the overflow rule "rebase".
        from_start_share=0.8,
        offset_share=0.3,
        single_slot_share=0.0,
        context_noise=0.0,
    ),
)
TRAINING_PRESETS = {"par_small": SMALL, "par_0_6b": FULL_SIZE}


def training_preset(preset_name: str) -> str:
    """The key of TRAINING_PRESETS for a preset of the model."""
    return training_preset_of_model(PRESETS[preset_name])


def training_preset_of_model(model: ModelConfig) -> str:
    """The same for a model's configuration, by the size of its transformer."""
    is_novas = model.transformer == PRESETS["par_0_6b"].transformer
    return "par_0_6b" if is_novas else "par_small"


def training_preset_of_checkpoint(training: Mapping[str, object]) -> str:
    """The same for a checkpoint, by its training.json; files before 2026-11-26 do not name it."""
    meant_before = "par_0_6b" if "converted_from" in training else "par_small"
    name = training.get("training_preset", meant_before)
    if name not in TRAINING_PRESETS:
        raise ValueError(
            f"training.json names the training preset {name!r}; there are "
            f"{', '.join(TRAINING_PRESETS)}. Was the checkpoint written by another version?"
        )
    return str(name)
