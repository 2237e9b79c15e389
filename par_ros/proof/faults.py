# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros faults --json F`: faults injected into a moving arm, over real DDS.

Guard and arm run as processes, in one shared clock that can be set; this one is the policy (a
process of its own where it is to be killed, the real policy_node with a swing for a network where
the camera fails), the operator, and the judge. Each case brings the arm into motion, injects one
fault, and looks at what the arm got: was the fault noticed, how long until the arm stood, and did
its command, cycle by cycle at 1 kHz, break a limit or step. The arm's controller takes each
trajectory 0 to 8 ms after it was sent, and as late as a case says. What was killed is started
again, and the arm must move again without any cleaning by hand.

A case that the suite itself was late for (it got no CPU, the arm took a trajectory after its
splice, the arm did not move) is run at most three times; each try is printed.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import rclpy
from tyro.conf import arg

from par_model.command_line import default_is, output_file, parse
from par_model.json_file import read_object
from par_model.output_files import write_text
from par_ros.process import report_error
from par_ros.proof.fault_case import Fault, FaultCases
from par_ros.proof.fault_overlap import OVERLAPPED_FAULTS
from par_ros.proof.fault_processes import SuiteError
from par_ros.proof.fault_result import (
    FaultResult,
    line,
    markdown_table,
    not_run,
    report,
    result_of,
)
from par_ros.proof.fault_rig import FaultRig
from par_ros.proof.fault_table import FAULTS

_NUM_TRIES = 3
COMMAND = "python -m par_ros faults"


@dataclass(frozen=True)
class FaultOptions:
    """The command line."""

    # the policy's inference; overlapped has cases of its own
    inference: Literal["sequential", "overlapped"] = "sequential"
    # run the faults whose name contains this
    only: Annotated[str | None, arg(metavar="TEXT"), default_is("all")] = None
    # where to write the result; times are in milliseconds
    json: Annotated[Path | None, output_file()] = None
    # leave out what the file of --json holds already
    resume: bool = False
    # run nothing: print the table of docs/lab_notebook/faults.md from this JSON file
    table: Annotated[Path | None, arg(metavar="FILE")] = None

    def __post_init__(self) -> None:
        if self.resume and (self.json is None or not self.json.is_file()):
            raise ValueError("--resume goes on from the file of --json; name one that is there.")


def run_suite(
    faults: tuple[Fault, ...],
    only: str | None,
    done: list[FaultResult],
    save: Callable[[list[FaultResult]], None],
) -> list[FaultResult]:
    """All `faults` but those `done`, or those whose name contains `only`; a line a try on stderr.

    `save` is called with the results so far after each case.
    """
    chosen = [fault for fault in faults if only is None or only in fault.name]
    if not chosen:
        names = "; ".join(fault.name for fault in faults)
        raise SuiteError(f"no fault's name contains {only!r}; the faults are: {names}.")
    rclpy.init(args=[])
    results = list(done)
    with tempfile.TemporaryDirectory(prefix="par_faults_") as folder:
        rig = FaultRig(Path(folder))
        cases = FaultCases(rig)
        try:
            for fault in chosen:
                if any(result.name == fault.name for result in done):
                    continue
                results.append(run_case(cases, fault))
                save(results)
        finally:
            rig.pause_policy()
            rig.destroy_node()
            rclpy.try_shutdown()
            rig.processes.end_all()
    return results


def run_case(cases: FaultCases, fault: Fault) -> FaultResult:
    """At most three tries, of which all but the last were spoilt by the suite itself."""
    for number in range(1, _NUM_TRIES + 1):
        try:
            result = replace(cases.run(fault), num_tries=number)
        except SuiteError as error:
            result = not_run(fault.name, fault.expected, str(error), number)
        print(f"{number if number > 1 else ' '} {line(result)}", file=sys.stderr, flush=True)
        if not result.says_little:
            break
    return result


def main(arguments: list[str]) -> int:
    """The command; 0 where every fault was noticed, held in time and broke no limit."""
    options = parse(FaultOptions, COMMAND, __doc__, arguments)
    if options.table is not None:
        return _print_table(options.table)
    is_overlapped = options.inference == "overlapped"
    faults = OVERLAPPED_FAULTS if is_overlapped else FAULTS
    command = f"{COMMAND} --inference overlapped" if is_overlapped else COMMAND
    done: list[FaultResult] = []
    try:
        if options.resume:
            assert options.json is not None
            done = [result_of(row) for row in _stored(options.json)["faults"]]
    except (ValueError, KeyError, TypeError) as error:
        return _bad_file(options.json, error)
    own_domain()

    def save(results: list[FaultResult]) -> None:
        if options.json is not None:
            text = json.dumps(report(results, command), indent=1)
            write_text("the result", options.json, text + "\n")

    try:
        results = run_suite(faults, options.only, done, save)
    except SuiteError as error:
        return report_error(error)
    content = report(results, command)
    print(markdown_table(content))
    print(
        f"\n{content['num_passed']} of {content['num_faults']} passed, {content['num_repeated']} "
        f"were repeated, for {content['num_suite_late']} the suite itself was late each time."
    )
    return 0 if content["passed"] else 1


def _print_table(path: Path) -> int:
    try:
        print(markdown_table(_stored(path)))
    except (ValueError, KeyError, TypeError) as error:
        return _bad_file(path, error)
    return 0


def _stored(path: Path) -> dict[str, Any]:
    return read_object(path, "give a file of --json")


def _bad_file(path: Path | None, error: Exception) -> int:
    """A ValueError names the file; what a file without the results lacks does not."""
    is_sentence = type(error) is ValueError
    return report_error(error if is_sentence else f"{path} is not a result of {COMMAND} --json.")


def own_domain() -> None:
    """A ROS domain of this machine alone. Shared memory of killed processes is not waited for."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
    os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
