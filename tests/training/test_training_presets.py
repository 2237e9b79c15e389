# SPDX-License-Identifier: Apache-2.0
"""Each preset has its own training defaults: par_small's as they were, the paper's for par_0_6b."""

from pathlib import Path

import pytest

from par_model.command_line import parse
from par_model.presets import PRESETS, preset
from par_model.training.policy_options import training_config
from par_model.training.policy_training_config import PolicyTrainingConfig
from par_model.training.stage_options import Stage
from par_model.training.training_presets import (
    FULL_SIZE,
    TRAINING_PRESETS,
    training_preset,
    training_preset_of_checkpoint,
)

COMMON = ["policy", "--data", "D", "--out", "O", "--steps", "5"]


def config(*words: str, name: str) -> PolicyTrainingConfig:
    options = parse(Stage, "train", None, [*COMMON, *words])
    return training_config(options, name, ["Push"], "full")


def test_the_full_size_is_trained_as_the_paper_states() -> None:
    for name in ("par_0_6b", "par_0_6b_p256", "par_0_6b_noise"):
        assert TRAINING_PRESETS[training_preset(name)] is FULL_SIZE
        loss = preset(name).loss
        assert (loss.num_draws, loss.frame_weight, loss.action_weight) == (4, 1.0, 1.0)
        assert loss.frame_fraction == 1.0
    assert (FULL_SIZE.scene_weight, FULL_SIZE.chunk_weight) == (0.0, 0.0)
    assert (FULL_SIZE.clips.single_slot_share, FULL_SIZE.clips.context_noise) == (0.0, 0.0)
    assert (FULL_SIZE.learning_rate, FULL_SIZE.weight_decay) == (1e-4, 0.02)
    assert config("--finetune", "C", name="par_0_6b").clips == FULL_SIZE.clips


def test_the_small_policy_keeps_its_numbers() -> None:
    """What par_small's runs were begun with; a resumed run compares them."""
    assert {name for name in PRESETS if training_preset(name) == "par_small"} == {
        "par_small", "par_small_overlap", "par_small_two_views", "par_small_depth",
        "par_small_noar",
        "par_small_discrete", "par_tiny",
    }  # fmt: skip
    small = config(name="par_small")
    assert (small.learning_rate, small.num_warmup_steps, small.average_decay) == (1e-3, 150, 0.998)
    assert (small.scene_weight, small.chunk_weight) == (1.0, 0.3)
    assert (small.clips.single_slot_share, small.clips.context_noise) == (0.95, 0.8)
    assert (small.clips.slots_per_batch, small.clips.from_start_share) == (144, 0.3)
    assert (small.save_every, small.validate_every) == (100, 250)


def test_what_is_given_wins() -> None:
    given = config(
        "--single-slot-share", "0.5", "--scene-weight", "0", "--save-every", "7", name="par_small"
    )
    assert (given.clips.single_slot_share, given.scene_weight, given.save_every) == (0.5, 0.0, 7)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"training_preset": "par_0_6b"}, "par_0_6b"),
        ({"converted_from": "nova"}, "par_0_6b"),
        ({"step": 1}, "par_small"),
    ],
)
def test_a_checkpoint_says_what_it_is_trained_with(
    training: dict[str, object], expected: str
) -> None:
    assert training_preset_of_checkpoint(training) == expected


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'other'; there are par_small, par_0_6b"):
        training_preset_of_checkpoint({"training_preset": "other"})


def test_the_shipped_checkpoint_has_the_small_ones() -> None:
    from par_model.json_file import read_object

    file = Path(__file__).resolve().parents[2] / "checkpoints" / "par_small" / "training.json"
    assert training_preset_of_checkpoint(read_object(file, "")) == "par_small"
