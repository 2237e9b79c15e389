# SPDX-License-Identifier: Apache-2.0
"""Clips: which frames, actions and masks a cut gives, and that the order of batches is fixed.

An episode of 21 steps, chunks of 8: from step 0 it has 3 chunks, the last with 5 actions; frames at
steps 0, 8, 16, and none at 24. From step 5 it has 2 full chunks; frames at 5, 13, and none at 21.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.training.clips import ClipPlan, ClipSampler, cut_clip, whole_episodes
from tests.training.fixtures import LONG_CLIPS, MODEL, fit, make_episode, make_sampler


def test_short_last_chunk_is_masked(tmp_path: Path) -> None:
    episode = make_episode(tmp_path, 21, 0)
    plan = ClipPlan(episode=0, start=0, num_slots=3, variant=0, slot_offset=0)
    clip = cut_clip(episode, plan, fit([episode], MODEL), np.zeros((3, 8, 8)))
    assert clip.latents[:, 0, 0, 0].tolist() == [0, 8, 16, 20]
    assert clip.frame_valid.tolist() == [True, True, False]
    assert clip.action_valid.sum(axis=1).tolist() == [8, 8, 5]


def test_clip_from_an_odd_step_takes_the_right_rows(tmp_path: Path) -> None:
    episode = make_episode(tmp_path, 21, 0)
    statistics = fit([episode], MODEL)
    plan = ClipPlan(episode=0, start=5, num_slots=2, variant=1, slot_offset=3)
    clip = cut_clip(episode, plan, statistics, np.zeros((2, 8, 8)))
    assert clip.latents[:2, 0, 0, 0].tolist() == [105, 113]
    joints, actions = episode.steps.measured_joints, episode.steps.actions
    back = statistics.denormalize_actions(clip.actions[1], joints[13])
    np.testing.assert_allclose(back, actions[13:21], atol=1e-6)
    executed = statistics.denormalize_actions(clip.context_actions[1], joints[13])
    np.testing.assert_allclose(executed, actions[13:21] + 0.01, atol=1e-6)


def test_history_can_show_the_joints_that_a_chunk_led_to(tmp_path: Path) -> None:
    """context_action "proprio": as the policy, which repeats the newest measured joints."""
    episode = make_episode(tmp_path, 21, 0)
    statistics, plan = fit([episode], MODEL), ClipPlan(0, 0, 2, 0, 0)
    clip = cut_clip(episode, plan, statistics, np.zeros((2, 8, 8)), "proprio")
    joints = episode.steps.measured_joints
    shown = statistics.denormalize_actions(clip.context_actions[1], joints[8])
    np.testing.assert_allclose(shown, np.tile(joints[16], (8, 1)), atol=1e-6)
    commanded = cut_clip(episode, plan, statistics, np.zeros((2, 8, 8)))
    np.testing.assert_array_equal(clip.actions, commanded.actions)


def test_noise_goes_to_the_history_only(tmp_path: Path) -> None:
    episode = make_episode(tmp_path, 21, 0)
    plan = ClipPlan(0, 0, 3, 0, 0)
    statistics = fit([episode], MODEL)
    plain = cut_clip(episode, plan, statistics, np.zeros((3, 8, 8)))
    noisy = cut_clip(episode, plan, statistics, np.full((3, 8, 8), 0.5))
    np.testing.assert_array_equal(plain.actions, noisy.actions)
    np.testing.assert_allclose(noisy.context_actions - plain.context_actions, 0.5, atol=1e-6)


def test_padding_is_never_valid(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path, [8, 21], LONG_CLIPS)
    plans = [ClipPlan(0, 0, 1, 0, 0), ClipPlan(1, 0, 3, 0, 2)]
    batch = sampler.cut(plans, np.random.default_rng(0))
    assert batch.latents_BNchw.shape[:2] == (2, 4)
    assert batch.action_valid_BNL.sum(dim=(1, 2)).tolist() == [8, 21]
    assert not batch.frame_valid_BN[0].any()
    assert batch.slot_offset_B.tolist() == [0, 2]


def test_batches_keep_to_the_budget_and_slots_to_the_context(tmp_path: Path) -> None:
    config = dataclasses.replace(LONG_CLIPS, slots_per_batch=20, batches_per_round=4)
    sampler = make_sampler(tmp_path, [9, 21, 40, 90], config)
    plans = [plan for batch in sampler.plan_round(0) for plan in batch]
    for batch in sampler.plan_round(0):
        assert len(batch) * max(plan.num_slots for plan in batch) <= 20
    assert all(plan.slot_offset + plan.num_slots <= MODEL.num_slots for plan in plans)
    assert {plan.start % 8 for plan in plans} == set(range(8))
    assert any(plan.slot_offset > 0 for plan in plans)
    assert any(plan.slot_offset == 0 for plan in plans)


def test_a_resumed_sampler_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    config = dataclasses.replace(
        LONG_CLIPS, slots_per_batch=12, batches_per_round=3, context_noise=0.1
    )
    first = make_sampler(tmp_path, [21, 40], config)
    batches = [first.next_batch() for _ in range(9)]
    second = make_sampler(tmp_path, [21, 40], config)
    for _ in range(4):
        second.next_batch()
    third = make_sampler(tmp_path, [21, 40], config)
    third.place = second.place
    for expected in batches[4:]:
        found = third.next_batch()
        torch.testing.assert_close(
            found.context_actions_BNLD, expected.context_actions_BNLD, rtol=0, atol=0
        )
        torch.testing.assert_close(found.latents_BNchw, expected.latents_BNchw, rtol=0, atol=0)


def test_validation_clips_are_whole_episodes(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path, [21, 40], dataclasses.replace(LONG_CLIPS, slots_per_batch=30))
    plans = [plan for batch in whole_episodes(sampler, "Push", 9) for plan in batch]
    assert [(plan.start, plan.num_slots, plan.variant) for plan in plans] == [(0, 3, 0), (0, 5, 0)]


def test_a_task_without_episodes_is_named(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path, [21], LONG_CLIPS)
    with pytest.raises(ValueError, match="no demonstrations of Stack"):
        ClipSampler(
            sampler.episodes,
            {"Push": 0.5, "Stack": 0.5},
            sampler.statistics,
            sampler.table,
            MODEL,
            LONG_CLIPS,
        )


def test_single_slot_clips_have_no_history(tmp_path: Path) -> None:
    sampler = make_sampler(
        tmp_path, [21, 40], dataclasses.replace(LONG_CLIPS, single_slot_share=1.0)
    )
    plans = [plan for batch in sampler.plan_round(0) for plan in batch]
    assert {plan.num_slots for plan in plans} == {1}
    assert len({plan.start for plan in plans}) > 20


def test_a_place_beyond_its_round_is_the_next_rounds_first(tmp_path: Path) -> None:
    """Stored while the round had more batches: other data have been given since."""
    sampler = make_sampler(tmp_path, [40], LONG_CLIPS)
    num_batches = len(sampler.plan_round(3))
    sampler.place = (3, num_batches - 1)
    sampler.require_place()
    assert sampler.place == (3, num_batches - 1)
    sampler.place = (3, num_batches)
    sampler.require_place()
    assert sampler.place == (4, 0)
    sampler.next_batch()
