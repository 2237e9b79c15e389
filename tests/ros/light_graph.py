# SPDX-License-Identifier: Apache-2.0
"""The loopback graph with fixed chunks in the policy's place: up in seconds, without torch.

`python -m tests.ros.light_graph DOMAIN ...`, the arguments of light_graph() in their order, is run
and ended as `python -m par_ros` is.
"""

import sys
from pathlib import Path

from par_model.simulation.tasks import TASKS
from par_ros.__main__ import run_work
from par_ros.graph_environment import graph_environment
from par_ros.graph_runner import GraphRunner
from par_ros.node_graph import NodeEntry, NodeGraph, recorder_entry
from par_ros.topics import GUARD, POLICY, VIEWER
from tests.ros.operator_thread import operator

# No deadline ends these runs: a test machine may stand still for seconds. Deadlines have their own
# tests (tests/control, par_ros.proof.faults).
PATIENT = {
    "max_joint_state_age_s": 10.0,
    "max_reference_age_s": 5.0,
    "max_observation_age_s": 10.0,
    "policy_timeout_s": 60.0,
    "first_chunk_timeout_s": 600.0,
    # The most there is: two thirds of it, not 20 ms, are the guard's to plan and send a chunk.
    "splice_s": 0.1,
}


def light_graph(
    domain_id: int,
    namespace: str = "",
    recording: str = "",
    policy: str = "needed",
    prefix: str = "",
    view_port: str = "",
    reference: str = "none",
) -> NodeGraph:
    """Arm, guard and fixed chunks, and a recorder where a file is named; the guard does not engage
    by itself. The others go on without the policy where it is not "needed"; prefix: of the arm's
    joints; view_port: of a live view; reference: the guard's."""
    instruction = TASKS["PushCube"].instruction
    nodes = (
        NodeEntry(
            "loopback_arm_node", "loopback_arm_node", {"arm": "panda", "joint_prefix": prefix}
        ),
        NodeEntry(
            GUARD,
            GUARD,
            {
                "arm": "panda",
                "joint_prefix": prefix,
                "reference": reference,
                **PATIENT,
            },
            lifecycle=True,
        ),
        NodeEntry(
            "fixed_chunk_node",
            POLICY,
            {"instruction": instruction, "joint_prefix": prefix},
            lifecycle=True,
            others_go_on=policy != "needed",
        ),
    )
    if recording:
        nodes = (recorder_entry(nodes, Path(recording)), *nodes)
    if view_port:
        nodes += (NodeEntry(VIEWER, VIEWER, {"port": int(view_port)}, is_optional=True),)
    environment = graph_environment(fastdds_profile=True, domain_id=domain_id)
    return NodeGraph(nodes, namespace, environment, None)


def main() -> int:
    """Run until it is ended; an operator engages the guard."""
    domain_id = int(sys.argv[1])
    graph = light_graph(domain_id, *sys.argv[2:])

    def work() -> None:
        with operator(domain_id, graph.namespace), GraphRunner(graph) as runner:
            runner.start()
            runner.wait()

    return run_work(work)


if __name__ == "__main__":
    sys.exit(main())
