# SPDX-License-Identifier: Apache-2.0
"""`./par test` gives files to worker processes; one file needs none."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import MAX_WORKERS, pytest_xdist_auto_num_workers

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("num_cores", "arguments", "expected"),
    [
        (2, ["tests"], 2),
        (1, ["tests"], 0),
        (64, ["tests"], MAX_WORKERS),
        (2, ["tests/conftest.py"], 0),
        (2, ["tests/conftest.py::test_one", "tests/conftest.py::test_two"], 0),
        (4, ["tests/conftest.py", "tests/ros/conftest.py"], 2),
        (4, ["tests/conftest.py", "tests/ros"], 4),
    ],
)
def test_number_of_workers(
    num_cores: int, arguments: list[str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(num_cores)))
    assert pytest_xdist_auto_num_workers(SimpleNamespace(args=arguments)) == expected


def test_par_gives_whole_files_to_workers() -> None:
    """A file's fixtures, the simulator's scenes above all, are made once."""
    assert "-m pytest -n auto --dist loadfile" in (ROOT / "par").read_text()
