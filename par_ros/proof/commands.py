# SPDX-License-Identifier: Apache-2.0
"""The commands that test guard and graph; their arguments are --options."""

import importlib

PROOFS = {
    "fuzz": "random and hostile chunks against the guard, judged at 1 kHz (--num-chunks, --json).",
    "faults": "faults injected over DDS into guard and loopback arm (--only, --json).",
    "soak": "policy, guard and loopback arm for thousands of chunks (--chunks, --pace, --json).",
    "guard_latency": "action_chunk in to joint_trajectory out (--chunks, --json).",
    "limits": "what policy or planner ask of the arm, and what passes (--episodes, --data-set).",
    "same_targets": "graph against direct loop, joint target by joint target (--graph, --direct).",
}


# The command's module where its name is another.
_MODULES = {"limits": "asked_limits"}


def run_proof(name: str, options: list[str]) -> int:
    """Run one of PROOFS with its command line options; gives the exit code."""
    # Only this one: what they import takes longer than a graph's start.
    module = importlib.import_module(f"par_ros.proof.{_MODULES.get(name, name)}")
    code: int = module.main(options)
    return code
