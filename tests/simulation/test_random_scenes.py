# SPDX-License-Identifier: Apache-2.0
"""Random scenes: possible, equal for equal numbers, and seen where they are."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from par_model.simulation.arm_kinematics import gripper_positions_m
from par_model.simulation.camera_view import SHIPPED_VIEW, read_view
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.random_scenes import CUBE_HALF_M, CUBES, HANDS, SceneMaker
from par_model.simulation.scene_cameras import SceneCameras, pixel_blob, projected

pytestmark = pytest.mark.sim
SIDE = read_view("side=0.2,-1,0.5:0,0,0.1:0.7:96x96")
NUM_SCENES = 40


def test_a_blob_is_the_number_and_the_mean_place_of_a_masks_pixels():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 5:8] = True
    blob = pixel_blob(mask)
    assert (blob.num_pixels, blob.column, blob.row) == (6, 6.0, 2.5)
    assert pixel_blob(np.zeros((4, 4), dtype=bool)).num_pixels == 0


@pytest.fixture(scope="module", params=["PushCube", "PickCube", "StackCube"])
def arm(request):
    with ManiSkillArm(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def maker(arm):
    return SceneMaker(arm)


def state(arm: ManiSkillArm) -> np.ndarray:
    parts = [arm.read_joints()[0], arm.gripper_position(), *arm.environment_state().values()]
    return np.concatenate(parts)


def test_equal_numbers_give_equal_scenes_whatever_was_made_before(arm, maker):
    maker.make(3)
    first = state(arm)
    for number in (11, 10_003):
        maker.make(number)
        assert not np.array_equal(state(arm), first)
    maker.make(3)
    np.testing.assert_array_equal(state(arm), first)


def test_nothing_is_inside_another_thing_and_what_is_held_is_between_the_fingers(arm, maker):
    """40 scenes. A held cube's centre is within 25 mm of the point between the fingers; PushCube's
    is pushed: 31 to 36 mm before it, within the hand's tilt."""
    scenes = [(maker.make(number), state(arm)) for number in range(NUM_SCENES)]
    reached_m = 0.045 if arm.task.name == "PushCube" else 0.025
    for scene, numbers in scenes:
        gripper_m, cube_m = numbers[8:11], numbers[11:14]
        assert gripper_m[2] > 0.0
        assert cube_m[2] > 0.9 * CUBE_HALF_M
        if arm.task.name == "StackCube" and scene.cube != "stacked":
            assert np.linalg.norm(cube_m - numbers[14:17]) > 2 * CUBE_HALF_M
        if scene.cube == "held":
            assert np.linalg.norm(gripper_m - cube_m) < reached_m
    assert {scene.hand for scene, _ in scenes} == set(HANDS)
    assert {scene.cube for scene, _ in scenes} >= set(CUBES)


def test_the_picture_is_the_arms_own_and_the_blob_lies_where_the_cube_is_projected(arm, maker):
    """Cubes that are wholly seen (40 pixels or more of about 70) lie within 3 pixels."""
    cameras = SceneCameras(arm, (SHIPPED_VIEW, SIDE))
    num_compared = 0
    for number in range(12):
        maker.make(number)
        front, side = cameras.capture()
        np.testing.assert_array_equal(front.image, arm.capture())
        assert side.image.shape == (96, 96, 3)
        cube_m = arm.environment_state()["cube"]
        for view, look in ((SHIPPED_VIEW, front), (SIDE, side)):
            blob = look.blobs["cube"]
            if blob.num_pixels >= 40:
                column, row, _ = projected(view, cube_m)
                assert np.hypot(blob.column - column, blob.row - row) < 3.0
                num_compared += 1
    assert num_compared >= 6


def test_a_rebuilt_scene_gets_its_cameras_again(arm, maker):
    cameras = SceneCameras(arm, (SHIPPED_VIEW,))
    for _ in range(2):
        arm.reset(5)
        np.testing.assert_array_equal(cameras.capture()[0].image, arm.capture())


def test_the_arm_reaches_what_was_asked_to_a_tenth_of_a_millimetre(arm, maker):
    arm.reset(0, rebuild=False)
    place_m = np.array([0.6, 0.1, 0.2])
    down = Rotation.from_euler("x", np.pi).as_quat()[[3, 0, 1, 2]]
    near = np.array([0.0, 0.4, 0.0, -2.0, 0.0, 2.4, 0.8])
    joints = maker._kinematics.joints_at(place_m, down, near)
    maker._move_arm(joints, 0.04)
    np.testing.assert_allclose(arm.gripper_position() - maker._base_m, place_m, atol=2e-4)
    without_simulator = gripper_positions_m(arm.read_joints()[0][None])[0]
    np.testing.assert_allclose(without_simulator, place_m, atol=2e-4)
    assert maker._kinematics.joints_at(np.array([2.0, 0.0, 0.0]), down, near) is None
