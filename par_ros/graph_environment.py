# SPDX-License-Identifier: Apache-2.0
"""Environment variables that the processes of a graph need."""

import os
import shlex
from pathlib import Path

from par_ros.resources import resource

_DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
# Fast DDS 2 (Humble, Jazzy) reads FASTRTPS_..., Fast DDS 3 (from Kilted on) the other one.
FASTDDS_PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_VULKAN_DRIVERS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
_LIBRARIES = "LD_LIBRARY_PATH"


def graph_environment(fastdds_profile: bool, domain_id: int | None) -> dict[str, str]:
    """What to set for every process; a user's own discovery range or Fast DDS profile stays."""
    environment = {}
    if _DISCOVERY_RANGE not in os.environ:
        environment[_DISCOVERY_RANGE] = "LOCALHOST"
    if fastdds_profile:
        users = [os.environ[name] for name in FASTDDS_PROFILES if name in os.environ]
        profile = users[0] if users else str(resource("config/fastdds_shm.xml"))
        environment |= {name: profile for name in FASTDDS_PROFILES if name not in os.environ}
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(domain_id)
    return environment


def vulkan_environment() -> dict[str, str]:
    """The Vulkan driver that `./par` unpacked, where the caller names no other and it is there.

    `./par` itself has set it already; `ros2 launch` and `python -m par_ros` have not.
    """
    if any(os.environ.get(name) for name in _VULKAN_DRIVERS):
        return {}
    cache = os.environ.get("PAR_CACHE") or os.path.expanduser("~/.cache/par")
    try:
        words = shlex.split(Path(cache, "vulkan", "env").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = dict(word.split("=", 1) for word in words if "=" in word)
    if libraries := found.get(_LIBRARIES):
        # As a shell reads it: ours:${LD_LIBRARY_PATH}.
        ours = libraries.partition("${")[0]
        found[_LIBRARIES] = ":".join(filter(None, (ours, os.environ.get(_LIBRARIES))))
    return found
