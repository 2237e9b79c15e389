# SPDX-License-Identifier: Apache-2.0
"""The arms of config/arms, for tests that need no ROS."""

from functools import cache
from pathlib import Path

import numpy as np
import yaml

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray

FOLDER = Path(__file__).resolve().parents[2] / "config" / "arms"


def content(name: str) -> dict[str, object]:
    """The YAML of one arm file."""
    loaded = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@cache
def arm(name: str) -> ArmSpec:
    """One arm of config/arms."""
    return ArmSpec.from_mapping(name, content(name))


def knots(start: FloatArray, speed: FloatArray | float, finger_m: float = 0.04) -> FloatArray:
    """Eight knots at constant speed from `start` [J], gripper last."""
    steps = np.outer(0.05 * np.arange(1, 9), np.broadcast_to(speed, start.shape))
    return np.column_stack((start + steps, np.full(8, finger_m)))
