# SPDX-License-Identifier: Apache-2.0
"""Processes that share a test run have no ROS domain in common, with nobody else either."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

from par_ros.participants import num_participants
from tests.ros.domains import LAST_DOMAIN, domains_of_worker
from tests.ros.processes import ROOT


def test_two_workers_of_a_run_share_no_domain() -> None:
    """Four parts of 25 or 26: two workers, and two that may replace them."""
    parts = [domains_of_worker("a run", worker, 2) for worker in range(4)]
    assert [len(part) for part in parts] == [26, 25, 25, 25]
    assert sorted(itertools.chain.from_iterable(parts)) == list(range(1, LAST_DOMAIN + 1))


def test_without_workers_all_domains_are_used_in_random_order() -> None:
    first, second = (domains_of_worker(None, 0, 1) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(1, LAST_DOMAIN + 1))
    assert first != second


PROGRAM = "from tests.ros.domains import next_domain; print(next_domain(), next_domain())"


def drawn_by(worker: str, run: str) -> list[int]:
    """The first two domains that this worker draws."""
    environment = {
        **os.environ,
        "PYTEST_XDIST_WORKER": worker,
        "PYTEST_XDIST_WORKER_COUNT": "2",
        "PYTEST_XDIST_TESTRUNUID": run,
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return list(map(int, result.stdout.split()))


def free(domains: list[int]) -> list[int]:
    return [domain for domain in domains if not num_participants(domain, Path("/proc/net/udp"))]


def test_a_worker_takes_its_number_and_run_from_the_environment() -> None:
    for name in ("gw0", "gw1"):
        own = domains_of_worker("a run", int(name[-1]), 2)
        assert drawn_by(name, "a run") == free(own)[:2]


def test_a_domain_with_a_participant_is_passed_over() -> None:
    """Fast DDS's first port in a domain is 7410 + 250 x domain."""
    first, second, third = free(domains_of_worker("a run", 0, 2))[:3]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("127.0.0.1", 7410 + 250 * first))
        assert drawn_by("gw0", "a run") == [second, third]
