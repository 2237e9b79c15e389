# SPDX-License-Identifier: Apache-2.0
"""Clips for a policy that goes on from up to 10 committed actions: slots of 8, chunks of 18, an
episode of 40 steps whose latents say their step."""

import dataclasses
from pathlib import Path

import numpy as np

from par_model.training.clips import ClipPlan, cut_clip
from tests.training.fixtures import LONG_CLIPS, MODEL, fit, make_episode, make_sampler

TRAINED = dataclasses.replace(MODEL, max_delay_steps=10)


def cut(tmp_path: Path, plan: ClipPlan):
    episode = make_episode(tmp_path, 40, 0)
    longer = fit([episode], dataclasses.replace(MODEL, num_actions=18))
    noise = np.zeros((plan.num_slots, 8, 8))
    return episode, longer, cut_clip(episode, plan, longer, noise, num_actions=8)


def test_a_chunk_is_longer_than_the_slot_that_it_fills(tmp_path: Path) -> None:
    episode, statistics, clip = cut(tmp_path, ClipPlan(0, 0, 3, 0, 0))
    assert clip.actions.shape == (3, 18, 8)
    assert clip.context_actions.shape == (3, 8, 8)
    assert clip.action_valid.sum(axis=1).tolist() == [18, 18, 18]
    assert (clip.executed.all(), clip.clock.tolist()) == (True, [0, 8, 16])
    assert clip.least_delay.tolist() == [0, 0, 0]
    joints = episode.steps.measured_joints
    shown = statistics.denormalize_actions(clip.context_actions[1], joints[8])
    np.testing.assert_allclose(shown, episode.steps.executed_actions[8:16], atol=1e-6)


def test_spans_say_where_frames_are_and_what_was_executed_between_them(tmp_path: Path) -> None:
    """3, 10 and 8 steps: 3 actions at the end of the first slot; the newest 8 in the second."""
    plan = ClipPlan(0, 2, 3, 0, 0, spans=(3, 10, 8))
    episode, statistics, clip = cut(tmp_path, plan)
    assert clip.latents[:, 0, 0, 0].tolist() == [2, 5, 15, 23]
    assert clip.clock.tolist() == [0, 3, 13]
    assert clip.executed[0].tolist() == [False] * 5 + [True] * 3
    assert clip.executed[1:].all()
    assert clip.frame_valid.tolist() == [False, False, True]
    joints, executed = episode.steps.measured_joints, episode.steps.executed_actions
    # Each action has the statistics of its number after the frame before.
    rows = np.concatenate((clip.context_actions[0, 5:], np.zeros((15, 8))))
    shown = statistics.denormalize_actions(rows, joints[2])[:3]
    np.testing.assert_allclose(shown, executed[2:5], atol=1e-6)
    rows = np.concatenate((np.zeros((2, 8)), clip.context_actions[1], np.zeros((8, 8))))
    shown = statistics.denormalize_actions(rows, joints[5])[2:10]
    np.testing.assert_allclose(shown, executed[7:15], atol=1e-6)


