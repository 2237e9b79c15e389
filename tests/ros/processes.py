# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros` as a user starts it: a process, its output, and what it leaves behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from par_ros.process import PARENT_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    output: str
    error: str

    @property
    def sentences(self) -> list[str]:
        """The "error: ..." lines."""
        return [line for line in self.error.splitlines() if line.startswith("error: ")]


def start(*words: str, **variables: str) -> "subprocess.Popen[str]":
    """Start `python -m par_ros words...`."""
    return start_module("par_ros", *words, **variables)


def start_module(module: str, *words: str, **variables: str) -> "subprocess.Popen[str]":
    """Start `python -m module words...`."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", timeout_s: float) -> Finished:
    """Wait for its end."""
    output, error = process.communicate(timeout=timeout_s)
    return Finished(process.returncode, output, error)


def run(*words: str, timeout_s: float = 280.0, **variables: str) -> Finished:
    """Start and wait."""
    return finish(start(*words, **variables), timeout_s)


def children(runner_id: int) -> dict[str, int]:
    """Executable -> process id of what the runner `runner_id` started, from /proc."""
    mark = f"{PARENT_VARIABLE}={runner_id}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        modules = [word for word in words if word.startswith("par_ros.")]
        if mark in environment and modules:
            found[modules[0].removeprefix("par_ros.")] = int(folder.name)
    return found


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll `condition` until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.05)


def shared_segments(pid: int) -> set[Path]:
    """The data segments of Fast DDS that a process maps; ports are shared by the domain."""
    maps = Path(f"/proc/{pid}/maps").read_text().split()
    found = {Path(word) for word in maps if word.startswith("/dev/shm/fast")}
    return {path for path in found if "port" not in path.name and not path.name.endswith("_el")}
