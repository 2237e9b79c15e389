# SPDX-License-Identifier: Apache-2.0
"""`./par`: what it says when it cannot go on, and that what it starts takes its place."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAR = ROOT / "par"


def run_par(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(PAR), *arguments], env=environment or os.environ,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def bare_environment(folder: Path, *, programs: tuple[str, ...]) -> dict[str, str]:
    """PATH with a few programs only, and new places for the environment and the cache."""
    programs_folder = folder / "programs"
    programs_folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found is not None
        (programs_folder / program).symlink_to(found)
    return {
        "PATH": str(programs_folder),
        "HOME": str(folder),
        "PAR_VENV": str(folder / "venv"),
        "PAR_CACHE": str(folder / "cache"),
    }


SHELL_TOOLS = (
    "bash", "cat", "cut", "sha256sum", "dirname", "readlink", "mkdir", "rm", "grep", "sed", "env",
)  # fmt: skip


def test_help_lists_the_commands() -> None:
    result = run_par("--help")
    assert result.returncode == 0
    assert "./par sim task:=PushCube" in result.stdout
    assert "./par test" in result.stdout


def test_without_a_fitting_python_one_sentence(tmp_path: Path) -> None:
    """No python3 on PATH: exit 1, one line that names the versions and what to install."""
    result = run_par("setup", environment=bare_environment(tmp_path, programs=SHELL_TOOLS))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no Python 3.10, 3.11 or 3.12" in result.stderr
    assert "python3-venv" in result.stderr


def test_a_ros_that_is_not_sourced_is_named(tmp_path: Path) -> None:
    """ROS_DISTRO set, but python3 cannot import rclpy: the wheels must not silently step in."""
    environment = bare_environment(tmp_path, programs=SHELL_TOOLS)
    environment |= {"ROS_DISTRO": "jazzy", "PAR_PYTHON": str(base_python())}
    result = run_par("setup", environment=environment)
    assert result.returncode == 1
    assert "ROS_DISTRO is jazzy" in result.stderr
    assert "setup.bash" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_distribution_without_wheels_is_refused(tmp_path: Path) -> None:
    environment = bare_environment(tmp_path, programs=SHELL_TOOLS)
    result = run_par("setup", environment={**environment, "PAR_ROS_DISTRO": "humble"})
    assert result.returncode == 1
    assert result.stderr == (
        "par: PAR_ROS_DISTRO is 'humble', but PyPI has the ROS 2 wheels of jazzy and kilted only: "
        "choose one of these, or source a ROS 2 installation.\n"
    )


def test_other_wheels_than_the_sourced_ros_are_refused(tmp_path: Path) -> None:
    environment = bare_environment(tmp_path, programs=SHELL_TOOLS)
    environment |= {"PAR_ROS_DISTRO": "kilted", "ROS_DISTRO": "jazzy"}
    result = run_par("setup", environment=environment)
    assert result.returncode == 1
    assert result.stderr.startswith("par: PAR_ROS_DISTRO is kilted, but ROS 2 jazzy is sourced")


def test_setup_refuses_what_it_does_not_know() -> None:
    result = run_par("setup", "everything")
    assert result.returncode == 1
    assert result.stderr == "par: setup takes no argument, or 'test'; got 'everything'.\n"


@pytest.mark.slow
def test_without_a_driver_and_without_apt_one_sentence(tmp_path: Path) -> None:
    """No driver (VK_DRIVER_FILES names a missing file), no apt-get: the apt line to type."""
    if os.environ.get("VIRTUAL_ENV") != sys.prefix:
        pytest.skip("needs the environment that ./par test makes")
    environment = {**os.environ, "VK_DRIVER_FILES": str(tmp_path / "no_driver.json")}
    environment.pop("VK_ICD_FILENAMES", None)
    environment["PATH"] = bare_environment(tmp_path, programs=SHELL_TOOLS)["PATH"]
    # The script's functions without its main part, which would look for the packages first.
    functions = tmp_path / "functions.sh"
    functions.write_text(PAR.read_text().split("# --- Main")[0])
    program = (
        f". {functions}\n"
        f"venv={tmp_path} python={sys.executable} cache={tmp_path}/cache driver={tmp_path}/driver\n"
        "install_vulkan\n"
    )
    result = subprocess.run(
        ["bash", "-c", program], env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 1, result.stderr
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith("par: could not set up a Vulkan software driver")
    assert "apt-get install mesa-vulkan-drivers" in last_line
    assert "Traceback" not in result.stderr


def test_a_second_start_replaces_the_shell_within_seconds() -> None:
    """`exec`: the program has the process id that was started, so Ctrl-C and SIGTERM reach it."""
    program = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        ["bash", str(PAR), "python", "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert int(process.stdout.readline()) == process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


def fake_environment(folder: Path, *, renders: bool) -> dict[str, str]:
    """An environment whose packages count as installed; its python only says what it was given."""
    venv = folder / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(
        "#!/bin/bash\n"
        'case "$*" in *RenderSystem*)\n'
        f"    echo asked >>{folder}/asked; exit {int(not renders)} ;; esac\n"
        'echo "python $*"\n'
    )
    python.chmod(0o755)
    functions = folder / "functions.sh"
    functions.write_text(PAR.read_text().split("# --- Main")[0])
    environment = bare_environment(folder, programs=(*SHELL_TOOLS, "touch"))
    program = f". {functions}; root={ROOT} venv={venv}; packages_key sim,export,ros,train"
    key = subprocess.run(
        ["bash", "-c", program],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (venv / ".par-packages-sim,export,ros,train").write_text(key.stdout)
    return environment


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("sim", "--help"), "-m par_ros sim --help"),
        (("python", "-m", "par_model.train", "policy", "-h"), "-m par_model.train policy -h"),
        (("test", "--help"), "-m pytest --help"),
    ],
)
def test_help_installs_nothing_where_an_environment_exists(
    words: tuple[str, ...], given: str, tmp_path: Path
) -> None:
    """Packages of another checkout, no driver: both stay as they are."""
    environment = fake_environment(tmp_path, renders=False)
    marks = tmp_path / "venv" / ".par-packages-sim,export,ros,train"
    marks.write_text("of another checkout")
    result = run_par(*words, environment=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"python {given}\n", "")
    assert marks.read_text() == "of another checkout"
    assert not (tmp_path / "asked").exists()
    assert sorted(file.name for file in (tmp_path / "venv").iterdir()) == [marks.name, "bin"]


def test_help_that_fails_says_how_to_install(tmp_path: Path) -> None:
    environment = fake_environment(tmp_path, renders=False)
    (tmp_path / "venv" / "bin" / "python").write_text("#!/bin/bash\nexit 3\n")
    result = run_par("sim", "--help", environment=environment)
    assert result.returncode == 3
    assert result.stderr.endswith(f"./par setup test installs all of them into {tmp_path}/venv\n")


def test_setup_help_lists_the_commands() -> None:
    result = run_par("setup", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "./par setup [test]" in result.stdout


def test_python_too_looks_for_a_driver_and_remembers_it(tmp_path: Path) -> None:
    """`./par python -m par_model.collect` may be the first command of a new user."""
    environment = fake_environment(tmp_path, renders=True)
    for _ in range(2):
        result = run_par("python", "-m", "something", environment=environment)
        assert (result.returncode, result.stdout) == (0, "python -m something\n"), result.stderr
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_python_goes_on_where_no_driver_can_be_had(tmp_path: Path) -> None:
    environment = fake_environment(tmp_path, renders=False)
    first, second = (run_par("python", "-V", environment=environment) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, "python -V\n")
    assert "could not set up a Vulkan software driver" in first.stderr
    assert first.stderr.endswith("par: going on without the simulator\n")
    assert (second.returncode, second.stdout, second.stderr) == (0, "python -V\n", "")


# Says what it was given; knows the wheels of one distribution, until they are uninstalled.
RECORDING_PYTHON = """#!/bin/bash
folder=$(dirname -- "$(dirname -- "$0")")
echo "$*" >>"$folder/asked"
case $* in
*" list "*)
    [ -e "$folder/uninstalled" ] ||
        printf '%s\\n' numpy==1.26.4 ros-jazzy-rclpy==7.1.6 ros-rclpy==7.1.6
    ;;
