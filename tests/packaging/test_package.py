# SPDX-License-Identifier: Apache-2.0
"""package.xml, setup.py and the tree agree: version, ROS imports, executables, pins."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What is imported from ROS has one of these endings or names, in any distribution.
ROS_SUFFIXES = ("_msgs", "_srvs", "_interfaces")
ROS_NAMES = {"rclpy", "launch", "launch_ros", "ament_index_python"}
# Where the name that is imported is not the distribution's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "cv2": "opencv-python",
    "pinocchio": "pin",
    # Pin's own requirement; its name depends on the version of pin.
    "coal": "pin",
    "hppfcl": "pin",
    "rerun": "rerun-sdk",
}
OWN = {"par_model", "par_ros"}


def setup_answers(*options: str) -> list[str]:
    """The lines that `setup.py --name ...` prints, one for each option."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "--quiet", *options],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return result.stdout.splitlines()


def extras() -> dict[str, list[str]]:
    """The requirements of each extra of setup.py."""
    program = (
        "import json, setuptools, distutils.core\n"
        "made = distutils.core.run_setup('setup.py', ['--quiet'], stop_after='init')\n"
        "print(json.dumps(made.extras_require))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return dict(json.loads(result.stdout))


def imported_packages(folder: Path) -> set[str]:
    """Top-level names imported anywhere in a folder, inside functions too."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split(".")[0])
    return names


def test_package_xml_is_valid_and_ament_python() -> None:
    """Format 3, no warning of catkin_pkg (colcon's parser), a maintainer, ament_python."""
    package_module = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    package = package_module.parse_package(str(ROOT / "package.xml"), warnings=warnings)
    package.validate(warnings=warnings)
    assert warnings == []
    assert package.package_format == 3
    assert package.get_build_type() == "ament_python"
    assert package.licenses == ["Apache-2.0"]
    assert [person.email for person in package.maintainers] == ["maintainers@par-ros.example"]


def test_setup_and_package_xml_name_the_same_package() -> None:
    package_module = pytest.importorskip("catkin_pkg.package")
    package = package_module.parse_package(str(ROOT / "package.xml"))
    expected = [package.name, package.version, package.licenses[0], package.maintainers[0].email]
    assert setup_answers("--name", "--version", "--license", "--maintainer-email") == expected


def test_every_ros_import_is_a_dependency() -> None:
    package_module = pytest.importorskip("catkin_pkg.package")
    package = package_module.parse_package(str(ROOT / "package.xml"))
    declared = {dependency.name for dependency in package.exec_depends}
    imported = imported_packages(ROOT / "par_ros")
    if (ROOT / "launch").is_dir():
        imported |= imported_packages(ROOT / "launch")
    needed = {name for name in imported if name in ROS_NAMES or name.endswith(ROS_SUFFIXES)}
    assert "rclpy" in needed
    assert needed - declared == set()


def test_every_python_import_is_a_requirement() -> None:
    """Third-party imports of the packages stand in setup.py, not only by way of others."""
    imported = imported_packages(ROOT / "par_model") | imported_packages(ROOT / "par_ros")
    imported -= set(sys.stdlib_module_names) | OWN | ROS_NAMES
    # peers/lerobot_program.py runs in LeRobot's own environment.
    imported -= {"lerobot"}
    needed = {
        DISTRIBUTIONS.get(name, name).lower().replace("_", "-")
        for name in imported
        if not name.endswith(ROS_SUFFIXES)
    }
    requirements = {
        re.split(r"[<>=\[]", node.value)[0].lower()
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {"numpy", "torch"} <= needed
    assert needed - requirements == set()


def test_license_is_the_full_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_executable_has_a_main() -> None:
    """Each console script's module exists and defines main()."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    executables = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXECUTABLES"
    )
    for name in executables:
        module = ast.parse((ROOT / "par_ros" / f"{name}.py").read_text())
        functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert "main" in functions, f"par_ros/{name}.py has no main()"
    nodes = {path.stem for path in (ROOT / "par_ros").glob("*_node.py")}
    assert nodes - set(executables) == set(), "a node that setup.py does not install"
    starters = ast.parse((ROOT / "par_ros" / "executables.py").read_text())
    functions = {node.name for node in starters.body if isinstance(node, ast.FunctionDef)}
    assert functions - {"_run"} == set(executables), "setup.py starts each by executables.py"


def pins(file: str, *, included: bool = True) -> dict[str, str]:
    """Versions by name, those of the files that it names with -c too."""
    found: dict[str, str] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line.startswith("-c "):
            more = pins(line.removeprefix("-c ")) if included else {}
        else:
            more = dict([line.split(";")[0].strip().split("==")]) if line[:1] != "#" else {}
        assert not found.keys() & more.keys(), f"{file} pins twice"
        found |= more
    return found


@pytest.mark.parametrize(
    ("file", "distribution", "extra"),
    [("constraints.txt", "jazzy", "ros"), ("constraints-kilted.txt", "kilted", "ros-kilted")],
)
def test_each_distribution_pins_all_of_its_ros_wheels(
    file: str, distribution: str, extra: str
) -> None:
    own = pins(file, included=False)
    assert all(name.startswith("ros-") for name in own), "the rest belongs in constraints-common"
    wheels = extras()[extra]
    assert wheels[0] == f"ros-{distribution}-rclpy[fastrtps]=={own[f'ros-{distribution}-rclpy']}"
    assert set(wheels[1:]) <= own.keys()
    others = {name for name in pins("constraints-common.txt") if name.startswith("ros-")}
    assert others == {"ros-foonathan-memory-vendor", "ros-wheels-bootstrapper"}


def test_pins_are_below_what_breaks() -> None:
    """numpy 2 crashes the motion planner, pytest 9 launch_testing, setuptools 80 colcon."""
    versions = pins("constraints.txt")
    major = {name: int(version.split(".")[0]) for name, version in versions.items()}
    assert major["numpy"] < 2
    assert major["pytest"] < 9
    assert major["setuptools"] < 80
    assert major["opencv-python"] < 5
    assert versions["torch"] == "2.13.0", "a local suffix would exclude the CPU or the CUDA build"
