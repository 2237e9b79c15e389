# SPDX-License-Identifier: Apache-2.0
"""What `par_model.collect` records, and one seed of it: what its workers do.

A worker writes nothing; it returns an episode's files, which the command that was started stages.
"""

import gc
import importlib.metadata
from dataclasses import dataclass, field
from typing import Any

from par_model.interface import DEFAULT_VIEWS
from par_model.simulation.camera_view import CameraView
from par_model.simulation.demonstrations import (
    FailedDemonstration,
    NoiseSettings,
    record_demonstration,
)
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import CONTROL_STEP_S, NUM_DEMONSTRATION_SEEDS, task
from par_model.training.expert_recording import record_expert, require_expert
from par_model.training.on_policy_recording import OnPolicySettings, record_on_policy
from par_model.training.staged_episodes import Episode, episode_files

FPS = round(1 / CONTROL_STEP_S)
# What a demonstration depends on: a recording is not continued with other versions.
_VERSIONED = ("mani-skill", "sapien", "mplib", "toppra", "numpy", "torch", "av")


@dataclass(frozen=True)
class CollectSettings:
    """What is recorded. Equal settings give equal data sets.

    Attributes:
        task: the task's name.
        num_demos: successful demonstrations wanted.
        first_seed: the first seed tried; then one after another.
        noise: how many demonstrations are disturbed, and how.
        num_hold_steps: steps at the end in which the last target is repeated.
        image_size: height and width of a view's frame in pixels.
        views: names of the cameras; the first is the data set's main one.
        on_policy: a policy that acts; then `noise` and `num_hold_steps` are not read.
        expert: the task's expert acts and labels; then `num_hold_steps` is not read.
    """

    task: str
    num_demos: int
    first_seed: int = 0
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    num_hold_steps: int = 16
    image_size: int = 128
    on_policy: OnPolicySettings | None = None
    views: tuple[str, ...] = DEFAULT_VIEWS
    expert: bool = False

    def validate(self) -> None:
        """Raise ValueError for settings that cannot be recorded."""
        robot = task(self.task).robot
        if self.num_demos < 1:
            raise ValueError(
                f"the number of demonstrations must be at least 1, got {self.num_demos}."
            )
        if self.first_seed < 0 or self.first_seed + self.num_demos > NUM_DEMONSTRATION_SEEDS:
            raise ValueError(
                f"seeds {self.first_seed} to {self.first_seed + self.num_demos - 1} are not all "
                f"demonstration seeds (0 to {NUM_DEMONSTRATION_SEEDS - 1}); seeds from "
                f"{NUM_DEMONSTRATION_SEEDS} on are kept for model selection and measurement."
            )
        if self.image_size < 16 or self.image_size % 16:
            raise ValueError(
                f"the image size must be a multiple of 16 pixels, got {self.image_size}."
            )
        robot.named_views(self.views, self.image_size)
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"views must be names, each once, got {list(self.views)}.")
        if not 0.0 <= self.noise.share <= 1.0:
            raise ValueError(f"the noise share must lie in 0 to 1, got {self.noise.share}.")
        if self.on_policy is not None:
            self.on_policy.validate(self.task)
        if self.expert:
            require_expert(self.task)
        if self.expert and self.on_policy is not None:
            raise ValueError("either a policy acts or the expert does; give one of the two.")


def staging_settings(settings: CollectSettings) -> dict[str, Any]:
    """All that decides what a seed's demonstration looks like."""
    the_task = task(settings.task)
    robot = the_task.robot
    first, *others = robot.named_views(settings.views, settings.image_size)
    return {
        # Recordings of the Panda, which has no entry, are continued as before.
        **({} if robot == PANDA else {"arm": robot.name}),
        "task": the_task.name,
        "instruction": the_task.instruction,
        "environment_state_names": [
            f"{name}_{axis}" for name in the_task.position_names for axis in "xyz"
        ],
        "joint_names": list(robot.joint_names),
        "fps": FPS,
        "camera": first.name,
        "image_size": settings.image_size,
        "camera_eye_m": list(first.eye_m),
        "camera_target_m": list(first.target_m),
        "camera_fov_rad": first.fov_rad,
        **{f"camera_{key}": value for key, value in _range(first).items()},
        **({"further_cameras": [_described(view) for view in others]} if others else {}),
        "first_seed": settings.first_seed,
        **(_noise(settings) if settings.on_policy is None else settings.on_policy.described()),
        # Recordings of planners, which have no entry, are continued as before.
        **({"acted_by": "expert"} if settings.expert else {}),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def _described(view: CameraView) -> dict[str, Any]:
    return {
        "name": view.name,
        "eye_m": list(view.eye_m),
        "target_m": list(view.target_m),
        "fov_rad": view.fov_rad,
        **_range(view),
    }


def _range(view: CameraView) -> dict[str, Any]:
    """Of a depth view, its levels' distances."""
    return {} if view.depth_range_m is None else {"depth_range_m": list(view.depth_range_m)}


def _noise(settings: CollectSettings) -> dict[str, Any]:
    return {
        **({} if settings.expert else {"num_hold_steps": settings.num_hold_steps}),
        "noise_share": settings.noise.share,
        "noise_sigma_rad": settings.noise.sigma_rad,
        "noise_probability": settings.noise.probability,
        "noise_block_steps": settings.noise.block_steps,
    }


@dataclass(frozen=True)
class SeedToRecord:
    """One job."""

    settings: CollectSettings
    seed: int


@dataclass(frozen=True)
class RecordedSeed:
    """What became of a seed.

    Attributes:
        seed: the seed.
        files: of its episode, by name; None where it gave no demonstration.
        failure: why it gave none.
    """

    seed: int
    files: dict[str, bytes] | None
    failure: str = ""


# A worker keeps its environment.
_worker_arms: dict[tuple[str, int, tuple[str, ...]], ManiSkillArm] = {}


def record_seed(job: SeedToRecord) -> RecordedSeed:
    """Runs in a worker."""
    settings, seed = job.settings, job.seed
    key = (settings.task, settings.image_size, settings.views)
    if key not in _worker_arms:
        _worker_arms[key] = ManiSkillArm(
            settings.task, image_size=settings.image_size, views=settings.views
        )
        # ManiSkill collects garbage at each reset: 0.25 s that go through torch's and its own
        # modules, which stay.
        gc.freeze()
    arm = _worker_arms[key]
    try:
        episode = _recorded(arm, seed, settings)
    except FailedDemonstration as failure:
        return RecordedSeed(seed, None, str(failure))
    return RecordedSeed(seed, episode_files(episode, FPS, settings.views))


def _recorded(arm: ManiSkillArm, seed: int, settings: CollectSettings) -> Episode:
    if settings.on_policy is not None:
        return record_on_policy(arm, seed, settings.on_policy)
    if settings.expert:
        return record_expert(arm, seed, settings.noise)
    demonstration = record_demonstration(arm, seed, settings.noise, settings.num_hold_steps)
    return Episode(
        instruction=arm.task.instruction,
        frames=demonstration.frames,
        measured_joint_positions=demonstration.measured_joint_positions,
        actions=demonstration.actions,
        executed_actions=demonstration.executed_actions,
        environment_state=demonstration.environment_state,
        success=demonstration.success,
        seed=seed,
        noisy=demonstration.noisy,
    )
