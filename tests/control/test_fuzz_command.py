# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros fuzz`: what was done before is not done again, and adds up to the same."""

import json
from pathlib import Path

import pytest

from par_ros.control.joint_trajectory import NANOSECONDS
from par_ros.parameters import read_arm_spec
from par_ros.proof import fuzz
from par_ros.proof.fuzz import FuzzPlan, FuzzRun, FuzzTotals, main, read_report, report


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 10 chunks instead of 200."""
    monkeypatch.setattr(fuzz, "_CHUNKS_PER_RUN", 10)


def done(plan: FuzzPlan, begin: int, end: int, totals: FuzzTotals) -> FuzzTotals:
    """The runs from `begin` to `end` of the plan, added to `totals`."""
    for arm, seed, num_chunks in plan.jobs()[begin:end]:
        totals.add(fuzz.fuzz_once(fuzz.read_arm_spec(arm), seed, num_chunks))
    return totals


def test_a_resumed_run_adds_up_to_an_uninterrupted_one(tmp_path: Path) -> None:
    """Three runs of 10, 10 and 5 chunks; the second half goes on from the first one's file."""
    plan = FuzzPlan("panda", 25, 7)
    assert [job[1:] for job in plan.jobs()] == [(7, 10), (8, 10), (9, 5)]
    path = tmp_path / "fuzz.json"
    path.write_text(json.dumps(report(done(plan, 0, 2, FuzzTotals()), plan)))
    resumed = done(plan, 2, 3, read_report(path, plan))
    whole = done(plan, 0, 3, FuzzTotals())
    assert report(resumed, plan) == report(whole, plan)
    assert whole.num_chunks == 25
    assert whole.passed


def test_a_file_of_another_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fuzz.json"
    plan = FuzzPlan("panda", 10, 7)
    path.write_text(json.dumps(report(done(plan, 0, 1, FuzzTotals()), plan)))
    assert main(["--seed", "8", "--resume", "--json", str(path)]) == 1
    assert "from seed 7" in capsys.readouterr().err
    assert main(["--resume", "--json", str(tmp_path / "none.json")]) == 1
    assert "--resume needs the JSON file" in capsys.readouterr().err


def test_a_file_that_judged_another_guard_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fuzz.json"
    plan = FuzzPlan("panda", 20, 7)
    content = report(done(plan, 0, 1, FuzzTotals()), plan)
    path.write_text(json.dumps({**content, "guard_sha256": "0" * 64}))
    assert main(["--num-chunks", "20", "--seed", "7", "--resume", "--json", str(path)]) == 1
    assert "judged another guard" in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "num_chunks"), [(1, 12), (22, 75)])
def test_a_clock_step_at_speed_stops_within_the_limits(seed: int, num_chunks: int) -> None:
    """Both ran 2 to 9 % over an acceleration limit when a stop could only follow the motion."""

    class ClockStepRun(FuzzRun):
        def _disturb(self) -> None:
            if self._random.random() < 0.3:
                step_s = self._random.choice([-100.0, -5.0, -0.1, 0.4, 5.0, 100.0])
                self._clock_ns += round(step_s * NANOSECONDS)
                self._see_joints()

    run = ClockStepRun(read_arm_spec("panda"), seed)
    totals = run.run(num_chunks)
    assert run._guard.counters["clock_steps"] > 2
    assert totals.passed, totals.findings.examples


def test_where_no_stop_keeps_the_limits_the_motion_ends_by_itself() -> None:
    """The clock steps while joint 5 brakes at 95 % of its limit, 4 mrad from its last position.

    Any stop from there, picked up 10 ms late, asked for 1.3 % more than the limit.
    """
    run = FuzzRun(read_arm_spec("panda"), 1861)
    totals = run.run(60)
    assert run._guard.counters["fault_clock"] == 2
    assert totals.passed, totals.findings.examples
