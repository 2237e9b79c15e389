# SPDX-License-Identifier: Apache-2.0
"""The checkpoint's camera rule: 4:3 and 16:9 fit a square policy, odd aspects do not."""

import dataclasses
import json

import numpy as np
import pytest

from par_model.camera_fit import CameraFit
from par_model.checkpoint import load_checkpoint, save_checkpoint
from par_model.load_policy import load_policy
from tests.model.fixtures import random_checkpoint_parts

RNG = np.random.default_rng(0)


def picture(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def mean_of_areas(window, size):
    """By brute force: every pixel is repeated `size` times each way, then averaged in blocks."""
    fine = np.repeat(np.repeat(window.astype(float), size, axis=0), size, axis=1)
    block = window.shape[0]
    return fine.reshape(size, block, size, block, 3).mean(axis=(1, 3))


def test_the_policys_own_size_is_untouched():
    mine = picture(128, 128)
    assert CameraFit().fit(mine, 128, 128) is mine


@pytest.mark.parametrize(("height", "width"), [(48, 64), (72, 128), (60, 48)])
def test_the_centre_is_cut_and_averaged(height, width):
    """To 20 x 20: 48, 72 and 48 pixels a side are 2.4, 3.6 and 2.4 a new pixel."""
    camera = picture(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    expected = mean_of_areas(camera[top : top + side, left : left + side], 20)
    fitted = CameraFit().fit(camera, 20, 20)
    assert fitted.dtype == np.uint8
    # Two roundings: rows first, then columns.
    assert np.abs(fitted - expected).max() <= 1.0


def test_vga_to_the_shipped_policys_size():
    camera = np.zeros((480, 640, 3), np.uint8)
    camera[:, 80:320, 0] = 200
    fitted = CameraFit().fit(camera, 128, 128)
    assert fitted.shape == (128, 128, 3)
    np.testing.assert_array_equal(fitted[:, :64, 0], 200)
    np.testing.assert_array_equal(fitted[:, 64:], 0)


@pytest.mark.parametrize(
    ("rule", "height", "width", "reason"),
    [
        (CameraFit(), 100, 1000, "does not fit that aspect"),
        (CameraFit(max_cropped_share=0.1), 480, 640, "does not fit that aspect"),
        (CameraFit(crop="none"), 480, 640, "does not fit that aspect"),
        (CameraFit(), 96, 96, "at least 128 x 128 is needed"),
        (CameraFit(resize="none"), 480, 640, "exactly 128 x 128 is needed"),
    ],
)
def test_what_the_rule_does_not_take_is_one_sentence(rule, height, width, reason):
    with pytest.raises(ValueError, match=rf"^the camera's picture is {width} x {height}.*{reason}"):
        rule.fit(picture(height, width), 128, 128)


def test_the_rule_is_stored_with_the_checkpoint(tmp_path):
    rule = CameraFit(crop="none", max_cropped_share=0.2)
    parts = random_checkpoint_parts("par_tiny")
    save_checkpoint(tmp_path / "tiny", **parts, camera_fit=rule)
    assert load_policy(tmp_path / "tiny", backend="eager", device="cpu").spec.camera_fit == rule


def test_an_older_checkpoint_has_the_default_rule(tmp_path):
    folder = tmp_path / "tiny"
    save_checkpoint(folder, **random_checkpoint_parts("par_tiny"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "camera.json").unlink()
    del manifest["sha256"]["camera.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_checkpoint(folder).camera_fit == CameraFit()


def test_a_wrong_rule_is_one_sentence():
    with pytest.raises(ValueError, match=r"max_cropped_share from 0 to below 1.*check camera.json"):
        dataclasses.replace(CameraFit(), max_cropped_share=1.5)
    with pytest.raises(ValueError, match=r"^camera.json must hold crop"):
        CameraFit.from_json({"crop": "centre", "zoom": 2})
