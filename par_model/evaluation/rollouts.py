# SPDX-License-Identifier: Apache-2.0
"""Many episodes of one checkpoint: over processes or machines, and resumable.

Each finished episode is appended to a log (one JSON object a line) beside the result file, so that
a killed run repeats none of them. The log opens with what was measured; a run with other settings
does not continue it.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from par_model.config import TimestepSpacing
from par_model.evaluation.delayed_loop import Timing, run_delayed_episode
from par_model.evaluation.direct_loop import (
    Arm,
    EpisodeResult,
    EpisodeWatcher,
    arm_for,
    run_episode,
)
from par_model.evaluation.limit_shares import chunks_shares, read_motion_limits
from par_model.evaluation.milestones import MilestoneWatcher
from par_model.evaluation.observation_watcher import ObservationWatcher
from par_model.evaluation.smoothness import motion_figures
from par_model.interface import Observation, Policy, PolicySpec
from par_model.peers.lerobot_folder import is_lerobot
from par_model.peers.lerobot_policy import load_lerobot_policy
from par_model.policy import PARPolicy
from par_model.simulation.disturbances import Disturbance, DisturbedArm
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.milestones import Milestones
from par_model.simulation.tasks import task as task_by_name
from par_model.simulation.worker_pool import run_jobs
from par_model.worker_options import WorkerOptions

# Task, seed, policy seed, sampler, sampling steps, inference, delay, disturbance: what tells the
# rollouts of one run apart.
RolloutKey = tuple[str, int, int, str | None, int | None, str | None, float | None, str | None]


@dataclass(frozen=True)
class Rollout:
    """One episode to run, in full.

    Attributes:
        checkpoint: folder of the checkpoint.
        task: the task's name.
        seed: the simulator's reset seed, which fixes the initial state.
        policy_seed: the seed of the policy's sampling.
        max_steps: control steps after which an episode without success has failed.
        num_steps: sampling steps of the action head; None is the checkpoint's default.
        context_slots: observations that the policy remembers; None is the checkpoint's default.
        record_targets: whether the commanded joint targets are kept.
        sampler: of the action head; None is the checkpoint's default.
        backend: what runs the network, as load_policy takes it.
        spacing: of the sampling steps; None is the checkpoint's, another needs backend "eager".
        timing: when the policy is asked and how late it answers; None: the simulator waits for it.
        arm_file: where there is a timing, the arm whose limits chunks are compared with.
        watch: whether how badly each observation was foretold is kept.
        disturbance: one of simulation.disturbances.KINDS, drawn from `seed`; needs `watch`.
    """

    checkpoint: str
    task: str
    seed: int
    policy_seed: int
    max_steps: int
    num_steps: int | None
    context_slots: int | None
    record_targets: bool
    sampler: str | None = None
    backend: str = "auto"
    spacing: TimestepSpacing | None = None
    timing: Timing | None = None
    arm_file: str = ""
    watch: bool = False
    disturbance: str | None = None

    @property
    def key(self) -> RolloutKey:
        timing = self.timing
        late = (None, None) if timing is None else (timing.inference, timing.policy_delay_s)
        own = (self.task, self.seed, self.policy_seed, self.sampler, self.num_steps)
        return (*own, *late, self.disturbance)


@dataclass(frozen=True)
class RolloutResult:
    """Result of one episode; a line of the log.

    Attributes:
        success: whether the task's condition held at any step; the episode ends there.
        steps: control steps that were made.
        chunk_latencies_ms: wall time of observe and act, for each chunk.
        joint_targets: [steps][J] what was commanded, or None where it was not recorded.
        milestones: how far it came; None in files written before it was measured.
        outcome: "success", or the kind of failure that the milestones say; None likewise.
        sampler, num_steps: as asked for in the Rollout.
        inference, policy_delay_s: likewise, of its timing.
        num_late: answers that came too late to be followed.
        motion: the figures of smoothness.MotionFigures of the commanded targets.
        limit_shares: of each chunk, the largest acceleration and jerk as shares of the limits.
        disturbance, disturbed_at: its kind, and the control step at which it began; the second is
            None where the episode was over before.
        watched: what was seen at each observation but the first, where that was asked for.
    """

    task: str
    seed: int
    policy_seed: int
    success: bool
    steps: int
    chunk_latencies_ms: list[float]
    joint_targets: list[list[float]] | None = None
    milestones: Milestones | None = None
    outcome: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    inference: str | None = None
    policy_delay_s: float | None = None
    num_late: int | None = None
    motion: dict[str, Any] | None = None
    limit_shares: list[tuple[float, float]] | None = None
    disturbance: str | None = None
    disturbed_at: int | None = None
    watched: dict[str, list[float]] | None = None

    @property
    def key(self) -> RolloutKey:
        return (
            self.task,
            self.seed,
            self.policy_seed,
            self.sampler,
            self.num_steps,
            self.inference,
            self.policy_delay_s,
            self.disturbance,
        )

    @staticmethod
    def from_json(values: dict[str, Any]) -> "RolloutResult":
        """Read one entry of a log or of a result file's episodes; unknown fields are an error."""
        milestones = values.get("milestones")
        plain = {name: value for name, value in values.items() if name != "milestones"}
        return RolloutResult(
            **plain, milestones=None if milestones is None else Milestones(**milestones)
        )

    def to_json(self) -> dict[str, Any]:
        """Without what is None and optional."""
        optional = {field.name for field in fields(self) if field.default is None}
        values = asdict(self)
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in optional
        }

    def success_within(self, max_steps: int) -> bool:
        """Whether the episode would have counted as a success with this step limit."""
        return self.success and self.steps <= max_steps


