# SPDX-License-Identifier: Apache-2.0
"""The borders between the parts, where import-linter cannot see: at run time, and by allow-list."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]

# What commands the arm. These modules may load nothing heavy, however indirectly.
ARM_SIDE = tuple(
    f"par_ros.{name}"
    for name in ("safety_node", "real_arm_node", "gripper_adapter_node", "loopback_arm_node")
)
TORCH_FREE = (
    "par_model", "par_model.interface", "par_model.config", "par_model.presets", "par_ros",
    "par_ros.topics", "par_model.simulation.tasks",
)  # fmt: skip
MODEL = tuple(
    f"par_model.{name}"
    for name in (
        "model", "policy", "transformer", "action_head", "frame_head", "kv_cache", "interface",
    )
)  # fmt: skip
AROUND_THE_MODEL = tuple(
    f"par_model.{name}"
    for name in ("training", "evaluation", "backends", "export", "visualization", "simulation")
)
HEAVY = {
    "torch", "tensorrt", "tensorrt_rtx", "torch_tensorrt", "onnxruntime", "openvino", "diffusers",
    "transformers", "mani_skill", "sapien", "gymnasium", "cv2",
}  # fmt: skip
# coal is called hppfcl with pin 2.
CONTROL_MAY_IMPORT = {"numpy", "scipy", "ruckig", "pinocchio", "coal", "hppfcl"}


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
    """control/: numpy, scipy.linalg, the standard library, ruckig, pin, and itself; no other."""
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


def test_a_checkpoint_is_loaded_without_what_diffusers_imports_beside_it() -> None:
    """It would take longer than all else; afterwards it can be imported as ever."""
    heavy = ("torch._dynamo", "transformers", "peft", "scipy.stats")
    program = (
        f"import sys, importlib, par_model.load_policy; heavy = {heavy}\n"
        "print(*(name for name in heavy if name in sys.modules))\n"
        "for name in heavy[:1] + heavy[3:]: importlib.import_module(name)\n"
        "import torch; torch.compiler.disable(print)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert result.stdout.split() == []


def test_of_scipy_control_imports_linear_algebra_only() -> None:
    """The graph knows packages, not what of them is imported."""
    imported = set()
    for path in (ROOT / "par_ros/control").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imported.add(node.module)
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    assert {name for name in imported if name.split(".")[0] == "scipy"} == {"scipy.linalg"}


def test_contracts_cover_every_module_that_exists() -> None:
    """import-linter refuses names that do not exist, so new modules are added to it by hand."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert settings["include_external_packages"] is True
    sources = {
        name for contract in settings["contracts"] for name in contract.get("source_modules", ())
    }
    assert set(filter(exists, (*ARM_SIDE, *MODEL, "par_ros.control", "par_model"))) <= sources
    model = next(
        c for c in settings["contracts"] if "par_model.model" in c.get("source_modules", ())
    )
    assert set(filter(exists, AROUND_THE_MODEL)) <= set(model["forbidden_modules"])


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("par_model/kv_cache.py", "import sensor_msgs.msg", "par_model knows nothing of ROS"),
        ("par_ros/topics.py", "import torch", "what commands the arm never reaches torch"),
        (
            "par_ros/control/__init__.py",
            "import par_model.simulation.maniskill_env",
            "what commands",
        ),
        ("par_model/layers.py", "import par_model.training.schedule", "the model never imports"),
        ("par_model/config.py", "import par_model.layers", "the interface and the configuration"),
        (
            "par_model/simulation/tasks/push_cube.py",
            "import par_model.evaluation.statistics",
            "the simulator and its tasks",
        ),
        ("par_model/backends/onnx.py", "import par_model.export.verify", "export stands on"),
        (
            "par_model/graphs/manifest.py",
            "import par_model.backends.torch_eager",
            "export stands on",
        ),
        ("par_model/backends/cpu_choice.py", "import par_model.load_policy", "export stands on"),
    ],
)
def test_import_linter_finds_a_forbidden_import(
    file: str, line: str, contract: str, tmp_path: Path
) -> None:
    """Negative control: one wrong line in a copy, direct or through another module, is found."""
    for package in ("par_model", "par_ros"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    program = "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports; "
    result = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(lint_imports(no_cache=True, no_logo=True))"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert result.returncode != 0, result.stdout + result.stderr
    assert any(row.startswith(contract) for row in broken), result.stdout
