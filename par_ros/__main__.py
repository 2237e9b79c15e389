# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros sim|real_arm|loopback|bench name:=value ...`: graphs without ros2 launch.

Exit codes: 0 all episodes ran, 1 the run could not start or go on, 2 bad arguments, 130 Ctrl-C.
"""

import dataclasses
import shlex
import sys
from typing import Any

from par_ros.graph_runner import GraphRunner, Interrupted, RunError, interruptible
from par_ros.node_graph import GRAPHS, parse_arguments
from par_ros.parameters import constraint_of, range_text
from par_ros.process import report_error

INTERRUPTED = 130
BAD_USE = 2


def main(words: list[str] | None = None) -> int:
    """Run what `words` (default: the command line) asks for; gives the exit code."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else BAD_USE
    name, rest = words[0], words[1:]
    if name not in GRAPHS:
        report_error(f"{name!r} is not a command; the commands are {', '.join(GRAPHS)}.")
        return BAD_USE
    if any(word in ("-h", "--help") for word in rest):
        print(_graph_usage(name))
        return 0
    try:
        arguments = parse_arguments(GRAPHS[name], name, split_assignments(name, rest))
        graph = GRAPHS[name].build(arguments, "python -m par_ros " + shlex.join(words))
    except ValueError as error:
        report_error(error)
        return BAD_USE
    try:
        with interruptible(), GraphRunner(graph) as runner:
            runner.start()
            runner.wait()
    except RunError as error:
        return report_error(error)
    except Interrupted:
        print("interrupted; every process has ended", file=sys.stderr)
        return INTERRUPTED
    return 0


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


def _usage() -> str:
    lines = ["usage: python -m par_ros COMMAND name:=value ...", "", "commands:"]
    lines += [f"  {kind.arguments_type.__doc__}" for kind in GRAPHS.values()]
    lines += ["", "python -m par_ros COMMAND --help lists its arguments."]
    return "\n".join(lines)


def _graph_usage(name: str) -> str:
    kind: type[Any] = GRAPHS[name].arguments_type
    lines = [f"usage: python -m par_ros {name} name:=value ...", "", str(kind.__doc__), ""]
    for field in dataclasses.fields(kind):
        default = "not given" if field.default in (None, "") else f"{field.default}"
        if isinstance(field.default, bool):
            default = default.lower()
        lines.append(f"  {field.name}  ({range_text(field)}; default: {default})")
        lines.append(f"      {constraint_of(field).description}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
