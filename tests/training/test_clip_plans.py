# SPDX-License-Identifier: Apache-2.0
"""Which clips are drawn, how they are batched, and what a batch holds.

Chunks of 8, contexts of 6 slots. An episode of 21 steps has 3 chunks, one of 40 steps has 5, one of
90 steps has 12, of which a clip holds 6.
"""

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.training.clip_config import ClipConfig
from par_model.training.clips import (
    ClipPlan,
    ClipSampler,
    clip_num_slots,
    collate,
    cut_clip,
    single_slots,
    whole_episodes,
)
from tests.training.fixtures import LONG_CLIPS, MODEL, fit, make_episode, make_sampler


def drawn(sampler: ClipSampler, num_rounds: int = 4) -> list[ClipPlan]:
    rounds = [sampler.plan_round(index) for index in range(num_rounds)]
    return [plan for batches in rounds for batch in batches for plan in batch]


@pytest.mark.parametrize(
    ("num_steps", "start", "expected"),
    [(21, 0, 3), (21, 5, 2), (21, 4, 3), (21, 20, 1), (24, 0, 3), (25, 0, 4), (90, 0, 6)],
)
def test_number_of_chunks(num_steps: int, start: int, expected: int) -> None:
    assert clip_num_slots(num_steps, start, 8, 6) == expected


def test_a_history_of_joints_shows_each_chunk_its_own_end(tmp_path: Path) -> None:
    """Frames at steps 0, 8 and 16: the first chunk led to the joints of step 8."""
    episode = make_episode(tmp_path, 17, 0)
    statistics = fit([episode], MODEL)
    clip = cut_clip(episode, ClipPlan(0, 0, 2, 0, 0), statistics, np.zeros((2, 8, 8)), "proprio")
    joints = episode.steps.measured_joints
    for slot, (before, after) in enumerate(((0, 8), (8, 16))):
        shown = statistics.denormalize_actions(clip.context_actions[slot], joints[before])
        np.testing.assert_allclose(shown, np.tile(joints[after], (8, 1)), atol=1e-6)


def test_the_last_step_of_an_episode_is_a_frame(tmp_path: Path) -> None:
    """17 steps: the frame at step 16 is the last and valid. 16 steps: it is missing."""
    for num_steps, is_valid in ((17, True), (16, False)):
        episode = make_episode(tmp_path, num_steps, num_steps)
        clip = cut_clip(
            episode, ClipPlan(0, 0, 2, 0, 0), fit([episode], MODEL), np.zeros((2, 8, 8))
        )
        assert clip.frame_valid.tolist() == [True, is_valid]
        assert clip.action_valid.all()


# Which clips


def test_clips_begin_in_the_first_chunk_or_anywhere(tmp_path: Path) -> None:
    """With a share of 1 in the first 8 steps, with 0 in all 40; an episode of 3 steps has 3."""
    for share, num_starts in ((1.0, 8), (0.0, 40)):
        config = dataclasses.replace(LONG_CLIPS, from_start_share=share)
        starts = {plan.start for plan in drawn(make_sampler(tmp_path, [40], config))}
        assert starts == set(range(num_starts))
    short = make_sampler(tmp_path, [40, 3], dataclasses.replace(LONG_CLIPS, from_start_share=1.0))
    assert {plan.start for plan in drawn(short) if plan.episode == 1} == {0, 1, 2}


def test_a_clip_goes_to_the_end_of_its_episode_or_of_the_context(tmp_path: Path) -> None:
    for plan in drawn(make_sampler(tmp_path, [21, 90], LONG_CLIPS)):
        num_steps = (21, 90)[plan.episode]
        assert plan.num_slots == clip_num_slots(num_steps, plan.start, 8, MODEL.num_slots)


def test_offsets_use_all_the_room_that_is_left(tmp_path: Path) -> None:
    """A clip of one slot may be in any of 6; a share of 0 leaves it in the first."""
    config = dataclasses.replace(LONG_CLIPS, offset_share=1.0, single_slot_share=1.0)
    offsets = collections.Counter(
        plan.slot_offset for plan in drawn(make_sampler(tmp_path, [40], config))
    )
    assert set(offsets) == set(range(6))
    assert min(offsets.values()) > 0.7 * max(offsets.values())
    config = dataclasses.replace(config, offset_share=0.0)
    assert {plan.slot_offset for plan in drawn(make_sampler(tmp_path, [40], config))} == {0}


