# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of our own for each test run, on this machine only."""

import os
import random
from collections.abc import Iterator

import pytest

# Fast DDS takes its port from the domain; above 101 it meets Linux's ephemeral ports.
_LAST_DOMAIN = 101

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, _LAST_DOMAIN))


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
    domain = str(random.SystemRandom().randint(1, _LAST_DOMAIN))
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    return domain
