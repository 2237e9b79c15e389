# SPDX-License-Identifier: Apache-2.0
"""A clip of a recording against the policy that lives the same episode, step by step.

Two recordings of random numbers. The first has 45 steps; a clip from step 5 has 5 chunks of 8, and
its last frame, at step 45, was never taken. The second has 21 steps: 3 chunks, the last with 5
actions. Both clips are in one batch, the shorter one padded. Random weights of par_tiny. Latents on
disk are float16, so contexts agree to 1e-4 of their size; those of neighbouring slots differ by
more than 1e-2.

Every row is random: a row that is taken one step or one slot off is another number.
"""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from par_model.checkpoint import save_checkpoint
from par_model.config import FrameCodecConfig
from par_model.frame_head import generation_order
from par_model.interface import Observation
from par_model.load_policy import load_policy
from par_model.presets import preset
from par_model.training.clip_config import ClipConfig
from par_model.training.clips import ClipPlan, ClipSampler, TrainingEpisode
from par_model.training.demonstrations_on_disk import DemonstrationSteps
from par_model.training.latent_cache import LatentCache, ShiftConfig, encode_variants
from tests.model.fixtures import INSTRUCTIONS, random_checkpoint_parts

L = 8
PLANS = [ClipPlan(0, 5, 5, 0, 0), ClipPlan(1, 0, 3, 0, 0)]
LENGTHS = (45, 21)
TOLERANCE = 1e-4
VIDEO_CODEC = FrameCodecConfig("opensora_plan", 4, 8, 1, (32, 32, 32, 32), 1, 32, 0.2, 2, 4)
# Every frame and every token of it counts, and nothing is drawn at random.
WHOLE_LOSS = dataclasses.replace(
    preset("par_tiny").loss,
    num_draws=1,
    mask_ratio_low=1.0,
    frame_fraction=1.0,
    frame_weight=1.0,
    action_weight=1.0,
)
REGRESSION = {"action_head": "regression", "frame_head": "regression", "loss": WHOLE_LOSS}

VARIANTS = {
    "executed actions as history": {},
    "measured joints as history": {"context_action": "proprio"},
    "absolute actions": {"action_frame": "absolute"},
    "clips of pictures": {"codec": VIDEO_CODEC, "observation_mode": "clip"},
    "time by embedding alone": {"position_mode": "ape"},
    "history of 2 slots": {"history_slots": 2},
    "no autoregression": {"autoregressive": False},
}


@dataclass(frozen=True)
class Recording:
    """Row t: what was seen before action t, the label of action t, and what was sent."""

    frames: np.ndarray
    joints: np.ndarray
    labels: np.ndarray
    executed: np.ndarray
    scene: np.ndarray


@dataclass(frozen=True)
class Lived:
    """What the policy held after an observation, and what it answered.

    `picture` is the latent that it expects at the next observation."""

    frame_context: torch.Tensor
    action_context: torch.Tensor
    latent: torch.Tensor
    picture: torch.Tensor
    targets: np.ndarray