def test_every_variant_of_the_pictures_is_used(tmp_path: Path) -> None:
    variants = collections.Counter(
        plan.variant for plan in drawn(make_sampler(tmp_path, [40], LONG_CLIPS))
    )
    assert set(variants) == {0, 1}
    assert min(variants.values()) > 0.7 * max(variants.values())


def test_episodes_are_drawn_by_their_tasks_shares(tmp_path: Path) -> None:
    """Push 3, shared by two episodes, to Pick 1; nobody asked for Stack."""
    tasks = ("Push", "Push", "Pick", "Stack")
    episodes = [make_episode(tmp_path, 40, key, task) for key, task in enumerate(tasks)]
    single = dataclasses.replace(LONG_CLIPS, single_slot_share=1.0)
    plain = make_sampler(tmp_path, [40], single)
    sampler = ClipSampler(
        episodes, {"Push": 3.0, "Pick": 1.0}, plain.statistics, plain.table, MODEL, single
    )
    counts = collections.Counter(plan.episode for plan in drawn(sampler))
    total = sum(counts.values())
    shares = [counts[index] / total for index in range(4)]
    np.testing.assert_allclose(shares, [0.375, 0.375, 0.25, 0.0], atol=0.03)


def test_no_demonstrations_at_all_are_named(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path, [21], LONG_CLIPS)
    given = (sampler.statistics, sampler.table, MODEL, LONG_CLIPS)
    with pytest.raises(ValueError) as caught:
        ClipSampler([], {}, *given)
    assert str(caught.value) == "no demonstrations of any task were found; check --data."
    with pytest.raises(ValueError, match="no demonstrations of Pick, Stack were found"):
        ClipSampler(sampler.episodes, {"Push": 1.0, "Stack": 0.5, "Pick": 0.5}, *given)
    # a task with a share of 0 need not be there
    ClipSampler(sampler.episodes, {"Push": 1.0, "Stack": 0.0}, *given)


# Batches


def test_a_round_has_the_batches_worth_that_was_asked_for(tmp_path: Path) -> None:
    """3 batches of 12 slots: clips are drawn until 36 slots are reached, and none after that."""
    config = dataclasses.replace(LONG_CLIPS, slots_per_batch=12, batches_per_round=3)
    batches = make_sampler(tmp_path, [21, 40], config).plan_round(0)
    sizes = [plan.num_slots for batch in batches for plan in batch]
    assert 36 <= sum(sizes) < 36 + 5
    for batch in batches:
        assert [plan.num_slots for plan in batch] == sorted(plan.num_slots for plan in batch)
        assert len(batch) * batch[-1].num_slots <= 12
    longest = [batch[-1].num_slots for batch in batches]
    assert sorted(longest) != longest, "the batches are not in random order"


def test_a_round_ends_when_its_slots_are_reached(tmp_path: Path) -> None:
    """36 clips of one slot: not one more."""
    config = dataclasses.replace(
        LONG_CLIPS, single_slot_share=1.0, slots_per_batch=12, batches_per_round=3
    )
    assert len(drawn(make_sampler(tmp_path, [40], config), num_rounds=1)) == 36


def test_batches_of_equal_clips_are_filled_up(tmp_path: Path) -> None:
    """Clips of 3 slots: four of them fill a batch of 12 or of 14 slots, and five one of 15."""
    lengths = [24] * 10
    for slots, expected in ((12, [4, 4, 2]), (14, [4, 4, 2]), (15, [5, 5]), (2, [1] * 10)):
        config = dataclasses.replace(LONG_CLIPS, slots_per_batch=slots)
        batches = whole_episodes(make_sampler(tmp_path, lengths, config), "Push", 10)
        assert [len(batch) for batch in batches] == expected


