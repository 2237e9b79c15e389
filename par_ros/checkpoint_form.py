# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's files say of its actions and views, before anything loads it."""

from pathlib import Path
from typing import Any

from par_model.config import ModelConfig, from_values
from par_model.interface import DEFAULT_VIEWS
from par_model.json_file import read_object
from par_model.peers.lerobot_folder import is_lerobot, read_lerobot_folder


def checkpoint_chunk(checkpoint: Path) -> dict[str, Any]:
    """num_actions and step_s of a checkpoint, as parameters of the nodes.

    Empty for a checkpoint of ours that is damaged or has no actions: policy_node refuses it and
    says why. Raises ValueError for a damaged one of LeRobot.
    """
    if is_lerobot(checkpoint):
        _, spec = read_lerobot_folder(checkpoint)
        return {"num_actions": spec.num_actions, "step_s": spec.step_s}
    config = checkpoint_config(checkpoint)
    if config is None or not config.num_actions:
        return {}
    return {"num_actions": config.num_actions, "step_s": float(config.step_s)}


def checkpoint_views(checkpoint: Path) -> dict[str, Any]:
    """The views of a checkpoint of ours, as the parameter of the nodes; empty where they are the
    default, or cannot be read."""
    config = checkpoint_config(checkpoint)
    if config is None or config.views == DEFAULT_VIEWS:
        return {}
    return {"views": ",".join(config.views)}


def checkpoint_config(checkpoint: Path) -> ModelConfig | None:
    """The configuration of a checkpoint of ours; None where it cannot be read."""
    try:
        return from_values(read_object(checkpoint / "config.json", "copy it anew"))
    except ValueError:
        return None
