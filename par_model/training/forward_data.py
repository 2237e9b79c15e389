# SPDX-License-Identifier: Apache-2.0
"""What `train forward` reads and makes ready."""

from collections.abc import Sequence

from par_model.forward_model import ForwardConfig
from par_model.frame_codec import codec_fingerprint
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.forward_training import ForwardData, Transitions
from par_model.training.policy_data import (
    Start,
    codec_folder,
    provenance,
    read_episodes,
    require_one_arm,
    require_rate,
)
from par_model.training.stage_options import ForwardOptions


def forward_data(
    options: ForwardOptions,
    start: Start,
    sets: Sequence[DemonstrationSet],
    whole_chunk_share: float,
) -> ForwardData:
    """Transitions of whole episodes. Raises ValueError as read_episodes and require_one_arm."""
    model = start.model
    require_one_arm(sets, model)
    for demonstrations in sets:
        require_rate(demonstrations, model)
    training, held_out = read_episodes(options, start, sets)
    lengths = (model.num_actions, model.horizon, whole_chunk_share)
    sizes = ForwardConfig(
        model.codec.latent_channels,
        model.latent_height,
        model.latent_width,
        len(sets[0].joint_names),
    )
    return ForwardData(
        sizes,
        Transitions(training, *lengths),
        Transitions(held_out, *lengths) if held_out else None,
        codec_fingerprint(start.codec),
        sets[0].joint_names,
        tuple(f"{one.task} {one.steps.key} {one.steps.digest}" for one in [*training, *held_out]),
        {
            "chunk_steps": model.num_actions,
            "most_steps": model.horizon,
            "variants": options.variants,
            "views": list(model.views),
            "observation_mode": model.observation_mode,
        },
    )


def forward_provenance(
    options: ForwardOptions, sets: Sequence[DemonstrationSet]
) -> dict[str, object]:
    """How a forward model is made, as its file says."""
    values = provenance(sets, codec_folder(options))
    return {name: value for name, value in values.items() if name != "codec"}
