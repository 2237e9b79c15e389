# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros fuzz --num-chunks N --json F`: the guard in a hostile world, judged at 1 kHz.

Each run puts a guard into the world of hostile_world.py: a controller by its own rule, an arm that
lags and sags, clocks that step, messages that are lost and late, every service at every moment, and
chunks that a policy could send and many that it never would. What the hardware gets is judged
(hostile_judge.py). The verdict: nothing of class (a), which is what the guard answers for, and no
exception; class (b), what no guard can know of, is reported apart with its reasons. A seed gives
the same run again; its last digit chooses the mode.

--without takes disturbances away by name, so that a finding can be shown to vanish with one of
them. --guard-path judges the guard of another checkout. --findings writes a table instead: which of
the known findings (hostile_findings.py) that guard has, with and without their disturbance.

With --json the sums so far are written every half minute, and --resume goes on from such a file, if
the guard is still the same: the file has a checksum of guard.py, of what it imports of
par_ros/control, and of the arm's file.
"""

import ast
import dataclasses
import datetime
import hashlib
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from par_model.command_line import default_is, one_of, output_file, parse
from par_model.output_files import write_text
from par_ros import control
from par_ros.parameters import read_arm_spec
from par_ros.process import report_error
from par_ros.proof.guard_adapter import use_guard_of
from par_ros.proof.hostile_disturbances import DISTURBANCES, Choice
from par_ros.proof.hostile_findings import FINDINGS, Finding
from par_ros.proof.hostile_modes import MODES
from par_ros.proof.hostile_totals import HostileTotals
from par_ros.run_results import hardware

COMMAND = "python -m par_ros fuzz"
_CHUNKS_PER_RUN = 200
_SAVE_PERIOD_S = 30.0
_FINDING_RUNS = 6


@dataclass(frozen=True)
class FuzzPlan:
    """What is run: runs of 200 chunks with seeds from `seed` on, the last one shorter.

    Attributes:
        without, only: see Choice; modes: the only ones, or those that the seeds choose.
        guard_path: a checkout whose guard is judged; empty: this one's.
        report_period_s: between two reports of the controller; None: drawn by lot.
    """

    arm: str
    num_chunks: int
    seed: int
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    mode: str | None = None
    guard_path: str = ""
    report_period_s: float | None = None

    def jobs(self) -> list[tuple[str, int, Choice, int, str | None]]:
        """The arguments of each run."""
        num_runs = math.ceil(self.num_chunks / _CHUNKS_PER_RUN)
        choice = Choice.of(self.without, self.only, self.report_period_s)
        return [
            (
                self.arm,
                self.seed + run,
                choice,
                min(_CHUNKS_PER_RUN, self.num_chunks - run * _CHUNKS_PER_RUN),
                self.mode,
            )
            for run in range(num_runs)
        ]

    @property
    def command(self) -> str:
        """What a user types for it."""
        words = [f"--arm {self.arm} --num-chunks {self.num_chunks} --seed {self.seed}"]
        if self.without:
            words.append(f"--without {','.join(self.without)}")
        if self.only is not None:
            words.append(f"--only {','.join(self.only)}")
        if self.mode is not None:
            words.append(f"--mode {self.mode}")
        if self.report_period_s is not None:
            words.append(f"--report-period {self.report_period_s:g}")
        if self.guard_path:
            words.append("--guard-path DIR")
        return f"{COMMAND} {' '.join(words)}"


def _prepare(guard_path: str) -> None:
    """In a new process: whose guard it is."""
    if guard_path:
        use_guard_of(Path(guard_path))


def _fuzz_job(job: tuple[str, int, Choice, int, str | None]) -> HostileTotals:
    # Imported here: after _prepare has said where the guard is.
    from par_ros.parameters import read_arm_spec
    from par_ros.proof.hostile_run import hostile_run

    arm, seed, choice, num_chunks, mode = job
    return hostile_run(read_arm_spec(arm), seed, choice, num_chunks, mode)


@contextmanager
def processes(num: int, guard_path: str) -> Iterator[Pool]:
    """Processes with the guard of a folder."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(num, _prepare, (guard_path,)) as pool:
        yield pool