*" uninstall "*) touch "$folder/uninstalled" ;;
esac
"""


def test_kilted_has_an_environment_of_its_own_that_shares_the_files(tmp_path: Path) -> None:
    """`.venv` is copied as links, its scripts name the copy, and the ROS 2 wheels are replaced."""
    root = tmp_path / "a check out"
    default = root / ".venv"
    (default / "bin").mkdir(parents=True)
    for name in ("par", "setup.py", "constraints-kilted.txt", "constraints-common.txt"):
        shutil.copy(ROOT / name, root)
    (default / "pyvenv.cfg").write_text(f"include-system-site-packages = false\n# {default}\n")
    (default / "library.so").write_bytes(b"\0")
    (default / ".par-packages-sim,export,ros").touch()
    (default / "bin" / "python").write_text(RECORDING_PYTHON)
    (default / "bin" / "pytest").write_text(f'exec "{default}/bin/python" "$@"\n')
    for script in (default / "bin").iterdir():
        script.chmod(0o755)
    environment = bare_environment(tmp_path, programs=(*SHELL_TOOLS, "cp", "touch"))
    del environment["PAR_VENV"]
    environment["PAR_ROS_DISTRO"] = "kilted"
    result = subprocess.run(
        ["bash", str(root / "par"), "setup"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    kilted = root / ".venv-kilted"
    assert (result.returncode, result.stderr.splitlines()[-1]) == (0, f"par: ready: {kilted}")
    assert (kilted / "library.so").samefile(default / "library.so")
    assert f'"{kilted}/bin/python"' in (kilted / "bin" / "pytest").read_text()
    assert f'"{default}/bin/python"' in (default / "bin" / "pytest").read_text()
    assert not (kilted / ".par-packages-sim,export,ros").exists()
    assert (kilted / ".par-packages-sim,export,ros-kilted").exists()
    asked = (kilted / "asked").read_text().splitlines()
    (uninstalled,) = (line for line in asked if " uninstall " in line)
    assert uninstalled.endswith(" ros-jazzy-rclpy ros-rclpy")
    (installed,) = (line for line in asked if " install " in line)
    assert f"-c {root}/constraints-kilted.txt -e {root}[sim,export,ros-kilted]" in installed
    assert asked.index(uninstalled) < asked.index(installed)


def base_python() -> Path:
    """The interpreter that this environment was made from: it knows nothing of the wheels."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
