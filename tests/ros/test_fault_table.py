# SPDX-License-Identifier: Apache-2.0
"""The table of faults in docs: stored for this suite, every promise kept, printed by command."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from par_ros.proof.fault_case import Fault
from par_ros.proof.fault_processes import SuiteError
from par_ros.proof.fault_result import FaultResult, line, not_run, report, result_of
from par_ros.proof.fault_table import FAULTS
from par_ros.proof.faults import main, markdown_table, run_case

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "docs" / "results" / "faults.json"

GOOD = FaultResult(
    name="x", detected=True, expected=("y",), seen=("y",), noticed_s=0.1, holds=True,
    time_to_hold_s=0.4, allowed_s=0.5, goes_on=None, limit_violations=0, late_violations=0,
    largest_step_rad=0.0, largest_velocity_share=0.1, largest_acceleration_share=0.2,
    largest_jerk_share=0.3, examples=(),
)  # fmt: skip


def changed(**changes: object) -> FaultResult:
    return FaultResult(**{**vars(GOOD), **changes})  # type: ignore[arg-type]


def test_there_are_many_faults_of_every_kind() -> None:
    """At least 60, each name once, ten and more of the clock, the joint states and the stops."""
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 60
    kinds = Counter(name.split(":")[0] for name in names)
    assert min(kinds["clock"], kinds["joint states"], kinds["stop"]) >= 10
    for fault in FAULTS:
        assert fault.expected or not fault.holds or "killed" in fault.name, fault.name


def test_stored_results_are_of_every_fault_and_kept_every_promise() -> None:
    """At rest within the watch's deadline and 0.5 s; no limit broken."""
    content = json.loads(STORED.read_text(encoding="utf-8"))
    by_name = {fault.name: fault for fault in FAULTS}
    assert [row["name"] for row in content["faults"]] == list(by_name)
    for row in content["faults"]:
        fault = by_name[row["name"]]
        result = result_of(row)
        assert result.holds == fault.holds, fault.name
        assert result.allowed_s == pytest.approx(fault.allowed_s), fault.name
        assert (result.recovered is not None) == bool(fault.restarted), fault.name
        assert result.passed, fault.name
        if not result.late_pick_ups:
            shares = result.largest_velocity_share, result.largest_acceleration_share
            assert max(shares) <= 1.0001, fault.name
    assert content["passed"]
    assert content["num_faults"] == content["num_passed"] == len(FAULTS)


def test_the_page_has_the_table_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", str(STORED)]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == markdown_table(json.loads(STORED.read_text(encoding="utf-8")))
    page = ROOT / "docs" / "lab_notebook" / "faults.md"
    assert printed in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"faults": [1]}'])
@pytest.mark.parametrize("option", ["--table", "--resume"])
def test_a_file_that_is_no_result_is_one_sentence(
    content: str | None, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    elif option == "--resume":
        return
    words = ["--resume", "--json", str(path)] if option == "--resume" else ["--table", str(path)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} ")
    assert error.count("\n") == 1


def test_a_fault_that_went_on_too_long_has_not_passed() -> None:
    """Each promise alone makes the difference."""
    assert GOOD.passed
    for change in (
        {"detected": False},
        {"time_to_hold_s": 0.51},
        {"time_to_hold_s": None},
        {"limit_violations": 1},
        {"recovered": False},
        {"goes_on": False},
    ):
        assert not changed(**change).passed, change
    assert changed(holds=False, time_to_hold_s=None, goes_on=True).passed
    # What a late pick-up broke is stated, and is not the guard's.
    assert changed(late_violations=3, rig_late="late").passed


class Tries:
    """Gives one outcome after the other."""

    def __init__(self, *outcomes: FaultResult | str) -> None:
        self.left = list(outcomes)

    def run(self, fault: Fault) -> FaultResult:
        outcome = self.left.pop(0)
        if isinstance(outcome, str):
            raise SuiteError(outcome)
        return outcome


FAULT = Fault("x", ("y",), lambda _: None)


@pytest.mark.parametrize(
    ("outcomes", "num_tries", "passed"),
    [
        ((GOOD,), 1, True),
        ((changed(detected=False),), 1, False),
        (("the arm did not move", GOOD), 2, True),
        ((changed(detected=False, rig_late="no CPU"), "no motion", GOOD), 3, True),
        (("no", "no", "no"), 3, False),
        # A late pick-up that broke a limit is a reason to try again, and in the end is stated.
        ((changed(late_violations=1, rig_late="late"), GOOD), 2, True),
        ((changed(rig_late="late"),), 1, True),
    ],
)
def test_a_case_is_repeated_only_where_the_suite_itself_was_late(
    outcomes: tuple[FaultResult | str, ...],
    num_tries: int,
    passed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At most twice, every try printed; the guard's own failure is never repeated."""
    tries = Tries(*outcomes)
    result = run_case(tries, FAULT)  # type: ignore[arg-type]
    assert (result.num_tries, result.passed, tries.left) == (num_tries, passed, [])
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == num_tries
    assert all(re.search(r"\bx\b", text) for text in printed)


def test_a_result_is_the_same_from_its_file() -> None:
    results = [changed(examples=("a", "b")), not_run("z", ("y", "w"), "it did not move", 3)]
    content = json.loads(json.dumps(report(results, "")))
    assert [result_of(row) for row in content["faults"]] == results
    assert not content["passed"]
    assert content["num_passed"] == 1
    assert content["num_suite_late"] == 1
    assert "it did not move" in line(results[1])
    assert markdown_table(content).count("\n") == 3
