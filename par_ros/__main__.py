# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros sim|real_arm|loopback|bench|doctor name:=value ...`, without ros2 launch.

fuzz, faults, replay and to_dataset take --options, as measuring programs do.

Exit codes: 0 all went well (episodes count whatever their success), 1 the run could not start or
go on, 2 bad arguments, 130 Ctrl-C.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from par_ros.benchmark import BenchArguments, run_benchmark
from par_ros.control.settings import constraint_of, range_text
from par_ros.doctor.command import DoctorArguments, run_doctor
from par_ros.fit_capsules import FitCapsulesArguments, print_capsules
from par_ros.graph_arguments import ArmArguments, parse_arguments
from par_ros.graph_runner import GraphRunner, Interrupted, RunError, interruptible
from par_ros.node_graph import GRAPHS, NodeGraph
from par_ros.process import report_error
from par_ros.proof.commands import PROOFS, run_proof

INTERRUPTED = 130
REPLAY = "replay"
TO_DATASET = "to_dataset"
DOCTOR = "doctor"
FIT_CAPSULES = "fit_capsules"
BAD_USE = 2
_SEE_DOCTOR = "`./par doctor` (python -m par_ros doctor) checks machine, graph, camera and arm."
# Two arguments are limits of the guard; a reader must not take them for all.
_LIMITS_NOTE = (
    "The guard's limits. Of motion (position, velocity, acceleration, jerk, jumps, tracking error,",
    "workspace): in the arm file. Of time (ages, timeouts): parameters of safety_node with fixed",
    "values here, in docs/reference/parameters.md. Only splice_s and limit_share are arguments.",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """One word after `python -m par_ros`: its arguments, and what makes the work from them.

    `prepare` raises ValueError for what cannot be done; the function that it gives does it.
    """

    arguments_type: type[Any]
    prepare: Callable[[Any, str], Callable[[], object]]


def main(words: list[str] | None = None) -> int:
    """Run what `words` (default: the command line) asks for; gives the exit code."""
    words = sys.argv[1:] if words is None else words
    commands = _commands()
    if not words or words[0] in ("-h", "--help"):
        print(_usage(commands))
        return 0 if words else BAD_USE
    name, rest = words[0], words[1:]
    if name in PROOFS:
        return run_proof(name, rest)
    # Imported where they are run: every command would wait for what they import.
    if name == REPLAY:
        from par_ros.replay import main as run_replay

        return run_replay(rest)
    if name == TO_DATASET:
        # It needs the extra `train`.
        from par_ros.dataset.command import main as to_dataset

        return to_dataset(rest)
    if name not in commands:
        known = ", ".join((*commands, *PROOFS, REPLAY, TO_DATASET))
        report_error(f"{name!r} is not a command; the commands are {known}.")
        return BAD_USE
    command = commands[name]
    if any(word in ("-h", "--help") for word in rest):
        print(_command_usage(name, command))
        return 0
    try:
        texts = split_assignments(name, ["json:=true" if w == "--json" else w for w in rest])
        arguments = parse_arguments(command.arguments_type, name, texts)
        work = command.prepare(arguments, "python -m par_ros " + shlex.join(words))
    except ValueError as error:
        report_error(error)
        return BAD_USE
    return run_work(work)


def run_work(work: Callable[[], object]) -> int:
    """Do it until it ends or is interrupted; gives the exit code."""
    try:
        with interruptible():
            work()
    except RunError as error:
        code = report_error(error)
        print(_SEE_DOCTOR, file=sys.stderr)
        return code
    except ValueError as error:
        return report_error(error)
    except Interrupted:
        print("interrupted; every process has ended", file=sys.stderr)
        return INTERRUPTED
    return 0


def _commands() -> Mapping[str, Command]:
    commands = {
        name: Command(kind.arguments_type, _graph_work(kind.build)) for name, kind in GRAPHS.items()
    }
    bench = Command(BenchArguments, lambda arguments, _: lambda: run_benchmark(arguments))
    doctor = Command(DoctorArguments, lambda arguments, _: lambda: _examine(arguments))
    fit = Command(FitCapsulesArguments, lambda arguments, _: lambda: print_capsules(arguments))
    return {**commands, "bench": bench, DOCTOR: doctor, FIT_CAPSULES: fit}


def _examine(arguments: DoctorArguments) -> None:
    """Raises SystemExit with code 1 where something is not as it must be: the lines say what."""
    if not run_doctor(arguments):
        raise SystemExit(1)


def _graph_work(
    build: Callable[[Any, str], NodeGraph],
) -> Callable[[Any, str], Callable[[], object]]:
    def prepare(arguments: Any, command_line: str) -> Callable[[], object]:
        graph = build(arguments, command_line)

        def work() -> None:
            with GraphRunner(graph) as runner:
                runner.start()
                runner.wait()

        return work

    return prepare


def split_assignments(owner: str, words: list[str]) -> dict[str, str]:
    """name:=value words -> name -> value. Raises ValueError for another form or a repeated name."""
    texts: dict[str, str] = {}
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator or not name:
            raise ValueError(
                f"{owner}: arguments are written name:=value, got {word!r}; "
                f"see python -m par_ros {owner} --help."
            )
        if name in texts:
            raise ValueError(f"{owner}: {name} is given twice; leave one out.")
        texts[name] = text
    return texts


def _usage(commands: Mapping[str, Command]) -> str:
    lines = ["usage: python -m par_ros COMMAND name:=value ...", "", "commands:"]
    lines += [f"  {command.arguments_type.__doc__}" for command in commands.values()]
    lines += [f"  {name}: {what}" for name, what in PROOFS.items()]
    lines.append(
        "  replay: a recording through policy and guard again, compared bit by bit (FILE)."
    )
    lines.append("  to_dataset: recordings as a LeRobot data set (RECORDING... --out DIR).")
    lines += ["", "python -m par_ros COMMAND --help lists its arguments."]
    return "\n".join(lines)


def _command_usage(name: str, command: Command) -> str:
    lines = [f"usage: python -m par_ros {name} name:=value ...", ""]
    lines += [str(command.arguments_type.__doc__), ""]
    for field in dataclasses.fields(command.arguments_type):
        default = "not given" if field.default in (None, "") else f"{field.default}"
        if isinstance(field.default, bool):
            default = default.lower()
        lines.append(f"  {field.name}  ({range_text(field)}; default: {default})")
        lines.append(f"      {constraint_of(field).description}")
    if issubclass(command.arguments_type, ArmArguments):
        lines += ["", *_LIMITS_NOTE]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
