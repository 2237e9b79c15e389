# SPDX-License-Identifier: Apache-2.0
"""Cuts demonstrations into clips and batches of them.

Shapes: B clips of a batch; N slots (chunks) of the longest clip; L actions of a slot; H actions of
a chunk (L, or with a largest delay the horizon); D numbers of an action; J joints; P numbers of a
scene; T steps of an episode; C, h, w of a latent.

A clip starts at any step of an episode, has a frame every L steps (or spans of its own) and the
actions between two frames. Slot n answers O_{n-1} with A_n. What a batch holds is a function of
(seed, round) alone, so a run that is resumed sees the same clips in the same order.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from par_model.config import ContextAction, ModelConfig
from par_model.instruction import InstructionTable
from par_model.interface import FloatArray
from par_model.model import TrainingBatch
from par_model.normalization import Statistics
from par_model.training.clip_config import ClipConfig
from par_model.training.demonstrations_on_disk import DemonstrationSteps
from par_model.training.latent_cache import LatentCache


@dataclass(frozen=True)
class ClipPlan:
    """Where one clip comes from: episode `episode` of the list, first frame `start`, `num_slots`
    chunks, latent variant `variant`, first slot's index `slot_offset`; `spans` are the control
    steps from each frame to the next (None: L); for the first `late_steps` the arm is slow and
    covers `slow_steps` steps of the episode (0: it stands); `has_prefix` says whether chunks are
    learnt with prefixes."""

    episode: int
    start: int
    num_slots: int
    variant: int
    slot_offset: int
    spans: tuple[int, ...] | None = None
    late_steps: int = 0
    slow_steps: int = 0
    has_prefix: bool = True

    def followed(self, since: np.ndarray) -> FloatArray:
        """Step of the episode whose action is followed `since` control steps after the clip's first
        frame; a part of a step where the arm is slow."""
        slow = self.start - 1 + self.slow_steps * (since + 1) / max(self.late_steps, 1)
        later = self.start + self.slow_steps + since - self.late_steps
        return np.where(since < self.late_steps, slow, later)


@dataclass(frozen=True)
class TrainingEpisode:
    """An episode's steps and where its latents are."""

    task: str
    steps: DemonstrationSteps
    latents: LatentCache


@dataclass(frozen=True)
class Clip:
    """One clip, not padded; float32 arrays, validity bool."""

    latents: FloatArray
    actions: FloatArray
    context_actions: FloatArray
    proprio: FloatArray
    scene: FloatArray
    action_valid: np.ndarray
    frame_valid: np.ndarray
    executed: np.ndarray
    clock: np.ndarray
    least_delay: np.ndarray
    has_prefix: np.ndarray


