# SPDX-License-Identifier: Apache-2.0
"""Paths of the files that this package installs: config/, checkpoints/.

A source tree (a clone, an editable install, colcon --symlink-install) comes first, then the share
folder of the installed package, in a ROS workspace or in a plain Python environment.
"""

import os
import sys
from pathlib import Path

_PACKAGE = "par_ros"


def resource(relative_path: str) -> Path:
    """Path of a file or folder of this package, as "config/fastdds_shm.xml".

    Raises ValueError naming all places that were looked at.
    """
    places = [root / relative_path for root in _roots()]
    for place in places:
        if place.exists():
            return place
    looked_at = ", ".join(str(place) for place in places)
    raise ValueError(
        f"{relative_path} of {_PACKAGE} was not found (looked at {looked_at}); "
        "install the package again, or run from a complete clone."
    )


def _roots() -> list[Path]:
    roots = []
    source_tree = Path(__file__).resolve().parents[1]
    if (source_tree / "package.xml").exists():
        roots.append(source_tree)
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    roots += [Path(prefix) / "share" / _PACKAGE for prefix in prefixes if prefix]
    return roots
