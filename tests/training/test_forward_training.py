# SPDX-License-Identifier: Apache-2.0
"""The forward model learns a small world: an arm that is drawn where its joints say, and a cube
that lies still unless something moves it that no joint shows.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.forward_model import ForwardConfig, StoredForwardModel
from par_model.surprise import FORWARD_FILE
from par_model.training.clips import TrainingEpisode
from par_model.training.demonstrations_on_disk import DemonstrationSteps
from par_model.training.forward_training import (
    ForwardData,
    ForwardTrainingConfig,
    Transitions,
    train_forward_model,
)

SIZE = 16
SIZES = ForwardConfig(4, SIZE, SIZE, num_joints=2, channels=16, width=32, num_maps=2)
CONFIG = ForwardTrainingConfig(
    num_steps=300, batch_size=16, num_warmup_steps=20, average_decay=0.97, save_every=4
)


def draw(joints: np.ndarray, cube: np.ndarray) -> np.ndarray:
    """float16 [4, 16, 16]: the arm's spot at its joints and the cube's at its place, each a blot of
    about 3 pixels; joints and places are 0 to 1."""
    rows, columns = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")

    def blot(place: np.ndarray) -> np.ndarray:
        row, column = 2 + (SIZE - 5) * place
        return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2.0)

    still = 0.1 * np.sin(rows + 2 * columns)
    picture = np.stack([blot(joints), blot(cube), still, blot(joints) + blot(cube)])
    return picture.astype(np.float16)


class Cache:
    """Latents in memory."""

    def __init__(self, latents: np.ndarray) -> None:
        self.latents = latents

    def read(self, key: int, digest: str) -> np.ndarray:
        return self.latents[None]


def episode(seed: int, num_steps: int = 24, shown_every: int = 1) -> TrainingEpisode:
    """The arm wanders; shown_every: control steps that a picture stands for."""
    world = np.random.default_rng(seed)
    joints = np.clip(
        world.uniform(size=2) + np.cumsum(world.normal(0, 0.04, (num_steps, 2)), axis=0), 0, 1
    )
    cube = world.uniform(size=2)
    pictures = np.stack([draw(joints[t - t % shown_every], cube) for t in range(num_steps)])
    nothing = np.zeros((num_steps, 0))
    steps = DemonstrationSteps(seed, "Push.", joints, joints, joints, nothing, "0")
    return TrainingEpisode("Push", steps, Cache(pictures))


def transitions(seeds: range, **kwargs: int) -> Transitions:
    return Transitions([episode(seed, **kwargs) for seed in seeds], 8, 12, 0.5)


@pytest.fixture(scope="module")
def data() -> ForwardData:
    names = tuple(map(str, range(60)))
    return ForwardData(
        SIZES,
        transitions(range(60)),
        transitions(range(90, 96)),
        "abc",
        ("one", "other"),
        names,
        {"chunk_steps": 8},
    )


def run(
    data: ForwardData,
    folder: Path,
    config: ForwardTrainingConfig = CONFIG,
    stop_at: int | None = None,
) -> StoredForwardModel | None:
    return train_forward_model(data, config, folder, {"date": "today"}, lambda *_: None, stop_at)


@pytest.fixture(scope="module")
def trained(data: ForwardData, tmp_path_factory: pytest.TempPathFactory) -> StoredForwardModel:
    # A module's fixture comes before that of each test which does this.
    torch.set_num_threads(1)
    found = run(
        data, tmp_path_factory.mktemp("forward"), dataclasses.replace(CONFIG, save_every=300)
    )
    assert found is not None
    return found


def test_what_no_joint_explains_stands_out_where_it_is(trained: StoredForwardModel) -> None:
    """On worlds that it has not seen. Quiet: the arm moves as its joints say. Surprising: the cube
    is moved or gone, or the arm is drawn where its joints are not."""
    quiet, moved, gone, elsewhere = [], [], [], []
    for seed in range(200, 212):
        joints, later = episode(seed).steps.measured_joints[[4, 12]]
        cube = np.random.default_rng(1000 + seed).uniform(size=2)
        far = (cube + 0.5) % 1.0
        before = draw(joints, cube)

        def worst(now: np.ndarray, before=before, joints=joints, later=later) -> float:
            errors = trained.model.errors(before, now, joints, later)
            assert errors.shape == (SIZE, SIZE)
            return float(np.sort(errors, axis=None)[-9:].mean())

        quiet.append(worst(draw(later, cube)))
        moved.append(worst(draw(later, far)))
        gone.append(worst(draw(later, np.array([9.0, 9.0]))))
        elsewhere.append(worst(draw((later + 0.5) % 1.0, cube)))
    for surprising in (moved, gone, elsewhere):
        assert np.median(surprising) > 5 * np.median(quiet)
        assert np.min(surprising) > np.max(quiet)


def test_it_foretells_more_than_that_nothing_changes(trained: StoredForwardModel) -> None:
    judged = trained.training["held_out"]
    assert judged["squared_error"] < 0.5 * judged["squared_change"]
    assert trained.training["date"] == "today"
    assert trained.joint_names == ("one", "other")
    assert trained.training["config"]["num_steps"] == 300


def test_transitions_are_of_one_episode_forwards_and_no_longer_than_asked() -> None:
    """Each latent shows its joints and its episode's cube, so a mix-up would be seen."""
    batch = transitions(range(5)).draw(64, np.random.default_rng(0))
    cubes = {seed: episode(seed).latents.read(0, "")[0, 0, 1] for seed in range(5)}
    spans = []
    for before, later, joints, joints_later in zip(*map(np.asarray, batch), strict=True):
        (seed,) = [s for s, cube in cubes.items() if np.array_equal(cube, before[1])]
        np.testing.assert_array_equal(later[1], cubes[seed])
        steps = episode(seed).steps.measured_joints.astype(np.float32)
        first, second = (
            int(np.flatnonzero((steps == one).all(axis=1))[0]) for one in (joints, joints_later)
        )
        spans.append(second - first)
    assert min(spans) >= 1
    assert max(spans) <= 12
    assert spans.count(8) > 12


def test_a_picture_that_stands_for_a_chunk_is_of_its_first_step() -> None:
    batch = transitions(range(5), shown_every=8).draw(32, np.random.default_rng(0))
    for picture, joints in ((batch.before, batch.joints_before), (batch.later, batch.joints_later)):
        for one, at in zip(picture.numpy(), joints.numpy(), strict=True):
            arm = draw(at.astype(np.float64), np.zeros(2))[0]
            np.testing.assert_allclose(one[0], arm, atol=2e-3)


def test_a_killed_training_goes_on_to_the_same_bits(data: ForwardData, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=10)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(data, whole, config)
    assert run(data, killed, config, stop_at=7) is None
    assert not (killed / FORWARD_FILE).exists()
    run(data, killed, config)
    assert (killed / FORWARD_FILE).read_bytes() == (whole / FORWARD_FILE).read_bytes()
    for other in (
        (data, dataclasses.replace(config, learning_rate=1e-3)),
        (dataclasses.replace(data, episodes=("1",)), config),
        (dataclasses.replace(data, codec="abd"), config),
        (dataclasses.replace(data, drawn={"chunk_steps": 4}), config),
        (dataclasses.replace(data, joint_names=("other", "one")), config),
    ):
        with pytest.raises(ValueError, match="a training with other settings or data"):
            run(other[0], killed, other[1])


def test_episodes_with_one_picture_teach_nothing() -> None:
    with pytest.raises(ValueError, match="no episode has two different pictures"):
        transitions(range(3), shown_every=24)
