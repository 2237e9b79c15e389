# SPDX-License-Identifier: Apache-2.0
"""A mapping file (YAML): which topics of a rosbag2 are which, as config/datasets/rosbag2.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from par_model.training.foreign_dataset import JointMapping, read_joint, require_keys

EXAMPLE = "config/datasets/rosbag2.yaml"
NEXT_JOINT_STATE = "next_joint_state"
_NEEDED = {"arm", "image", "joint_states", "action", "instruction", "image_size", "joints"}
_OPTIONAL = {"marks", "rate_hz"}
_ACTION_NEEDED = {"topic"}
_ACTION_OPTIONAL = {"joints"}


@dataclass(frozen=True)
class ActionTopic:
    """A topic of commands; `joints` names the numbers of messages that carry no names."""

    topic: str
    joints: tuple[str, ...] = ()


@dataclass(frozen=True)
class BagMapping:
    """A mapping file, checked on its own.

    Attributes:
        image, joint_states, marks: topics; marks None: each bag is one episode.
        actions: topics of commands; none: the next joint state.
        image_size: height and width of the pictures that are wanted.
        joints: in our order, gripper last.
    """

    arm: str
    image: str
    joint_states: str
    marks: str | None
    actions: tuple[ActionTopic, ...]
    instruction: str
    rate_hz: int
    image_size: int
    joints: tuple[JointMapping, ...]


def read_bag_mapping(path: Path) -> BagMapping:
    """Raises ValueError, one sentence, for a key that is missing, unknown, or has a wrong value."""
    try:
        values = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"mapping file {path} cannot be read ({reason}).") from error
    where = f"mapping file {path}"
    require_keys(where, values, _NEEDED, _OPTIONAL, EXAMPLE)
    for key in ("arm", "image", "joint_states", "instruction"):
        if not isinstance(values[key], str) or not values[key]:
            raise ValueError(f"{where}: {key} must be a text, got {values[key]!r}.")
    if not isinstance(values["joints"], list) or not values["joints"]:
        raise ValueError(f"{where}: joints must be a list, one entry for each joint of the arm.")
    joints = tuple(read_joint(where, entry, EXAMPLE) for entry in values["joints"])
    names = [joint.name for joint in joints]
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: each joint may appear once, got {names}.")
    marks = values.get("marks")
    return BagMapping(
        arm=values["arm"],
        image=values["image"],
        joint_states=values["joint_states"],
        marks=None if marks is None else str(marks),
        actions=_actions(where, values["action"]),
        instruction=values["instruction"],
        rate_hz=_whole(where, "rate_hz", values.get("rate_hz", 20), 1, 200),
        image_size=_whole(where, "image_size", values["image_size"], 16, 4096),
        joints=joints,
    )


def _whole(where: str, key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(
            f"{where}: {key} must be a whole number from {least} to {most}, got {value!r}."
        )
    return value


def _actions(where: str, value: Any) -> tuple[ActionTopic, ...]:
    if value == NEXT_JOINT_STATE:
        return ()
    entries = value if isinstance(value, list) else [value]
    found = []
    for entry in entries:
        entry = {"topic": entry} if isinstance(entry, str) else entry
        place = f"{where}, action"
        require_keys(place, entry, _ACTION_NEEDED, _ACTION_OPTIONAL, EXAMPLE)
        joints = entry.get("joints", [])
        if not isinstance(entry["topic"], str) or not isinstance(joints, list):
            raise ValueError(
                f"{place}: give {NEXT_JOINT_STATE}, a topic, or a list of topics, each with the "
                "list of its joints if its messages carry no names."
            )
        found.append(ActionTopic(entry["topic"], tuple(str(name) for name in joints)))
    if not found:
        raise ValueError(f"{where}: action names no topic; give {NEXT_JOINT_STATE} or a topic.")
    return tuple(found)
