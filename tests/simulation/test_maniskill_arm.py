# SPDX-License-Identifier: Apache-2.0
"""ManiSkill as an arm: units, pictures, and that a seed means one episode and nothing else.

Numbers: g = -1 is a finger target of -0.01 m, g = +1 is 0.04 m; the camera has f = 64 / tan(0.325)
= 189.94 px at 128x128; pictures of light and stock meshes differ by less than 1.5 of 255.
"""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from par_model.simulation.camera_view import VIEWS
from par_model.simulation.maniskill_env import ManiSkillArm
from par_model.simulation.robots import PANDA
from par_model.simulation.scene_cameras import SceneCameras
from par_model.simulation.tasks import TASKS

# Onto the table.
MOVES_RAD = {
    "panda": np.array([0.1, 0.5, 0.0, -0.1, 0.0, 0.3, 0.0, 0.0]),
    "so100": np.array([0.1, 0.5, -0.1, 0.0, 0.3, 0.0]),
}


def test_gripper_targets_are_metres():
    open_action = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0])
    closed_action = np.append(open_action[:7], -1.0)

    np.testing.assert_allclose(PANDA.from_action(open_action)[7], 0.04)
    np.testing.assert_allclose(PANDA.from_action(closed_action)[7], -0.01)
    np.testing.assert_allclose(
        PANDA.to_action(PANDA.from_action(open_action)), open_action, atol=1e-15
    )


def project(arm: ManiSkillArm, point_m: np.ndarray) -> tuple[int, int]:
    """Pixel (row, column) of a point in the world, by the camera's pose and matrix."""
    (view,) = arm.robot.named_views(("front",), arm.image_size)
    eye = np.array(view.eye_m)
    forward = np.array(view.target_m) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    x, y, z = np.stack([right, down, forward]) @ (point_m - eye)
    column, row, _ = arm.camera_matrices()["front"] @ np.array([x / z, y / z, 1.0])
    return round(row - 0.5), round(column - 0.5)


def demonstration_targets(arm: ManiSkillArm, num_steps: int) -> np.ndarray:
    """Targets that move the arm down onto the table and close the gripper on the way."""
    start, _ = arm.read_joints()
    end = start + MOVES_RAD[arm.robot.name]
    end[-1] = -0.01
    return np.linspace(start, end, num_steps)


def run_and_hash(arm: ManiSkillArm, seed: int, num_steps: int = 40) -> str:
    digest = hashlib.sha256()
    arm.reset(seed)
    digest.update(arm.capture().tobytes())
    for target in demonstration_targets(arm, num_steps):
        arm.step(target)
        digest.update(np.concatenate(arm.read_joints()).tobytes())
        digest.update(np.concatenate(list(arm.environment_state().values())).tobytes())
    digest.update(arm.capture().tobytes())
    return digest.hexdigest()


@pytest.mark.sim
def test_a_longer_control_step_is_as_many_physics_steps():
    """From rest the arm falls short of a far target by what it had no time for."""
    moved_rad = {}
    for step_s in (0.05, 0.1):
        with ManiSkillArm("PushCube", step_s=step_s) as arm:
            arm.reset(0)
            assert arm.maniskill_env.control_freq == round(1 / step_s)
            start = arm.read_joints()[0]
            arm.step(start + np.array([0.2, 0, 0, 0, 0, 0, 0, 0]))
            moved_rad[step_s] = (arm.read_joints()[0] - start)[0]
    assert moved_rad[0.1] > 1.5 * moved_rad[0.05] > 0.0


@pytest.mark.parametrize("step_s", [0.03, 0.07, 0.005])
def test_a_control_step_that_physics_cannot_make_is_refused(step_s):
    with pytest.raises(ValueError, match=f"cannot make control steps of {step_s:g} s"):
        ManiSkillArm("PushCube", step_s=step_s)


def brightest_channel_of_cube(arm):
    """0 for a red cube, 2 for a blue one: from its material, not from a picture."""
    import sapien

    cube = getattr(arm.maniskill_env, arm.task.objects["cube"])
    body = cube._objs[0].find_component_by_type(sapien.render.RenderBodyComponent)
    return int(np.argmax(body.render_shapes[0].material.base_color[:3]))


