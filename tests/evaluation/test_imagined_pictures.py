# SPDX-License-Identifier: Apache-2.0
"""Drawn pictures are compared with those that came, by likeness and by the places in them."""

import math

import numpy as np
import pytest

from par_model.checkpoint import Checkpoint
from par_model.drawing import Drawing
from par_model.evaluation.direct_loop import arm_for
from par_model.evaluation.imagined_pictures import (
    CODED,
    IMAGINED,
    REPEATED,
    SEEN,
    ImaginedEpisode,
    drawing_policy,
    imagined_episode,
    picture_rows,
    table_row,
)
from par_model.instruction import code_table
from par_model.simulation.tasks import task
from tests.backends.runtimes import small_checkpoint
from tests.model.fixtures import random_checkpoint_parts

SIZE = 32


class BrightestPixel:
    """Reads one thing from the brightest pixel: a centimetre a pixel."""

    things = ("cube",)

    def read(self, pictures):
        brightest = pictures.sum(axis=-1).reshape(len(pictures), -1).argmax(axis=1)
        rows, columns = np.unravel_index(brightest, (SIZE, SIZE))
        places = np.stack((columns, rows, 0 * rows), axis=1)
        return 0.01 * places[:, None].astype(float)


def picture(column, grey=100):
    """Grey, with a white dot."""
    made = np.full((SIZE, SIZE, 3), grey, np.uint8)
    made[16, column] = 255
    return made


def episode(num=5, slots=4, drawn_grey=110, drawn_off=1):
    """The dot moves by two pixels an observation; drawn one pixel too far, the grey 10 too high."""
    columns = 2 * np.arange(num + slots)
    return ImaginedEpisode(
        seed=0,
        success=True,
        num_steps=8 * (num - 1),
        seen=np.stack([picture(c) for c in columns[:num]]),
        places_m=0.01 * np.array([[[c, 16, 0]] for c in columns[:num]], float),
        imagined=np.stack(
            [
                np.stack(
                    [picture(columns[n + 1 + k] + drawn_off, drawn_grey) for k in range(slots)]
                )
                for n in range(num - 1)
            ]
        ),
        picture_s=np.full(num - 1, 0.1),
    )


@pytest.fixture(scope="module")
def rows():
    made = picture_rows(
        small_checkpoint(), "PickCube", "8x25", [episode(), episode(num=4)], (1, 2, 4),
        BrightestPixel(),
    )  # fmt: skip
    return {(row.picture, row.slots): row for row in made}


def test_every_picture_is_compared_with_the_one_that_came(rows):
    """Five and four observations: 4 + 3 are one ahead, 3 + 2 two, 1 + 0 four."""
    assert {key: row.num for key, row in rows.items()} == {
        (SEEN, 0): 9, (CODED, 0): 9,
        (IMAGINED, 1): 7, (REPEATED, 1): 7,
        (IMAGINED, 2): 5, (REPEATED, 2): 5,
        (IMAGINED, 4): 1, (REPEATED, 4): 1,
    }  # fmt: skip


def test_places_are_off_by_what_was_drawn_or_by_what_has_moved(rows):
    assert rows[SEEN, 0].places_mm == {"cube": (0.0, 0.0)}
    for slots in (1, 2, 4):
        assert rows[IMAGINED, slots].places_mm == {"cube": (10.0, 10.0)}
        assert rows[REPEATED, slots].places_mm == {"cube": (20.0 * slots, 20.0 * slots)}


def test_likeness_is_that_of_the_definitions(rows):
    """Every pixel off by 10 but for two dots; the repeated picture but for two dots equal."""
    row = rows[IMAGINED, 1]
    squares = 10.0**2 * (SIZE * SIZE - 2) + 155.0**2 + 145.0**2
    assert row.psnr_db == pytest.approx(10 * math.log10(255**2 * SIZE * SIZE / squares), abs=0.01)
    repeated = 10 * math.log10(255**2 * SIZE * SIZE / (2 * 155.0**2))
    assert rows[REPEATED, 1].psnr_db == pytest.approx(repeated, abs=0.01)
    assert 0.0 < row.ssim < rows[REPEATED, 1].ssim < 1.0
    # Two pixels have changed: where the dot was 110 is drawn for 100, where it is 110 for 255.
    assert row.changed == pytest.approx((10 + 145) / 2, abs=0.01)
    assert rows[REPEATED, 1].changed == pytest.approx(155.0, abs=0.01)


def test_what_was_seen_is_like_nothing_but_itself(rows):
    assert (rows[SEEN, 0].psnr_db, rows[SEEN, 0].ssim, rows[SEEN, 0].changed) == (None,) * 3
    assert rows[CODED, 0].psnr_db is not None
    assert rows[CODED, 0].changed is None
    assert table_row(rows[SEEN, 0])[5:8] == ("", "", "")


def test_pictures_that_do_not_change_have_no_changed_pixels():
    still = episode(num=2, slots=1)
    still.seen[1] = still.seen[0]
    made = picture_rows(small_checkpoint(), "T", "1x1", [still], (1,), BrightestPixel())
    assert [row.changed for row in made] == [None] * 4
    assert made[3].psnr_db == math.inf


@pytest.mark.sim
def test_an_episode_in_the_simulator_keeps_pictures_places_and_drawings():
    """20 steps: two whole chunks, so three observations; PushCube's cube lies on the table."""
    parts = random_checkpoint_parts("par_tiny")
    config, text = parts["config"], task("PushCube").instruction
    checkpoint = Checkpoint(
        config=config, model=parts["model"], codec=parts["codec"],
        statistics=parts["statistics"],
        instructions=code_table((text,), config.num_text_tokens, config.text_width), training={},
    )  # fmt: skip
    policy = drawing_policy(checkpoint, Drawing(2, 2))
    with arm_for("PushCube", policy.spec) as arm:
        made = imagined_episode(arm, policy, ("gripper", "cube"), 10000, 2, 20)
        arm.reset(10000)
        gripper_m, cube_m = arm.gripper_position(), arm.environment_state()["cube"]
        first = arm.capture()
    assert not made.success
    assert (made.num_steps, made.seen.shape[0]) == (20, 3)
    assert made.imagined.shape == (2, 2, *made.seen.shape[1:])
    assert (made.picture_s > 0).all()
    assert np.array_equal(made.seen[0], first)
    base_m = np.array([-0.615, 0.0, 0.0])
    np.testing.assert_allclose(made.places_m[0], np.stack((gripper_m, cube_m)) - base_m)
    assert made.places_m[2, 1, 2] == pytest.approx(0.02, abs=0.005)


def test_a_drawing_is_read_and_used():
    assert Drawing.of("8x25") == Drawing(8, 25)
    assert drawing_policy(small_checkpoint(), Drawing(2, 3)).config.sampling.frame_num_steps == 3
    for text in ("8", "x25", "8x", "0x5", "8x2.5", "-1x4"):
        with pytest.raises(ValueError, match="a drawing is SETSxSTEPS, such as 8x25"):
            Drawing.of(text)
