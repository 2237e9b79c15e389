# SPDX-License-Identifier: Apache-2.0
"""Guard and supervisor under a runner, as on a real arm. For the fault suite.

The arm's driver is not among the runner's processes there, so it lives on when the runner dies.
"""

import sys

from par_ros.graph_runner import GraphRunner, Interrupted, RunError, interruptible
from par_ros.node_graph import NodeEntry, NodeGraph
from par_ros.process import end_with_parent, report_error
from par_ros.real_arm_node import NAME as SUPERVISOR
from par_ros.topics import GUARD


def main() -> int:
    """Run both until one of them ends, or this process is ended."""
    end_with_parent()
    nodes = (
        NodeEntry(GUARD, GUARD, {"arm": "panda", "reference": "topic"}, lifecycle=True),
        NodeEntry(SUPERVISOR, SUPERVISOR, {"arm": "panda", "dry_run": False}, lifecycle=True),
    )
    try:
        with interruptible(), GraphRunner(NodeGraph(nodes, "", {}, None)) as runner:
            runner.start()
            runner.wait()
    except Interrupted:
        return 0
    except RunError as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