@pytest.fixture(scope="module", params=list(TASKS))
def arm(request):
    with ManiSkillArm(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def pick_arm():
    with ManiSkillArm("PickCube") as made:
        yield made


@pytest.mark.sim
def test_the_picture_after_a_reset_shows_the_new_scene(arm):
    first = {}
    for seed in (11, 12):
        arm.reset(seed)
        image = arm.capture()
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        cube_m = arm.environment_state()["cube"] + np.array([0.0, 0.0, 0.02])
        shown = image[project(arm, cube_m)].astype(int)
        channel = brightest_channel_of_cube(arm)
        assert shown[channel] > np.delete(shown, channel).max() + 30, shown
        first[seed] = image
    assert np.abs(first[11].astype(int) - first[12]).max() > 100
    for rebuild in (True, False):
        arm.reset(11, rebuild=rebuild)
        np.testing.assert_array_equal(arm.capture(), first[11])
        arm.reset(12)


@pytest.mark.sim
def test_physics_may_go_on_while_a_picture_is_drawn(arm):
    """The bridge does so: the picture is of the moment at which it was begun."""
    pictures = []
    for overlapped in (False, True):
        arm.reset(13)
        for target in demonstration_targets(arm, 10):
            arm.step(target)
            arm.start_capture()
            if not overlapped:
                picture = arm.finish_capture()
            arm.step(target)
            if overlapped:
                picture = arm.finish_capture()
            pictures.append(picture)
    np.testing.assert_array_equal(pictures[:10], pictures[10:])
    assert np.abs(pictures[0].astype(int) - pictures[9]).max() > 100


@pytest.mark.sim
def test_pick_cubes_goal_is_in_the_picture(pick_arm):
    """ManiSkill hides it from sensors. (The hand hides it at the start of one seed in twelve.)"""
    for seed in range(5):
        pick_arm.reset(seed)
        row, column = project(pick_arm, pick_arm.environment_state()["goal"])
        image = pick_arm.capture().astype(int)
        around = image[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7]
        green = around[..., 1] - np.maximum(around[..., 0], around[..., 2]) > 80
        assert green.sum() >= 20, (seed, int(green.sum()))


@pytest.mark.sim
def test_camera_matrix(pick_arm):
    np.testing.assert_allclose(
        pick_arm.camera_matrices()["front"],
        [[189.94, 0, 64], [0, 189.94, 64], [0, 0, 1]],
        atol=0.01,
    )


@pytest.mark.sim
def test_a_step_drives_towards_its_target_and_draws_nothing(pick_arm):
    pick_arm.reset(1)
    before, _ = pick_arm.read_joints()
    image = pick_arm.capture()
    target = before.copy()
    target[0] += 0.3
    target[7] = 0.0
    for _ in range(40):
        result = pick_arm.step(target)
    after, velocities = pick_arm.read_joints()

    assert (result.step, result.success, result.success_once) == (40, False, False)
    np.testing.assert_allclose(after, target, atol=0.01)
    assert np.abs(velocities).max() < 0.05
    assert np.abs(pick_arm.capture().astype(int) - image).max() > 100


@pytest.mark.sim
@pytest.mark.parametrize("bad", [np.full(8, np.nan), np.zeros(7), np.full(8, np.inf)])
def test_bad_targets_are_refused(pick_arm, bad):
    with pytest.raises(ValueError, match=r"8 finite numbers.*panda_finger_joint1"):
        pick_arm.step(bad)


@pytest.mark.sim
def test_what_ran_before_changes_nothing(pick_arm):
    """Without a new scene at each reset, old contacts shift the cube by 0.4 mm."""
    expected = run_and_hash(pick_arm, 3)
    for seed in (4, 5):
        run_and_hash(pick_arm, seed, num_steps=25)
    assert run_and_hash(pick_arm, 3) == expected


@pytest.mark.sim
@pytest.mark.slow
def test_another_process_gives_the_same_bits(pick_arm):
    run_and_hash(pick_arm, 8, num_steps=10)
    here = run_and_hash(pick_arm, 3)
    script = (
        "import importlib.util as u; s = u.spec_from_file_location('t', "
        f"{__file__!r}); m = u.module_from_spec(s); s.loader.exec_module(m);"
        "print(m.run_and_hash(m.ManiSkillArm('PickCube'), 3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout.split()[-1] == here


@pytest.mark.sim
def test_light_meshes_look_the_same(pick_arm):
    pick_arm.reset(5)
    light = pick_arm.capture().astype(int)
    with ManiSkillArm("PickCube", light_meshes=False) as stock_arm:
        stock_arm.reset(5)
        stock = stock_arm.capture().astype(int)
    assert 0 < np.abs(light - stock).mean() < 1.5


@pytest.mark.sim
@pytest.mark.slow
def test_no_vulkan_driver_is_one_sentence(tmp_path):
    script = (
        "from par_model.simulation.maniskill_env import ManiSkillArm, VulkanDriverError\n"
        "try: ManiSkillArm('PushCube')\n"
        "except VulkanDriverError as error: print('REFUSED', error)\n"
    )
    missing = str(tmp_path / "none.json")
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "VK_ICD_FILENAMES": missing, "VK_DRIVER_FILES": missing},
    )
    assert done.returncode == 0, done.stderr
    assert "REFUSED ManiSkill found no usable Vulkan driver" in done.stdout
    assert "./par setup" in done.stdout


@pytest.mark.sim
def test_further_views_stand_below_and_change_nothing_of_the_first():
    """The first picture and the physics are those of an arm with one camera, to the bit; the second
    one is that of a camera of the study; after a step both are new."""
    views = ("front", "right")
    with ManiSkillArm("PickCube") as one, ManiSkillArm("PickCube", views=views) as two:
        for seed in (5, 6):
            for arm in (one, two):
                arm.reset(seed)
            study = SceneCameras(one, (VIEWS["right"],))
            for target in demonstration_targets(one, 4):
                first, both = one.capture(), two.capture()
                assert both.shape == (256, 128, 3)
                np.testing.assert_array_equal(both[:128], first)
                np.testing.assert_array_equal(both[128:], study.capture()[0].image)
                one.step(target)
                two.step(target)
            np.testing.assert_array_equal(one.read_joints()[0], two.read_joints()[0])
        assert list(two.camera_matrices()) == list(views)
        assert two.camera_matrices()["right"][0, 0] == pytest.approx(VIEWS["right"].focal_px)


def test_a_view_that_the_simulator_has_not_is_refused():
    with pytest.raises(ValueError, match=r"no view 'wrist'; it has front, "):
        ManiSkillArm("PickCube", views=("front", "wrist"))
