# SPDX-License-Identifier: Apache-2.0
"""The commands that test guard and graph; their arguments are --options."""

from par_ros.proof import asked_limits, faults, fuzz, guard_latency, same_targets, soak

PROOFS = {
    "fuzz": "random and hostile chunks against the guard, judged at 1 kHz (--num-chunks, --json).",
    "faults": "faults injected over DDS into guard and loopback arm (--only, --json).",
    "soak": "policy, guard and loopback arm for thousands of chunks (--chunks, --pace, --json).",
    "guard_latency": "action_chunk in to joint_trajectory out (--chunks, --json).",
    "limits": "what policy or planner ask of the arm, and what passes (--episodes, --data-set).",
    "same_targets": "graph against direct loop, joint target by joint target (--graph, --direct).",
}


def run_proof(name: str, options: list[str]) -> int:
    """Run one of PROOFS with its command line options; gives the exit code."""
    commands = {
        "fuzz": fuzz.main,
        "faults": faults.main,
        "soak": soak.main,
        "guard_latency": guard_latency.main,
        "limits": asked_limits.main,
        "same_targets": same_targets.main,
    }
    return commands[name](options)
