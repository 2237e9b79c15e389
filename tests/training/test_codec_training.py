# SPDX-License-Identifier: Apache-2.0
"""Codec training: resumed equals uninterrupted, moving things weigh more, the error falls.

par_tiny's codec on 40 pictures of 32x32 pixels: a grey ground and one coloured square.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.presets import preset
from par_model.training.codec_training import (
    CodecTrainingConfig,
    FrameSource,
    codec_fingerprint,
    foreground_weights,
    load_codec,
    median_picture,
    train_codec,
)

CONFIG = CodecTrainingConfig(num_steps=6, batch_size=4, num_warmup_steps=2, save_every=2)
CODEC = preset("par_tiny").codec


@pytest.fixture
def source() -> FrameSource:
    generator = np.random.default_rng(0)
    pictures = np.full((40, 32, 32, 3), 120, np.uint8)
    for picture in pictures:
        row, column = generator.integers(0, 26, size=2)
        picture[row : row + 6, column : column + 6] = (200, 30, 30)
    return FrameSource({"squares": pictures}, {"squares": 1.0})


def silent(step: int, num_steps: int, error: float) -> None:
    pass


def test_a_killed_codec_training_ends_with_the_same_bits(
    source: FrameSource, tmp_path: Path
) -> None:
    train_codec(CODEC, source, CONFIG, tmp_path / "whole", silent)
    train_codec(CODEC, source, CONFIG, tmp_path / "killed", silent, stop_at=3)
    with pytest.raises(ValueError, match="no finished frame codec"):
        load_codec(tmp_path / "killed")
    train_codec(CODEC, source, CONFIG, tmp_path / "killed", silent)
    whole, resumed = load_codec(tmp_path / "whole"), load_codec(tmp_path / "killed")
    assert codec_fingerprint(whole) == codec_fingerprint(resumed)


def test_the_error_falls_and_latents_have_unit_variance(
    source: FrameSource, tmp_path: Path
) -> None:
    errors: list[float] = []
    config = dataclasses.replace(CONFIG, num_steps=150, learning_rate=5e-3, save_every=100)
    train_codec(CODEC, source, config, tmp_path, lambda step, n, error: errors.append(error))
    assert np.mean(errors[-10:]) < 0.5 * np.mean(errors[:10])
    codec = load_codec(tmp_path)
    latents = codec.encode(source.pictures[0])
    assert 0.8 < float(latents.std()) < 1.2


def test_what_differs_from_the_median_weighs_more(source: FrameSource) -> None:
    pictures = source.pictures[0]
    median = median_picture(pictures.numpy())
    assert (median == 120).all()
    medians = torch.from_numpy(median).expand_as(pictures)
    weights = foreground_weights(pictures, medians, CONFIG)
    assert weights.max() == CONFIG.foreground_weight
    assert weights.min() == 1.0
    # Sixty-four pixels: the square of six and a ring of one.
    assert int((weights[0] > 1).sum()) <= 64


def test_other_numbers_cannot_resume(source: FrameSource, tmp_path: Path) -> None:
    train_codec(CODEC, source, CONFIG, tmp_path, silent, stop_at=2)
    other = dataclasses.replace(CONFIG, batch_size=5)
    with pytest.raises(ValueError, match="other settings"):
        train_codec(CODEC, source, other, tmp_path, silent)
