# SPDX-License-Identifier: Apache-2.0
"""Clips of on-policy episodes: chunks of 8 steps, whose labels teach where they say so.

The episode of 40 steps has 5 chunks; the labels of those at steps 16 and 32 teach, the one at 32
closes the gripper (0.04 m to -0.01 m at step 35). A demonstration of 40 steps stands beside it.
"""

import dataclasses
from pathlib import Path

import numpy as np

from par_model.instruction import code_table
from par_model.training.clip_config import ClipConfig
from par_model.training.clips import (
    ClipPlan,
    ClipSampler,
    TrainingEpisode,
    cut_clip,
    moves_gripper,
)
from tests.training.fixtures import LONG_CLIPS, MODEL, fit, make_episode

TEACHING = (16, 32)


def on_policy(folder: Path, key: int) -> TrainingEpisode:
    episode = make_episode(folder, 40, key)
    teaches = np.isin(np.arange(40), TEACHING)
    actions = episode.steps.actions.copy()
    actions[:, 7] = np.where(np.arange(40) < 35, 0.04, -0.01)
    steps = dataclasses.replace(episode.steps, teaches=teaches, actions=actions)
    return dataclasses.replace(episode, steps=steps)


def sampler(folder: Path, config: ClipConfig) -> ClipSampler:
    episodes = [make_episode(folder, 40, 0), on_policy(folder, 1), on_policy(folder, 2)]
    table = code_table(("Push",), MODEL.num_text_tokens, MODEL.text_width)
    return ClipSampler(episodes, {"Push": 1.0}, fit(episodes, MODEL), table, MODEL, config)


def plans(folder: Path, config: ClipConfig) -> list[ClipPlan]:
    drawn = sampler(folder, config)
    rounds = [drawn.plan_round(index) for index in range(20)]
    return [plan for batches in rounds for batch in batches for plan in batch]


def test_single_observations_begin_where_a_label_teaches(tmp_path: Path) -> None:
    config = dataclasses.replace(LONG_CLIPS, single_slot_share=1.0)
    drawn = plans(tmp_path, config)
    assert {plan.start for plan in drawn if plan.episode != 0} == set(TEACHING)
    assert len({plan.start for plan in drawn if plan.episode == 0}) == 40


def test_the_share_of_on_policy_clips_is_what_was_asked(tmp_path: Path) -> None:
    """Two episodes of three, and a fifth of the draws; none where the share is 0."""
    for share in (0.2, 0.0):
        config = dataclasses.replace(LONG_CLIPS, single_slot_share=1.0, on_policy_share=share)
        drawn = plans(tmp_path, config)
        found = np.mean([plan.episode != 0 for plan in drawn])
        assert abs(found - share) < 0.04


def test_histories_begin_at_chunks_and_reach_a_label_that_teaches(tmp_path: Path) -> None:
    config = dataclasses.replace(LONG_CLIPS, on_policy_share=0.5)
    drawn = [plan for plan in plans(tmp_path, config) if plan.episode != 0]
    assert {plan.start for plan in drawn} == {0, 8, 16, 24, 32}
    for plan in drawn:
        last_frame = plan.start + 8 * (plan.num_slots - 1)
        assert any(plan.start <= step <= last_frame for step in TEACHING)


def test_short_histories_reach_their_label(tmp_path: Path) -> None:
    """At most two slots of a clip, the last of which is the label's."""
    drawn = plans(tmp_path, dataclasses.replace(LONG_CLIPS, max_slots=2))
    assert {plan.num_slots for plan in drawn} == {1, 2}
    ours = [plan for plan in drawn if plan.episode != 0]
    for plan in ours:
        assert any(step in range(plan.start, plan.start + 16, 8) for step in TEACHING)
    assert {plan.start for plan in ours} == {8, 16, 24, 32}


def test_only_labels_that_teach_are_learnt(tmp_path: Path) -> None:
    """A clip of the whole episode: slots 2 and 4; its frames and executed actions all count."""
    episode = on_policy(tmp_path, 1)
    statistics = fit([episode], MODEL)
    clip = cut_clip(episode, ClipPlan(0, 0, 5, 0, 0), statistics, np.zeros((5, 8, 8)))
    assert clip.action_valid.all(axis=1).tolist() == [False, False, True, False, True]
    assert clip.action_valid.any(axis=1).tolist() == [False, False, True, False, True]
    assert clip.frame_valid[:4].all()
    joints = episode.steps.measured_joints
    shown = statistics.denormalize_actions(clip.context_actions[1], joints[8])
    np.testing.assert_allclose(shown, episode.steps.executed_actions[8:16], atol=1e-6)


