# SPDX-License-Identifier: Apache-2.0
"""The policy that ships is whole and answers."""

import json

import numpy as np

from par_model.interface import Observation
from par_model.load_policy import load_policy
from par_model.simulation.tasks import TASKS
from par_model.surprise import FILE_NAME as SURPRISE_FILE
from par_model.surprise import FORWARD_FILE, SurpriseCalibration
from tests.packaging.test_repository import ROOT, tracked_files

FOLDER = ROOT / "checkpoints/par_small"


def test_every_file_of_its_manifest_is_tracked() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    tracked = {path.name for path in tracked_files() if path.parent == FOLDER}
    assert tracked == {*manifest["sha256"], "manifest.json", SURPRISE_FILE, FORWARD_FILE}


def test_surprise_is_calibrated_for_its_weights_and_tasks() -> None:
    names = ("PushCube", "PickCube", "StackCube")
    calibration = SurpriseCalibration.read(FOLDER)  # refuses one of other weights
    assert set(calibration.thresholds) == {TASKS[name].instruction for name in names}


def test_it_answers_a_picture() -> None:
    policy = load_policy(FOLDER, backend="eager", device="cpu")
    policy.reset(TASKS["PushCube"].instruction, 0)
    joints = np.array([0.0, np.pi / 8, 0.0, -5 * np.pi / 8, 0.0, 3 * np.pi / 4, np.pi / 4, 0.04])
    picture = np.full((policy.spec.image_height, policy.spec.image_width, 3), 128, np.uint8)
    policy.observe(Observation(picture, joints, policy.spec.joint_names, 0.0))
    chunk = policy.act()
    assert chunk.joint_positions.shape == (8, 8)
    assert np.all(np.isfinite(chunk.joint_positions))
    # Relative to the joints that were shown: a few control steps away at most.
    assert np.abs(chunk.joint_positions[:, :7] - joints[:7]).max() < 1.0
