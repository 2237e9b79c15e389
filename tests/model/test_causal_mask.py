# SPDX-License-Identifier: Apache-2.0
"""Fig. 3 with 3 text tokens, 2 frame tokens, 2 actions; and the whole model behind it."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from par_model.causal_mask import MaskRules, causal_mask, token_layout
from par_model.presets import preset
from tests.model.fixtures import random_clip, random_model

FIGURE_3 = """
xxx........
xxx........
xxx........
xxxxx......
xxxxx......
xxxxxx.....
xxxxxxx....
xxxxxxxxx..
xxxxxxxxx..
xxxxxxxxxx.
xxxxxxxxxxx
"""


def test_mask_is_the_figure():
    layout = token_layout(3, 2, 2, 2)
    expected = [[mark == "x" for mark in line] for line in FIGURE_3.split()]
    assert causal_mask(layout, layout, MaskRules()).tolist() == expected


def test_without_inverse_kinematics_only_action_to_own_frame_differs():
    layout = token_layout(1, 2, 2, 2)
    full = causal_mask(layout, layout, MaskRules())
    cut = causal_mask(layout, layout, MaskRules(action_sees_frame=False))
    assert (full & ~cut).nonzero().tolist() == [
        [3, 1], [3, 2], [4, 1], [4, 2], [7, 5], [7, 6], [8, 5], [8, 6]
    ]  # fmt: skip
    assert not (cut & ~full).any()


def test_history_of_one_slot_sees_text_and_itself():
    layout = token_layout(2, 4, 2, 2)
    mask = causal_mask(layout, layout, MaskRules(history_slots=1))
    physical = layout.slots >= 0
    seen_slots = mask & (layout.slots[None, :] != layout.slots[:, None]) & physical[None, :]
    assert not seen_slots.any()
    assert mask[:, :2].all()


def test_nova_prefix_sees_slot_0_and_no_later_one():
    layout = token_layout(2, 3, 2, 2)
    mask = causal_mask(layout, layout, MaskRules(text_joint_with_first_slot=True))
    assert mask[0].tolist() == [True] * 2 + [True] * 4 + [False] * 8


def context(model, clip, offset=0):
    offsets = torch.full((clip.text.shape[0],), offset)
    with torch.no_grad():
        return model.encode_clip(clip.text, clip.latents, clip.actions, clip.proprio, offsets)


@given(
    slot=st.integers(0, 3),
    part=st.sampled_from(["frame", "action"]),
    step=st.integers(0, 7),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_no_output_depends_on_a_later_token(tiny_leak_model, slot, part, step, seed):
    """Change one token of a 4-slot clip: exactly the outputs that may see it change."""
    model = tiny_leak_model
    clip = random_clip(model.config, 4, seed)
    if part == "frame":
        latents = clip.latents.clone()
        latents[:, slot] += 1.0
        changed = dataclasses.replace(clip, latents=latents)
    else:
        actions = clip.actions.clone()
        actions[:, slot, step] += 1.0
        changed = dataclasses.replace(clip, actions=actions)
    before, after = context(model, clip), context(model, changed)
    frame_moved = (before.frame_BNKC - after.frame_BNKC).abs().amax((0, 3)) > 0
    action_moved = (before.action_BNZC - after.action_BNZC).abs().amax((0, 3)) > 0
    assert not frame_moved[:slot].any()
    assert not action_moved[:slot].any()
    if part == "frame":
        assert frame_moved[slot:].all()
        assert action_moved[slot:].all()
    elif slot == 0:
        # slot 0 carries BOA: its actions are not read
        assert not frame_moved.any()
        assert not action_moved.any()
    else:
        assert not frame_moved[slot].any()
        assert not action_moved[slot, :step].any()
        assert action_moved[slot, step:].all()
        assert frame_moved[slot + 1 :].all()
        assert action_moved[slot + 1 :].all()


@given(positions=st.sets(st.integers(0, 47), min_size=1), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_no_set_of_tokens_leaks_backwards(tiny_leak_model, positions, seed):
    """Change any set of tokens of a 4-slot clip (4 frame tokens and 8 actions a slot): an output
    changes if and only if one of them is a token that it may see, written out here per token."""
    model = tiny_leak_model
    clip = random_clip(model.config, 4, seed)
    latents, actions = clip.latents.clone(), clip.actions.clone()
    changed = [divmod(position, 12) for position in sorted(positions)]
    for slot, token in changed:
        if token < 4:
            row, column = 2 * (token // 2), 2 * (token % 2)
            latents[:, slot, :, row : row + 2, column : column + 2] += 1.0
        else:
            actions[:, slot, token - 4] += 1.0
    after = context(model, dataclasses.replace(clip, latents=latents, actions=actions))
    before = context(model, clip)
    moved = torch.cat(
        [
            (one - other).abs().amax((0, 3)) > 0
            for one, other in (
                (before.frame_BNKC, after.frame_BNKC),
                (before.action_BNZC, after.action_BNZC),
            )
        ],
        dim=1,
    )

    def sees(slot, token, key_slot, key_token):
        if key_slot == 0 and key_token >= 4:
            return False  # BOA stands there
        if key_slot != slot or key_token < 4:
            return key_slot <= slot
        return token >= key_token

    for slot in range(4):
        for token in range(12):
            expected = any(sees(slot, token, *key) for key in changed)
            assert moved[slot, token] == expected, (slot, token)


@pytest.fixture(scope="module")
def tiny_leak_model():
    return random_model(preset("par_tiny")).double().eval()
