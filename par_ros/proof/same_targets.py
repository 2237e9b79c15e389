# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros same_targets`: the ROS graph commands what the direct loop commands.

Compares two result files, episode by episode and step by step:

- graph: results.json of `python -m par_ros sim` (lockstep);
- direct: `python -m par_model.evaluate --record-targets --json FILE`, same task, seeds and runtime.

Joint targets must be equal up to the first number that the guard's log names as changed; the two
arms stand differently from there on and nothing is compared. Exit code 1 where an episode differs
before it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from par_model.command_line import output_file, parse
from par_model.output_files import write_text
from par_ros.process import report_error


@dataclass(frozen=True)
class Comparison:
    """One episode that both files hold.

    Attributes:
        num_steps: control steps of the graph's episode.
        num_compared: steps before the guard's first change, or all.
        first_change: step of the guard's first change, from 1; None: it changed nothing.
        first_difference: first compared step whose targets differ, from 1; None: all are equal.
        largest_difference: over the compared steps, rad (m for the gripper).
    """

    seed: int
    policy_seed: int
    num_steps: int
    num_compared: int
    first_change: int | None
    first_difference: int | None
    largest_difference: float

    @property
    def words(self) -> str:
        """The finding, for the table."""
        if self.first_difference is not None:
            return f"DIFFERENT from step {self.first_difference} on"
        if self.first_change is None:
            return "equal throughout"
        return f"equal up to the guard's change at step {self.first_change}"


def compare(graph: dict[str, Any], direct: dict[str, Any], tolerance: float) -> list[Comparison]:
    """Every episode of the graph's file that the direct loop's file holds too.

    Raises:
        ValueError: other tasks, no joint targets, or no episode in both.
    """
    if graph["task"] != direct["task"]:
        raise ValueError(
            f"the graph ran {graph['task']} and the direct loop {direct['task']}; compare one task."
        )
    if graph["mode"] != "lockstep":
        raise ValueError(f"the graph ran in mode {graph['mode']!r}; only lockstep can be equal.")
    of_direct = {_name(episode): episode for episode in direct["episodes"]}
    both = [episode for episode in graph["episodes"] if _name(episode) in of_direct]
    if not both:
        raise ValueError(
            "the two files have no episode in common (seed and policy_seed); run both with the "
            "same seeds."
        )
    return [_compared(episode, of_direct[_name(episode)], tolerance) for episode in both]


def _name(episode: dict[str, Any]) -> tuple[int, int]:
    return episode["seed"], episode["policy_seed"]


def _compared(graph: dict[str, Any], direct: dict[str, Any], tolerance: float) -> Comparison:
    if direct["joint_targets"] is None:
        raise ValueError("the direct loop's file has no joint targets; add --record-targets.")
    ours, theirs = np.array(graph["joint_targets"]), np.array(direct["joint_targets"])
    changes = [change["step"] for change in graph["guard_changes"]]
    first_change = min(changes, default=None)
    num_compared = len(ours) if first_change is None else min(len(ours), first_change - 1)
    shared = min(num_compared, len(theirs))
    error = np.abs(ours[:shared] - theirs[:shared]).max(axis=1, initial=0.0)
    unequal = np.flatnonzero(error > tolerance)
    first_difference = int(unequal[0]) + 1 if unequal.size else None
    ended_early = first_change is None and len(ours) != len(theirs)
    if first_difference is None and (shared < num_compared or ended_early):
        first_difference = shared + 1
    return Comparison(
        seed=graph["seed"],
        policy_seed=graph["policy_seed"],
        num_steps=len(ours),
        num_compared=num_compared,
        first_change=first_change,
        first_difference=first_difference,
        largest_difference=float(error.max(initial=0.0)),
    )


@dataclass(frozen=True)
class SameTargetsOptions:
    """The command line."""

    # results.json of `python -m par_ros sim`
    graph: Annotated[Path, arg(metavar="FILE")]
    # result of `python -m par_model.evaluate --record-targets`
    direct: Annotated[Path, arg(metavar="FILE")]
    # largest difference of equal targets [rad; m for the gripper]
    tolerance: float = 1e-6
    # where to write the result
    json: Annotated[Path | None, output_file()] = None

    def __post_init__(self) -> None:
        if self.tolerance < 0.0:
            raise ValueError(f"--tolerance must be 0 or more, got {self.tolerance:g}.")


def main(arguments: list[str]) -> int:
    """The command; 0 where nothing differs before the guard's first change."""
    options = parse(SameTargetsOptions, "python -m par_ros same_targets", __doc__, arguments)
    try:
        graph, direct = _read(options.graph), _read(options.direct)
        found = compare(graph, direct, options.tolerance)
    except (ValueError, KeyError, OSError) as error:
        missing = f"{error} is missing in a file" if isinstance(error, KeyError) else error
        return report_error(f"same_targets: {missing}")
    for one in found:
        print(f"{one.seed} {one.policy_seed}: {one.words} ({one.num_steps} steps)")
    different = sum(one.first_difference is not None for one in found)
    whole = sum(one.first_difference is None and one.first_change is None for one in found)
    steps = sum(one.num_compared for one in found)
    print(
        f"{graph['task']}: {len(found) - different} of {len(found)} episodes equal to "
        f"{options.tolerance:g} before the guard's first change, {whole} of them throughout; "
        f"{steps} of {sum(one.num_steps for one in found)} steps compared"
    )
    if options.json is not None:
        result = {
            "task": graph["task"],
            "graph": graph["command"],
            "direct": direct["command"],
            "tolerance": options.tolerance,
            "num_episodes": len(found),
            "num_different": different,
            "num_equal_throughout": whole,
            "episodes": [asdict(one) for one in found],
        }
        write_text("the result", options.json, json.dumps(result, indent=1) + "\n")
    return 1 if different else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    return content
