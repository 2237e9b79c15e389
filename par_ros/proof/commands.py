# SPDX-License-Identifier: Apache-2.0
"""The commands that prove the guard; they take --options, as measuring programs do."""

from par_ros.proof import asked_limits, faults, fuzz

PROOFS = {
    "fuzz": "random and hostile chunks against the guard, judged at 1 kHz (--num-chunks, --json).",
    "faults": "faults injected over DDS into guard and loopback arm (--only, --json).",
    "limits": "what policy or planner ask of the arm, and what passes (--episodes, --data-set).",
}


def run_proof(name: str, options: list[str]) -> int:
    """Run one of PROOFS with its command line options; gives the exit code."""
    return {"fuzz": fuzz.main, "faults": faults.main, "limits": asked_limits.main}[name](options)
