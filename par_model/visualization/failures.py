# SPDX-License-Identifier: Apache-2.0
"""A sheet of failed rollouts, sorted by kind: how many there are, and what they look like.

Kinds come from the stored measurements (simulation/tasks). The pictures are made by running
the shown rollouts again, which gives the same episode on the same machine and runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from par_model.evaluation.direct_loop import run_episode
from par_model.evaluation.rollouts import RolloutResult
from par_model.interface import ImageArray, Policy
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.milestones import Milestones
from par_model.simulation.tasks import task as task_by_name
from par_model.visualization.pictures import PictureRow, draw_sheet, spread

_NUM_COLUMNS = 8


@dataclass(frozen=True)
class FilmedFailure:
    """A failed rollout with pictures of it.

    Attributes:
        result: as it was stored.
        frames, steps: pictures, and the control steps after which they were taken.
        same_outcome: whether it failed again when it was filmed.
    """

    result: RolloutResult
    frames: list[ImageArray]
    steps: list[int]
    same_outcome: bool


def by_kind(results: Sequence[RolloutResult]) -> dict[str, list[RolloutResult]]:
    """One task's failures by kind, in the order of its failure_kinds, kinds without failures left
    out."""
    failures = [result for result in results if not result.success]
    kinds = task_by_name(results[0].task).failure_kinds if results else ()
    found = {kind: [result for result in failures if result.outcome == kind] for kind in kinds}
    return {kind: entries for kind, entries in found.items() if entries}


def chosen_failures(results: Sequence[RolloutResult], most_per_kind: int) -> list[RolloutResult]:
    """What is shown: of each kind different initial states first."""
    chosen = []
    for entries in by_kind(results).values():
        ordered = sorted(entries, key=lambda result: (result.policy_seed, result.seed))
        chosen += ordered[:most_per_kind]
    return chosen


class _FilmWatcher:
    """A picture after every chunk; see direct_loop.EpisodeWatcher."""

    def __init__(self, arm: ManiSkillArm, every: int) -> None:
        self._arm, self._every = arm, every
        self._num_steps = 0
        self.frames: list[ImageArray] = []
        self.steps: list[int] = []

    def started(self) -> None:
        self._take()

    def chunk_chosen(self) -> None:
        """The picture of this moment was taken after the step before."""

    def stepped(self) -> None:
        self._num_steps += 1
        if self._num_steps % self._every == 0:
            self._take()

    def _take(self) -> None:
        self.frames.append(self._arm.capture())
        self.steps.append(self._num_steps)


def film(arm: ManiSkillArm, policy: Policy, result: RolloutResult, max_steps: int) -> FilmedFailure:
    """Run a failed rollout again and keep pictures, spread over the episode."""
    watcher = _FilmWatcher(arm, policy.spec.num_actions)
    again = run_episode(
        arm,
        policy,
        result.seed,
        max_steps,
        policy_seed=result.policy_seed,
        watchers=(watcher,),
    )
    chosen = spread(len(watcher.frames), _NUM_COLUMNS)
    return FilmedFailure(
        result,
        [watcher.frames[index] for index in chosen],
        [watcher.steps[index] for index in chosen],
        again.success == result.success,
    )


def failure_sheet(results: Sequence[RolloutResult], filmed: Sequence[FilmedFailure]) -> Image.Image:
    """One task: a heading for each kind with its count, then its filmed rollouts."""
    task, num_failures = results[0].task, sum(not result.success for result in results)
    rows = [PictureRow(f"{task}: {num_failures} of {len(results)} rollouts fail")]
    for kind, entries in by_kind(results).items():
        rows.append(PictureRow(f"\n{kind}: {len(entries)} of {num_failures}"))
        rows += [_row(entry) for entry in filmed if entry.result.outcome == kind]
    return draw_sheet(rows)


def write_failures(
    results: Sequence[RolloutResult], filmed: Sequence[FilmedFailure], folder: Path, name: str
) -> Path:
    """Write the sheet of one task as failures_<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"failures_{name}.png"
    failure_sheet(results, filmed).save(path, optimize=True)
    return path


def _row(entry: FilmedFailure) -> PictureRow:
    result = entry.result
    assert result.milestones is not None
    lines = [f"seed {result.seed}, policy seed {result.policy_seed}", *_words(result.milestones)]
    if not entry.same_outcome:
        lines.append("(succeeded when it was filmed)")
    return PictureRow("\n".join(lines), entry.frames, [f"step {step}" for step in entry.steps])


def _words(milestones: Milestones) -> list[str]:
    lines = [
        f"gripper came within {1000 * milestones.min_gripper_cube_m:.0f} mm",
        f"cube moved {1000 * milestones.max_cube_moved_m:.0f} mm at most",
        f"came within {1000 * milestones.min_second_distance_m:.0f} mm of its goal",
    ]
    if milestones.first_grasp_step is not None:
        lines.append(
            f"grasped at step {milestones.first_grasp_step}, for "
            f"{milestones.num_grasped_steps} steps"
        )
    return lines