class Lives:
    """The two recordings as a batch of clips and as the episodes of a policy."""

    def __init__(self, folder, **changes):
        self.parts = random_checkpoint_parts("par_tiny", **REGRESSION, **changes)
        self.config, self.model = self.parts["config"], self.parts["model"].eval()
        self.statistics = self.parts["statistics"] = _distinct(self.parts["statistics"])
        self.recordings = [_recording(seed, length) for seed, length in enumerate(LENGTHS)]
        save_checkpoint(folder / "checkpoint", **self.parts)
        self.policy = load_policy(
            folder / "checkpoint", device="cpu", backend="eager", observation_mode=None
        )
        self.sampler = self._sampler(folder / "latents")

    def batch(self, plans=PLANS):
        return self.sampler.cut(plans, np.random.default_rng(0))

    def live(self, plan):
        """Show the policy the recording at every 8th step from the clip's first."""
        recording, lived, before = self.recordings[plan.episode], [], None
        self.policy.reset(INSTRUCTIONS[plan.episode], 0)
        for now in range(plan.start, plan.start + L * plan.num_slots, L):
            self.policy.observe(self._observation(recording, now, before))
            lived.append(self._lived())
            before = now
        return lived

    def _observation(self, recording, now, before):
        """At step `now`; `before` is the step of the observation before, None for the first."""
        recent = None
        if before is not None and self.config.observation_mode == "clip":
            recent = recording.frames[[before + 2, before + 4, before + 6, before + 8]]
        return Observation(
            image=recording.frames[now],
            measured_joint_positions=recording.joints[now],
            joint_names=self.policy.spec.joint_names,
            stamp_s=0.05 * now,
            executed_actions=None if before is None else recording.executed[before:now],
            recent_images=recent,
        )

    @torch.no_grad()
    def _lived(self):
        episode, model = self.policy._episode, self.policy._graphs.model
        is_first = len(episode.slots) == 1
        condition = model.frame_head.condition(
            episode.context.frame, None if is_first else episode.anchor.frame
        )
        generator = torch.Generator()
        order = generation_order(self.config.num_image_tokens, generator)
        picture = model.predict_frame(condition, order, generator, "ddim", 1, num_sets=1)
        return Lived(
            frame_context=episode.context.frame[0],
            action_context=episode.context.action[0],
            latent=episode.slots[-1].latent[0],
            picture=picture[0],
            targets=self.policy.act().joint_positions,
        )

    def _sampler(self, folder):
        mode = self.config.observation_mode
        codec = self.parts["codec"]
        codec = codec if mode == "clip" else codec.for_pictures()
        shifts = ShiftConfig(num_variants=1)
        cache = LatentCache(folder, self.parts["codec"], "lived", shifts, mode)
        episodes = []
        for key, recording in enumerate(self.recordings):
            cache.write(key, "", encode_variants(codec, recording.frames, key, shifts, mode))
            arrays = (recording.labels, recording.executed, recording.joints, recording.scene)
            steps = DemonstrationSteps(key, INSTRUCTIONS[key], *arrays, digest="")
            episodes.append(TrainingEpisode("Push", steps, cache))
        clips = ClipConfig(context_noise=0.0)
        table = self.parts["instructions"]
        return ClipSampler(
            episodes, {"Push": 1.0}, self.statistics, table, self.config, clips, num_scene=3
        )


def _distinct(statistics):
    """Another scale for each action of a chunk, so that no two rows can be exchanged."""
    step = np.linspace(0.0, 0.1, L)[:, None] if statistics.action_frame == "relative" else 0.0
    return dataclasses.replace(
        statistics,
        action_low=statistics.action_low - step,
        action_high=statistics.action_high + 2 * step,
        gripper_range=np.array([-9.0, 9.0]),
    )


def _recording(seed, length):
    rng = np.random.default_rng(seed)
    return Recording(
        frames=rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8),
        joints=rng.normal(size=(length, 8)),
        labels=rng.normal(size=(length, 8)),
        executed=rng.normal(size=(length, 8)),
        scene=rng.normal(size=(length, 3)),
    )


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    return Lives(tmp_path_factory.mktemp("lives"))


# Contexts


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_contexts_of_a_clip_are_those_that_the_policy_caches(changes, tmp_path):
    lives = Lives(tmp_path, **changes)
    with torch.no_grad():
        trained = lives.model.training_context(lives.batch())
    for row, plan in enumerate(PLANS):
        lived = lives.live(plan)
        assert len(lived) == plan.num_slots
        for slot, expected in enumerate(lived):
            found = trained.action_BNZC[row, slot], trained.frame_BNKC[row, slot]
            for got, want in zip(
                found, (expected.action_context, expected.frame_context), strict=True
            ):
                assert (got - want).abs().max() < TOLERANCE * want.abs().max(), (row, slot)


def test_contexts_of_neighbouring_slots_differ(lives):
    """What the tolerance of the test above rests on."""
    lived = lives.live(PLANS[0])
    for before, after in itertools.pairwise(lived):
        for one, other in (
            (before.action_context, after.action_context),
            (before.frame_context, after.frame_context),
        ):
            assert (one - other).abs().max() > 100 * TOLERANCE * other.abs().max()


