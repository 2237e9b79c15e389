# SPDX-License-Identifier: Apache-2.0
"""What is in a data set: counts, lengths, action ranges, and a sheet of frames to look at."""

import numpy as np

from par_model.interface import ImageArray
from par_model.training.lerobot_dataset import EpisodeSource


def describe(source: EpisodeSource) -> str:
    """A page of plain text; reads all numbers and no video. Raises ValueError without episodes."""
    if len(source) == 0:
        raise ValueError("the data set has no finished episode yet; wait for the recording.")
    episodes = [source.read(index, with_frames=False) for index in range(len(source))]
    lengths = np.array([episode.num_steps for episode in episodes])
    seeds = [episode.seed for episode in episodes if episode.seed is not None]
    known = any(episode.success.any() for episode in episodes)
    at_end = sum(bool(episode.success[-1]) for episode in episodes)
    lines = [
        f"instructions   {'; '.join(source.instructions)}",
        f"episodes       {len(episodes)}, {sum(episode.noisy for episode in episodes)} with noise, "
        + (f"{at_end} successful at their end" if known else "success not recorded"),
        f"steps          {lengths.sum()} at {source.fps} Hz; {lengths.min()} to {lengths.max()} "
        f"per episode, mean {lengths.mean():.1f}",
        f"seeds          {min(seeds)} to {max(seeds)}" if seeds else "seeds          unknown",
        "",
        f"{'joint':<22}{'action min':>12}{'max':>9}{'measured min':>14}{'max':>9}"
        f"{'largest noise':>15}",
    ]
    actions = np.concatenate([episode.actions for episode in episodes])
    executed = np.concatenate([episode.executed_actions for episode in episodes])
    measured = np.concatenate([episode.measured_joint_positions for episode in episodes])
    for joint, name in enumerate(source.joint_names):
        action, joint_positions = actions[:, joint], measured[:, joint]
        noise = np.abs(executed[:, joint] - action).max()
        lines.append(
            f"{name:<22}{action.min():>12.4f}{action.max():>9.4f}{joint_positions.min():>14.4f}"
            f"{joint_positions.max():>9.4f}{noise:>15.4f}"
        )
    return "\n".join(lines)


def contact_sheet(source: EpisodeSource, num_episodes: int = 8, num_frames: int = 8) -> ImageArray:
    """Rows are episodes spread over the data set, columns are times from first to last frame."""
    rows = []
    num_episodes = min(num_episodes, len(source))
    for index in np.linspace(0, len(source) - 1, num_episodes).round().astype(int):
        frames = source.read(int(index)).frames
        assert frames is not None
        times = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
        rows.append(np.concatenate(list(frames[times]), axis=1))
    return np.concatenate(rows, axis=0)
