# SPDX-License-Identifier: Apache-2.0
"""A mapping file (YAML): which topics of a rosbag2 are which, as config/datasets/rosbag2.yaml."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from par_model.depth_view import DepthView
from par_model.interface import DEFAULT_VIEWS
from par_model.training.foreign_dataset import JointMapping, read_joint, require_keys
from par_ros.control.camera_set import ViewSettings
from par_ros.recorded_views import RecordedViews

EXAMPLE = "config/datasets/rosbag2.yaml"
NEXT_JOINT_STATE = "next_joint_state"
_NEEDED = {"arm", "image", "joint_states", "action", "instruction", "image_size", "joints"}
_OPTIONAL = {"marks", "rate_hz", "max_view_skew_s"}
_ACTION_NEEDED = {"topic"}
_ACTION_OPTIONAL = {"joints"}
_DEPTH_KEYS = {"topic", "depth_range_m"}
# As a checkpoint's views are named (par_model/config.py).
_VIEW_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class ActionTopic:
    """A topic of commands; `joints` names the numbers of messages that carry no names."""

    topic: str
    joints: tuple[str, ...] = ()


@dataclass(frozen=True)
class BagMapping:
    """A mapping file, checked on its own.

    Attributes:
        views: whose pictures are read; the first one's stamps count.
        images: the topic of each view's pictures, in the order of the views.
        max_view_skew_s: how far apart in time pictures of one moment may be.
        joint_states, marks: topics; marks None: each bag is one episode.
        actions: topics of commands; none: the next joint state.
        image_size: height and width of the pictures that are wanted.
        joints: in our order, gripper last.
    """

    arm: str
    views: RecordedViews
    images: tuple[str, ...]
    max_view_skew_s: float
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
    for key in ("arm", "joint_states", "instruction"):
        if not isinstance(values[key], str) or not values[key]:
            raise ValueError(f"{where}: {key} must be a text, got {values[key]!r}.")
    if not isinstance(values["joints"], list) or not values["joints"]:
        raise ValueError(f"{where}: joints must be a list, one entry for each joint of the arm.")
    joints = tuple(read_joint(where, entry, EXAMPLE) for entry in values["joints"])
    names = [joint.name for joint in joints]
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: each joint may appear once, got {names}.")
    marks = values.get("marks")
    views, images = _views(where, values["image"])
    return BagMapping(
        arm=values["arm"],
        views=views,
        images=images,
        max_view_skew_s=_skew_s(where, values.get("max_view_skew_s", ViewSettings().max_skew_s)),
        joint_states=values["joint_states"],
        marks=None if marks is None else str(marks),
        actions=_actions(where, values["action"]),
        instruction=values["instruction"],
        rate_hz=_whole(where, "rate_hz", values.get("rate_hz", 20), 1, 200),
        image_size=_whole(where, "image_size", values["image_size"], 16, 4096),
        joints=joints,
    )


def _views(where: str, value: Any) -> tuple[RecordedViews, tuple[str, ...]]:
    """The views, and the topic of each."""
    entries = {DEFAULT_VIEWS[0]: value} if isinstance(value, str) else value
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f"{where}: image must be a topic, or a mapping of the policy's views to topics, got "
            f"{value!r}; see {EXAMPLE}."
        )
    topics, depth = [], []
    for name, entry in entries.items():
        if not isinstance(name, str) or not _VIEW_NAME.fullmatch(name):
            raise ValueError(
                f"{where}: a view's name has at most 32 small letters, digits and underscores, a "
                f"letter first, got {name!r}."
            )
        if isinstance(entry, dict):
            depth.append(_depth_view(f"{where}, view {name}", name, entry))
            entry = entry["topic"]
        if not isinstance(entry, str) or not entry:
            raise ValueError(f"{where}: the topic of view {name!r} must be a text, got {entry!r}.")
        topics.append(entry)
    if len(set(topics)) < len(topics):
        raise ValueError(f"{where}: each view needs a topic of its own, got {topics}.")
    return RecordedViews(tuple(entries), tuple(depth)), tuple(topics)


def _depth_view(place: str, name: str, entry: dict[str, Any]) -> DepthView:
    require_keys(place, entry, _DEPTH_KEYS, set(), EXAMPLE)
    try:
        near_m, far_m = map(float, entry["depth_range_m"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{place}: depth_range_m must be two distances in metres, for example [0.3, 1.8], got "
            f"{entry['depth_range_m']!r}."
        ) from error
    if not 0.0 <= near_m < far_m <= 1000.0:
        raise ValueError(
            f"{place}: depth_range_m must be two distances from 0 to 1000 m, the nearer one first, "
            f"got {entry['depth_range_m']!r}."
        )
    return DepthView(name, near_m, far_m)


def _skew_s(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{where}: max_view_skew_s must be a number from 0 to 1 s, got {value!r}.")
    return float(value)


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
