# SPDX-License-Identifier: Apache-2.0
"""Surprise on par_tiny: what it reads, thresholds, and the file beside a checkpoint."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from par_model.frame_head import patchify, surprise_draws
from par_model.interface import Observation
from par_model.load_policy import load_policy
from par_model.misfit import Misfit, joints_off, misfit, still_motion
from par_model.presets import preset
from par_model.surprise import (
    FILE_NAME,
    SurpriseCalibration,
    SurpriseThresholds,
    cause,
    conformal_threshold,
    picture_change,
    surprise,
)
from par_model.weights_hash import weights_hash
from tests.model.fixtures import INSTRUCTIONS, random_model, random_observation


@pytest.mark.parametrize("frame_head", ["diffusion", "regression"])
def test_errors_are_those_of_each_token_at_the_given_noise(frame_head):
    """The first token by hand: the image encoder sees the condition only."""
    config = dataclasses.replace(preset("par_tiny"), frame_head=frame_head)
    model = random_model(config)
    generator = torch.Generator().manual_seed(3)
    condition = torch.randn(
        2, config.num_frame_tokens, config.transformer.width, generator=generator
    )
    shape = (2, config.codec.latent_channels, config.latent_height, config.latent_width)
    latents = torch.randn(shape, generator=generator)
    noise, times = surprise_draws(config)
    with torch.inference_mode():
        errors = model.frame_head.observed_errors(
            model.frame_head.foretell(condition), latents, noise, times
        )
        tokens = patchify(latents, config.image_patch)
        hidden = model.image_encoder(tokens, torch.zeros(2, 0, dtype=torch.int64), condition)
        decoder = model.frame_decoder
        if frame_head == "regression":
            expected = (decoder(hidden[1, 0]) - tokens[1, 0]).square().mean()
        else:
            alphas = torch.cos((times / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
            expected = 0.0
            for draw, alpha in enumerate(alphas):
                noisy = alpha.sqrt() * tokens[1, 0] + (1 - alpha).sqrt() * noise[draw, 0]
                said = decoder(
                    noisy[None],
                    decoder.time_condition(times[draw, None]),
                    decoder.condition_proj(hidden[1, :1]),
                )
                expected += (said[0] - noise[draw, 0]).square().mean() / len(times)
    assert errors.shape == (2, config.num_image_tokens)
    assert float(errors[1, 0]) == pytest.approx(float(expected), rel=2e-3)


def test_only_the_first_observation_was_not_foretold_and_asking_changes_nothing(tiny_checkpoint):
    """par_tiny remembers 6 observations: the last of 9 come after the context was rebased. What is
    computed ahead, even twice or before an observation that is not asked about, is the same."""
    runs, all_errors = [], []
    for is_asked, is_ahead in ((True, True), (True, False), (False, True), (False, False)):
        policy = load_policy(tiny_checkpoint, backend="eager", device="cpu")
        policy.reset(INSTRUCTIONS[0], 0)
        world, executed, found = np.random.default_rng(0), None, []
        for n in range(9):
            if is_ahead:
                policy.foretell()
            policy.observe(random_observation(world, policy.spec, 0.4 * n, executed))
            if is_asked:
                found.append(policy.misfit())
            executed = policy.act().joint_positions
            if is_ahead:
                policy.foretell()
        runs.append(executed)
        if is_asked:
            assert found[0] is None
            errors = [one.frame_errors for one in found[1:]]
            assert all(np.isfinite(e).all() and e.min() > 0 for e in errors)
            np.testing.assert_array_equal(policy.observed_errors(), errors[-1])
            assert all(one.joints_off > 0 and one.still_motion == 0 for one in found[1:])
            all_errors.append(errors)
    np.testing.assert_array_equal(*all_errors)
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)


@given(st.lists(st.integers(0, 50), min_size=9, max_size=60), st.sampled_from([0.05, 0.1, 0.2]))
def test_a_conformal_threshold_is_the_least_that_keeps_the_rate(maxima, rate):
    """Of n + 1 episodes in any order, each is as likely to be the new one: leave each out in turn,
    and at most rate (n + 1) of them are above the threshold of the others."""
    num_others = len(maxima) - 1
    if num_others < 1 / rate - 1:
        with pytest.raises(ValueError, match="undisturbed episodes are too few"):
            conformal_threshold(maxima[1:], rate)
        return
    above = sum(
        maxima[i] > conformal_threshold(maxima[:i] + maxima[i + 1 :], rate)
        for i in range(len(maxima))
    )
    assert above <= rate * len(maxima) + 1e-9
    threshold = conformal_threshold(maxima, rate)
    lower = [value for value in maxima if value < threshold]
    assert len(lower) < (1 - rate) * (len(maxima) + 1)


def test_a_small_thing_counts_and_a_large_one_too():
    small, none = np.full(64, 0.1, np.float32), np.full(64, 0.1, np.float32)
    small[7:9] = 1.0
    assert surprise(Misfit(small, None, 0.0, 0.0)) > 4 * surprise(Misfit(none, None, 0.0, 0.0))
    before = np.full((128, 128, 3), 100, np.uint8)
    after = before.copy()
    after[16:32, 32:48] = 150
    assert picture_change(before, after) == pytest.approx(50.0 / 64)
    assert picture_change(before, before) == 0.0


def seen(joints, executed=None, grey=0):
    """An observation of an arm of two joints (rad, and metres of the gripper)."""
    return Observation(
        image=np.full((8, 8, 3), grey, np.uint8),
        measured_joint_positions=np.array(joints, np.float64),
        joint_names=("elbow", "gripper"),
        stamp_s=0.0,
        executed_actions=None if executed is None else np.array(executed, np.float64),
    )


DEVIATION = np.array([0.2, 0.01])


@pytest.mark.parametrize(
    ("joints", "off"),
    [
        ([0.1, 0.02], 0.0),  # has not moved yet
        ([0.4, 0.0], 0.0),  # is where it was sent
        ([0.5, 0.02], 0.5),  # 0.1 rad too far
        ([0.0, 0.02], 0.5),  # pushed back by 0.1 rad
        ([0.4, 0.04], 2.0),  # the gripper was told to close, and opened by 2 cm
    ],
)
def test_a_joint_is_off_where_it_was_neither_sent_nor_before(joints, off):
    sent = [[0.2, 0.0], [0.4, 0.0]]
    before, now = seen([0.1, 0.02]), seen(joints, sent, grey=1)
    found = misfit(before, now, DEVIATION, frame_errors=np.zeros(64, np.float32))
    assert found.joints_off == pytest.approx(off)
    assert found.still_motion == 0.0
    assert surprise(found) == pytest.approx(off)


def test_a_joint_that_is_late_is_not_off():
    """On its way to the last target of the chunk before, which the new one takes back."""
    before, now = seen([0.1, 0.0], [[0.9, 0.0]]), seen([0.7, 0.0], [[0.3, 0.0]])
    assert joints_off(before, now, DEVIATION).max() == 0.0
    assert joints_off(seen([0.1, 0.0]), now, DEVIATION) == pytest.approx([2.0, 0.0])


def test_a_picture_that_stays_the_same_while_the_arm_moves():
    before, sent = seen([0.1, 0.0]), [[0.5, 0.0]]
    assert still_motion(before, seen([0.3, 0.0], sent), DEVIATION) == pytest.approx(1.0)
    assert still_motion(before, seen([0.3, 0.0], sent, grey=1), DEVIATION) == 0.0
    assert still_motion(before, seen([0.1, 0.0], sent), DEVIATION) == 0.0


@pytest.mark.parametrize("judge", [0, 1])
@pytest.mark.parametrize("part", [0, 2, 3])
def test_each_part_alone_is_surprising_and_none_hides_one_that_is_no_number(part, judge):
    """judge: whether the frame head or the forward model judges the picture."""
    quiet = [None, None, 0.1, 0.01]
    quiet[judge] = np.full(64, (0.1, 4.0)[judge], np.float32)
    assert surprise(Misfit(*quiet)) == pytest.approx(0.1)
    for value in (2.0, float("nan")):
        parts = list(quiet)
        if part == 0:
            parts[judge] = np.full(64, (1.0, 40.0)[judge] * value, np.float32)
        else:
            parts[part] = value
        found = surprise(Misfit(*parts))
        assert math.isnan(found) if math.isnan(value) else found >= 2.0


def test_the_cause_names_the_largest_part_and_its_place():
    errors = np.ones((16, 16), np.float32)
    errors[4, 10:14] = (200.0, 900.0, 300.0, 100.0)
    assert cause(Misfit(None, errors, 0.5, 0.1, "elbow")) == (
        "the picture is another, most at 72% of its width and 28% of its height"
    )
    assert cause(Misfit(errors[0], None, 0.5, 0.1, "elbow")) == "the picture is another"
    assert cause(Misfit(errors[0], None, 2.5, 0.1, "elbow")) == (
        "elbow is neither where it was nor where it was sent"
    )
    assert cause(Misfit(errors[0], None, 2.5, 0.9, "elbow")) == (
        "the picture stays the same while the arm moves"
    )
    sent = [[0.2, 0.0], [0.4, 0.0]]
    found = misfit(seen([0.1, 0.02]), seen([0.4, 0.04], sent), DEVIATION, forward_errors=errors)
    assert found.joint == "gripper"


def test_a_calibration_belongs_to_its_weights(tiny_checkpoint, tmp_path):
    checkpoint = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, checkpoint)
    with pytest.raises(ValueError, match=r"surprise.json is missing.*par_model.calibrate"):
        SurpriseCalibration.read(checkpoint)
    limits = SurpriseThresholds(0.5, 0.6, 30.0, 40)
    own = SurpriseCalibration(
        weights_hash(checkpoint), None, {INSTRUCTIONS[0]: limits}, {"episodes": 40}
    )
    own.write(checkpoint / FILE_NAME)
    found = SurpriseCalibration.read(checkpoint)
    assert found == own
    assert found.of(INSTRUCTIONS[0]) == limits
    with pytest.raises(ValueError, match="no surprise thresholds of instruction 'sing'"):
        found.of("sing")
    load_policy(checkpoint, backend="eager", device="cpu")
    dataclasses.replace(own, forward_sha256="0" * 64).write(checkpoint / FILE_NAME)
    with pytest.raises(ValueError, match="is of another forward model than the checkpoint's"):
        SurpriseCalibration.read(checkpoint)
    dataclasses.replace(own, weights_sha256="0" * 64).write(checkpoint / FILE_NAME)
    with pytest.raises(ValueError, match="is of other weights than the checkpoint's"):
        SurpriseCalibration.read(checkpoint)
    own.write(checkpoint / FILE_NAME)
    older = (checkpoint / FILE_NAME).read_text().replace('version": 3', 'version": 2')
    (checkpoint / FILE_NAME).write_text(older)
    with pytest.raises(ValueError, match=r"format version 2 and this program reads 3.*calibrate"):
        SurpriseCalibration.read(checkpoint)
    (checkpoint / FILE_NAME).write_text(json.dumps({"thresholds": []}))
    with pytest.raises(ValueError, match="is no surprise calibration"):
        SurpriseCalibration.read(checkpoint)
    for wrong in ('"0.6"', "Infinity", "NaN", "0.4"):
        own.write(checkpoint / FILE_NAME)
        text = (checkpoint / FILE_NAME).read_text().replace("0.6", wrong)
        (checkpoint / FILE_NAME).write_text(text)
        with pytest.raises(ValueError, match="is no surprise calibration"):
            SurpriseCalibration.read(checkpoint)
