# SPDX-License-Identifier: Apache-2.0
"""One episode without ROS whose policy answers late, by an exact number of control steps.

sequential: the arm stands from the picture until the chunk arrives, and runs its L actions; then
the next picture is taken. overlapped: the next picture is taken while a chunk runs, early enough
for the answer to arrive before the chunk ends; the answer is timed from its picture and takes over
when it arrives. Rows of the answer that are due before it arrives are dropped. With a prefix, the
policy is told the actions of those steps and continues them. `par_model/seam.py` describes how an
answer can be joined to the running motion. See docs/lab_notebook/overlap.md.

Shapes: J joints; L actions of a slot; the horizon as in PolicySpec.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from par_model.evaluation.direct_loop import EpisodeResult, EpisodeWatcher, require_same_rate
from par_model.interface import ActionChunk, FloatArray, Observation, Policy, PolicySpec
from par_model.seam import NUM_BEFORE, join
from par_model.simulation.maniskill_env import ManiSkillArm

Inference = Literal["sequential", "overlapped", "overlapped_without_prefix"]
INFERENCES: tuple[Inference, ...] = ("sequential", "overlapped_without_prefix", "overlapped")


@dataclass(frozen=True)
class Timing:
    """When the policy is asked and how late it answers.

    Attributes:
        inference: see above.
        policy_delay_s: from a picture until its answer can be followed, rounded to control steps.
        delay_jitter_s: each answer's delay is drawn evenly from this far around it.
        smoothness: overlapped: with which a chunk is joined to the motion that it takes over from;
            0: it is not.
    """

    inference: Inference = "sequential"
    policy_delay_s: float = 0.0
    delay_jitter_s: float = 0.0
    smoothness: float = 0.0

    def require_possible(self, spec: PolicySpec) -> None:
        """Raise ValueError where the policy was not trained for it, or a number is negative."""
        if min(self.policy_delay_s, self.delay_jitter_s, self.smoothness) < 0.0:
            raise ValueError(
                f"policy_delay {self.policy_delay_s:g} s, delay_jitter {self.delay_jitter_s:g} s "
                f"and seam_smoothness {self.smoothness:g} must not be negative."
            )
        if spec.observation_mode == "clip":
            raise ValueError(
                "this policy sees in clips, which the delayed loop does not record; measure one "
                'of observation mode "image".'
            )
        if self.inference == "overlapped":
            spec.require_prefixes()

    def planned_steps(self, step_s: float) -> int:
        """Control steps within which every answer arrives."""
        return math.ceil((self.policy_delay_s + self.delay_jitter_s) / step_s - 1e-9)

    def drawn_steps(self, step_s: float, generator: np.random.Generator) -> int:
        """Control steps of one answer."""
        jitter_s = self.delay_jitter_s * generator.uniform(-1.0, 1.0)
        return round(max(0.0, self.policy_delay_s + jitter_s) / step_s)


@dataclass(frozen=True)
class DelayedEpisode:
    """Result of one episode.

    Attributes:
        episode: as of one without delay.
        start: float64 [J], where the arm stood at first.
        begins: index of the first step that follows each chunk.
        num_late: answers that came when nothing of them was left to follow.
    """

    episode: EpisodeResult
    start: FloatArray
    begins: tuple[int, ...]
    num_late: int

    @property
    def seams(self) -> tuple[int, ...]:
        """Where one chunk takes over from another."""
        return self.begins[1:]


@dataclass(frozen=True)
class _Answer:
    """A chunk whose row 0 is the target of control step `first_step`, or would have been."""

    chunk: FloatArray
    first_step: int
    arrives: int

    def ended(self, step: int) -> bool:
        return step - self.first_step >= len(self.chunk)

    def targets(self, first: int, count: int) -> FloatArray:
        """What is followed in `count` control steps from `first` on; after the end, its last."""
        rows = np.arange(first, first + count) - self.first_step
        targets: FloatArray = self.chunk[rows.clip(max=len(self.chunk) - 1)]
        return targets


def run_delayed_episode(
    arm: ManiSkillArm,
    policy: Policy,
    timing: Timing,
    seed: int,
    max_steps: int,
    *,
    policy_seed: int = 0,
    watchers: Sequence[EpisodeWatcher] = (),
) -> DelayedEpisode:
    """As `direct_loop.run_episode`, which it equals to the bit for sequential without delay.

    Raises:
        ValueError: arm, policy and timing do not fit.
    """
    require_same_rate(arm, policy)
    timing.require_possible(policy.spec)
    arm.reset(seed)
    policy.reset(arm.task.instruction, policy_seed)
    for watcher in watchers:
        watcher.started()
    episode = _Episode(arm, policy, timing, max_steps, (seed, policy_seed), watchers)
    delays = np.random.default_rng([seed, policy_seed])
    advance = episode.one_chunk if timing.inference == "sequential" else episode.one_step
    while not episode.is_over:
        advance(delays)
    return episode.result()


class _Episode:
    """The state of a running episode."""

    def __init__(
        self,
        arm: ManiSkillArm,
        policy: Policy,
        timing: Timing,
        max_steps: int,
        seeds: tuple[int, int],
        watchers: Sequence[EpisodeWatcher],
    ) -> None:
        self._arm, self._policy, self._timing = arm, policy, timing
        self._max_steps, self._seeds = max_steps, seeds
        self._watchers = watchers
        self._start = arm.read_joints()[0]
        self._targets: list[FloatArray] = []
        self._success = False
        self._begins: list[int] = []
        self._num_late = 0
        self._latencies_s: list[float] = []
        self._seen_at: int | None = None
        self._planned = min(timing.planned_steps(arm.step_s), policy.spec.max_delay_steps)
        # To stand, before there is a chunk.
        self._running = _Answer(self._start[None], 0, 0)
        self._pending: _Answer | None = None

    @property
    def is_over(self) -> bool:
        return self._success or len(self._targets) >= self._max_steps

    @property
    def _now(self) -> int:
        return len(self._targets)

    def result(self) -> DelayedEpisode:
        return DelayedEpisode(
            EpisodeResult(
                *self._seeds, self._success, np.stack(self._targets), np.array(self._latencies_s)
            ),
            start=self._start,
            begins=tuple(self._begins),
            num_late=self._num_late,
        )

    def one_chunk(self, delays: np.random.Generator) -> None:
        """Sequential: a picture, the wait for its chunk, the chunk."""
        chunk = self._ask(None)
        for _ in range(self._timing.drawn_steps(self._arm.step_s, delays)):
            self._follow(self._targets[-1] if self._targets else self._start)
        self._begins.append(self._now)
        for target in chunk.joint_positions:
            self._follow(target)

    def one_step(self, delays: np.random.Generator) -> None:
        """Overlapped: take over what has arrived, ask if it is time, and make one control step."""
        self._take_over()
        if self._pending is None and self._is_time_to_ask():
            now = self._now
            chunk = self._ask(self._prefix(self._running.targets(now, self._planned)))
            arrives = now + self._timing.drawn_steps(self._arm.step_s, delays)
            self._pending = _Answer(chunk.joint_positions, now, arrives)
            self._take_over()
        self._follow(self._running.targets(self._now, 1)[0])

    def _prefix(self, committed: FloatArray) -> FloatArray | None:
        if self._policy.spec.max_delay_steps == 0:
            return None
        return committed if self._timing.inference == "overlapped" else committed[:0]

    def _take_over(self) -> None:
        pending = self._pending
        if pending is None or self._now < pending.arrives:
            return
        self._pending = None
        if pending.ended(self._now):
            self._num_late += 1
            return
        if self._timing.smoothness > 0.0:
            followed = self._followed_from(pending.first_step - NUM_BEFORE)
            chunk = join(pending.chunk, followed, self._timing.smoothness)
            pending = dataclasses.replace(pending, chunk=chunk)
        self._running = pending
        self._begins.append(self._now)

    def _followed_from(self, step: int) -> FloatArray:
        """The targets of the steps from `step` on; the arm stood before step 0."""
        stood = [self._start] * max(0, -step)
        return np.stack([*stood, *self._targets[max(0, step) :]])

    def _is_time_to_ask(self) -> bool:
        """A slot after the last picture; earlier where the running chunk would end meanwhile."""
        if self._seen_at is None:
            return True
        spec = self._policy.spec
        slot_end = self._seen_at + spec.num_actions
        chunk_end = self._running.first_step + len(self._running.chunk)
        needed = self._timing.planned_steps(self._arm.step_s)
        return self._now >= min(slot_end, chunk_end - needed)

    def _ask(self, committed: FloatArray | None) -> ActionChunk:
        observation = Observation(
            image=self._arm.capture(),
            views=self._arm.views,
            measured_joint_positions=self._arm.read_joints()[0],
            joint_names=self._arm.joint_names,
            stamp_s=self._now * self._arm.step_s,
            executed_actions=self._executed(),
        )
        if observation.executed_actions is None and self._seen_at is not None:
            self._policy.reset(self._arm.task.instruction, self._seeds[1])
        self._seen_at = self._now
        start_s = time.perf_counter()
        self._policy.observe(observation)
        chunk = self._policy.act(committed)
        self._latencies_s.append(time.perf_counter() - start_s)
        chunk.validate(self._policy.spec)
        for watcher in self._watchers:
            watcher.chunk_chosen()
        return chunk

    def _executed(self) -> FloatArray | None:
        """The actions since the last picture; None for the first picture, and where there are more
        than `spec.horizon`, the most that a policy takes."""
        if self._seen_at is None:
            return None
        spec = self._policy.spec
        actions = np.stack(self._targets[self._seen_at :])
        if self._timing.inference == "sequential" or spec.max_delay_steps == 0:
            # A slot's actions: the newest; a shorter slot's end is filled, as in training.
            missing = max(0, spec.num_actions - len(actions))
            return np.pad(actions, ((0, missing), (0, 0)), mode="edge")[-spec.num_actions :]
        return actions if len(actions) <= spec.horizon else None

    def _follow(self, target: FloatArray) -> None:
        """One control step; none where the episode is over."""
        if self.is_over:
            return
        self._targets.append(np.array(target, dtype=np.float64))
        self._success = self._arm.step(target).success
        for watcher in self._watchers:
            watcher.stepped()
