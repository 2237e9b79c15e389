# SPDX-License-Identifier: Apache-2.0
"""What an arm file says of collisions: its links' capsules, and boxes of the scene.

Metres; capsules in the frame of their link, boxes in the URDF's root frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from par_ros.control.joint_trajectory import FloatArray

_ENTRIES = ("enabled", "urdf", "mesh_folder", "margin_m", "capsules", "boxes", "ignore")


@dataclass(frozen=True)
class LinkCapsule:
    """All points within `radius_m` of the line between two ends, float64 [3] each."""

    link: str
    start_m: FloatArray
    end_m: FloatArray
    radius_m: float


@dataclass(frozen=True)
class SceneBox:
    """A box along the root frame's axes, such as a table; float64 [3] each."""

    name: str
    min_corner_m: FloatArray
    max_corner_m: FloatArray


@dataclass(frozen=True)
class CollisionGeometry:
    """The shapes that must not meet.

    Attributes:
        urdf: path of the arm's URDF: where the links are.
        mesh_folder: where the URDF's package:// and relative mesh names begin.
        margin_m: closer than this counts as a collision.
        capsules: of the links; empty: the URDF's own collision shapes, meshes as convex hulls.
        boxes: of the scene.
        ignored: pairs of links, or link and box, that may touch.
        enabled: False: the shapes are there, and nothing is checked.
    """

    urdf: str
    mesh_folder: str
    margin_m: float
    capsules: tuple[LinkCapsule, ...]
    boxes: tuple[SceneBox, ...]
    ignored: frozenset[frozenset[str]]
    enabled: bool = True

    @staticmethod
    def from_mapping(
        arm: str, content: Mapping[str, Any], folder: Path = Path()
    ) -> "CollisionGeometry":
        """The section `collision` of an arm file in `folder`, where a relative `urdf` begins.

        Raises ValueError naming the entry.
        """
        _known(arm, "collision", content, _ENTRIES, required=("urdf", "margin_m"))
        for key in ("urdf", "mesh_folder"):
            _require(isinstance(content.get(key, ""), str), arm, key, "text", content.get(key))
        enabled = content.get("enabled", True)
        _require(isinstance(enabled, bool), arm, "enabled", "true or false", enabled)
        margin_m = _number(arm, "margin_m", content["margin_m"])
        _require(margin_m > 0.0, arm, "margin_m", "positive", margin_m)
        capsules = tuple(_capsule(arm, entry) for entry in _list(arm, content, "capsules"))
        boxes = content.get("boxes") or {}
        _require(isinstance(boxes, dict), arm, "boxes", "a mapping", boxes)
        ignored = _list(arm, content, "ignore")
        for pair in ignored:
            two = isinstance(pair, list) and len(pair) == 2
            _require(two, arm, "ignore", "pairs of names", pair)
        return CollisionGeometry(
            str(folder / content["urdf"]),
            content.get("mesh_folder", ""),
            margin_m,
            capsules,
            tuple(_box(arm, name, entry) for name, entry in boxes.items()),
            frozenset(frozenset(pair) for pair in ignored),
            enabled,
        )


def _capsule(arm: str, entry: Any) -> LinkCapsule:
    entries = ("link", "start_m", "end_m", "radius_m")
    _known(arm, "capsules", entry, entries, required=entries)
    radius_m = _number(arm, "capsules.radius_m", entry["radius_m"])
    _require(radius_m > 0.0, arm, "capsules.radius_m", "positive", radius_m)
    start_m, end_m = (_point(arm, f"capsules.{key}", entry[key]) for key in ("start_m", "end_m"))
    return LinkCapsule(str(entry["link"]), start_m, end_m, radius_m)


def _box(arm: str, name: str, entry: Any) -> SceneBox:
    corners = ("min_corner_m", "max_corner_m")
    _known(arm, f"boxes.{name}", entry, corners, required=corners)
    low, high = (_point(arm, f"boxes.{name}.{key}", entry[key]) for key in corners)
    _require(bool(np.all(low < high)), arm, f"boxes.{name}", "min below max", [low, high])
    return SceneBox(name, low, high)


def _list(arm: str, content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key) or []
    _require(isinstance(value, list), arm, key, "a list", value)
    return list(value)


def _point(arm: str, entry: str, value: Any) -> FloatArray:
    _require(isinstance(value, list) and len(value) == 3, arm, entry, "three numbers", value)
    return np.array([_number(arm, entry, number) for number in value])


def _number(arm: str, entry: str, value: Any) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    _require(right and bool(np.isfinite(value)), arm, entry, "a number", value)
    return float(value)


def _known(
    arm: str, label: str, section: Any, known: tuple[str, ...], required: tuple[str, ...]
) -> None:
    _require(isinstance(section, dict), arm, label, "a mapping", section)
    wrong = sorted(set(section) - set(known)) + sorted(set(required) - set(section))
    _require(not wrong, arm, label, f"with {required}, and no other than {known}", wrong)


def _require(condition: bool, arm: str, entry: str, expected: str, got: object) -> None:
    if not condition:
        prefix = "" if entry == "collision" else "collision."
        raise ValueError(
            f"arm {arm!r}: {prefix}{entry} must be {expected}, got {got}; compare with "
            "config/arms/template.yaml."
        )
