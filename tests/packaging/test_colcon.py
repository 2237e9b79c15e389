# SPDX-License-Identifier: Apache-2.0
"""`colcon build` in an empty workspace with this package alone, and what it installs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ros.domains import next_domain

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = (
    ".venv", ".git", "__pycache__", "*.egg-info", "build", "install", "log", "runs", "reports",
    "datasets", ".*_cache", ".hypothesis",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """install/par_ros of a workspace that was built by colcon."""
    pytest.importorskip("colcon_core", reason="colcon is not installed")
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(
        ROOT, workspace / "src/par_ros", ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True
    )
    result = subprocess.run(
        [sys.executable, "-m", "colcon", "build", "--event-handlers", "console_direct+"],
        cwd=workspace, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    yield workspace / "install/par_ros"
    shutil.rmtree(workspace)


def executables() -> list[str]:
    text = (ROOT / "setup.py").read_text()
    block = re.search(r"EXECUTABLES = \((.*?)\)", text, re.DOTALL)
    assert block is not None
    return re.findall(r'"(\w+)"', block.group(1))


def test_executables_are_where_ros2_launch_looks(prefix: Path) -> None:
    """lib/par_ros, not bin, each runnable."""
    for name in executables():
        path = prefix / "lib/par_ros" / name
        assert os.access(path, os.X_OK), f"{name} is not an executable in lib/par_ros"
    assert not (prefix / "bin").exists()


def test_share_has_every_launch_config_and_checkpoint_file(prefix: Path) -> None:
    sources = [
        path.relative_to(ROOT)
        for folder in ("launch", "config", "checkpoints/par_small")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert Path("config/fastdds_shm.xml") in sources
    for source in sources:
        installed = prefix / "share/par_ros" / source
        assert installed.read_bytes() == (ROOT / source).read_bytes(), f"{source} differs"


def test_ament_finds_the_package(prefix: Path) -> None:
    """The marker, package.xml and the environment hooks that only a valid package.xml brings."""
    assert (prefix / "share/ament_index/resource_index/packages/par_ros").is_file()
    assert (prefix / "share/par_ros/package.xml").is_file()
    hooks = {path.name for path in (prefix / "share/par_ros/hook").iterdir()}
    assert "ament_prefix_path.sh" in hooks
    found = subprocess.run(
        ["bash", "-c", '. "$0/share/par_ros/package.sh" && echo "$AMENT_PREFIX_PATH"', prefix],
        capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "COLCON_CURRENT_PREFIX": str(prefix)},
    )  # fmt: skip
    assert str(prefix) in found.stdout.strip().split(os.pathsep)


def test_every_module_is_installed(prefix: Path) -> None:
    """Modules of both packages, and the files beside them that are read at run time."""
    library = next(prefix.glob("lib/python3.*/site-packages"))
    source = prefix.parents[1] / "src/par_ros"
    for package in ("par_model", "par_ros"):
        for path in (source / package).rglob("*"):
            if path.is_file():
                relative = path.relative_to(source)
                assert (library / relative).is_file(), f"{relative} is not installed"


@pytest.mark.ros
def test_an_installed_executable_runs(prefix: Path) -> None:
    """loopback_arm_node of the installed tree publishes and ends with code 0 on SIGINT."""
    library = next(prefix.glob("lib/python3.*/site-packages"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(library),
        "AMENT_PREFIX_PATH": os.pathsep.join(
            [str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]
        ),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": next_domain(),
    }
    program = (
        "import par_ros, rclpy, sys\n"
        "from sensor_msgs.msg import JointState\n"
        f"assert par_ros.__file__.startswith({str(library)!r}), par_ros.__file__\n"
        "rclpy.init(); node = rclpy.create_node('listener'); heard = []\n"
        "node.create_subscription(JointState, 'joint_states', heard.append, 10)\n"
        "while not heard: rclpy.spin_once(node)\n"
        "print(len(heard[0].name))\n"
    )
    arm = subprocess.Popen(
        [prefix / "lib/par_ros/loopback_arm_node"], env=environment, cwd=prefix,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        heard = subprocess.run(
            [sys.executable, "-c", program],
            env=environment, cwd=prefix, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        arm.send_signal(2)
        output, _ = arm.communicate(timeout=60)
    assert heard.returncode == 0, heard.stderr + output
    assert heard.stdout.strip() == "8"
    assert arm.returncode == 0, output