def test_chunks_that_move_the_gripper_are_drawn_more_often(tmp_path: Path) -> None:
    """Step 32's label closes it, step 16's does not: 4 to 1 instead of 1 to 1."""
    steps = on_policy(tmp_path, 1).steps
    starts = np.array([0, 16, 27, 28, 32, 35, 36])
    closes = [False, False, False, True, True, True, False]
    assert moves_gripper(steps, starts, 8).tolist() == closes
    config = dataclasses.replace(LONG_CLIPS, single_slot_share=1.0, decisive_weight=4.0)
    drawn = [plan.start for plan in plans(tmp_path, config) if plan.episode != 0]
    assert abs(np.mean(np.array(drawn) == 32) - 0.8) < 0.06


def overlapped(folder: Path, config: ClipConfig) -> tuple[ClipSampler, list[TrainingEpisode]]:
    """For a policy that goes on from up to 10 committed actions: chunks of 18."""
    episodes = [make_episode(folder, 40, 0), on_policy(folder, 1)]
    model = dataclasses.replace(MODEL, max_delay_steps=10)
    statistics = fit(episodes, dataclasses.replace(MODEL, num_actions=18))
    table = code_table(("Push",), MODEL.num_text_tokens, MODEL.text_width)
    return ClipSampler(episodes, {"Push": 1.0}, statistics, table, model, config), episodes


def test_no_more_of_a_long_chunk_is_learnt_than_its_own_label(tmp_path: Path) -> None:
    """What follows is the labels of later chunks, for states that this one does not lead to."""
    drawn, (_, episode) = overlapped(tmp_path, LONG_CLIPS)
    noise = np.zeros((1, 8, 8))
    clip = cut_clip(episode, ClipPlan(1, 16, 1, 0, 0), drawn.statistics, noise, num_actions=8)
    assert clip.action_valid.shape == (1, 18)
    assert clip.action_valid[0].tolist() == [True] * 8 + [False] * 10


def by_expert(folder: Path, key: int, *, disturbed: bool) -> TrainingEpisode:
    """Every chunk teaches, and was carried out unless it was disturbed."""
    episode = make_episode(folder, 40, key)
    steps = episode.steps
    executed = steps.actions + (0.01 if disturbed else 0.0)
    teaches = np.arange(40) % 8 == 0
    steps = dataclasses.replace(steps, teaches=teaches, executed_actions=executed)
    return dataclasses.replace(episode, steps=steps)


def test_of_an_experts_undisturbed_episode_a_long_chunk_is_learnt_whole(tmp_path: Path) -> None:
    drawn, _ = overlapped(tmp_path, LONG_CLIPS)
    for disturbed, num_valid in ((False, 18), (True, 8)):
        episode = by_expert(tmp_path, 3 + disturbed, disturbed=disturbed)
        noise = np.zeros((1, 8, 8))
        plan = ClipPlan(1, 16, 1, 0, 0)
        clip = cut_clip(episode, plan, drawn.statistics, noise, num_actions=8)
        assert clip.action_valid[0].tolist() == [True] * num_valid + [False] * (18 - num_valid)


def test_an_experts_chunks_have_prefixes_where_they_were_followed(tmp_path: Path) -> None:
    """All of them, or the share that is asked for; of a disturbed episode none."""
    sampler, _ = overlapped(tmp_path, dataclasses.replace(LONG_CLIPS, on_policy_share=0.5))
    for disturbed, no_prefix_share, expected in (
        (False, 0.0, 1.0),
        (False, 0.5, 0.5),
        (True, 0.0, 0.0),
    ):
        episodes = [sampler.episodes[0], by_expert(tmp_path, 3 + disturbed, disturbed=disturbed)]
        config = dataclasses.replace(sampler.config, no_prefix_share=no_prefix_share)
        own = ClipSampler(
            episodes, {"Push": 1.0}, sampler.statistics, sampler.table, sampler.model, config
        )
        rounds = [own.plan_round(index) for index in range(30)]
        plans = [plan for batches in rounds for batch in batches for plan in batch]
        found = np.mean([plan.has_prefix for plan in plans if plan.episode == 1])
        assert abs(found - expected) < 0.1


def test_late_and_slow_starts_and_spans_are_of_demonstrations_alone(tmp_path: Path) -> None:
    """Every on-policy clip reaches a label that teaches, whatever is asked of the others."""
    config = dataclasses.replace(
        LONG_CLIPS,
        single_slot_share=0.5,
        on_policy_share=0.5,
        random_span_share=0.5,
        late_start_share=0.5,
        slow_start_share=0.5,
    )
    sampler, _ = overlapped(tmp_path, config)
    rounds = [sampler.plan_round(index) for index in range(10)]
    drawn = [plan for batches in rounds for batch in batches for plan in batch]
    ours = [plan for plan in drawn if plan.episode == 1]
    assert len(ours) > 50
    assert all((plan.spans, plan.late_steps, plan.slow_steps) == (None, 0, 0) for plan in ours)
    for plan in ours:
        last_frame = plan.start + 8 * (plan.num_slots - 1)
        assert any(plan.start <= step <= last_frame for step in TEACHING)
    assert any(plan.spans or plan.late_steps for plan in drawn if plan.episode == 0)
