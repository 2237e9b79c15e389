# SPDX-License-Identifier: Apache-2.0
"""ROS domains for the tests: none is used by two workers of one run, or by anybody else."""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

from par_ros.participants import num_participants

# Fast DDS takes its port from the domain; above 101 it meets Linux's ephemeral ports.
LAST_DOMAIN = 101


def domains_of_worker(run: str | None, worker: int, num_workers: int) -> list[int]:
    """The domains of one of the `num_workers` processes that share the tests of `run`.

    All workers shuffle alike, with the run's name as the seed, and each takes its own part. The
    order is random because other runs may test on this machine. A worker that replaces a crashed
    one has the next number, so there are parts for twice as many.
    """
    seed = random.SystemRandom().random() if run is None else run
    domains = random.Random(seed).sample(range(1, LAST_DOMAIN + 1), k=LAST_DOMAIN)
    num_parts = 1 if run is None else 2 * num_workers
    return domains[worker % num_parts :: num_parts]


def _own_domains() -> Iterator[int]:
    """In a circle: a killed node stays in its domain's graph for 20 s, so none comes back soon."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    num_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return itertools.cycle(domains_of_worker(run, int(name.removeprefix("gw")), num_workers))


_domains = _own_domains()


def next_domain() -> str:
    """A domain that no other worker uses, and in which no participant is now, as ROS_DOMAIN_ID has
    it: other runs on this machine draw from the same domains, and a killed test's processes stay
    for a while."""
    for domain in itertools.islice(_domains, LAST_DOMAIN):
        if not num_participants(domain, Path("/proc/net/udp")):
            return str(domain)
    raise RuntimeError("every ROS domain of this worker has DDS participants; end other runs.")