def test_an_arm_that_stands_before_its_first_chunk_has_that_in_the_prefix(tmp_path: Path) -> None:
    """4 steps: 4 actions that are to stand, then the demonstration's first 14."""
    episode, statistics, clip = cut(tmp_path, ClipPlan(0, 0, 2, 0, 0, late_steps=4))
    joints, actions = episode.steps.measured_joints, episode.steps.actions
    chunk = statistics.denormalize_actions(clip.actions[0], joints[0])
    np.testing.assert_allclose(chunk[:4], np.tile(joints[0], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(chunk[4:], actions[:14], atol=1e-6)
    assert clip.least_delay.tolist() == [4, 0]
    assert clip.latents[:, 0, 0, 0].tolist() == [0, 4, 12]


def test_an_arm_that_is_slow_at_first_covers_less_of_the_way_and_goes_on(tmp_path: Path) -> None:
    """The way of 2 steps in the first 4, from step 12 on; then the demonstration from step 14."""
    plan = ClipPlan(0, 12, 2, 0, 0, late_steps=4, slow_steps=2)
    episode, statistics, clip = cut(tmp_path, plan)
    joints, actions = episode.steps.measured_joints, episode.steps.actions
    chunk = statistics.denormalize_actions(clip.actions[0], joints[12])
    halves = [(actions[11] + actions[12]) / 2, actions[12], (actions[12] + actions[13]) / 2]
    np.testing.assert_allclose(chunk[:4], [*halves, actions[13]], atol=1e-6)
    np.testing.assert_allclose(chunk[4:], actions[14:28], atol=1e-6)
    assert clip.action_valid.all()
    assert clip.least_delay.tolist() == [4, 0]
    assert clip.clock.tolist() == [0, 8]
    assert clip.latents[:, 0, 0, 0].tolist() == [12, 18, 26]
    shown = statistics.denormalize_actions(clip.context_actions[0], joints[12])
    executed = episode.steps.executed_actions
    np.testing.assert_allclose(shown[3:], executed[13:18], atol=1e-6)
    # An arm that stands is told again what it was told last, the gripper's squeeze included.
    plan = ClipPlan(0, 12, 1, 0, 0, late_steps=3)
    chunk = statistics.denormalize_actions(cut(tmp_path, plan)[2].actions[0], joints[12])
    np.testing.assert_allclose(chunk[:4], actions[[11, 11, 11, 12]], atol=1e-6)


def test_a_sampler_draws_slow_starts_beside_late_ones(tmp_path: Path) -> None:
    clips = dataclasses.replace(
        LONG_CLIPS, from_start_share=0.5, late_start_share=1.0, slow_start_share=0.5
    )
    sampler = make_sampler(tmp_path, [40, 40], clips)
    sampler.model = TRAINED
    plans = [plan for number in range(4) for batch in sampler.plan_round(number) for plan in batch]
    slow = [plan for plan in plans if plan.late_steps and plan.start]
    assert {plan.late_steps for plan in slow} == set(range(1, 11))
    assert all(plan.slow_steps < plan.late_steps for plan in slow)
    assert {plan.slow_steps for plan in slow} >= set(range(8))
    assert not all(plan.late_steps for plan in plans)
    assert all(not plan.slow_steps for plan in plans if not plan.late_steps)


def test_a_share_of_the_clips_has_no_prefix(tmp_path: Path) -> None:
    """And then no late or slow start, which are prefixes; all have one without that share."""
    clips = dataclasses.replace(LONG_CLIPS, late_start_share=0.5, slow_start_share=0.5)
    sampler = make_sampler(tmp_path, [40, 40], clips)
    sampler.model = TRAINED
    before = [plan for batch in sampler.plan_round(0) for plan in batch]
    assert all(plan.has_prefix for plan in before)
    sampler.config = dataclasses.replace(clips, no_prefix_share=0.5)
    plans = [plan for number in range(4) for batch in sampler.plan_round(number) for plan in batch]
    whole = [plan for plan in plans if not plan.has_prefix]
    assert 0.3 < len(whole) / len(plans) < 0.7
    assert not any(plan.late_steps for plan in whole)
    assert any(plan.late_steps for plan in plans)
    sampler.config = dataclasses.replace(clips, no_prefix_share=1.0)
    batch = sampler.next_batch()
    assert batch.has_prefix_BN is not None
    assert not batch.has_prefix_BN.any()


def test_a_sampler_draws_them_for_such_a_model_alone(tmp_path: Path) -> None:
    clips = dataclasses.replace(LONG_CLIPS, random_span_share=0.5, late_start_share=1.0)
    plain = make_sampler(tmp_path / "a", [40, 40], clips)
    assert not any(p.spans or p.late_steps for batch in plain.plan_round(0) for p in batch)
    batch = plain.next_batch()
    assert batch.executed_BNL is batch.clock_BN is batch.least_delay_BN is None
    plain.model = TRAINED
    plans = [plan for batch in plain.plan_round(0) for plan in batch]
    spans = [span for plan in plans if plan.spans for span in plan.spans]
    assert set(spans) == set(range(1, 11))
    assert any(plan.spans is None for plan in plans)
    late = [plan.late_steps for plan in plans if plan.late_steps]
    assert late
    assert 1 <= min(late) <= max(late) <= 10
    assert all(plan.start == 0 for plan in plans if plan.late_steps)
