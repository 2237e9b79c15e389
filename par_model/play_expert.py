# SPDX-License-Identifier: Apache-2.0
"""Play a task's expert alone, undisturbed or disturbed: what its labels are worth.

python -m par_model.play_expert --task PickCube
python -m par_model.play_expert --task PickCube --disturbed 0.25
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from par_model.command_line import default_is, output_file, parse
from par_model.evaluation.labelled_episodes import ExpertActs, run_labelled_episode
from par_model.evaluation.result_file import provenance, write_result
from par_model.evaluation.statistics import wilson_interval
from par_model.simulation.demonstrations import Disturbance, NoiseSettings
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.tasks import FIRST_SELECTION_SEED, TASKS
from par_model.simulation.tasks import task as task_by_name

PROGRAM = "python -m par_model.play_expert"
# Steps of a chunk, as the policies of this repository answer.
NUM_ACTIONS = 8


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """The command line."""

    # the task
    task: Annotated[str, arg(metavar="|".join(TASKS))]
    # how many seeds
    episodes: int = 30
    # reset seed of the first episode; the others follow
    first_seed: int = FIRST_SELECTION_SEED
    # length of an episode at most [control steps]
    max_steps: int = 200
    # share of the chunks that are sent with a constant offset of each arm joint [0 to 1]
    disturbed: float = 0.0
    # standard deviation of that offset [rad]; the default is that of the demonstrations
    sigma: float = NoiseSettings().sigma_rad
    # results; the figures go to the terminal
    json: Annotated[Path | None, output_file(), default_is("not written")] = None

    def __post_init__(self) -> None:
        if self.episodes < 1 or not 0.0 <= self.disturbed <= 1.0:
            raise ValueError("--episodes must be at least 1, and --disturbed lie in 0 to 1.")


def main(arguments: list[str] | None = None) -> int:
    options = parse(PlayOptions, PROGRAM, __doc__, arguments)
    try:
        play(options, [PROGRAM, *(arguments or sys.argv[1:])])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def play(options: PlayOptions, command: list[str]) -> None:
    """Run the episodes, print and write. Raises ValueError for a task without an expert."""
    the_task = task_by_name(options.task)
    if the_task.expert is None:
        raise ValueError(
            f"task {the_task.name} has no expert; write one in its file "
            "(docs/how_to/add_a_task.md)."
        )
    noise = NoiseSettings(1.0, options.sigma, options.disturbed, NUM_ACTIONS)
    failed, label_ms, num_steps = [], [], []
    with ManiSkillArm(the_task) as arm:
        arm.reset(options.first_seed)
        expert = the_task.expert(arm)
        for seed in range(options.first_seed, options.first_seed + options.episodes):
            arm.reset(seed)
            expert.reset()
            actor = ExpertActs(Disturbance(seed, noise, arm.robot.num_arm_joints))
            episode = run_labelled_episode(arm, expert, actor, NUM_ACTIONS, options.max_steps)
            label_ms += (1e3 * episode.label_times_s).tolist()
            num_steps.append(episode.num_steps)
            if not episode.success[-1]:
                failed.append(seed)
    num_successes = options.episodes - len(failed)
    interval = wilson_interval(num_successes, options.episodes)
    p50, p99 = (round(float(value), 2) for value in np.percentile(label_ms, [50, 99]))
    print(
        f"{the_task.name}: {num_successes} of {options.episodes} "
        f"({100 * interval.low:.0f} to {100 * interval.high:.0f} %), {np.mean(num_steps):.0f} "
        f"steps on average; a label takes {p50} ms (p99 {p99}); failed seeds: {failed or 'none'}"
    )
    if options.json is not None:
        content = {
            "task": the_task.name,
            "first_seed": options.first_seed,
            "num_episodes": options.episodes,
            "num_successes": num_successes,
            "failed_seeds": failed,
            "disturbed": options.disturbed,
            "sigma_rad": options.sigma,
            "label_ms": {"p50": p50, "p99": p99},
        }
        write_result(options.json, content | provenance(command))


if __name__ == "__main__":
    sys.exit(main())
