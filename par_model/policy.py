# SPDX-License-Identifier: Apache-2.0
"""PARPolicy: the only object with episode state. Deployment's side of the interface."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from par_model.attention_map import frame_map, shaded
from par_model.camera_fit import CameraFit
from par_model.config import ModelConfig
from par_model.foretold_picture import foretold_picture
from par_model.forward_model import ForwardModel
from par_model.graphs.policy_graphs import (
    BoolArray,
    Expectation,
    Float32Array,
    PolicyGraphs,
    Slot,
    as_float32,
    rebased,
    slot_inputs,
)
from par_model.instruction import InstructionTable
from par_model.interface import (
    ActionChunk,
    FloatArray,
    ImageArray,
    Observation,
    PolicySpec,
)
from par_model.misfit import Misfit, misfit
from par_model.normalization import Statistics

_DEFAULT_FIT = CameraFit()


@dataclass
class _Episode:
    """State of the running episode.

    Attributes:
        noise: source of the action head's noise.
        frame_seed: seed of pictures that are asked for.
        text: the instruction's rows, float32 [T, text width].
        cache: the cache with the instruction and every slot in `slots`.
        slots: those that are in the cache.
        next_slot: index that the next slot gets.
        context, anchor: the runtime's context of the newest and of the first slot.
        before, observation: the newest two observations.
        latent_before: of `before`.
        planned: the chunk that answers the newest one, [L, J]; None: not sampled yet.
        ahead: what the newest context says of the next slot, where it was asked.
        expected, foretold: what the context before the newest slot says of it, and what was
            computed ahead of that; None where it was empty.
    """

    noise: np.random.Generator
    frame_seed: int
    text: Float32Array
    cache: Any
    slots: list[Slot] = field(default_factory=list)
    next_slot: int = 0
    context: Any = None
    anchor: Any = None
    before: Observation | None = None
    observation: Observation | None = None
    latent_before: Any = None
    planned: FloatArray | None = None
    ahead: Any = None
    expected: Expectation | None = None
    foretold: Any = None

    def expectation(self) -> Expectation | None:
        """What the newest context expects of the next slot; None where it is empty."""
        if not self.slots:
            return None
        return Expectation(self.context, None if len(self.slots) == 1 else self.anchor)


class PARPolicy:
    """Answers observations with action chunks; keeps the history as a KV cache.

    What enters the cache is what really happened: real frames, and the actions that the arm was
    really sent. `act` changes nothing in it. Actions are sampled with noise from a generator that
    `reset` seeds, so the same episode gives the same chunks.
    """

    def __init__(
        self,
        config: ModelConfig,
        statistics: Statistics,
        instructions: InstructionTable,
        graphs: PolicyGraphs,
        camera_fit: CameraFit = _DEFAULT_FIT,
        forward_model: ForwardModel | None = None,
    ) -> None:
        """forward_model: judges pictures in place of the frame head, where there is one."""
        self._config = config
        self._statistics = statistics
        self._instructions = instructions
        self._graphs = graphs
        self._forward_model = forward_model
        # A preset of another length may state more than the model has.
        self._context_slots = min(config.sampling.context_slots, config.num_slots)
        self._episode: _Episode | None = None
        self._spec = PolicySpec(
            arm=statistics.arm,
            joint_names=statistics.joint_names,
            image_height=config.image_height,
            image_width=config.image_width,
            num_actions=config.num_actions,
            step_s=config.step_s,
            instructions=instructions.texts,
            observation_mode=config.observation_mode,
            camera_fit=camera_fit,
            max_delay_steps=config.max_delay_steps,
            views=config.views,
            depth_views=config.depth_views,
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    @property
    def config(self) -> ModelConfig:
        """The model's configuration, with the defaults of inference that were asked for."""
        return self._config

    @property
    def backend(self) -> str:
        """The runtime and device that answer."""
        return self._graphs.name

    @property
    def sampling_steps(self) -> tuple[int, ...]:
        """Numbers of sampling steps that `act` can, the default first, then fewer."""
        return self._graphs.sampling_steps

    def reset(self, instruction: str, seed: int) -> None:
        """Start an episode. Raises ValueError for an unknown instruction."""
        self._spec.require_instruction(instruction)
        text = self._instructions.embedding(instruction).float().numpy()
        # Its cache's buffers, to which graphs are bound, are free for the new one then.
        self._episode = None
        self._episode = _Episode(
            noise=np.random.Generator(np.random.PCG64(seed)),
            frame_seed=seed,
            text=text,
            cache=self._graphs.prefill(text),
        )

    def observe(self, observation: Observation) -> None:
        """Append the physical token of this observation to the context.

        Raises:
            ValueError: no `reset` yet; an observation that does not fit `spec`; executed actions
                given with the first observation or missing from a later one; with a largest delay,
                one more than the horizon after the observation before it; a context longer than
                its slots where the overflow mode is "error" or "episode".
        """
        episode = self._started()
        observation.validate(self._spec)
        is_first = episode.observation is None
        if is_first != (observation.executed_actions is None):
            raise ValueError(
                "the first observation of an episode must carry no executed actions and every "
                f"later one must; this one is {'the first' if is_first else 'a later one'}. "
                "Reset the policy where the history is not known."
            )
        actions = np.zeros((self._spec.num_actions, len(self._spec.joint_names)), np.float32)
        executed, clock = self._told_executed(0), 0
        if observation.executed_actions is not None and episode.observation is not None:
            actions = _context_actions(
                self._config, self._statistics, episode.observation, observation
            )
            executed = self._told_executed(len(observation.executed_actions))
            clock = episode.slots[-1].clock + self._span(episode.observation, observation)
        joints = observation.measured_joint_positions
        proprio = self._statistics.normalize_joints(joints).astype(np.float32)
        latent = self._graphs.encode(_pictures(episode, observation))
        slot = Slot(latent, actions, proprio, executed, clock)
        episode.expected, episode.foretold = episode.expectation(), episode.ahead
        episode.latent_before = episode.slots[-1].latent if episode.slots else None
        slot = self._make_room(episode, slot)
        self._append(episode, [slot], starts_with_boa=not episode.slots)
        episode.before, episode.observation, episode.ahead = episode.observation, observation, None
        episode.planned = None

    def act(self, committed: FloatArray | None = None, num_steps: int | None = None) -> ActionChunk:
        """Sample the chunk that answers the newest observation; as Policy.act.

        Args:
            num_steps: one of `sampling_steps`; None is the default.

        Raises:
            ValueError: no observation since the reset; more committed actions than the policy goes
                on from, or any where it goes on from none; another number of sampling steps.
        """
        if num_steps not in (None, *self.sampling_steps):
            raise ValueError(
                f"{num_steps} sampling steps were asked for and {self.backend} has "
                f"{self.sampling_steps}; choose one of these."
            )
        episode, observation = self._observed()
        joints = observation.measured_joint_positions
        prefix = self._prefix(committed, joints)
        shape = (self._spec.horizon, len(self._spec.joint_names))
        noise = episode.noise.standard_normal(shape).astype(np.float32)
        seed = int(episode.noise.integers(2**31))
        actions = self._graphs.act(episode.context, noise, seed, prefix, num_steps)
        targets = self._statistics.within_gripper_range(
            self._statistics.denormalize_actions(actions.astype(np.float64), joints)
        )
        if committed is None:
            targets = targets[: self._spec.num_actions]
        else:
            targets[: len(committed)] = committed
        episode.planned = targets[: self._spec.num_actions].copy()
        return ActionChunk(
            joint_positions=targets,
            joint_names=self._spec.joint_names,
            step_s=self._spec.step_s,
            stamp_s=observation.stamp_s,
        )

    def predict_frame(self) -> ImageArray:
        """The model's pictures of the next observation, uint8 [V H, W, 3]; never needed to act.

        With a forward model, after `act`, at the end of that chunk; else of the frame head, slowly.
        That draws from a generator of its own, so asking for it changes no action. Raises
        ValueError where there is no observation since the reset.
        """
        episode, observation = self._observed()
        if self._forward_model is not None and episode.planned is not None:
            latent = episode.slots[-1].latent
            return foretold_picture(
                self._forward_model, self._graphs, observation, latent, episode.planned
            )
        expected = episode.expectation()
        assert expected is not None
        return self._graphs.predict_frame(expected.context, expected.anchor, episode.frame_seed)

    def forked(self) -> "PARPolicy":
        """A policy on the same weights that goes on from this one's episode; neither changes the
        other's. Raises ValueError where a runtime's graphs are bound to one cache."""
        if not self._graphs.can_fork:
            raise ValueError(f"{self.backend} holds one episode at a time; use the backend eager.")
        other = copy.copy(self)
        other._episode = copy.deepcopy(self._episode)
        return other

    def observed_errors(self) -> Float32Array | None:
        """How badly the context before the newest observation foretold it: float32 [N], for each of
        its image tokens (row-major); None for the first observation since the reset. Raises
        ValueError where there is no episode."""
        episode = self._started()
        if episode.expected is None:
            return None
        if episode.foretold is None:
            episode.foretold = self._graphs.foretell(episode.expected)
        return self._graphs.observed_errors(episode.foretold, episode.slots[-1].latent)

    def foretell(self) -> None:
        """Do half the work of the next `misfit` now, when nobody waits for it; same result. With a
        forward model there is nothing to do ahead."""
        if self._forward_model is not None:
            return
        episode = self._started()
        expected = episode.expectation()
        if expected is not None and episode.ahead is None:
            episode.ahead = self._graphs.foretell(expected)

    def misfit(self) -> Misfit | None:
        """What the newest two observations say, and `observed_errors` or, where there is one, the
        forward model's; None and errors as there."""
        episode, deviation = self._started(), self._statistics.joint_deviation
        before, now = episode.before, episode.observation
        if before is None or now is None:
            return None
        if self._forward_model is None:
            return misfit(before, now, deviation, frame_errors=self.observed_errors())
        errors = self._forward_model.errors(
            as_float32(episode.latent_before),
            as_float32(episode.slots[-1].latent),
            before.measured_joint_positions,
            now.measured_joint_positions,
        )
        return misfit(before, now, deviation, forward_errors=errors)

    def attention(self) -> Float32Array:
        """What the newest action tokens look at: float32 [layers, heads, L, S] over the context's
        tokens [instruction; K frame and L action tokens of each observation remembered]; rows sum
        to 1. Encodes the context anew: about as slow as a dozen steps, never needed to act. Raises
        ValueError without an observation since the reset, or for a model without such attention.
        """
        episode, _ = self._observed()
        return self._graphs.attention(episode.text, slot_inputs(episode.slots))

    def attention_picture(self) -> ImageArray:
        """The newest picture, uint8 [V H, W, 3], darker where the newest action tokens look less:
        mean over layers, heads and actions. As slow as `attention`; raises what it raises."""
        weights_YHS = self.attention().mean(axis=2)
        _, observation = self._observed()
        weights_rc = frame_map(weights_YHS, self.config).mean(axis=(0, 1))
        return shaded(observation.image, weights_rc)

    def _started(self) -> _Episode:
        if self._episode is None:
            raise ValueError("the policy has no episode; call reset with an instruction first.")
        return self._episode

    def _observed(self) -> tuple[_Episode, Observation]:
        episode = self._started()
        if episode.observation is None:
            raise ValueError("the policy has seen no observation since its reset; observe first.")
        return episode, episode.observation

    def _prefix(self, committed: FloatArray | None, joints: FloatArray) -> Float32Array | None:
        """The committed actions [d, J], normalised; None for none."""
        if committed is None:
            return None
        self._spec.require_prefixes()
        return self._statistics.normalize_actions(committed, joints).astype(np.float32)

    def _told_executed(self, num_executed: int) -> BoolArray | None:
        """Which of a slot's actions were executed: its last ones."""
        if self._spec.max_delay_steps == 0:
            return None
        return np.arange(self._spec.num_actions) >= self._spec.num_actions - num_executed

    def _span(self, before: Observation, now: Observation) -> int:
        """Control steps between two observations; 0 for a model without a largest delay, whose
        clock counts slots."""
        if self._spec.max_delay_steps == 0:
            return 0
        steps = self._spec.steps_between(before.stamp_s, now.stamp_s)
        if steps is None:
            passed = (now.stamp_s - before.stamp_s) / self._spec.step_s
            raise ValueError(
                f"an observation may be {self._spec.horizon} control steps after the one before, "
                f"this one is {passed:.1f}; reset the policy where so much is missing."
            )
        return steps

    def _make_room(self, episode: _Episode, slot: Slot) -> Slot:
        """Apply the overflow rule if the context has no slot left; the slot on the clock of the
        context that it is to follow."""
        if len(episode.slots) < self._context_slots:
            return slot
        if self._config.overflow == "rebase":
            kept = episode.slots[len(episode.slots) - self._context_slots // 2 :]
            episode.cache = self._graphs.rewind_to_instruction(episode.cache)
            episode.slots, episode.next_slot = [], 0
            *kept, slot = rebased([*kept, slot])
            if kept:
                self._append(episode, kept, starts_with_boa=True)
        elif self._config.overflow == "slide":
            episode.cache = self._graphs.evict_oldest_slot(episode.cache)
            episode.slots = episode.slots[1:]
        else:
            raise ValueError(
                f"the episode is longer than the context's {self._context_slots} slots and its "
                f'overflow mode is "{self._config.overflow}"; reset the policy, or use "rebase".'
            )
        return slot

    def _append(self, episode: _Episode, slots: list[Slot], starts_with_boa: bool) -> None:
        extended = self._graphs.extend(
            episode.cache, slot_inputs(slots), episode.next_slot, starts_with_boa
        )
        episode.context, episode.cache = extended.last, extended.cache
        if starts_with_boa:
            episode.anchor = extended.first
        episode.slots = [*episode.slots, *slots]
        episode.next_slot += len(slots)


def _pictures(episode: _Episode, observation: Observation) -> ImageArray:
    """Input of the encoder: the picture, or in clip mode a tile of five pictures."""
    if observation.recent_images is None or episode.observation is None:
        return observation.image
    return np.concatenate((episode.observation.image[None], observation.recent_images))


def _context_actions(
    config: ModelConfig, statistics: Statistics, before: Observation, now: Observation
) -> Float32Array:
    """What the history shows of a slot: the newest L executed actions, aligned at its end, or
    (context_action "proprio") the measured joints that they led to, in the same normalised frame:
    float32 [L, J]."""
    executed = now.executed_actions
    assert executed is not None
    if config.context_action == "proprio":
        executed = np.broadcast_to(now.measured_joint_positions, executed.shape)
    normalised = statistics.normalize_actions(executed, before.measured_joint_positions)
    missing = max(0, config.num_actions - len(normalised))
    whole: Float32Array = np.pad(normalised.astype(np.float32), ((missing, 0), (0, 0)))
    return whole[-config.num_actions :]