def fuzz(
    plan: FuzzPlan,
    num_processes: int,
    totals: HostileTotals,
    save: Callable[[HostileTotals], None],
) -> HostileTotals:
    """The runs of `plan` that `totals` does not hold yet, with a progress line on stderr."""
    jobs = plan.jobs()[totals.num_runs :]
    begin_s = saved_s = time.monotonic()
    before = totals.num_chunks
    with processes(num_processes, plan.guard_path) as pool:
        # In order, so that a count of runs says which are done.
        for done in pool.imap(_fuzz_job, jobs, chunksize=1):
            totals.add(done)
            now_s = time.monotonic()
            if now_s - saved_s > _SAVE_PERIOD_S:
                saved_s = now_s
                save(totals)
            rate = (totals.num_chunks - before) / (now_s - begin_s)
            print(
                f"\r{totals.num_chunks}/{plan.num_chunks} chunks, {rate:.0f}/s, "
                f"{sum(totals.violations.values())} violations",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
    print(file=sys.stderr)
    return totals


# Findings.


def judge_findings(plan: FuzzPlan, num_processes: int) -> list[dict[str, Any]]:
    """Each finding's violations with its disturbances, and without the one it needs."""
    rows = []
    with processes(num_processes, plan.guard_path) as pool:
        for finding in FINDINGS:
            counts = [
                _count(pool, plan, finding, finding.disturbances),
                _count(pool, plan, finding, finding.others),
            ]
            row = {
                "finding": finding.number,
                "what": finding.text,
                "mode": finding.mode,
                "disturbances": list(finding.disturbances),
                "removed": finding.needs,
                "kinds": list(finding.kinds),
                "seeds": f"{plan.seed} to {plan.seed + _FINDING_RUNS - 1}",
                "with": counts[0][0],
                "without": counts[1][0],
                "found": counts[0][0] > 0 and counts[1][0] == 0,
                "example": counts[0][1],
            }
            rows.append(row)
            found = "found" if row["found"] else "not found"
            print(
                f"{finding.number:>2} {found}: {row['with']} with, {row['without']} without "
                f"{finding.needs}: {finding.text}",
                file=sys.stderr,
            )
    return rows


def _count(
    pool: Pool, plan: FuzzPlan, finding: Finding, disturbances: tuple[str, ...]
) -> tuple[int, dict[str, Any] | None]:
    """How many violations of the finding's kinds its runs have, and the first."""
    choice = Choice.of(only=disturbances)
    jobs = [
        (plan.arm, plan.seed + run, choice, _CHUNKS_PER_RUN, finding.mode)
        for run in range(_FINDING_RUNS)
    ]
    totals = HostileTotals()
    for done in pool.imap(_fuzz_job, jobs, chunksize=1):
        totals.add(done)
    seen: dict[str, int] = totals.excused if finding.is_late else totals.violations
    count = sum(number for kind, number in seen.items() if kind in finding.kinds)
    examples = totals.excused_examples if finding.is_late else totals.examples
    key = "reason" if finding.is_late else "kind"
    return count, next((one for one in examples if one[key] in finding.kinds), None)


# Files.


@cache
def guard_checksum(arm: str, guard_path: str = "") -> str:
    """sha256 of what is judged: the guard's sources and what the arm's file says.

    Of what they are when it is first asked for: main() asks before anything is judged.
    """
    spec = dataclasses.asdict(read_arm_spec(arm))
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=_plain).encode())
    folder = Path(control.__path__[0])
    if guard_path:
        folder = Path(guard_path) / "par_ros" / "control"
    for path in _guard_sources(folder):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _plain(value: object) -> object:
    """Of a set, whose order is another in each process, and of an array."""
    if isinstance(value, frozenset):
        return sorted(sorted(one) if isinstance(one, frozenset) else one for one in value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _guard_sources(folder: Path) -> list[Path]:
    """guard.py and what it imports of its package, directly or not, by name."""
    found: set[str] = set()
    left = {"guard"}
    while left:
        name = left.pop()
        found.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_bytes())):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.module == control.__name__:
                left.update(alias.name for alias in node.names)
            elif node.module and node.module.startswith(f"{control.__name__}."):
                left.add(node.module.rpartition(".")[2])
        left -= found
    return [folder / f"{name}.py" for name in sorted(found)]


def report(totals: HostileTotals, plan: FuzzPlan) -> dict[str, Any]:
    """What goes into the JSON file."""
    picked_up = max(totals.num_picked_up, 1)
    return {
        "command": plan.command,
        "arm": plan.arm,
        "seed": plan.seed,
        "guard_sha256": guard_checksum(plan.arm, plan.guard_path),
        "passed": totals.passed,
        "num_violations": sum(totals.violations.values()),
        "num_exceptions": len(totals.exceptions),
        "late_share": totals.late.get("picked_up", 0) / picked_up,
        **totals.to_json(),
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }


