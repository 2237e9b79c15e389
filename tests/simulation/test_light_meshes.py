# SPDX-License-Identifier: Apache-2.0
"""The light meshes: made again, on another machine or in another home, they are the same bytes."""

import os
from pathlib import Path

import mani_skill

from par_model.simulation.light_meshes import light_urdf

URDF = Path(mani_skill.__file__).parent / "assets/robots/panda/panda_v2.urdf"


def test_made_twice_they_are_the_same(tmp_path, monkeypatch):
    """The order of the meshes in a file decides pixels that two of them share."""
    made = []
    for name in ("one", "other"):
        monkeypatch.setenv("PAR_CACHE", str(tmp_path / name))
        folder = light_urdf(URDF).parent
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        made.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert any(path.suffix == ".glb" for path in made[0])
    assert made[0] == made[1]
    assert os.listdir(tmp_path / "one") == os.listdir(tmp_path / "other")