def test_the_draw_is_a_function_of_seed_round_and_place(tmp_path: Path) -> None:
    """A run that a later version resumes must meet the same clips and the same noise."""
    config = dataclasses.replace(
        LONG_CLIPS, slots_per_batch=6, batches_per_round=2, context_noise=0.1
    )
    sampler = make_sampler(tmp_path, [21, 40], config)
    expected = [(0, 6, 2, 0, 2), (0, 1, 3, 1, 3), (0, 4, 3, 0, 0), (1, 1, 5, 0, 0)]
    plans = [plan for batch in sampler.plan_round(1) for plan in batch]
    assert plans == [ClipPlan(*numbers) for numbers in expected]
    assert sampler.place == (0, 0)
    noise = []
    for _ in range(3):
        batch = sampler.next_batch()
        noise.append(batch.context_actions_BNLD[0, 0, 0, 0].item())
    assert noise == pytest.approx([2.010297, 1.806629, 2.038779], abs=1e-5)


def test_the_place_goes_through_a_round_and_on_to_the_next(tmp_path: Path) -> None:
    config = dataclasses.replace(LONG_CLIPS, slots_per_batch=6, batches_per_round=2)
    sampler = make_sampler(tmp_path, [21, 40], config)
    expected = [(index, place) for index in (0, 1) for place in range(_num_batches(sampler, index))]
    found = []
    while sampler.place[0] < 2:
        found.append(sampler.place)
        sampler.next_batch()
    assert found == expected
    assert sampler.place == (2, 0)


def _num_batches(sampler: ClipSampler, round_index: int) -> int:
    return len(sampler.plan_round(round_index))


def test_other_seeds_and_rounds_give_other_clips(tmp_path: Path) -> None:
    first, second = (
        make_sampler(tmp_path, [40], LONG_CLIPS),
        make_sampler(tmp_path, [40], LONG_CLIPS),
    )
    second.config = dataclasses.replace(LONG_CLIPS, seed=1)
    assert first.plan_round(0) != first.plan_round(1)
    assert first.plan_round(0) != second.plan_round(0)


# What a batch holds


def test_a_batch_is_its_clips_side_by_side(tmp_path: Path) -> None:
    """Two clips of 1 and 3 slots, everything float32, what is missing zero; scenes NaN."""
    sampler = make_sampler(tmp_path, [8, 21], LONG_CLIPS)
    plans = [ClipPlan(0, 0, 1, 1, 4), ClipPlan(1, 0, 3, 0, 2)]
    batch = sampler.cut(plans, np.random.default_rng(0))
    clips = [
        cut_clip(sampler.episodes[plan.episode], plan, sampler.statistics, np.zeros((1, 1, 1)))
        for plan in plans
    ]
    pairs = (
        ("latents", batch.latents_BNchw, torch.float32),
        ("actions", batch.actions_BNLD, torch.float32),
        ("context_actions", batch.context_actions_BNLD, torch.float32),
        ("proprio", batch.proprio_BNJ, torch.float32),
        ("action_valid", batch.action_valid_BNL, torch.bool),
        ("frame_valid", batch.frame_valid_BN, torch.bool),
    )
    for name, rows, dtype in pairs:
        assert rows.dtype == dtype, name
        for row, clip in zip(rows.numpy(), clips, strict=True):
            values = getattr(clip, name)
            np.testing.assert_array_equal(row[: len(values)], values, err_msg=name)
            assert not row[len(values) :].any(), name
    sizes = {name: rows.shape[1] for name, rows, _ in pairs}
    assert sizes == {
        "latents": 4, "actions": 3, "context_actions": 3, "proprio": 4, "action_valid": 3,
        "frame_valid": 3,
    }  # fmt: skip
    assert batch.slot_offset_B.dtype == torch.int64
    assert batch.slot_offset_B.tolist() == [4, 2]
    expected = torch.stack([sampler.table.embedding("Push")] * 2)
    assert torch.equal(batch.text_BTC, expected)


def test_joints_of_a_clip_are_those_of_its_frames(tmp_path: Path) -> None:
    episode = make_episode(tmp_path, 21, 0)
    statistics = fit([episode], MODEL)
    clip = cut_clip(episode, ClipPlan(0, 5, 2, 0, 0), statistics, np.zeros((2, 8, 8)))
    joints = episode.steps.measured_joints[[5, 13, 20]]
    np.testing.assert_allclose(clip.proprio, statistics.normalize_joints(joints), atol=1e-6)
    np.testing.assert_allclose(clip.scene[:, 0], [0.1, 0.26], atol=1e-6)
    for values in (clip.latents, clip.actions, clip.context_actions, clip.proprio, clip.scene):
        assert values.dtype == np.float32


