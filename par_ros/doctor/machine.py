# SPDX-License-Identifier: Apache-2.0
"""What can be known of this machine without the graph."""

import ctypes
import importlib.metadata
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from rclpy.utilities import get_rmw_implementation_identifier

from par_ros.graph_environment import FASTDDS_PROFILES, vulkan_environment
from par_ros.participants import domain_id, require_room

_PYTHONS = ((3, 10), (3, 12))
_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
_VULKAN_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
# A segment of config/fastdds_shm.xml for each of six processes, and some.
_MIN_SHARED_MEMORY_MB = 128
_RENDERS = "import sapien; sapien.render.RenderSystem(sapien.Device('cpu'))"
_RENDER_TIMEOUT_S = 60.0
# torch for CUDA 13 needs it.
_MIN_NVIDIA_DRIVER = 580
# adjtimex(2): status bit "clock unsynchronized", and its place in struct timex.
_STA_UNSYNC, _STATUS_OFFSET, _TIMEX_BYTES = 0x40, 40, 256


def python() -> str:
    """The interpreter's version, one that the package is tested with."""
    low, high = _PYTHONS
    version = ".".join(map(str, sys.version_info[:3]))
    if not low <= sys.version_info[:2] <= high:
        raise ValueError(
            f"Python must be 3.{low[1]} to 3.{high[1]}, this is {version}; name another one in "
            "PAR_PYTHON and run ./par setup."
        )
    return f"{version} ({sys.executable})"


def ros() -> str:
    """rclpy's version; where a ROS installation is sourced, that it is the one."""
    import rclpy

    distribution = os.environ.get("ROS_DISTRO", "")
    place = str(Path(rclpy.__file__).parent)
    if distribution and place.startswith(sys.prefix) and sys.prefix != sys.base_prefix:
        raise ValueError(
            f"ROS_DISTRO is {distribution}, but rclpy comes from this environment's wheels "
            f"({place}), and two ROS installations do not mix; unset ROS_DISTRO in a new shell, or "
            "make the environment again with ./par setup."
        )
    return f"{distribution or _wheels()}, rclpy in {place}"


def _wheels() -> str:
    """As "jazzy wheels": the name of the package that brought rclpy has the distribution's."""
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"] or ""
        if name.startswith("ros-") and name.endswith("-rclpy"):
            return f"{name.split('-')[1]} wheels"
    return "wheels"


def middleware() -> str:
    """RMW, domain and discovery range."""
    found = get_rmw_implementation_identifier()
    wanted = os.environ.get("RMW_IMPLEMENTATION", found)
    if wanted != found:
        raise ValueError(
            f"RMW_IMPLEMENTATION is {wanted}, but {found} is loaded; install "
            f"ros-$ROS_DISTRO-{wanted.replace('_', '-')}, or unset it."
        )
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    if reach not in _RANGES:
        raise ValueError(
            f"ROS_AUTOMATIC_DISCOVERY_RANGE must be {', '.join(_RANGES)}, got {reach!r}; set it "
            "alike on all machines."
        )
    return f"{found}, domain {domain_id()}, discovery range {reach}"


def participants() -> str:
    """How many DDS participants share the domain; one more is this command."""
    return f"{require_room(1)} on this machine in this domain"


def dds_profile() -> str:
    """The Fast DDS profile, where one is named."""
    named = {name: os.environ[name] for name in FASTDDS_PROFILES if os.environ.get(name)}
    for name, path in named.items():
        try:
            ElementTree.parse(path)
        except (OSError, ElementTree.ParseError) as error:
            raise ValueError(
                f"{name} names {path}, which Fast DDS cannot read ({error}) and leaves out without "
                "an error; correct the path, or unset it."
            ) from error
    if not named:
        return "none; fastdds_profile:=true uses config/fastdds_shm.xml, for large pictures"
    return ", ".join(f"{name}={path}" for name, path in named.items())


