# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's files say of its actions, views and pictures, before anything loads it."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from par_model.config import ModelConfig, from_values
from par_model.interface import DEFAULT_VIEWS
from par_model.json_file import read_object
from par_model.peers.lerobot_folder import is_lerobot, read_lerobot_folder
from par_ros.control.overlapped_turn import OverlapSettings
from par_ros.recorded_views import RecordedViews

# What the guard needs to engage, as control/joint_watch.py has it; that file needs packages that
# the Python of `ros2 launch` lacks.
_NUM_JOINT_STATES, _WINDOW_S = 5, 0.45
# The simulator sends a joint state a control step.
MAX_REALTIME_STEP_S = _WINDOW_S / (_NUM_JOINT_STATES - 1)


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


def checkpoint_picture(checkpoint: Path) -> dict[str, Any]:
    """image_height and image_width of one view's picture, in pixels, as parameters of
    loopback_arm_node. Empty, and raises, as checkpoint_chunk."""
    if is_lerobot(checkpoint):
        _, spec = read_lerobot_folder(checkpoint)
        return {"image_height": spec.image_height, "image_width": spec.image_width}
    config = checkpoint_config(checkpoint)
    if config is None:
        return {}
    return {"image_height": config.image_height, "image_width": config.image_width}


def checkpoint_image_size(checkpoint: Path) -> dict[str, Any]:
    """image_size of the smallest square camera that is not smaller than the checkpoint's picture,
    as parameter of the bridge: the picture's own size where it is square. Empty, and raises, as
    checkpoint_chunk."""
    picture = checkpoint_picture(checkpoint)
    return {"image_size": max(picture.values())} if picture else {}


def checkpoint_views(checkpoint: Path) -> dict[str, Any]:
    """The views of a checkpoint of ours, as the parameter of the nodes; empty where they are the
    default, or cannot be read."""
    config = checkpoint_config(checkpoint)
    if config is None or config.views == DEFAULT_VIEWS:
        return {}
    return {"views": ",".join(config.views)}


def checkpoint_depth_views(checkpoint: Path) -> dict[str, Any]:
    """The same for those of its views that are depth."""
    config = checkpoint_config(checkpoint)
    if config is None or not config.depth_views:
        return {}
    return {"depth_views": ",".join(view.name for view in config.depth_views)}


def checkpoint_recorded_views(checkpoint: Path) -> RecordedViews:
    """The views that are recorded with a checkpoint; one where it cannot be read."""
    config = checkpoint_config(checkpoint)
    return RecordedViews() if config is None else RecordedViews(config.views, config.depth_views)


def require_further_views(checkpoint: Path, given: Collection[str]) -> None:
    """Raise ValueError for names that are not views of the checkpoint after its first; nothing is
    said of one that cannot be read."""
    if is_lerobot(checkpoint):
        views = read_lerobot_folder(checkpoint)[1].views
    elif (config := checkpoint_config(checkpoint)) is not None:
        views = config.views
    else:
        return
    if unknown := sorted(set(given) - set(views[1:])):
        raise ValueError(
            f"real_arm: further_cameras names {', '.join(unknown)}; the further views of "
            f"{checkpoint.name} are {', '.join(views[1:]) or 'none'}, its first view "
            f"({views[0]}) is camera_topic."
        )


def require_realtime_step(checkpoint: Path, step_s: float) -> None:
    """Raise ValueError for a control step in which the simulator's joint states, one a step, come
    too rarely for the guard to engage in real time."""
    if step_s > MAX_REALTIME_STEP_S:
        raise ValueError(
            f"sim: mode:=realtime needs a checkpoint with a step_s of at most "
            f"{MAX_REALTIME_STEP_S:g} s, because the guard engages after {_NUM_JOINT_STATES} joint "
            f"states within {_WINDOW_S:g} s and the simulator sends one a step; {checkpoint.name} "
            f"has {step_s:g} s: use mode:=lockstep."
        )


def checkpoint_config(checkpoint: Path) -> ModelConfig | None:
    """The configuration of a checkpoint of ours; None where it cannot be read."""
    try:
        return _read_config(checkpoint)
    except ValueError:
        return None


def overlapped_guard(owner: str, inference: str, checkpoint: Path) -> dict[str, Any]:
    """What overlapped inference changes in the guard; nothing for sequential inference.

    Raises ValueError for a checkpoint that is damaged or was not trained for it.
    """
    if inference == "sequential":
        return {}
    config = None if is_lerobot(checkpoint) else _read_config(checkpoint)
    if config is None or not config.max_delay_steps:
        raise ValueError(
            f"{owner}: inference:=overlapped needs a checkpoint that was trained to go on from "
            f"committed actions, and {checkpoint} was not (its max_delay_steps is 0); use "
            "inference:=sequential, or train one (docs/lab_notebook/overlap.md)."
        )
    overlap = OverlapSettings(config.num_actions, config.max_delay_steps, float(config.step_s))
    return {
        "num_actions": overlap.horizon,
        "chunk_start": "observation",
        "max_observation_age_s": overlap.max_image_age_s,
    }


def _read_config(checkpoint: Path) -> ModelConfig:
    return from_values(read_object(checkpoint / "config.json", "copy it anew"))
