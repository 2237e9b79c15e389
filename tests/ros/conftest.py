# SPDX-License-Identifier: Apache-2.0
"""ROS domains of our own for each test run, on this machine only."""

import itertools
import os
import random
from collections.abc import Iterator

import pytest

# Fast DDS takes its port from the domain; above 101 it meets Linux's ephemeral ports.
_LAST_DOMAIN = 101

# In random order, as others may test on this machine; none twice, as a killed node stays in its
# domain's graph for 20 s.
_domains = itertools.cycle(random.SystemRandom().sample(range(1, _LAST_DOMAIN + 1), k=_LAST_DOMAIN))

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(next(_domains))
# Without a profile nodes talk over UDP: destroying a node after another process was killed in its
# work, as tests do, has crashed the test's own process, and memory that both share is suspected.
# The runner's graphs have a profile, and with it their shared memory.
os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"


@pytest.fixture
def ros() -> Iterator[None]:
    """rclpy, initialised in this process."""
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def free_domain(monkeypatch: pytest.MonkeyPatch) -> str:
    """A domain for the child processes of one test."""
    domain = str(next(_domains))
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    return domain
