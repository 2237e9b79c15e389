# SPDX-License-Identifier: Apache-2.0
"""What the camera study says of episodes whose numbers are known."""

import json

import numpy as np
import pytest

from par_model.evaluation.camera_study import HEADER, study, table_row
from par_model.evaluation.watched_episodes import WatchedEpisode
from par_model.perception import main
from par_model.simulation.camera_view import read_view
from par_model.simulation.scene_cameras import projected

VIEWS = [read_view("front"), read_view("left")]
NUM_EPISODES, NUM_PICTURES = 30, 10


def make_episode(seed: int) -> WatchedEpisode:
    """A thing that moves at random; its pixels are 60 / distance^2, exactly seen.

    The first camera misses it in the first picture of each episode, and in episode 0 always; the
    second never.
    """
    generator = np.random.default_rng(seed)
    positions_m = generator.uniform([-0.1, -0.1, 0.0], [0.1, 0.1, 0.3], (NUM_PICTURES, 3))
    seen = np.array([[projected(view, p) for view in VIEWS] for p in positions_m])
    pixels = 60.0 / seen[:, :, 2] ** 2
    pixels[0, 0] = 19
    if seed == 0:
        pixels[:, 0] = 0
    return WatchedEpisode(
        task="PickCube",
        seed=seed,
        positions_m={"goal": positions_m},
        pixels={"goal": pixels},
        columns_px={"goal": seen[:, :, 0]},
        rows_px={"goal": seen[:, :, 1]},
    )


@pytest.fixture(scope="module")
def episodes():
    return [make_episode(seed) for seed in range(NUM_EPISODES)]


def test_shares_of_hidden_things_are_counted_over_pictures_starts_and_episodes(episodes):
    """Hidden: 30 first pictures and 9 more of episode 0, of 300."""
    (first,) = study(episodes, VIEWS, 0)
    assert (first.task, first.thing, first.views) == ("PickCube", "goal", ("front",))
    assert first.hidden == pytest.approx(39 / 300)
    assert first.hidden_at_start == 1.0
    assert first.never_seen == pytest.approx(1 / 30)
    (second,) = study(episodes, VIEWS, 1)
    assert (second.hidden, second.hidden_at_start, second.never_seen) == (0.0, 0.0, 0.0)
    (pair,) = study(episodes, VIEWS, 0, 1)
    assert pair.views == ("front", "left")
    assert (pair.hidden, pair.never_seen) == (0.0, 0.0)


def test_exact_pixels_give_the_distance_and_the_place(episodes):
    """A quadratic in log(pixels) gives distances of 0.8 to 1.2 m to a millimetre; with a tenth more
    or fewer pixels, at random, it is 5 % of the distance off."""
    (exact,) = study(episodes, VIEWS, 1)
    assert exact.depth.median < 1.0
    assert exact.position.median < 3.0
    noisy = [make_episode(seed) for seed in range(NUM_EPISODES)]
    for episode in noisy:
        generator = np.random.default_rng(episode.seed + 1000)
        episode.pixels["goal"] *= np.exp(generator.choice([-0.1, 0.1], (NUM_PICTURES, 2)))
    (off,) = study(noisy, VIEWS, 1)
    assert 30.0 < off.depth.median < 70.0
    # The second view sees across the first one's line of sight.
    (pair,) = study(noisy, VIEWS, 0, 1)
    assert pair.position.median < 0.3 * off.position.median


def test_too_few_pictures_give_no_error(episodes):
    (few,) = study(episodes[:4], VIEWS, 1)
    assert few.depth is None
    assert few.position is None
    assert len(table_row(few)) == len(HEADER)


@pytest.mark.long
@pytest.mark.sim
def test_the_command_watches_planners_and_writes_what_it_found(tmp_path, capsys):
    """Two PickCube episodes through two cameras."""
    file = tmp_path / "cameras.json"
    words = ["cameras", "--json", str(file), "--tasks", "PickCube", "--episodes", "2"]
    assert main([*words, "--cameras", "front", "left", "--num-workers", "1"]) == 0
    content = json.loads(file.read_text())
    rows = {(tuple(row["views"]), row["thing"]): row for row in content["rows"]}
    assert set(rows) == {
        (views, thing)
        for views in (("front",), ("left",), ("front", "left"))
        for thing in ("cube", "goal")
    }
    assert content["num_episodes"] == {"PickCube": 2}
    assert rows[("front",), "cube"]["hidden"] < 0.5
    assert "hidden %" in capsys.readouterr().out
