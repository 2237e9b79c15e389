# SPDX-License-Identifier: Apache-2.0
"""The engine "ray" of worker_pool.run_jobs: jobs as Ray tasks on the machines of a cluster.

Ray runs a lost worker's or a lost machine's job again; an error of the job's own is raised. A task
takes one CPU; Ray keeps the processes, so each has its simulator from job to job. What a job
returns comes back through Ray: the machines need no common file system.

The command and the workers must be the same program: a worker with another checkout, or other
versions of what an episode depends on, refuses its job.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import par_model

Job = TypeVar("Job")
Result = TypeVar("Result")

# Workers that a job may lose before it is given up: it is probably what kills them.
_MAX_RETRIES = 5
# Between two looks at the cluster [s].
_POLL_S = 1.0
# So long the head may not answer, or no machine be there, before the cluster counts as lost [s].
# Ray itself ends this process after 60 s without the head.
_LOST_AFTER_S = 20.0
_CONNECT_S = 3.0
# What an episode depends on.
_VERSIONED = ("mani-skill", "sapien", "mplib", "toppra", "numpy", "torch", "av", "pyarrow")
_VERSIONED += ("onnxruntime", "openvino")
_AGAIN = "run the same command again to go on from what is finished."


@dataclass(frozen=True)
class _Program:
    """What the command and a worker have in common.

    Attributes:
        folder: the command's working folder, from which relative paths of a job start.
        sources: SHA-256 of the package par_model.
        versions: (distribution, version), Python's among them.
    """

    folder: str
    sources: str
    versions: tuple[tuple[str, str], ...]


def run_on_ray(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int | None, address: str
) -> Iterator[Result]:
    """As run_jobs says; num_workers None: as many jobs at a time as the cluster has CPUs."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "--engine ray needs the extra `scale`, which is not installed: "
            "pip install 'par_ros[scale]'."
        )
    return _results(function, jobs, num_workers, address)


def _results(
    function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int | None, address: str
) -> Iterator[Result]:
    import ray

    cluster = _Cluster(address)
    try:
        work = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_work)
        program = _this_program(os.getcwd())
        remaining = iter(jobs)
        running: set[ray.ObjectRef] = set()
        while True:
            at_once = cluster.num_cpus()
            at_once = at_once if num_workers is None else min(num_workers, at_once)
            for job in islice(remaining, max(0, at_once - len(running))):
                running.add(work.remote(program, function, job))
            if not running and at_once:
                return
            for reference in _finished(running):
                running.discard(reference)
                yield cluster.result(reference)
    except ray.exceptions.RayError as error:
        raise ValueError(f"the Ray cluster failed ({_first_line(error)}); {_AGAIN}") from error
    finally:
        # Ends the workers of this program, whatever they do.
        ray.shutdown()


def _finished(running: set[Any]) -> list[Any]:
    """One of them, or none within _POLL_S."""
    import ray

    if not running:
        # No machine is there, for the moment.
        time.sleep(_POLL_S)
        return []
    finished, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
    return finished


class _Cluster:
    """The connection. Raises ValueError where there is no cluster, or when it is lost."""

    def __init__(self, address: str) -> None:
        import ray

        if address.startswith("ray://"):
            raise ValueError(
                f"the address of the Ray cluster must be HOST:PORT, got {address}; start the "
                "command on a machine that `ray start` has joined to it."
            )
        if ":" in address and not _answers(address):
            raise ValueError(f"no Ray cluster answers at {address}; start it with `ray start`.")
        try:
            context = ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ValueError(
                f"the Ray cluster {address!r} cannot be joined ({_first_line(error)}); start it "
                "with `ray start`, on this machine, too."
            ) from error
        self._head: str = context.address_info["gcs_address"]
        self._num_cpus = 0
        self._last_seen_s = time.monotonic()
        self._last_look_s = -_POLL_S

    def num_cpus(self) -> int:
        """CPUs of the machines that are there, as they come and go; not older than _POLL_S."""
        import ray

        now_s = time.monotonic()
        if now_s - self._last_look_s >= _POLL_S:
            # Ray's own question would wait for a head that is gone.
            answers = _answers(self._head)
            if answers:
                self._num_cpus = int(ray.cluster_resources().get("CPU", 0))
            self._last_look_s = now_s
            if answers and self._num_cpus:
                self._last_seen_s = time.monotonic()
            elif now_s - self._last_seen_s > _LOST_AFTER_S:
                what = "has no machine left" if answers else "does not answer any more"
                raise ValueError(
                    f"the Ray cluster at {self._head} {what} (for {_LOST_AFTER_S:g} s); start it "
                    f"again and {_AGAIN}"
                )
        return self._num_cpus

    def result(self, reference: Any) -> Any:
        """What a finished job returned; raises what it raised."""
        import ray

        while True:
            try:
                return ray.get(reference, timeout=_POLL_S)
            except ray.exceptions.GetTimeoutError:
                # Its machine was lost meanwhile, and the job runs again.
                self.num_cpus()
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RaySystemError as error:
                if "No module named" not in str(error):
                    raise
                raise ValueError(
                    f"a worker of the cluster cannot import the program ({_first_line(error)}); "
                    "start the command in the checkout, and on every machine `ray start` with the "
                    "checkout's Python environment."
                ) from error
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                raise ValueError(
                    f"a job lost its worker {_MAX_RETRIES + 1} times (out of memory, or killed); "
                    f"{_AGAIN}"
                ) from error


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError):
        return False
    return True


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _work(program: _Program, function: Callable[[Job], Result], job: Job) -> Result:
    """Runs in a worker."""
    _become(program)
    return function(job)


@functools.cache
def _become(program: _Program) -> None:
    """Once a process: what a worker of the local engine has from its parent."""
    import torch

    torch.set_num_threads(1)
    host = socket.gethostname()
    try:
        os.chdir(program.folder)
    except OSError as error:
        raise ValueError(
            f"machine {host} has no folder {program.folder}; all machines of the cluster need the "
            "same checkout in the same place."
        ) from error
    own = _this_program(program.folder)
    if own.sources != program.sources:
        raise ValueError(
            f"machine {host} has another version of par_model ({_package_folder()}); all machines "
            "of the cluster need the same checkout."
        )
    differing = [
        f"{name} {there} instead of {here}"
        for (name, here), (_, there) in zip(program.versions, own.versions, strict=True)
        if here != there
    ]
    if differing:
        raise ValueError(f"machine {host} has other packages: {', '.join(differing)}.")


def _this_program(folder: str) -> _Program:
    digest = hashlib.sha256()
    for path in sorted(_package_folder().rglob("*.py")):
        digest.update(f"{path.relative_to(_package_folder()).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    versions = [("Python", platform.python_version())]
    versions += [(name, _version(name)) for name in _VERSIONED]
    return _Program(folder, digest.hexdigest(), tuple(versions))


def _package_folder() -> Path:
    return Path(par_model.__file__).parent


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
