# SPDX-License-Identifier: Apache-2.0
"""Latents on disk: the shift of each variant, what is kept after an interruption, and refusals.

Two recorded episodes of 6 frames of 32x32 pixels, par_tiny's codec (4 channels at 4x4).
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.frame_codec import FrameCodec
from par_model.presets import preset
from par_model.training.codec_training import shift_pictures
from par_model.training.demonstrations_on_disk import DemonstrationSet
from par_model.training.latent_cache import (
    LatentCache,
    ShiftConfig,
    encode_demonstrations,
    encode_variants,
)
from tests.training.fixtures import record_noise

SHIFTS = ShiftConfig(num_variants=3, max_shift_px=3, seed=5)


@pytest.fixture
def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(preset("par_tiny").codec).eval().requires_grad_(False)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "Push"
    record_noise(folder, {3: 6, 11: 6}, instruction="push")
    return folder


def digests(recording: Path) -> tuple[str, str]:
    steps = DemonstrationSet(recording)
    return steps.read_steps(3).digest, steps.read_steps(11, steps_after_success=1).digest


def test_shifted_pictures_repeat_their_edges() -> None:
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4, 1).expand(1, 4, 4, 3)
    moved = shift_pictures(picture, torch.tensor([[1, -2]]))[0, :, :, 0]
    assert moved.tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]


def test_a_picture_that_stands_for_several_steps_is_encoded_once(
    codec: FrameCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(1)
    frames = generator.integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    plain = codec.encode(torch.from_numpy(frames)).half().numpy()
    num_encoded, encode = [], codec.encode
    monkeypatch.setattr(codec, "encode", lambda part: num_encoded.append(len(part)) or encode(part))
    found = encode_variants(codec, frames[[0, 0, 1, 1, 1, 2, 0, 0]], 7, ShiftConfig(1, 0, 0))
    assert sum(num_encoded) == 4
    np.testing.assert_array_equal(found[0], plain[[0, 0, 1, 1, 1, 2, 0, 0]])


def test_variant_zero_is_unshifted_and_all_are_repeatable(codec: FrameCodec) -> None:
    generator = np.random.default_rng(1)
    frames = generator.integers(0, 256, size=(5, 32, 32, 3), dtype=np.uint8)
    latents = encode_variants(codec, frames, 7, SHIFTS)
    assert latents.shape == (3, 5, 4, 4, 4)
    assert latents.dtype == np.float16
    plain = codec.encode(torch.from_numpy(frames)).half().numpy()
    np.testing.assert_array_equal(latents[0], plain)
    np.testing.assert_array_equal(latents, encode_variants(codec, frames, 7, SHIFTS))
    assert SHIFTS.shift_px(7, 0) == (0, 0)
    all_shifts = [SHIFTS.shift_px(key, variant) for key in range(50) for variant in (1, 2)]
    assert max(max(map(abs, shift)) for shift in all_shifts) == 3


def test_an_interrupted_encoding_goes_on_and_changes_nothing(
    codec: FrameCodec, recording: Path
) -> None:
    demonstrations = DemonstrationSet(recording)
    assert demonstrations.keys == [3, 11]
    of_3, of_11 = digests(recording)
    cache = LatentCache(recording / "latents", codec, "Push", SHIFTS)

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        encode_demonstrations(demonstrations, codec, cache, kill)
    assert cache.has(3, of_3)
    assert not cache.has(11, of_11)
    with pytest.raises(ValueError, match="episode 11 are missing"):
        cache.read(11, of_11)
    first = np.array(cache.read(3, of_3))
    assert encode_demonstrations(demonstrations, codec, cache, lambda done, total: None) == 1
    np.testing.assert_array_equal(cache.read(3, of_3), first)
    expected = encode_variants(codec, demonstrations.read_frames(11, ("front",)), 11, SHIFTS)
    np.testing.assert_array_equal(cache.read(11, of_11), expected)


def test_what_fits_into_memory_is_read_from_disk_once(codec: FrameCodec, recording: Path) -> None:
    folder = recording / "latents"
    on_disk = LatentCache(folder, codec, "Push", SHIFTS)
    encode_demonstrations(DemonstrationSet(recording), codec, on_disk, lambda done, total: None)
    of_3, of_11 = digests(recording)
    expected = {3: np.array(on_disk.read(3, of_3)), 11: np.array(on_disk.read(11, of_11))}
    kept = LatentCache(folder, codec, "Push", SHIFTS, memory_bytes=expected[3].nbytes)
    np.testing.assert_array_equal(kept.read(3, of_3), expected[3])
    for file in on_disk.folder.glob("episode_000003_*.npy"):
        file.unlink()
    np.testing.assert_array_equal(kept.read(3, of_3), expected[3])
    # No room is left for the second: it is read through a memory map each time.
    assert isinstance(kept.read(11, of_11), np.memmap)
    np.testing.assert_array_equal(kept.read(11, of_11), expected[11])


def test_another_codec_never_reads_these_latents(codec: FrameCodec, recording: Path) -> None:
    cache = LatentCache(recording / "latents", codec, "Push", SHIFTS)
    encode_demonstrations(DemonstrationSet(recording), codec, cache, lambda done, total: None)
    torch.manual_seed(1)
    other = FrameCodec(preset("par_tiny").codec)
    of_3, _ = digests(recording)
    assert cache.has(3, of_3)
    assert not LatentCache(recording / "latents", other, "Push", SHIFTS).has(3, of_3)


def test_an_episode_that_was_recorded_anew_is_encoded_anew(
    codec: FrameCodec, recording: Path
) -> None:
    """As under the same name and seed by a newer policy; a set of the same name elsewhere too."""
    cache = LatentCache(recording.parent / "latents", codec, "Push", SHIFTS)
    encode_demonstrations(DemonstrationSet(recording), codec, cache, lambda done, total: None)
    before = digests(recording)
    shutil.rmtree(recording)
    record_noise(recording, {3: 6, 11: 6}, instruction="push", noise_seed=1)
    after = digests(recording)
    assert set(before).isdisjoint(after)
    again = DemonstrationSet(recording)
    assert encode_demonstrations(again, codec, cache, lambda done, total: None) == 2
    expected = encode_variants(codec, again.read_frames(3, ("front",)), 3, SHIFTS)
    np.testing.assert_array_equal(cache.read(3, after[0]), expected)
    assert encode_demonstrations(again, codec, cache, lambda done, total: None) == 0


def test_an_episode_can_be_cut_after_its_success(recording: Path) -> None:
    # Success holds at each of the six steps: the first, and two more, stay.
    demonstrations = DemonstrationSet(recording)
    assert demonstrations.read_steps(3).num_steps == 6
    assert demonstrations.read_steps(3, steps_after_success=2).num_steps == 3


def test_steps_are_read_with_their_meaning(recording: Path) -> None:
    steps = DemonstrationSet(recording).read_steps(11)
    assert steps.num_steps == 6
    assert steps.actions.dtype == np.float64
    np.testing.assert_allclose(steps.actions - steps.measured_joints, 1.0, atol=1e-6)
    np.testing.assert_allclose(steps.executed_actions - steps.measured_joints, 2.0, atol=1e-6)
