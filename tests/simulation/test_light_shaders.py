# SPDX-License-Identifier: Apache-2.0
"""The light shaders: pictures to the bit those of SAPIEN's own, which is used where it is another
one than we know."""

import contextlib
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import sapien

from par_model.simulation import maniskill_env
from par_model.simulation.light_shaders import light_shader, light_shaders

SHADERS = Path(sapien.__file__).parent / "vulkan_shader"


def test_outside_the_stock_shaders_are_asked_for():
    stock = sapien.render.set_camera_shader_dir
    with light_shaders():
        assert sapien.render.set_camera_shader_dir is not stock
    assert sapien.render.set_camera_shader_dir is stock


def test_the_installed_shader_is_known_and_another_one_is_left_alone(tmp_path):
    assert light_shader(SHADERS) is not None
    other = tmp_path / "shaders"
    shutil.copytree(SHADERS, other)
    path = other / "minimal/gbuffer.frag"
    path.write_text(path.read_text() + "// texture(samplerBRDFLUT, vec2(0.0)).xy\n")
    assert light_shader(other) is None


@pytest.mark.sim
def test_the_first_picture_needs_no_table():
    """With the stock shader, 8 s of a core for the first camera of a process."""
    with maniskill_env.ManiSkillArm("PushCube") as arm:
        arm.reset(0)
        started_s = time.process_time()
        arm.capture()
        assert time.process_time() - started_s < 4.0


@pytest.mark.sim
@pytest.mark.long
@pytest.mark.parametrize("task", ["PickCube", "PushCubeSO100"])
def test_pictures_are_those_of_the_stock_shader(monkeypatch, task):
    """Its table takes 8 s of a core for each environment."""
    pictures = []
    for shaders in (light_shaders, contextlib.nullcontext):
        monkeypatch.setattr(maniskill_env, "light_shaders", shaders)
        with maniskill_env.ManiSkillArm(task) as arm:
            for seed in (1, 2):
                arm.reset(seed)
                pictures.append(arm.capture())
    np.testing.assert_array_equal(pictures[:2], pictures[2:])
