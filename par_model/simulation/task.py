# SPDX-License-Identifier: Apache-2.0
"""What a task is. The tasks themselves stand in par_model/simulation/tasks, one file each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from par_model.interface import FloatArray
from par_model.simulation.milestones import Feature, Milestones
from par_model.simulation.robots import PANDA, SimulatedRobot

SUCCESS = "success"

# Plans and executes the demonstration of a seed: (environment, seed). `environment` stands where
# ManiSkill's planners expect a gymnasium environment: reset(seed=), step(action), unwrapped; `arm`
# is its ManiSkillArm. Every step is recorded; where no path is found, the planner returns early.
Planner = Callable[[Any, int], None]


class Expert(Protocol):
    """Labels any state of a task, not only those on a planner's path."""

    def reset(self) -> None:
        """An episode begins; forget the last one."""

    def label(self, num_steps: int) -> FloatArray:
        """Joint targets of the next steps from the scene as it is now: float64 [num_steps, J], rad
        and m for a Panda's gripper."""

    def teaches(self) -> bool:
        """Whether a policy that came here by itself learns from this state's label: what no
        planner's path shows, or what is hard. Call it before the label."""


@dataclass(frozen=True)
class Task:
    """One ManiSkill task.

    Attributes:
        name: what users type (`task:=PushCube`).
        maniskill_id: id for gymnasium.make.
        instruction: the sentence given to the policy, word for word.
        objects: what describes the scene, name -> attribute of ManiSkill's environment: `cube`,
            then the goal or the other cube.
        planner: makes the demonstrations.
        failure_kinds: in the order in which the task is done: later kinds came further.
        failure_kind: the entry of failure_kinds that an unsuccessful episode's measurements show.
        features: numbers of the start that may decide success, title -> value.
        max_demonstration_steps: a demonstration longer than this counts as failed.
        expert: makes the task's Expert from a ManiSkillArm that was reset once; None: none.
        robot: what does it.
        scene_module: the module that registers maniskill_id; empty: ManiSkill has it.
    """

    name: str
    maniskill_id: str
    instruction: str
    objects: Mapping[str, str]
    planner: Planner
    failure_kinds: tuple[str, ...]
    failure_kind: Callable[[Milestones], str]
    features: Mapping[str, Feature]
    max_demonstration_steps: int = 200
    expert: Callable[[Any], Expert] | None = None
    robot: SimulatedRobot = PANDA
    scene_module: str = ""

    @property
    def position_names(self) -> tuple[str, ...]:
        """The named positions (metres, world frame) that describe the scene."""
        return tuple(self.objects)

    def outcome(self, success: bool, milestones: Milestones) -> str:
        """SUCCESS, or the kind of failure that the measurements show."""
        return SUCCESS if success else self.failure_kind(milestones)
