# SPDX-License-Identifier: Apache-2.0
"""ROS domains of our own for each test run, on this machine only."""

import gc
import os
from collections.abc import Iterator

import pytest

from tests.ros.domains import next_domain

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = next_domain()
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
    # A node that is not freed keeps its DDS participant: it would be in the next tests' graphs.
    gc.collect()


@pytest.fixture
def free_domain(monkeypatch: pytest.MonkeyPatch) -> str:
    """A domain for the child processes of one test."""
    domain = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    return domain


@pytest.fixture(scope="module")
def own_domain() -> Iterator[None]:
    """A domain for a module's graphs, without nodes that another test left in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", next_domain())
        yield
