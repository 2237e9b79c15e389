# SPDX-License-Identifier: Apache-2.0
"""One successful episode of each task, side by side, as an animated WebP.

The policy runs with the camera picture that it was trained on. Its joint targets are then executed
again in a simulator with larger pictures: equal seeds and targets give equal states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from par_model.evaluation.direct_loop import EpisodeResult, arm_for, run_episode
from par_model.interface import FloatArray, ImageArray, Policy
from par_model.simulation.maniskill_env import ManiSkillArm

# Control steps from one picture to the next.
_STEPS_A_PICTURE = 2
_LAST_PICTURE_MS = 1500
_GAP_PX = 4
_LABEL_PX = 22
_FONT_PX = 14
_BACKGROUND = (255, 255, 255)
_INK = (20, 20, 20)
_QUALITY = 70


@dataclass(frozen=True)
class FilmedSuccess:
    """An episode that succeeded, with pictures of it.

    Attributes:
        task, seed, num_steps: of the episode.
        failed_seeds: seeds tried before, at which the policy failed.
        frames: uint8 [N, H, W, 3], every second control step and the last one.
        step_s: of a control step, s.
    """

    task: str
    seed: int
    num_steps: int
    failed_seeds: tuple[int, ...]
    frames: ImageArray
    step_s: float


def film_success(
    task: str, policy: Policy, seeds: Sequence[int], *, max_steps: int, picture_size: int
) -> FilmedSuccess:
    """Film the episode of the first seed at which the policy succeeds (policy seed 0).

    Frames are `picture_size` pixels high and wide. Raises ValueError if the policy fails at all
    seeds.
    """
    result, failed_seeds = _first_success(task, policy, seeds, max_steps)
    with ManiSkillArm(task, image_size=picture_size, step_s=policy.spec.step_s) as arm:
        frames, success = film_targets(arm, result.seed, result.joint_targets)
    assert success, (task, result.seed)
    return FilmedSuccess(
        task, result.seed, result.num_steps, failed_seeds, frames, policy.spec.step_s
    )


def _first_success(
    task: str, policy: Policy, seeds: Sequence[int], max_steps: int
) -> tuple[EpisodeResult, tuple[int, ...]]:
    with arm_for(task, policy.spec) as arm:
        for index, seed in enumerate(seeds):
            result = run_episode(arm, policy, seed, max_steps)
            if result.success:
                return result, tuple(seeds[:index])
    raise ValueError(
        f"{task}: the policy fails within {max_steps} steps at each of the seeds "
        f"{', '.join(map(str, seeds))}; choose another --seed, or more --max-steps."
    )


def film_targets(
    arm: ManiSkillArm, seed: int, joint_targets: FloatArray
) -> tuple[ImageArray, bool]:
    """Execute joint targets (float64 [steps, J], rad and m).

    Returns uint8 [N, H, W, 3] (the start, every second control step, and the end), and whether the
    task succeeded.
    """
    arm.reset(seed)
    frames, success = [arm.capture()], False
    for step, target in enumerate(joint_targets, start=1):
        success = arm.step(target).success_once
        if step % _STEPS_A_PICTURE == 0 or step == len(joint_targets):
            frames.append(arm.capture())
    return np.stack(frames), success


def write_moving_picture(episodes: Sequence[FilmedSuccess], path: Path) -> Path:
    """Write an animated WebP in real time that repeats; an episode that ended shows its end."""
    num_frames = max(len(episode.frames) for episode in episodes)
    frames = [_side_by_side(episodes, index) for index in range(num_frames)]
    durations_ms = [round(1000 * _STEPS_A_PICTURE * episodes[0].step_s)] * num_frames
    durations_ms[-1] = _LAST_PICTURE_MS
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=durations_ms,
        loop=0,
        quality=_QUALITY,
        method=4,
    )
    return path


def _side_by_side(episodes: Sequence[FilmedSuccess], index: int) -> Image.Image:
    """All episodes after `index` pictures, each below its task's name."""
    height, width = episodes[0].frames.shape[1:3]
    size = (len(episodes) * (width + _GAP_PX) - _GAP_PX, _LABEL_PX + height)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    for column, episode in enumerate(episodes):
        left = column * (width + _GAP_PX)
        draw.text((left + 2, 2), episode.task, fill=_INK, font=font)
        frame = episode.frames[min(index, len(episode.frames) - 1)]
        sheet.paste(Image.fromarray(frame), (left, _LABEL_PX))
    return sheet
