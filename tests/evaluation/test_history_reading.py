# SPDX-License-Identifier: Apache-2.0
"""The reading test: errors with four histories of a policy with random weights.

Recordings of random pictures: keys 24 (20 steps, 3 slots), 49 (30 steps, 4 slots) and 74 (17 steps,
3 slots) are held out, key 3 is not.
"""

import pytest
import torch

from par_model.evaluation.episode_features import encoded_episode, whole_clip
from par_model.evaluation.history_reading import HISTORIES, _context, history_errors
from par_model.simulation.tasks import task
from par_model.training.demonstrations_on_disk import DemonstrationSet
from tests.evaluation.test_episode_features import checkpoint  # noqa: F401
from tests.training.fixtures import record_noise


@pytest.fixture
def demonstrations(tmp_path):
    lengths = {3: 20, 24: 20, 49: 30, 74: 17}
    record_noise(tmp_path, lengths, instruction=task("PickCube").instruction)
    return DemonstrationSet(tmp_path)


@pytest.fixture
def clips(checkpoint, demonstrations):  # noqa: F811
    return [
        whole_clip(checkpoint, encoded_episode(checkpoint, demonstrations, key, None), num_slots)
        for key, num_slots in ((24, 3), (49, 4))
    ]


@torch.no_grad()
def test_another_s_history_that_is_the_own_one_is_the_own_one(checkpoint, clips):  # noqa: F811
    first, second = clips
    generator = torch.Generator().manual_seed(0)
    own = _context(checkpoint, first, first, "own", generator)
    again = _context(checkpoint, first, first, "another episode's", generator)
    torch.testing.assert_close(again, own, atol=1e-4, rtol=1e-3)
    other = _context(checkpoint, first, second, "another episode's", generator)
    assert (other - own).abs().amax(dim=(1, 2)).min() > 1e-3
    disturbed = _context(checkpoint, first, second, "disturbed", generator)
    assert (disturbed - own).abs().amax(dim=(1, 2)).min() > 1e-3


@torch.no_grad()
def test_without_history_a_slot_is_an_episode_s_first(checkpoint, clips):  # noqa: F811
    """The second slot of the first clip against a clip that begins with it."""
    first, _ = clips
    alone = _context(checkpoint, first, first, "none", torch.Generator())
    context = checkpoint.model.eval().encode_clip(
        first.text_BTC,
        first.latents_BNchw[:, 1:2],
        torch.zeros_like(first.context_actions_BNLD[:, :1]),
        first.proprio_BNJ[:, 1:2],
        torch.zeros(1, dtype=torch.int64),
    )
    torch.testing.assert_close(alone[0], context.action_BNZC[0, 0], atol=1e-5, rtol=1e-4)


def test_held_out_chunks_with_a_history_are_judged(checkpoint, demonstrations):  # noqa: F811
    """2, 3 and 2 chunks have one; equal calls give equal numbers."""
    errors = history_errors(checkpoint, demonstrations, 24, 0, steps_after_success=None)
    assert [error.history for error in errors] == list(HISTORIES)
    assert {error.num_chunks for error in errors} == {2 + 3 + 2}
    assert all(error.error > 0 for error in errors)
    assert next(error.to_none for error in errors if error.history == "none") == 1.0
    assert history_errors(checkpoint, demonstrations, 24, 0, steps_after_success=None) == errors


def test_one_held_out_episode_is_refused(checkpoint, demonstrations):  # noqa: F811
    with pytest.raises(ValueError, match="holds 1 held-out episodes"):
        history_errors(checkpoint, demonstrations, 1, 0)
