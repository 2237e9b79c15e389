# SPDX-License-Identifier: Apache-2.0
"""Which tests run here: long and slow ones on request, gpu ones on a GPU. Skips say why.

`./par test` gives whole files to workers (pytest-xdist), so that a file's fixtures are made
once.
"""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Each worker imports torch and the simulator: about 1 GiB.
MAX_WORKERS = 8
# Marks of the tests that start the simulator or processes.
LONG = ("sim", "ros", "processes")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-long", action="store_true", help="run the tests marked long too")
    parser.addoption(
        "--run-slow", action="store_true", help="run the tests marked long or slow too"
    )


def pytest_configure() -> None:
    # The workers, and what they start, share the cores. torch reads it when it is imported.
    os.environ["OMP_NUM_THREADS"] = "1"
    # A shell that starts a job in the background has it ignore Ctrl-C, and children inherit that;
    # the tests that interrupt a program need the ordinary meaning.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # An example takes microseconds here; a busy machine may stand still for longer than the 200 ms
    # that Hypothesis allows each, and than it allows for making them.
    settings.register_profile(
        "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("busy machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: one worker a core, at most one a file; 0, this process, for one file."""
    num_workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    paths = {Path(argument.split("::")[0]) for argument in config.args}
    if all(path.is_file() for path in paths):
        num_workers = min(num_workers, len(paths))
    return num_workers if num_workers > 1 else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if not config.getoption("--run-slow"):
        reasons["slow"] = "takes minutes; run it with: ./par test --run-slow"
        if not config.getoption("--run-long"):
            reasons["long"] = "takes 15 s or more; run it with: ./par test --run-long"
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            reasons["gpu"] = "torch sees no CUDA GPU"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    # The longest files first: a worker that begins one last would end alone.
    long_files = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
    items.sort(key=lambda item: item.path not in long_files)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Commands that ran in this process may have set another number."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