def clip_num_slots(num_steps: int, start: int, num_actions: int, num_slots: int) -> int:
    """Chunks of a clip that starts at `start`: the last may be short; at most `num_slots`."""
    return min(-(-(num_steps - start) // num_actions), num_slots)


def cut_clip(
    episode: TrainingEpisode,
    plan: ClipPlan,
    statistics: Statistics,
    context_noise: FloatArray,
    context_action: ContextAction = "commanded",
    num_actions: int | None = None,
) -> Clip:
    """Cut one clip. Missing actions and frames at the end repeat the last one and are not valid.

    `context_noise` [N, L, D] is added to the history's normalised actions, the newest L before each
    frame; `num_actions` is L where that is less than H. With `context_action` "proprio" the history
    shows the joints that a chunk led to, as the policy does.
    """
    steps, length = episode.steps, num_actions or statistics.num_actions
    spans = np.array(plan.spans or [length] * plan.num_slots)
    taken = np.concatenate(([0], np.cumsum(spans)))
    last = steps.num_steps - 1
    rows = plan.followed(taken[:-1, None] + np.arange(statistics.num_actions))
    frames = np.rint(plan.followed(taken - 1) + 1).astype(np.int64)
    joints = steps.measured_joints[frames.clip(max=last)]
    # The newest L of each span, counted from the frame before.
    newest = spans[:, None] - length + np.arange(length)
    history = _commanded(steps, steps.executed_actions, rows)
    if context_action == "proprio":
        history = np.broadcast_to(joints[1:, None], history.shape)
    shown = statistics.normalize_actions(history, joints[:-1])
    shown = np.take_along_axis(shown, newest.clip(min=0)[..., None], axis=1)
    actions = _commanded(steps, steps.actions, rows)
    latents = episode.latents.read(steps.key, steps.digest)[plan.variant]
    action_valid = rows <= last
    if steps.teaches is not None:
        action_valid &= steps.teaches[frames[:-1].clip(max=last)][:, None]
        if not labels_were_followed(steps, length):
            # The rows after a slot are the labels of other chunks, from other states.
            action_valid[:, length:] = False
    return Clip(
        latents=np.asarray(latents[frames.clip(max=last)], dtype=np.float32),
        actions=_float32(statistics.normalize_actions(actions, joints[:-1])),
        context_actions=_float32(shown + context_noise),
        proprio=_float32(statistics.normalize_joints(joints)),
        scene=_float32(steps.scene[frames[:-1].clip(max=last)]),
        action_valid=action_valid,
        # A frame is predicted a slot ahead.
        frame_valid=(frames[1:] <= last) & (spans == length),
        executed=newest >= 0,
        clock=taken[:-1],
        least_delay=(plan.late_steps - taken[:-1]).clip(min=0),
        has_prefix=np.full(plan.num_slots, plan.has_prefix),
    )


def labels_were_followed(steps: DemonstrationSteps, length: int) -> bool:
    """Of an episode with labels: whether each chunk of `length` teaches and was carried out. So it
    is in an expert's undisturbed episode, where later labels are what came next."""
    assert steps.teaches is not None
    all_teach = bool(steps.teaches[::length].all())
    return all_teach and np.array_equal(steps.actions, steps.executed_actions)


def _commanded(steps: DemonstrationSteps, actions: FloatArray, rows: FloatArray) -> FloatArray:
    """Actions of these steps, between two of them their blend; before the episode's start the arm
    is told to stand where it is."""
    told = np.concatenate((steps.measured_joints[:1], actions))
    before = np.floor(rows).astype(np.int64)
    share = (rows - before)[..., None]
    first, second = (told[(before + k).clip(0, steps.num_steps)] for k in (1, 2))
    blended: FloatArray = np.where(share > 0.0, (1.0 - share) * first + share * second, first)
    return blended


def collate(
    clips: list[Clip],
    instructions: list[str],
    slot_offsets: list[int],
    table: InstructionTable,
    num_scene: int,
    has_delays: bool = False,
) -> TrainingBatch:
    """Pad clips to the longest with zeros that are not valid; scenes to it, and to `num_scene`
    numbers, with NaN. `has_delays`: for a model with a largest delay."""
    num_slots = max(len(clip.actions) for clip in clips)
    return TrainingBatch(
        text_BTC=torch.stack([table.embedding(text) for text in instructions]),
        latents_BNchw=_stack([clip.latents for clip in clips], num_slots + 1),
        actions_BNLD=_stack([clip.actions for clip in clips], num_slots),
        context_actions_BNLD=_stack([clip.context_actions for clip in clips], num_slots),
        proprio_BNJ=_stack([clip.proprio for clip in clips], num_slots + 1),
        action_valid_BNL=_stack([clip.action_valid for clip in clips], num_slots),
        frame_valid_BN=_stack([clip.frame_valid for clip in clips], num_slots),
        slot_offset_B=torch.tensor(slot_offsets, dtype=torch.int64),
        scene_BNP=_stack([_widened(clip.scene, num_scene) for clip in clips], num_slots, np.nan),
        **(_delays(clips, num_slots) if has_delays else {}),
    )


def _delays(clips: list[Clip], num_slots: int) -> dict[str, torch.Tensor]:
    return {
        "executed_BNL": _stack([clip.executed for clip in clips], num_slots),
        "clock_BN": _stack([clip.clock for clip in clips], num_slots),
        "least_delay_BN": _stack([clip.least_delay for clip in clips], num_slots),
        "has_prefix_BN": _stack([clip.has_prefix for clip in clips], num_slots),
    }


class ClipSampler:
    """Endless batches of random clips; `place` is all that a resumed run needs."""

    def __init__(
        self,
        episodes: list[TrainingEpisode],
        task_shares: dict[str, float],
        statistics: Statistics,
        table: InstructionTable,
        model: ModelConfig,
        config: ClipConfig,
        num_scene: int = 0,
    ) -> None:
        self.episodes = episodes
        self.statistics = statistics
        self.table = table
        self.model = model
        self.config = config
        # P of the batches; what an episode does not know is NaN, what it knows beyond P is left out
        self.num_scene = num_scene
        self.place = (0, 0)
        self._cumulative = np.cumsum(_episode_shares(episodes, task_shares, config.on_policy_share))
        self._max_slots = min(config.max_slots or model.num_slots, model.num_slots)
        self._starts: dict[int, tuple[np.ndarray, FloatArray]] = {}
        self._planned_round = -1
        self._batches: list[list[ClipPlan]] = []

    def next_batch(self) -> TrainingBatch:
        """The batch at `place`; moves `place` on."""
        place = self.place
        self.place = self.place_after(place)
        return self.cut_part(place, self.parts(place), 0)

    def place_after(self, place: tuple[int, int]) -> tuple[int, int]:
        """That of the batch after the one at `place`."""
        round_index, index = place
        more = index + 1 < len(self._round(round_index))
        return (round_index, index + 1) if more else (round_index + 1, 0)

    def require_place(self) -> None:
        """Move `place` to the next round if its own has fewer batches than when it was stored: the
        data have changed since."""
        round_index, index = self.place
        if index >= len(self._round(round_index)):
            self.place = (round_index + 1, 0)

    def parts(self, place: tuple[int, int], micro_slots: int | None = None) -> list[list[ClipPlan]]:
        """The batch at `place` in parts of at most `micro_slots` padded slots; None: in one."""
        plans = self._round(place[0])[place[1]]
        return [plans] if micro_slots is None else _fill_batches(plans, micro_slots)

    def cut_part(
        self, place: tuple[int, int], parts: list[list[ClipPlan]], index: int
    ) -> TrainingBatch:
        """Part `index` of what `parts` returned for `place`."""
        own = [index] if index else []
        return self.cut(parts[index], np.random.default_rng([self.config.seed, 1, *place, *own]))

    def _round(self, round_index: int) -> list[list[ClipPlan]]:
        if self._planned_round != round_index:
            self._batches = self.plan_round(round_index)
            self._planned_round = round_index
        return self._batches

    def plan_round(self, round_index: int) -> list[list[ClipPlan]]:
        """The batches of one round: a function of the seed and `round_index`."""
        generator = np.random.default_rng([self.config.seed, 0, round_index])
        budget = self.config.slots_per_batch * self.config.batches_per_round
        plans: list[ClipPlan] = []
        while sum(plan.num_slots for plan in plans) < budget:
            plans.append(self._draw(generator))
        plans.sort(key=lambda plan: plan.num_slots)
        batches = _fill_batches(plans, self.config.slots_per_batch)
        return [batches[index] for index in generator.permutation(len(batches))]

    def cut(self, plans: list[ClipPlan], generator: np.random.Generator) -> TrainingBatch:
        """The batch of the given clips; `generator` draws the history's noise."""
        chunk = (self.model.num_actions, self.model.action_width)
        clips = []
        for plan in plans:
            noise = generator.normal(size=(plan.num_slots, *chunk)) * self.config.context_noise
            episode = self.episodes[plan.episode]
            shown = self.model.context_action
            length = self.model.num_actions
            clips.append(cut_clip(episode, plan, self.statistics, noise, shown, length))
        texts = [self.episodes[plan.episode].steps.instruction for plan in plans]
        return collate(
            clips,
            texts,
            [plan.slot_offset for plan in plans],
            self.table,
            self.num_scene,
            has_delays=self.model.max_delay_steps > 0,
        )

    def _draw(self, generator: np.random.Generator) -> ClipPlan:
        found = int(np.searchsorted(self._cumulative, generator.random()))
        episode_index = min(found, len(self.episodes) - 1)
        episode = self.episodes[episode_index]
        num_steps, length = episode.steps.num_steps, self.model.num_actions
        from_start = generator.random() < self.config.from_start_share
        if episode.steps.teaches is not None or self.config.decisive_weight != 1.0:
            start = self._draw_start(episode_index, from_start, generator)
        else:
            start = int(generator.integers(min(length, num_steps) if from_start else num_steps))
        is_single = generator.random() < self.config.single_slot_share
        if episode.steps.teaches is not None and not is_single:
            # The label is learnt with a history: any of the chunks before it comes first.
            start -= length * int(generator.integers(min(start // length + 1, self._max_slots)))
        num_slots = clip_num_slots(num_steps, start, length, self._max_slots)
        if is_single:
            num_slots = 1
        room = self.model.num_slots - num_slots
        moved = generator.random() < self.config.offset_share
        offset = int(generator.integers(room + 1)) if moved else 0
        variant = int(generator.integers(episode.latents.shifts.num_variants))
        plan = ClipPlan(episode_index, start, num_slots, variant, offset)
        if episode.steps.teaches is not None:
            # A label is for a picture at its chunk's beginning; a prefix of it has to be followed.
            has_prefix = labels_were_followed(episode.steps, length)
            if has_prefix and self.config.no_prefix_share:
                has_prefix = bool(generator.random() >= self.config.no_prefix_share)
            return dataclasses.replace(plan, has_prefix=has_prefix)
        has_delays = self.model.max_delay_steps > 0
        return self._with_delays(plan, from_start, generator) if has_delays else plan

    def _with_delays(
        self, plan: ClipPlan, from_start: bool, generator: np.random.Generator
    ) -> ClipPlan:
        """The plan for a model with a largest delay."""
        config, most = self.config, self.model.max_delay_steps
        random_spans = generator.random() < config.random_span_share
        spans = generator.integers(1, max(self.model.num_actions, most) + 1, plan.num_slots)
        late = from_start and generator.random() < config.late_start_share
        late_steps = int(generator.integers(1, most + 1))
        plan = dataclasses.replace(plan, spans=tuple(spans.tolist()) if random_spans else None)
        # Without a share nothing is drawn, so that the clips of earlier runs are the same.
        if config.no_prefix_share and generator.random() < config.no_prefix_share:
            return dataclasses.replace(plan, has_prefix=False)
        slow = bool(config.slow_start_share) and generator.random() < config.slow_start_share
        slow_steps = int(generator.integers(late_steps)) if slow else 0
        return dataclasses.replace(
            plan,
            start=0 if late else plan.start,
            late_steps=late_steps if late or slow else 0,
            slow_steps=0 if late else slow_steps,
        )

    def _draw_start(
        self, episode_index: int, from_start: bool, generator: np.random.Generator
    ) -> int:
        """Where labels teach; more often where a chunk closes or opens the gripper."""
        if episode_index not in self._starts:
            steps = self.episodes[episode_index].steps
            length = self.model.num_actions
            starts = np.arange(steps.num_steps)
            if steps.teaches is not None:
                starts = starts[steps.teaches]
            weights = np.where(
                moves_gripper(steps, starts, length), self.config.decisive_weight, 1.0
            )
            self._starts[episode_index] = starts, weights
        starts, weights = self._starts[episode_index]
        if from_start and self.episodes[episode_index].steps.teaches is None:
            starts, weights = (part[: self.model.num_actions] for part in (starts, weights))
        return int(generator.choice(starts, p=weights / weights.sum()))


def moves_gripper(steps: DemonstrationSteps, starts: np.ndarray, num_actions: int) -> np.ndarray:
    """Whether the chunk that begins at each of `starts` closes or opens the gripper: bool."""
    gripper = steps.actions[:, -1]
    opening = np.ptp(gripper)
    before = np.append(gripper[:1], gripper)
    return np.array(
        [
            opening > 0 and np.ptp(before[start : start + num_actions + 1]) > 0.5 * opening
            for start in starts
        ],
        dtype=np.bool_,
    )


def whole_episodes(sampler: ClipSampler, task: str, max_clips: int) -> list[list[ClipPlan]]:
    """Fixed clips for the validation loss: a task's first episodes from their first step."""
    plans = []
    for index, episode in enumerate(sampler.episodes):
        if episode.task == task and len(plans) < max_clips:
            steps, model = episode.steps.num_steps, sampler.model
            num_slots = clip_num_slots(steps, 0, model.num_actions, model.num_slots)
            plans.append(ClipPlan(index, 0, num_slots, 0, 0))
    plans.sort(key=lambda plan: plan.num_slots)
    return _fill_batches(plans, sampler.config.slots_per_batch)


def single_slots(sampler: ClipSampler, task: str, max_clips: int) -> list[list[ClipPlan]]:
    """The slots of `whole_episodes`, each a clip of its own."""
    length = sampler.model.num_actions
    plans = [
        ClipPlan(plan.episode, slot * length, 1, 0, 0)
        for batch in whole_episodes(sampler, task, max_clips)
        for plan in batch
        for slot in range(plan.num_slots)
    ]
    return _fill_batches(plans, sampler.config.slots_per_batch)


def _fill_batches(plans: list[ClipPlan], slots_per_batch: int) -> list[list[ClipPlan]]:
    """Cut a list sorted by length into batches of at most `slots_per_batch` padded slots."""
    batches: list[list[ClipPlan]] = [[]]
    for plan in plans:
        if batches[-1] and (len(batches[-1]) + 1) * plan.num_slots > slots_per_batch:
            batches.append([])
        batches[-1].append(plan)
    return [batch for batch in batches if batch]


def _episode_shares(
    episodes: list[TrainingEpisode], task_shares: dict[str, float], on_policy_share: float
) -> FloatArray:
    """Probability of each episode: alike in a task for planners' demonstrations, for episodes with
    labels (on-policy, an expert's) by the number of those that teach."""
    tasks = [episode.task for episode in episodes]
    lacking = sorted(task for task, share in task_shares.items() if share and task not in tasks)
    if lacking or not episodes:
        raise ValueError(
            f"no demonstrations of {', '.join(lacking) or 'any task'} were found; check --data."
        )
    weights = np.array(
        [1.0 if e.steps.teaches is None else e.steps.teaches.sum() for e in episodes]
    )
    is_on_policy = np.array([e.steps.teaches is not None for e in episodes])
    shares = np.zeros(len(episodes))
    for task in set(tasks):
        of_task = np.array([name == task for name in tasks])
        split = on_policy_share if (of_task & is_on_policy).any() else 0.0
        for part, share in (
            (of_task & ~is_on_policy, 1.0 - split),
            (of_task & is_on_policy, split),
        ):
            if part.any():
                shares[part] = (
                    task_shares.get(task, 0.0) * share * weights[part] / weights[part].sum()
                )
    return shares / shares.sum()


def _widened(scene_NP: FloatArray, num_numbers: int) -> FloatArray:
    known_NP = scene_NP[:, :num_numbers]
    missing = num_numbers - known_NP.shape[1]
    return np.pad(known_NP, ((0, 0), (0, missing)), constant_values=np.nan)


def _float32(values: FloatArray) -> FloatArray:
    return values.astype(np.float32)


def _stack(arrays: list[np.ndarray], length: int, padding: float = 0.0) -> torch.Tensor:
    shape = (len(arrays), length, *arrays[0].shape[1:])
    padded = np.full(shape, padding, dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)
