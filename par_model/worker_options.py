# SPDX-License-Identifier: Apache-2.0
"""Options of the commands whose jobs are independent of each other: how many at a time, and where.

The results do not depend on them.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from par_model.command_line import default_is


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Where jobs run (par_model/simulation/worker_pool.py)."""

    # jobs at a time, each in a process with one thread
    num_workers: Annotated[
        int | None, default_is("one a core; with --engine ray one a CPU of the cluster")
    ] = None
    # what runs the jobs: processes of this machine, or the machines of a Ray cluster
    # (docs/how_to/run_on_many_machines.md)
    engine: Literal["local", "ray"] = "local"
    # with --engine ray: the cluster's head
    ray_address: Annotated[
        str | None,
        arg(metavar="HOST:PORT"),
        default_is("RAY_ADDRESS, or the cluster that this machine belongs to"),
    ] = None

    def __post_init__(self) -> None:
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError("--ray-address has no effect without --engine ray.")

    @property
    def num_processes(self) -> int:
        """Of the engine "local"."""
        return (os.cpu_count() or 1) if self.num_workers is None else self.num_workers

    @property
    def cluster(self) -> str:
        """Address for ray.init: HOST:PORT, or "auto"."""
        return self.ray_address or os.environ.get("RAY_ADDRESS") or "auto"

    def words(self) -> list[str]:
        """As a command line."""
        words = [] if self.num_workers is None else ["--num-workers", str(self.num_workers)]
        words += [] if self.engine == "local" else ["--engine", self.engine]
        return words + ([] if self.ray_address is None else ["--ray-address", self.ray_address])
