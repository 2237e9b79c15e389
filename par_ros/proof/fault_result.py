# SPDX-License-Identifier: Apache-2.0
"""One row of the fault suite, its verdict, and the table and the JSON file of all."""

import datetime
from dataclasses import asdict, dataclass
from typing import Any

from par_ros.run_results import hardware


@dataclass(frozen=True)
class FaultResult:
    """One row of the table.

    Attributes:
        detected: everything expected was seen.
        expected: counters of the guard that had to go up, and the suite's own words (what became
            of the chunk, whether engaging was refused); "|" separates alternatives.
        seen: all of them that were there; camera_<kind> is policy_node's.
        noticed_s: from the fault to the guard's report of the first expected counter.
        holds: whether the arm had to come to rest; None where either is right.
        time_to_hold_s: from the fault to a command at rest; None where the motion goes on.
        allowed_s: the deadline of the watch that finds it, and 0.5 s.
        goes_on: where it need not rest, whether chunks passed afterwards and the guard had stayed
            engaged.
        limit_violations: differences of the arm's command over a millisecond that broke a limit.
        late_violations: the same where the arm took a trajectory after its splice: no guard can
            keep limits then.
        largest_step_rad: where a limit was broken there: how far a joint left its way within a
            millisecond.
        largest_velocity_share, ...: of the joint's limit, from the fault on.
        late_pick_ups: trajectories that the suite's arm took after their splice.
        rig_late: why the suite itself was late; empty where it was not.
        num_tries: how often the row was run.
        recovered: what was killed was started again and the arm moved again; None where nothing was
            killed.
        recovery_s: from the new start to the arm in motion.
    """

    name: str
    detected: bool
    expected: tuple[str, ...]
    seen: tuple[str, ...]
    noticed_s: float | None
    holds: bool | None
    time_to_hold_s: float | None
    allowed_s: float
    goes_on: bool | None
    limit_violations: int
    late_violations: int
    largest_step_rad: float
    largest_velocity_share: float
    largest_acceleration_share: float
    largest_jerk_share: float
    examples: tuple[str, ...]
    late_pick_ups: int = 0
    rig_late: str = ""
    num_tries: int = 1
    recovered: bool | None = None
    recovery_s: float | None = None

    @property
    def passed(self) -> bool:
        """Noticed, at rest in time or going on, no limit broken, and back in motion."""
        in_time = self.holds is not True or (
            self.time_to_hold_s is not None and self.time_to_hold_s <= self.allowed_s
        )
        well = self.detected and in_time and self.limit_violations == 0
        return well and self.goes_on is not False and self.recovered is not False

    @property
    def says_little(self) -> bool:
        """Whether the suite itself was late, and the row shows it."""
        return bool(self.rig_late) and (not self.passed or self.late_violations > 0)


def not_run(name: str, expected: tuple[str, ...], why: str, num_tries: int) -> FaultResult:
    """The row of a fault that could not be injected."""
    return FaultResult(
        name=name, detected=False, expected=expected, seen=(), noticed_s=None, holds=None,
        time_to_hold_s=None, allowed_s=0.0, goes_on=None, limit_violations=0, late_violations=0,
        largest_step_rad=0.0, largest_velocity_share=0.0, largest_acceleration_share=0.0,
        largest_jerk_share=0.0, examples=(), rig_late=why, num_tries=num_tries,
    )  # fmt: skip


def line(result: FaultResult) -> str:
    """One line of progress for the terminal."""
    verdict = "ok  " if result.passed else ("FAIL" if not result.rig_late else "late")
    hold = "goes on" if result.goes_on or result.holds is None else "never"
    if result.time_to_hold_s is not None:
        hold = f"{result.time_to_hold_s:.3f} s of {result.allowed_s:.2f}"
    noticed = "noticed" if result.detected else "MISSED "
    text = f"{verdict} {result.name:44s} {noticed} hold {hold:18s} "
    text += f"{result.limit_violations} violations"
    if result.late_violations:
        text += f" ({result.late_violations} of late pick-ups, {result.largest_step_rad:.2g} rad)"
    if result.recovered is not None:
        after = "NEVER" if result.recovery_s is None else f"after {result.recovery_s:.1f} s"
        text += f", moves again {after}"
    if result.late_pick_ups:
        text += f", {result.late_pick_ups} taken after the splice"
    if result.rig_late:
        text += f", the suite was late: {result.rig_late}"
    if not result.passed:
        text += f" (seen: {', '.join(result.seen)}) {'; '.join(result.examples)}"
    return text


def report(results: list[FaultResult], command: str) -> dict[str, Any]:
    """The content of the JSON file."""
    return {
        "command": command,
        "passed": all(result.passed for result in results),
        "num_faults": len(results),
        "num_passed": sum(result.passed for result in results),
        "num_suite_late": sum(result.says_little for result in results),
        "num_repeated": sum(result.num_tries > 1 for result in results),
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
        "faults": [asdict(result) for result in results],
    }


def result_of(row: dict[str, Any]) -> FaultResult:
    """The inverse of report(), of one of its faults."""
    values = dict(row)
    for name in ("expected", "seen", "examples"):
        values[name] = tuple(values[name])
    return FaultResult(**values)


def markdown_table(content: dict[str, Any]) -> str:
    """The table of docs/lab_notebook/faults.md, from what report() gives."""
    rows = [
        "| Fault | Noticed | At rest after | Allowed | Velocity | Acceleration | Jerk "
        "| Limits broken | Moves again after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fault in content["faults"]:
        hold, allowed = "moves on" if fault["goes_on"] else "", ""
        if fault["holds"]:
            rest_s = fault["time_to_hold_s"]
            hold = "never" if rest_s is None else f"{rest_s:.2f} s"
            allowed = f"{fault['allowed_s']:.2f} s"
        shares = " | ".join(
            f"{100 * fault[f'largest_{quantity}_share']:.0f} %"
            for quantity in ("velocity", "acceleration", "jerk")
        )
        broken = str(fault["limit_violations"])
        if fault["late_violations"]:
            broken += f" (late pick-ups: {fault['late_violations']})"
        again = ""
        if fault["recovered"] is not None:
            again = f"{fault['recovery_s']:.0f} s" if fault["recovered"] else "NEVER"
        rows.append(
            f"| {fault['name']} | {'yes' if fault['detected'] else 'NO'} | {hold} | {allowed} "
            f"| {shares} | {broken} | {again} |"
        )
    return "\n".join(rows)
