# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros fuzz`: what was done before is not done again, and adds up to the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree

import pytest

import par_ros
from par_ros.parameters import read_arm_spec
from par_ros.proof import fuzz
from par_ros.proof.fuzz import FuzzPlan, main, read_report, report
from par_ros.proof.hostile_run import hostile_run
from par_ros.proof.hostile_totals import HostileTotals


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 10 chunks instead of 200."""
    monkeypatch.setattr(fuzz, "_CHUNKS_PER_RUN", 10)


def done(plan: FuzzPlan, begin: int, end: int, totals: HostileTotals) -> HostileTotals:
    """The runs from `begin` to `end` of the plan, added to `totals`."""
    for arm, seed, choice, num_chunks, mode in plan.jobs()[begin:end]:
        totals.add(hostile_run(read_arm_spec(arm), seed, choice, num_chunks, mode))
    return totals


def test_a_resumed_run_adds_up_to_an_uninterrupted_one(tmp_path: Path) -> None:
    """Three runs of 10, 10 and 5 chunks; the second half goes on from the first one's file."""
    plan = FuzzPlan("panda", 25, 7)
    assert [(job[1], job[3]) for job in plan.jobs()] == [(7, 10), (8, 10), (9, 5)]
    path = tmp_path / "fuzz.json"
    path.write_text(json.dumps(report(done(plan, 0, 2, HostileTotals()), plan)))
    resumed = done(plan, 2, 3, read_report(path, plan))
    whole = done(plan, 0, 3, HostileTotals())
    assert report(resumed, plan) == report(whole, plan)
    assert whole.num_chunks >= 25


def test_a_file_of_another_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fuzz.json"
    plan = FuzzPlan("panda", 10, 7)
    path.write_text(json.dumps(report(done(plan, 0, 1, HostileTotals()), plan)))
    assert main(["--seed", "8", "--resume", "--json", str(path)]) == 1
    assert "from seed 7" in capsys.readouterr().err
    words = ["--num-chunks", "20", "--seed", "7", "--resume", "--json", str(path)]
    assert main([*words, "--without", "arm_sag"]) == 1
    assert "the same --without" in capsys.readouterr().err
    assert main(["--resume", "--json", str(tmp_path / "none.json")]) == 1
    assert "--resume needs the JSON file" in capsys.readouterr().err


def test_a_file_that_judged_another_guard_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fuzz.json"
    plan = FuzzPlan("panda", 20, 7)
    content = report(done(plan, 0, 1, HostileTotals()), plan)
    path.write_text(json.dumps({**content, "guard_sha256": "0" * 64}))
    assert main(["--num-chunks", "20", "--seed", "7", "--resume", "--json", str(path)]) == 1
    assert "judged another guard" in capsys.readouterr().err


def test_an_unknown_disturbance_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--without", "rain"]) == 1
    assert "must be among" in capsys.readouterr().err


def test_the_guard_of_another_checkout_is_judged(tmp_path: Path) -> None:
    """A copy of the package whose emergency stop does nothing is found out."""
    package = Path(par_ros.__path__[0])
    copytree(package, tmp_path / "par_ros")
    copytree(package.parent / "config" / "arms", tmp_path / "config" / "arms")
    copy(package.parent / "package.xml", tmp_path)
    with (tmp_path / "par_ros" / "control" / "guard.py").open("a", encoding="utf-8") as file:
        file.write("\n\nGuard.e_stop = lambda self, moment: Reply(True, 'stopped')\n")
    command = [
        sys.executable, "-m", "par_ros", "fuzz", "--num-chunks", "20", "--mode", "arm",
        "--only", "stops_after_chunks", "--guard-path", str(tmp_path),
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=package.parent, timeout=120
    )
    content = json.loads(result.stdout)
    assert result.returncode == 1
    assert "rest_after_e_stop" in content["violations"], content["violations"]
    assert content["guard_sha256"] != fuzz.guard_checksum("panda")


def test_the_checksum_is_that_of_another_process() -> None:
    """Sets are ordered by hashes that each process salts: --resume once refused every file."""
    program = "from par_ros.proof import fuzz; print(fuzz.guard_checksum('panda'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert found == {fuzz.guard_checksum("panda") + "\n"}


def test_the_checksum_is_of_the_guard_and_of_what_it_imports(tmp_path: Path) -> None:
    """Not of what else stands in the package: policy nodes' code does not void a campaign."""
    package = Path(par_ros.__file__).parent
    copytree(package / "control", tmp_path / "par_ros" / "control")
    before = fuzz.guard_checksum("panda", str(tmp_path))
    for name, is_guard in (("camera_check", False), ("braking", True)):
        with (tmp_path / "par_ros" / "control" / f"{name}.py").open("a", encoding="utf-8") as file:
            file.write("\n# changed\n")
        fuzz.guard_checksum.cache_clear()
        assert (fuzz.guard_checksum("panda", str(tmp_path)) != before) == is_guard