def read_report(path: Path, plan: FuzzPlan) -> HostileTotals:
    """The sums of an earlier, unfinished run of `plan`. Raises ValueError for another plan's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        totals = HostileTotals.from_json(content)
        arm, seed, checksum = content["arm"], content["seed"], content["guard_sha256"]
        command = content["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--resume needs the JSON file of an earlier run, {path} is none ({error})."
        ) from None
    whole_runs = totals.num_runs * _CHUNKS_PER_RUN
    if (arm, seed) != (plan.arm, plan.seed) or whole_runs > plan.num_chunks:
        raise ValueError(
            f"{path} must hold a part of {plan.num_chunks} chunks for {plan.arm} from seed "
            f"{plan.seed}, it holds {totals.num_chunks} for {arm} from seed {seed}; give it the "
            "same --arm and --seed and at least as many chunks, or another --json."
        )
    if _choices(command) != _choices(plan.command):
        raise ValueError(
            f"{path} was written by {command!r}; give it the same --without, --only, --mode, "
            "--report-period and --guard-path, or another --json."
        )
    if checksum != guard_checksum(plan.arm, plan.guard_path):
        raise ValueError(
            f"{path} judged another guard (par_ros/control or the arm's file has changed since); "
            "start anew without --resume, or with another --json."
        )
    return totals


def _choices(command: str) -> list[str]:
    """What a command says after its seed."""
    return command.partition("--seed ")[2].split()[1:]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a run that is killed leaves the file before it."""
    write_text("the result", path, json.dumps(content, indent=2) + "\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


@dataclass(frozen=True)
class FuzzOptions:
    """The command line. NAMES are separated by commas."""

    # how many chunks, in runs of 200
    num_chunks: int = 10_000
    # name in config/arms, or a path
    arm: str = "panda"
    # of the first run; its last digit chooses the mode
    seed: int = 0
    # runs at a time
    num_processes: int = 1
    # where to write the result
    json: Annotated[Path | None, output_file()] = None
    # go on from the file of --json
    resume: bool = False
    # disturbances that are off, by their names below
    without: Annotated[str, arg(metavar="NAMES")] = ""
    # the only disturbances, in every run
    only: Annotated[str | None, arg(metavar="NAMES"), default_is("all, drawn by lot")] = None
    # the mode of every run
    mode: Annotated[str | None, one_of(MODES), default_is("by the seed")] = None
    # s between two reports of the controller
    report_period: Annotated[float | None, default_is("0.02 to 0.04, drawn by lot")] = None
    # a checkout whose guard is judged
    guard_path: Annotated[str, arg(metavar="FOLDER")] = ""
    # the table of known findings
    findings: bool = False

    def __post_init__(self) -> None:
        if min(self.num_chunks, self.num_processes) < 1:
            raise ValueError("--num-chunks and --num-processes must be at least 1.")
        if self.resume and self.json is None:
            raise ValueError("missing: --json, the file from which --resume goes on.")
        if self.report_period is not None and not 0.0 < self.report_period <= 0.1:
            raise ValueError(
                f"--report-period must be above 0 and at most 0.1 s, got {self.report_period:g}."
            )

    @property
    def plan(self) -> FuzzPlan:
        """What is run."""
        return FuzzPlan(
            self.arm,
            self.num_chunks,
            self.seed,
            _names(self.without),
            None if self.only is None else _names(self.only),
            self.mode,
            self.guard_path,
            self.report_period,
        )


def read_options(arguments: list[str]) -> FuzzOptions:
    """Raises SystemExit with code 2 where an option cannot be read."""
    names = "; ".join(f"{name}: {text}" for name, (_, text) in DISTURBANCES.items())
    return parse(FuzzOptions, COMMAND, f"{__doc__}\nDisturbances: {names}.", arguments)


def main(arguments: list[str]) -> int:
    """The command; 0 where nothing was found."""
    options = read_options(arguments)
    plan = options.plan
    try:
        plan.jobs()
        guard_checksum(options.arm, options.guard_path)
        totals = HostileTotals()
        if options.resume:
            assert options.json is not None
            totals = read_report(options.json, plan)
    except ValueError as error:
        return report_error(error)
    if options.findings:
        return _report_findings(plan, options)

    def save(totals: HostileTotals) -> None:
        if options.json is not None:
            _write(options.json, report(totals, plan))

    totals = fuzz(plan, options.num_processes, totals, save)
    save(totals)
    print(json.dumps(report(totals, plan), indent=2))
    return 0 if totals.passed else 1


def _report_findings(plan: FuzzPlan, options: FuzzOptions) -> int:
    rows = judge_findings(plan, options.num_processes)
    content = {
        "command": f"{COMMAND} --findings --seed {plan.seed}"
        + (" --guard-path DIR" if plan.guard_path else ""),
        "guard_sha256": guard_checksum(plan.arm, plan.guard_path),
        "num_found": sum(row["found"] for row in rows),
        "chunks_a_side": _FINDING_RUNS * _CHUNKS_PER_RUN,
        "findings": rows,
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }
    if options.json is not None:
        _write(options.json, content)
    print(json.dumps(content, indent=2))
    return 0 if content["num_found"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
