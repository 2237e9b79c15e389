# SPDX-License-Identifier: Apache-2.0
"""README.md of a checkpoint that training wrote."""

import json
from collections.abc import Mapping

from par_model.config import ModelConfig
from par_model.depth_view import depth_view_of

# Entries of training.json that the card leaves out.
_LONG = ("config", "codec")


def origin(training: Mapping[str, object]) -> str:
    """ "trained from scratch", or what it was fine-tuned from, by its training.json."""
    start = training.get("finetuned_from")
    return f"fine-tuned from {start}" if start else "trained from scratch"


def cameras(model: ModelConfig) -> str:
    """How many cameras of which size a policy has."""
    size = f"{model.image_width}x{model.image_height} pixels"
    if model.num_views == 1 and not model.depth_views:
        return f"one RGB camera of {size}"
    if not model.depth_views:
        return f"{model.num_views} RGB cameras ({', '.join(model.views)}) of {size} each"
    found = (depth_view_of(model.depth_views, view) or view for view in model.views)
    return f"{model.num_views} cameras ({', '.join(map(str, found))}) of {size} each"


def model_card(model: ModelConfig, training: dict[str, object]) -> str:
    """README.md of a checkpoint: how it was made, in the words of its training.json."""
    lines = [
        f"# {model.name}",
        "",
        f"A PAR policy {origin(training)} on the data sets named below ({cameras(model)},",
        f"joint-position targets at {1 / model.step_s:g} Hz, chunks of {model.num_actions}).",
        "Licence: Apache-2.0.",
        "",
        "| | |",
        "|---|---|",
        *[
            f"| {key} | {json.dumps(value)} |"
            for key, value in training.items()
            if key not in _LONG
        ],
        "",
        "All numbers of the training, the frame codec's included, are in training.json.",
    ]
    return "\n".join(lines) + "\n"
