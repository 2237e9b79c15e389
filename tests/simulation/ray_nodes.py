# SPDX-License-Identifier: Apache-2.0
"""Real Ray nodes of one CPU each, as processes on this machine; every wait has an end."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
_START_S = 90.0
# A node that was killed is noticed within two seconds, instead of half a minute.
_ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_COMMON = (
    # `ray start` stays the parent: one session is one machine.
    "--block",
    *("--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000"),
    # Random ports: two nodes share this machine's.
    *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
)


class RayNodes:
    """A cluster of a head and further nodes; a context manager that leaves no process."""

    def __init__(self) -> None:
        # Short: the path of a socket has 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="ray_"))
        self.address = f"127.0.0.1:{_free_port()}"
        self._nodes: list[subprocess.Popen] = []

    def __enter__(self) -> "RayNodes":
        port = self.address.rpartition(":")[2]
        self._start(
            *("--head", "--node-ip-address=127.0.0.1", f"--port={port}"),
            *("--include-dashboard=false", f"--ray-client-server-port={_free_port()}"),
            f"--temp-dir={self._folder / 's'}",
        )
        self.add()
        return self

    def __exit__(self, *exception: object) -> None:
        for number in range(len(self._nodes)):
            self.kill(number)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self) -> None:
        """One more node."""
        self._start(f"--address={self.address}", "--node-ip-address=127.0.0.1")

    def kill(self, number: int) -> None:
        """All processes of a node at once, as if its machine lost power; 0 is the head."""
        # The parent first, so that it starts nothing again. Workers have process groups of their
        # own, and would go on for a while without their node.
        self._nodes[number].kill()
        for process in _of_session(self._nodes[number].pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._nodes[number].wait(timeout=20)

    def _start(self, *words: str) -> None:
        log = self._folder / f"{len(self._nodes)}.log"
        with log.open("w") as stream:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *_COMMON, *words],
                cwd=ROOT,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": python_path()},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._nodes.append(node)
        end = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)


def _of_session(session: int) -> list[int]:
    found = []
    for process in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process) == session:
                found.append(process)
    return found


def python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
