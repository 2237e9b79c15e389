# SPDX-License-Identifier: Apache-2.0
"""The borders between the parts, where import-linter cannot see: at run time, and by allow-list."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]

# What commands the arm. These modules may load nothing heavy, however indirectly.
ARM_SIDE = ("par_ros.safety_node", "par_ros.real_arm_node", "par_ros.loopback_arm_node")
TORCH_FREE = ("par_model", "par_model.interface", "par_model.config", "par_ros", "par_ros.topics")
HEAVY = {
    "torch", "tensorrt", "tensorrt_rtx", "torch_tensorrt", "onnxruntime", "diffusers",
    "transformers", "mani_skill", "sapien", "gymnasium", "cv2",
}  # fmt: skip
CONTROL_MAY_IMPORT = {"numpy", "ruckig", "pinocchio"}


def exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def control_modules() -> list[str]:
    paths = sorted((ROOT / "par_ros/control").glob("*.py"))
    return [f"par_ros.control.{path.stem}" for path in paths if path.stem != "__init__"]


def loaded_packages(*modules: str) -> set[str]:
    """Top-level packages in sys.modules after a fresh Python has imported `modules`."""
    names = ", ".join(modules)
    program = f"import sys, {names}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return set(result.stdout.split())


@pytest.mark.parametrize("module", filter(exists, (*ARM_SIDE, *TORCH_FREE)))
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_packages(module)
    assert module.split(".")[0] in loaded
    assert loaded & HEAVY == set()


def test_importing_control_loads_neither_ros_nor_anything_heavy() -> None:
    loaded = loaded_packages(*control_modules())
    assert "numpy" in loaded
    assert loaded & (HEAVY | {"rclpy", "yaml"}) == set()


def test_control_imports_only_what_is_allowed() -> None:
    """control/: numpy, the standard library, ruckig, pin, and itself; nothing else."""
    graph = grimp.build_graph(
        "par_ros", "par_model", include_external_packages=True, cache_dir=None
    )
    allowed = CONTROL_MAY_IMPORT | set(sys.stdlib_module_names)
    imported = {
        name
        for module in graph.find_descendants("par_ros.control") | {"par_ros.control"}
        for name in graph.find_modules_directly_imported_by(module)
    }
    assert "numpy" in imported, "the graph has no external packages"
    foreign = {
        name
        for name in imported
        if name.split(".")[0] not in allowed and not name.startswith("par_ros.control")
    }
    assert foreign == set()


def test_contracts_cover_every_arm_side_module() -> None:
    """import-linter refuses names that do not exist, so new modules are added to it by hand."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    covered = {module for contract in contracts for module in contract["source_modules"]}
    assert settings["tool"]["importlinter"]["include_external_packages"] is True
    present = {module for module in (*ARM_SIDE, "par_ros.control", "par_model") if exists(module)}
    assert present - covered == set()
