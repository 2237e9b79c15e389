# SPDX-License-Identifier: Apache-2.0
"""Codec training: resumed equals uninterrupted, moving things weigh more, the error falls.

par_tiny's codec on 40 pictures of 32x32 pixels: a grey ground and one coloured square.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.frame_codec import FrameCodec, codec_fingerprint
from par_model.presets import preset
from par_model.training.codec_training import (
    CodecTrainingConfig,
    FrameSource,
    foreground_weights,
    load_codec,
    median_picture,
    train_codec,
)
from par_model.training.position_probe import ProbeConfig, latent_probe
from par_model.training.start_weights import require_same_codec
from par_model.training.training_state import load_state

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


@pytest.fixture
def labelled() -> FrameSource:
    """As `source`, with the square's place in metres, a tenth for 26 pixels; every fourth is not
    known."""
    generator = np.random.default_rng(0)
    pictures = np.full((60, 32, 32, 3), 120, np.uint8)
    places = generator.integers(0, 26, size=(60, 2))
    for picture, (row, column) in zip(pictures, places, strict=True):
        picture[row : row + 6, column : column + 6] = (200, 30, 30)
    numbers = (places / 260).astype(np.float32)
    numbers[::4] = np.nan
    return FrameSource({"squares": pictures}, {"squares": 1.0}, {"squares": numbers})


def silent(step: int, num_steps: int, error: float) -> None:
    pass


@pytest.mark.parametrize("kind", ["source", "labelled"])
def test_a_killed_codec_training_ends_with_the_same_bits(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    train_codec(CODEC, source, CONFIG, tmp_path / "whole", silent)
    train_codec(CODEC, source, CONFIG, tmp_path / "killed", silent, stop_at=3)
    with pytest.raises(ValueError, match="no finished frame codec"):
        load_codec(tmp_path / "killed")
    train_codec(CODEC, source, CONFIG, tmp_path / "killed", silent)
    whole, resumed = load_codec(tmp_path / "whole"), load_codec(tmp_path / "killed")
    assert_equal(whole, resumed)


def assert_equal(one: FrameCodec, other: FrameCodec) -> None:
    """To the bit."""
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_a_decoder_is_trained_alone(source: FrameSource, tmp_path: Path) -> None:
    """Latents stay the same to the bit, and so do the weights that read them; pictures get better.
    Killed and resumed it ends with the same bits."""
    train_codec(CODEC, source, CONFIG, tmp_path / "start", silent)
    errors: list[float] = []
    config = dataclasses.replace(CONFIG, num_steps=80, learning_rate=5e-3, decoder_only=True)
    start = tmp_path / "start"

    def report(step: int, num_steps: int, error: float) -> None:
        errors.append(error)

    train_codec(CODEC, source, config, tmp_path / "more", report, start_from=start)
    train_codec(CODEC, source, config, tmp_path / "killed", silent, stop_at=5, start_from=start)
    train_codec(CODEC, source, config, tmp_path / "killed", silent, start_from=start)
    before, after = load_codec(start), load_codec(tmp_path / "more")
    pictures = source.pictures[0]
    latents = before.encode(pictures)
    assert torch.equal(latents, after.encode(pictures))
    assert not torch.equal(before.decode(latents), after.decode(latents))
    assert np.mean(errors[-10:]) < 0.9 * np.mean(errors[:10])
    assert codec_fingerprint(before) == codec_fingerprint(after)
    require_same_codec(tmp_path, before, after)
    assert_equal(after, load_codec(tmp_path / "killed"))


def test_another_encoder_is_another_codec(source: FrameSource, tmp_path: Path) -> None:
    train_codec(CODEC, source, CONFIG, tmp_path / "start", silent)
    train_codec(CODEC, source, CONFIG, tmp_path / "more", silent, start_from=tmp_path / "start")
    before, after = load_codec(tmp_path / "start"), load_codec(tmp_path / "more")
    assert codec_fingerprint(before) != codec_fingerprint(after)
    with pytest.raises(ValueError, match="has another codec than --codec"):
        require_same_codec(tmp_path, before, after)


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


def test_a_batch_holds_the_numbers_of_its_pictures(labelled: FrameSource) -> None:
    """The square's first pixel is at 260 times the number."""
    pictures, _, numbers = labelled.batch(40, np.random.default_rng(1))
    is_known = ~numbers.isnan().any(dim=1)
    assert 20 < is_known.sum() < 40
    for picture, number in zip(pictures[is_known], numbers[is_known], strict=True):
        row, column = (260 * number).round().int().tolist()
        assert (picture[row : row + 6, column : column + 6, 0] == 200).all()
        assert (picture[:row, :, 0] == 120).all()


def test_known_positions_are_read_from_the_latents_and_change_them(
    labelled: FrameSource, tmp_path: Path
) -> None:
    """The readout's error falls to a half; without its weight the codec is another."""
    config = dataclasses.replace(CONFIG, num_steps=60, learning_rate=3e-3, batch_size=16)
    codec = train_codec(CODEC, labelled, config, tmp_path / "with", silent)
    short = dataclasses.replace(config, num_steps=1)
    plain = dataclasses.replace(short, position_weight=0.0)
    one, other = (
        train_codec(CODEC, labelled, numbers, tmp_path / name, silent)
        for name, numbers in (("one", short), ("other", plain))
    )
    assert codec_fingerprint(one) != codec_fingerprint(other)

    pictures, _, numbers = labelled.batch(60, np.random.default_rng(2))
    tensors = load_state(tmp_path / "with").tensors
    readout = latent_probe(CODEC.latent_channels, 32 // CODEC.stride, ProbeConfig(), 2)
    prefix = "trained.readout."
    readout.load_state_dict(
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    )
    known = ~numbers.isnan()
    with torch.no_grad():
        read = 0.1 * readout(codec.posterior(codec.fold(pictures))[0])
    error = (read - numbers)[known].abs().mean()
    guess = (numbers[known] - numbers[known].mean()).abs().mean()
    assert error < 0.5 * guess
