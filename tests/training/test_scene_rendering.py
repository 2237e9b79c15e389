# SPDX-License-Identifier: Apache-2.0
"""`perception scenes` as a user meets it: refusals, a set that goes on, equal files."""

import pytest

from par_model.perception import main
from par_model.training.scene_set import SceneSet


def scenes_command(out, *more: str) -> list[str]:
    return ["scenes", "--out", str(out), "--num-workers", "1", *more]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cameras", "fornt"], "neither one of front,"),
        (["--cameras", "front", "front"], "names of their own, got front, front"),
        (["--cameras", "front", "front_256"], "must have one size"),
        (["--num-scenes", "0"], "must be at least 1, got 0"),
    ],
)
def test_refusals_are_one_sentence(arguments, sentence, tmp_path, capsys):
    assert main(scenes_command(tmp_path / "scenes", *arguments)) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "scenes").exists()


@pytest.mark.long
@pytest.mark.sim
def test_a_set_that_goes_on_equals_one_made_at_once(tmp_path, capsys):
    """Two shards of 3 scenes, two cameras: made at once; and the second after the first, with the
    first lost and made again. Then the folder is described."""
    settings = ["--tasks", "PickCube", "--scenes-per-shard", "3", "--cameras", "front", "left"]
    once, parts = tmp_path / "once", tmp_path / "parts"
    assert main(scenes_command(once, "--num-scenes", "5", *settings)) == 0
    assert main(scenes_command(parts, "--num-scenes", "3", *settings)) == 0
    folder = parts / "PickCube"
    assert [path.name for path in SceneSet(folder).shards] == ["shard_00000.parquet"]
    (folder / "shard_00000.parquet").unlink()
    assert main(scenes_command(parts, "--num-scenes", "6", *settings)) == 0

    for name in ("shard_00000.parquet", "shard_00001.parquet", "settings.json"):
        assert (folder / name).read_bytes() == (once / "PickCube" / name).read_bytes()
    assert not list(folder.glob("*.writing"))

    assert main(["show", "--scenes", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "PickCube: 12 pictures" in shown
    assert "camera: front 6, left 6" in shown
    assert (folder / "scenes.png").exists()

    assert main(scenes_command(parts, "--num-scenes", "6", *settings[:4])) == 1
    assert "other settings (cameras)" in capsys.readouterr().err