def shared_memory(folder: Path = Path("/dev/shm")) -> str:
    """Room in shared memory: DDS falls back to cutting pictures into UDP packets without it."""
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"{folder} cannot be written, so processes share no memory and large pictures are "
            "lost; mount it, or start the container with --ipc=host."
        )
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < _MIN_SHARED_MEMORY_MB:
        raise ValueError(
            f"{folder} has {free_mb:.0f} MB free, {_MIN_SHARED_MEMORY_MB} MB are needed; remove "
            "old fastrtps_* files there, or start the container with --shm-size=1g."
        )
    return f"{free_mb:.0f} MB free in {folder}"


def vulkan() -> str:
    """Whether ManiSkill can draw, tried."""
    try:
        importlib.metadata.version("sapien")
    except importlib.metadata.PackageNotFoundError:
        return "no simulator is installed, and a robot needs none"
    environment = {**os.environ, **vulkan_environment()}
    named = {name: environment[name] for name in _VULKAN_VARIABLES if environment.get(name)}
    for name, paths in named.items():
        missing = [path for path in paths.split(os.pathsep) if not Path(path).is_file()]
        if missing:
            raise ValueError(
                f"{name} names {', '.join(missing)}, which is not there, so the simulator finds no "
                "Vulkan driver; correct it, or unset it and run ./par setup."
            )
    tried = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RENDERS],
        env=environment, capture_output=True, text=True, timeout=_RENDER_TIMEOUT_S, check=False,
    )  # fmt: skip
    text = ", ".join(f"{name}={path}" for name, path in named.items()) or "the system's driver"
    if tried.returncode:
        raise ValueError(
            f"the simulator cannot draw with {text}: no Vulkan device; unset "
            f"{' and '.join(_VULKAN_VARIABLES)} and run ./par setup, which unpacks a driver."
        )
    return text


def gpu(smi: str = "nvidia-smi") -> str:
    """The NVIDIA GPU and its driver, where there is one."""
    if shutil.which(smi) is None:
        return "no NVIDIA GPU; the policy runs on the CPU"
    asked = subprocess.run(
        [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=_RENDER_TIMEOUT_S, check=False,
    )  # fmt: skip
    if asked.returncode or not asked.stdout.strip():
        said = " ".join((asked.stdout + asked.stderr).split())
        raise ValueError(
            f"nvidia-smi is installed and finds no GPU ({said}); load or install the driver, start "
            "the container with --gpus all, or choose device:=cpu."
        )
    name, _, driver = asked.stdout.strip().splitlines()[0].rpartition(", ")
    torch = importlib.metadata.version("torch")
    if torch.endswith("+cpu"):
        raise ValueError(
            f"there is a {name}, but torch {torch} cannot use it; install torch for CUDA "
            "(docs/how_to/install.md), or choose device:=cpu."
        )
    if int(driver.partition(".")[0]) < _MIN_NVIDIA_DRIVER:
        raise ValueError(
            f"the driver of the {name} is {driver}, torch {torch} needs {_MIN_NVIDIA_DRIVER} or "
            "newer; update the driver."
        )
    return f"{name}, driver {driver}, torch {torch}"


def clock_synchronisation(environment: Mapping[str, str] = os.environ) -> str:
    """Whether this machine's clock follows others, where others take part."""
    if not is_unsynchronised():
        return "the clock is synchronised"
    if environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") in ("LOCALHOST", "OFF"):
        return "the clock is not synchronised, and need not be: all nodes are on this machine"
    raise ValueError(
        "the clock is not synchronised, so stamps of other computers look old or lie in the "
        "future; start chrony or systemd-timesyncd on all of them, or set "
        "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST where everything is on this machine."
    )


def is_unsynchronised() -> bool:
    """What the kernel knows of it (adjtimex); False where it cannot be asked."""
    if not sys.platform.startswith("linux"):
        return False
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return False
    status = ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value
    return bool(status & _STA_UNSYNC)


MACHINE_CHECKS = {
    "python": python,
    "ros": ros,
    "middleware": middleware,
    "participants": participants,
    "dds_profile": dds_profile,
    "shared_memory": shared_memory,
    "vulkan": vulkan,
    "gpu": gpu,
    "clock_synchronisation": clock_synchronisation,
}
