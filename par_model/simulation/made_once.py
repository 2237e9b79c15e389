# SPDX-License-Identifier: Apache-2.0
"""Folders that are made once from what is installed here, and kept in a cache."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """$PAR_CACHE, or ~/.cache/par."""
    return Path(os.environ.get("PAR_CACHE") or Path.home() / ".cache" / "par")


def made_once(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; where it is missing, what `build` puts into an empty folder.

    Several processes may call this at once: each builds in a folder of its own and the first to
    finish wins.
    """
    folder = cache_folder() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    kind = name.rpartition("_")[0]
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{kind}_building_"))
    try:
        build(building)
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
