# SPDX-License-Identifier: Apache-2.0
"""Processes that share a test run have no ROS domain in common."""

import itertools
import os
import subprocess
import sys

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


def test_a_worker_takes_its_number_and_run_from_the_environment() -> None:
    program = "from tests.ros.domains import next_domain; print(next_domain(), next_domain())"
    for name in ("gw0", "gw1"):
        environment = {
            **os.environ,
            "PYTEST_XDIST_WORKER": name,
            "PYTEST_XDIST_WORKER_COUNT": "2",
            "PYTEST_XDIST_TESTRUNUID": "a run",
        }
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        expected = domains_of_worker("a run", int(name[-1]), 2)[:2]
        assert result.stdout.split() == list(map(str, expected))