def test_a_slot_knows_its_past_and_nothing_of_its_answer(lives):
    """Slot 2 depends on O_0 to O_2, on A_1 and A_2 and on the joints at O_0 to O_2; not on the
    labels, which it is to find."""
    batch = lives.batch(PLANS[:1])
    names = ("latents_BNchw", "context_actions_BNLD", "proprio_BNJ", "actions_BNLD")
    inputs = [getattr(batch, name).clone().requires_grad_() for name in names]
    context = lives.model.training_context(
        dataclasses.replace(batch, **dict(zip(names, inputs, strict=True)))
    )
    seen = context.action_BNZC[:, 2].sum() + context.frame_BNKC[:, 2].square().sum()
    gradients = torch.autograd.grad(seen, inputs, allow_unused=True)
    reached = [
        [] if gradient is None else gradient[0].flatten(1).any(dim=1).nonzero().flatten().tolist()
        for gradient in gradients
    ]
    # Row n of the context's actions is A_{n+1}.
    assert dict(zip(names, reached, strict=True)) == {
        "latents_BNchw": [0, 1, 2],
        "context_actions_BNLD": [0, 1],
        "proprio_BNJ": [0, 1, 2],
        "actions_BNLD": [],
    }


@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize("mode", ["ape", "ape+rope_time"])
def test_a_clip_that_begins_later_is_a_cache_that_begins_later(mode, offset, tmp_path):
    """slot_offset moves the clock of embeddings and rotations as the cached path's first_slot."""
    lives = Lives(tmp_path, position_mode=mode)
    model, batch = lives.model, lives.batch([dataclasses.replace(PLANS[1], slot_offset=offset)])
    actions = torch.cat(
        (torch.zeros_like(batch.actions_BNLD[:, :1]), batch.context_actions_BNLD), 1
    )
    with torch.no_grad():
        trained = model.training_context(batch)
        moved = model.training_context(
            dataclasses.replace(batch, slot_offset_B=torch.zeros(1).long())
        )
        cache = model.prefill(batch.text_BTC)
        for slot in range(PLANS[1].num_slots):
            now = slice(slot, slot + 1)
            context, cache = model.extend(
                cache,
                batch.text_BTC,
                batch.latents_BNchw[:, now],
                actions[:, now],
                batch.proprio_BNJ[:, now],
                offset + slot,
                slot == 0,
            )
            difference = (context.action_BNZC[:, 0] - trained.action_BNZC[:, slot]).abs().max()
            assert difference < 1e-4, slot
    assert (moved.action_BNZC - trained.action_BNZC).abs().max() > 0.01


# Targets: with heads that regress, the loss is the distance from what the policy would have said


def test_the_action_loss_is_the_distance_of_the_policy_s_answers_from_the_labels(lives):
    """Over the 40 + 21 actions that were recorded, in units of the statistics."""
    deviation = (lives.statistics.action_high - lives.statistics.action_low) / 2
    squares, count = 0.0, 0
    for plan in PLANS:
        labels = lives.recordings[plan.episode].labels
        for slot, lived in enumerate(lives.live(plan)):
            wanted = labels[plan.start + L * slot :][:L]
            error = (lived.targets[: len(wanted)] - wanted) / deviation[: len(wanted)]
            squares += np.square(error).mean(axis=1).sum()
            count += len(wanted)
    assert count == 40 + 21
    assert _loss(lives).action.item() == pytest.approx(squares / count, rel=TOLERANCE)


def test_the_frame_loss_is_the_distance_of_the_expected_from_the_next_picture(lives):
    """Over the 4 + 2 frames that were taken after a chunk. The policy's own latents are the truth;
    the last clip's next frames are the recording's."""
    squares = []
    for plan in PLANS:
        lived = lives.live(plan)
        squares += [
            (before.picture - after.latent).square().mean().item()
            for before, after in itertools.pairwise(lived)
        ]
    assert len(squares) == 4 + 2
    assert _loss(lives).frame.item() == pytest.approx(np.mean(squares), rel=TOLERANCE)


def _loss(lives):
    with torch.no_grad():
        return lives.model.training_loss(lives.batch(), torch.Generator())


def test_the_scene_is_that_of_the_slot_s_own_picture(lives):
    scene = lives.batch().scene_BNP.numpy()
    for row, plan in enumerate(PLANS):
        shown = plan.start + L * np.arange(plan.num_slots)
        expected = lives.recordings[plan.episode].scene[shown]
        np.testing.assert_array_equal(scene[row, : plan.num_slots], expected.astype(np.float32))
