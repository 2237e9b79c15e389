# SPDX-License-Identifier: Apache-2.0
"""README's table of faults: what is stored is of this suite, kept its promises, and is printed."""

import json
from pathlib import Path

import pytest

from par_ros.proof.faults import FAULTS, FaultResult, main, markdown_table

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "docs" / "results" / "faults.json"


def test_stored_results_are_of_every_fault_and_kept_every_promise() -> None:
    """At least 24 faults; at rest within the watch's deadline and 0.5 s; no limit broken."""
    content = json.loads(STORED.read_text(encoding="utf-8"))
    by_name = {fault.name: fault for fault in FAULTS}
    assert [row["name"] for row in content["faults"]] == list(by_name)
    assert len(by_name) == len(FAULTS) >= 24
    for row in content["faults"]:
        fault = by_name[row["name"]]
        assert row["holds"] == fault.holds, fault.name
        assert row["allowed_s"] == pytest.approx(fault.watch_s + 0.5), fault.name
        assert (row["recovered"] is not None) == bool(fault.restarted), fault.name
        result = FaultResult(**row)
        assert result.passed, fault.name
        assert max(result.largest_velocity_share, result.largest_acceleration_share) <= 1.0001
    assert content["passed"]
    assert content["num_faults"] == content["num_passed"] == len(FAULTS)


def test_readme_has_the_table_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", str(STORED)]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == markdown_table(json.loads(STORED.read_text(encoding="utf-8")))
    assert printed in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_fault_that_went_on_too_long_has_not_passed() -> None:
    """Each promise alone makes the difference."""
    good = FaultResult(
        name="x", detected=True, expected="y", seen=("y",), holds=True, time_to_hold_s=0.4,
        allowed_s=0.5, limit_violations=0, largest_velocity_share=0.1,
        largest_acceleration_share=0.2, largest_jerk_share=0.3, examples=(),
    )  # fmt: skip
    assert good.passed
    for change in (
        {"detected": False},
        {"time_to_hold_s": 0.51},
        {"time_to_hold_s": None},
        {"limit_violations": 1},
        {"recovered": False},
    ):
        assert not FaultResult(**{**vars(good), **change}).passed, change
