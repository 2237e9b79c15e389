# SPDX-License-Identifier: Apache-2.0
"""Which tests run here: slow ones on request, gpu ones where there is a GPU. Skips say why."""

import signal

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


def pytest_configure() -> None:
    # A shell that starts a job in the background has it ignore Ctrl-C, and children inherit that;
    # the tests that interrupt a program need the ordinary meaning.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if not config.getoption("--run-slow"):
        reasons["slow"] = "takes minutes; run it with: ./par test --run-slow"
    if not torch.cuda.is_available():
        reasons["gpu"] = "torch sees no CUDA GPU"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