class RolloutLog:
    """Finished episodes on disk, one line each; the first line holds the settings.

    Raises ValueError if the file belongs to other settings. A last line that was cut off by a kill
    is dropped.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        if path.exists():
            lines = _whole_lines(path)
            found = json.loads(lines[0]) if lines else settings
            if found != settings:
                names = sorted(settings.keys() | found.keys())
                differing = [k for k in names if settings.get(k) != found.get(k)]
                raise ValueError(
                    f"{path} holds episodes of an unfinished run with other settings "
                    f"({', '.join(differing)} differ); delete it, or choose another --json."
                )
            self.results = [RolloutResult.from_json(json.loads(line)) for line in lines[1:]]
        else:
            self.results = []
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [settings, *(result.to_json() for result in self.results)]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in whole))

    def append(self, result: RolloutResult) -> None:
        self.results.append(result)
        with self.path.open("a") as stream:
            stream.write(json.dumps(result.to_json()) + "\n")


def run_rollouts(
    rollouts: Sequence[Rollout],
    log: RolloutLog,
    workers: WorkerOptions,
    report: Callable[[RolloutResult], None],
) -> list[RolloutResult]:
    """Run what the log lacks; all results in the order of `rollouts`. Blocks until done.

    report: called with each result as it comes, those already in the log included.
    """
    wanted = {rollout.key for rollout in rollouts}
    for result in log.results:
        if result.key in wanted:
            report(result)
    done = {result.key for result in log.results}
    remaining = [rollout for rollout in rollouts if rollout.key not in done]
    if remaining:
        with contextlib.closing(run_jobs(run_rollout, remaining, workers)) as results:
            for result in results:
                log.append(result)
                report(result)
    by_key = {result.key: result for result in log.results}
    return [by_key[rollout.key] for rollout in rollouts]


def _whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


# A worker keeps what is slow to make.
_worker_arms: dict[tuple[object, ...], Any] = {}
_worker_policies: dict[tuple[object, ...], Policy] = {}


def run_rollout(rollout: Rollout) -> RolloutResult:
    """One job; runs in a worker."""
    policy = _worker_policy(rollout)
    if rollout.watch:
        return _watched_result(rollout, policy)
    arm = _worker_arm(ManiSkillArm, rollout.task, policy.spec)
    watcher = MilestoneWatcher(arm)
    if rollout.timing is not None:
        return _delayed_result(rollout, rollout.timing, arm, policy, watcher)
    result = _episode(rollout, arm, policy, (watcher,))
    return _rollout_result(rollout, result, watcher.milestones())


def _episode(
    rollout: Rollout, arm: ManiSkillArm, policy: Policy, watchers: Sequence[EpisodeWatcher]
) -> EpisodeResult:
    return run_episode(
        arm,
        policy,
        rollout.seed,
        rollout.max_steps,
        policy_seed=rollout.policy_seed,
        watchers=watchers,
    )


def _delayed_result(
    rollout: Rollout, timing: Timing, arm: ManiSkillArm, policy: Policy, watcher: MilestoneWatcher
) -> RolloutResult:
    delayed = run_delayed_episode(
        arm,
        policy,
        timing,
        rollout.seed,
        rollout.max_steps,
        policy_seed=rollout.policy_seed,
        watchers=(watcher,),
    )
    positions = np.concatenate((delayed.start[None], delayed.episode.joint_targets))[:, :-1]
    limits = read_motion_limits(Path(rollout.arm_file))
    begins = [begin for begin in delayed.begins if begin < len(positions) - 1]
    shares = chunks_shares(positions, arm.step_s, begins, limits)
    return replace(
        _rollout_result(rollout, delayed.episode, watcher.milestones()),
        inference=timing.inference,
        policy_delay_s=timing.policy_delay_s,
        num_late=delayed.num_late,
        motion=asdict(motion_figures(positions, arm.step_s, delayed.seams)),
        limit_shares=[(round(one.acceleration, 4), round(one.jerk, 4)) for one in shares],
    )


def _watched_result(rollout: Rollout, policy: Policy) -> RolloutResult:
    if not isinstance(policy, PARPolicy):
        raise ValueError(
            f"{rollout.checkpoint} foretells no observations, so there is no surprise to measure; "
            "give a checkpoint of PAR."
        )
    arm = _worker_arm(DisturbedArm, rollout.task, policy.spec)
    milestones, observations = MilestoneWatcher(arm), ObservationWatcher(arm, policy)
    arm.disturbance = None
    if rollout.disturbance is not None:
        arm.disturbance = Disturbance(rollout.disturbance, rollout.seed)
    result = _episode(rollout, arm, policy, (milestones, observations))
    return replace(
        _rollout_result(rollout, result, milestones.milestones()),
        disturbance=rollout.disturbance,
        disturbed_at=arm.began_at,
        watched=observations.watched,
    )


def _rollout_result(
    rollout: Rollout, result: EpisodeResult, milestones: Milestones
) -> RolloutResult:
    return RolloutResult(
        task=rollout.task,
        seed=rollout.seed,
        policy_seed=rollout.policy_seed,
        success=result.success,
        steps=result.num_steps,
        chunk_latencies_ms=[round(1e3 * float(s), 3) for s in result.chunk_latencies_s],
        joint_targets=result.joint_targets.tolist() if rollout.record_targets else None,
        milestones=milestones,
        outcome=task_by_name(rollout.task).outcome(result.success, milestones),
        sampler=rollout.sampler,
        num_steps=rollout.num_steps,
    )


def _worker_arm(kind: type[Arm], task: str, spec: PolicySpec) -> Arm:
    key = (kind, task, spec.image_height, spec.step_s, spec.views, spec.depth_views)
    if key not in _worker_arms:
        _worker_arms[key] = arm_for(task, spec, kind)
    arm: Arm = _worker_arms[key]
    return arm


def _worker_policy(rollout: Rollout) -> Policy:
    key = (
        rollout.checkpoint,
        rollout.num_steps,
        rollout.sampler,
        rollout.spacing,
        rollout.context_slots,
        rollout.backend,
    )
    if key not in _worker_policies:
        # One at a time: rollouts come sorted by what they need.
        _worker_policies.clear()
        policy = load_rollout_policy(rollout)
        warm_up(policy)
        _worker_policies[key] = policy
    return _worker_policies[key]


def load_rollout_policy(rollout: Rollout) -> Policy:
    """The policy that a rollout asks for; ours, or one of LeRobot. Raises ValueError as they."""
    return open_rollout(rollout)[1]


def open_rollout(rollout: Rollout) -> tuple[Rollout, Policy]:
    """The rollout with its backend by name, and its policy.

    What backend "auto" takes depends on the machine; by name, every worker takes the same. That of
    a LeRobot policy stays "auto". Raises ValueError as load_rollout_policy.
    """
    import torch

    from par_model.load_policy import load_chosen

    folder = Path(rollout.checkpoint)
    if is_lerobot(folder):
        names = ("backend", "num_steps", "sampler", "spacing", "context_slots")
        unused = {name: getattr(rollout, name) for name in names}
        # One thread, as a worker's torch has.
        return rollout, load_lerobot_policy(folder, num_threads=1, unused=unused)
    num_threads = torch.get_num_threads()
    # As a worker's: what "auto" takes is the fastest with so many.
    torch.set_num_threads(1)
    try:
        backend, policy = load_chosen(
            folder,
            backend=rollout.backend,
            num_steps=rollout.num_steps,
            sampler=rollout.sampler,
            spacing=rollout.spacing,
            context_slots=rollout.context_slots,
        )
    finally:
        torch.set_num_threads(num_threads)
    return replace(rollout, backend=backend), policy


def with_chosen_backend(rollout: Rollout) -> Rollout:
    """As open_rollout, which it calls only where there is something to choose."""
    if rollout.backend != "auto" or is_lerobot(Path(rollout.checkpoint)):
        return rollout
    return open_rollout(rollout)[0]


def warm_up(policy: Policy) -> None:
    """The first pass through a network is slow and no part of what is measured."""
    spec = policy.spec
    policy.reset(spec.instructions[0], 0)
    policy.observe(
        Observation(
            image=np.zeros(spec.picture_shape, np.uint8),
            views=spec.views,
            measured_joint_positions=np.zeros(len(spec.joint_names)),
            joint_names=spec.joint_names,
            stamp_s=0.0,
        )
    )
    policy.act()


def all_latencies_ms(results: Iterable[RolloutResult]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [chunks of all episodes]."""
    return np.array([ms for result in results for ms in result.chunk_latencies_ms])
