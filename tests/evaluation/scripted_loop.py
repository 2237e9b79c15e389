# SPDX-License-Identifier: Apache-2.0
"""Policies that play given targets and an arm that only counts its steps."""

import dataclasses

import numpy as np

from par_model.interface import ActionChunk, PolicySpec
from par_model.simulation.maniskill_env import StepResult
from par_model.simulation.robots import PANDA
from par_model.simulation.tasks import task


class ScriptedPolicy:
    """Plays given targets, 8 at a time, and keeps what it was shown."""

    def __init__(self, targets, image_size=128):
        self.spec = PolicySpec(
            arm="panda",
            joint_names=PANDA.joint_names,
            image_height=image_size,
            image_width=image_size,
            num_actions=8,
            step_s=0.05,
            instructions=(task("PushCube").instruction,),
        )
        self.targets = targets
        self.observations = []
        self.resets = []

    def reset(self, instruction, seed):
        self.spec.require_instruction(instruction)
        self.resets.append((instruction, seed))
        self.observations = []

    def observe(self, observation):
        observation.validate(self.spec)
        self.observations.append(observation)

    def act(self, committed=None):
        start = 8 * (len(self.observations) - 1)
        rows = [self.targets[min(start + row, len(self.targets) - 1)] for row in range(8)]
        return ActionChunk(np.stack(rows), PANDA.joint_names, 0.05, self.observations[-1].stamp_s)


class TimedPolicy(ScriptedPolicy):
    """Trained with prefixes: targets[k] is what it wants in control step k, whenever it is asked;
    it keeps the committed actions that it was given."""

    def __init__(self, targets, max_delay_steps=10):
        super().__init__(targets)
        self.spec = dataclasses.replace(self.spec, max_delay_steps=max_delay_steps)
        self.committed = []

    def reset(self, instruction, seed):
        super().reset(instruction, seed)
        self.committed = []

    def act(self, committed=None):
        stamp_s = self.observations[-1].stamp_s
        first = round(stamp_s / 0.05)
        length = self.spec.num_actions if committed is None else self.spec.horizon
        rows = np.arange(first, first + length).clip(max=len(self.targets) - 1)
        chunk = self.targets[rows].copy()
        self.committed.append(committed)
        if committed is not None:
            chunk[: len(committed)] = committed
        return ActionChunk(chunk, PANDA.joint_names, 0.05, stamp_s)


class CountingArm:
    """Shows in its picture and in its joints how many steps it made, and keeps its targets."""

    def __init__(self):
        self.task = task("PushCube")
        self.step_s = 0.05
        self.joint_names = PANDA.joint_names
        self.views = ("front",)

    def reset(self, seed):
        self.targets = []

    def step(self, target):
        self.targets.append(target)
        return StepResult(success=False, success_once=False, step=len(self.targets))

    def capture(self):
        return np.full((128, 128, 3), len(self.targets), np.uint8)

    def read_joints(self):
        return np.full(8, len(self.targets), np.float64), np.zeros(8)
