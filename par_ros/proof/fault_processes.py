# SPDX-License-Identifier: Apache-2.0
"""The child processes of the fault suite: started, signalled and ended by name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from par_ros.process import PARENT_VARIABLE
from par_ros.proof.fault_clock import CLOCK_VARIABLE, SharedOffset
from par_ros.proof.fault_world import CYCLES_VARIABLE


class SuiteError(Exception):
    """The suite itself could not run; the text is a sentence."""


class FaultProcesses:
    """Executables of this package by name, all in one shared time; their output is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clock = SharedOffset(folder / "clock")
        self.cycles = folder / "cycles"

    def __contains__(self, name: str) -> bool:
        return name in self._processes

    def start(self, name: str, *parameters: str, own_clock: bool = False) -> None:
        """Start `par_ros.<name>` with `name:=value` parameters.

        own_clock: on the system's clock, not on the shared one.
        """
        words = [word for parameter in parameters for word in ("-p", parameter)]
        module = [f"par_ros.{name}"] if own_clock else ["par_ros.proof.fault_clock", name]
        environment = {
            **os.environ,
            PARENT_VARIABLE: str(os.getpid()),
            CLOCK_VARIABLE: str(self._folder / "clock"),
            CYCLES_VARIABLE: str(self.cycles),
        }
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *module, "--ros-args", *words],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def is_alive(self, name: str) -> bool:
        """Whether it runs."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signal one of them."""
        self._processes[name].send_signal(number)

    def kill_child_of(self, name: str, child: str) -> None:
        """SIGKILL the process that `name` started with `child` in its command."""
        parent = self._processes[name].pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        for pid in map(int, children.split()):
            if child.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return
        raise SuiteError(f"{name} has no child process {child}; start it by hand.")

    def end(self, name: str) -> None:
        """Kill one and wait for it."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def forget(self, name: str) -> None:
        """It has ended by itself."""
        self._processes.pop(name, None)

    def end_all(self) -> None:
        """Kill every one."""
        for name in list(self._processes):
            self.end(name)

    def log_tail(self, name: str) -> str:
        """The last line that it wrote."""
        path = self._folder / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else ""
