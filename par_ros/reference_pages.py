# SPDX-License-Identifier: Apache-2.0
"""Write the generated tables of docs/reference: topics, services, parameters, launch arguments.

    python -m par_ros.reference_pages docs/reference

Each page holds its table between two marker comments; the text around them is written by hand. A
test compares the pages with what this module generates.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from par_model.output_files import write_text
from par_ros import topics
from par_ros.control.settings import constraint_of, range_text
from par_ros.node_graph import GRAPHS
from par_ros.parameters import (
    EpisodeNodeParameters,
    GripperAdapterNodeParameters,
    LoopbackArmParameters,
    ManiSkillBridgeParameters,
    PolicyNodeParameters,
    RealArmNodeParameters,
    RecorderNodeParameters,
    SafetyNodeParameters,
    ViewerNodeParameters,
)
from par_ros.process import report_error

_NODES: Mapping[str, type[Any]] = {
    topics.POLICY: PolicyNodeParameters,
    topics.GUARD: SafetyNodeParameters,
    "real_arm_node": RealArmNodeParameters,
    topics.GRIPPER_ADAPTER: GripperAdapterNodeParameters,
    topics.BRIDGE: ManiSkillBridgeParameters,
    "loopback_arm_node": LoopbackArmParameters,
    topics.EPISODES: EpisodeNodeParameters,
    topics.RECORDER: RecorderNodeParameters,
    topics.VIEWER: ViewerNodeParameters,
}


def parameter_tables() -> str:
    """One table of parameters a node, as Markdown."""
    return "\n".join(_section(f"`{name}`", kind, "Parameter") for name, kind in _NODES.items())


def argument_tables() -> str:
    """One table of launch arguments a graph, as Markdown."""
    return "\n".join(
        _section(f"`{name}`", graph.arguments_type, "Argument") for name, graph in GRAPHS.items()
    )


# page -> marker -> what stands between <!-- marker --> and <!-- /marker -->
PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "topics.md": {"topics.py": topics.markdown_table},
    "parameters.md": {"node_graph.py": argument_tables, "parameters.py": parameter_tables},
}


def updated(text: str, page: str) -> str:
    """`text` with the tables of `page` as they are now. Raises ValueError without its markers."""
    for marker, table in PAGES[page].items():
        begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(
                f"{page} must hold the lines {begin.strip()} and {end} once each; add them where "
                "the table belongs."
            )
        before, rest = text.split(begin)
        text = before + begin + table() + "\n" + end + rest.split(end)[1]
    return text


def _section(title: str, kind: type[Any], first_column: str) -> str:
    rows = [f"### {title}", "", f"| {first_column} | Default | Values | What |", "|---" * 4 + "|"]
    for field in dataclasses.fields(kind):
        constraint = constraint_of(field)
        kept = "" if constraint.read_only else " (may be set while the node runs)"
        rows.append(
            f"| `{field.name}` | {_default_text(field.default)} | {range_text(field)} "
            f"| {constraint.description}{kept} |"
        )
    return "\n".join(rows).replace("<", "&lt;") + "\n"


def _default_text(default: Any) -> str:
    if default is None or default in ("", ()):
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`"


def main(arguments: list[str]) -> int:
    """Rewrite the tables of the pages in the folder `arguments[0]`."""
    if len(arguments) != 1:
        print("usage: python -m par_ros.reference_pages docs/reference", file=sys.stderr)
        return 2
    for page in PAGES:
        path = Path(arguments[0]) / page
        try:
            text = updated(path.read_text(encoding="utf-8"), page)
            write_text("the page", path, text)
        except FileNotFoundError:
            return report_error(f"{path} is not a file; give the folder docs/reference.")
        except ValueError as error:
            return report_error(error)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