def test_scenes_are_widened_with_nan_and_cut_to_the_width(tmp_path: Path) -> None:
    """An episode's 6 numbers as 8, and as 2."""
    sampler = make_sampler(tmp_path, [21], LONG_CLIPS)
    clip = cut_clip(
        sampler.episodes[0], ClipPlan(0, 8, 1, 0, 0), sampler.statistics, np.zeros((1, 8, 8))
    )
    for width, known in ((8, 6), (2, 2), (0, 0)):
        scene = collate([clip], ["Push"], [0], sampler.table, width).scene_BNP
        assert scene.shape == (1, 1, width)
        np.testing.assert_allclose(scene[0, 0, :known], np.full(known, 0.16), atol=1e-6)
        assert scene[0, 0, known:].isnan().all()
    assert sampler.num_scene == 0


def test_noise_has_the_deviation_that_was_asked_for(tmp_path: Path) -> None:
    config = dataclasses.replace(LONG_CLIPS, context_noise=0.5)
    sampler = make_sampler(tmp_path, [21], config)
    plans = [ClipPlan(0, 0, 3, 0, 0)] * 20
    noisy = sampler.cut(plans, np.random.default_rng(0)).context_actions_BNLD
    sampler.config = dataclasses.replace(config, context_noise=0.0)
    plain = sampler.cut(plans, np.random.default_rng(0)).context_actions_BNLD
    assert (noisy - plain).std().item() == pytest.approx(0.5, rel=0.03)
    assert (noisy - plain).mean().item() == pytest.approx(0.0, abs=0.03)


def test_history_is_the_models_context_action(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path, [21], LONG_CLIPS)
    sampler.model = dataclasses.replace(MODEL, context_action="proprio")
    plan = ClipPlan(0, 0, 2, 0, 0)
    batch = sampler.cut([plan], np.random.default_rng(0))
    noise = np.zeros((2, 8, 8))
    clip = cut_clip(sampler.episodes[0], plan, sampler.statistics, noise, "proprio")
    np.testing.assert_array_equal(batch.context_actions_BNLD[0], clip.context_actions)


# Validation


def test_validation_takes_a_tasks_first_episodes(tmp_path: Path) -> None:
    """Push, Pick, Push, Push of 40, 21, 21 and 90 steps: Push's first two, the short one first."""
    sampler = make_sampler(tmp_path, [40, 21, 21, 90], LONG_CLIPS)
    sampler.episodes[1] = dataclasses.replace(sampler.episodes[1], task="Pick")
    (batch,) = whole_episodes(sampler, "Push", 2)
    assert batch == [ClipPlan(2, 0, 3, 0, 0), ClipPlan(0, 0, 5, 0, 0)]
    (batch,) = whole_episodes(sampler, "Pick", 2)
    assert batch == [ClipPlan(1, 0, 3, 0, 0)]
    assert whole_episodes(sampler, "Stack", 2) == []
    # 25 steps are four chunks, the last of one step
    (batch,) = whole_episodes(make_sampler(tmp_path, [25], LONG_CLIPS), "Push", 1)
    assert batch == [ClipPlan(0, 0, 4, 0, 0)]


def test_single_slots_are_the_slots_of_whole_episodes(tmp_path: Path) -> None:
    """3 and 5 slots, in batches of 4."""
    config: ClipConfig = dataclasses.replace(LONG_CLIPS, slots_per_batch=4)
    sampler = make_sampler(tmp_path, [40, 21, 21], config)
    batches = single_slots(sampler, "Push", 2)
    starts = [(1, 0), (1, 8), (1, 16), (0, 0), (0, 8), (0, 16), (0, 24), (0, 32)]
    expected = [ClipPlan(episode, start, 1, 0, 0) for episode, start in starts]
    assert batches == [expected[:4], expected[4:]]
