# SPDX-License-Identifier: Apache-2.0
"""Files and folders that a command writes: what the disk refuses becomes one sentence."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ADVICE = {
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EEXIST: "a part of this path is a file; choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_to_disk(what: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside into a ValueError that names `what`, `path` and what to do."""
    try:
        yield
    except OSError as error:
        # PyAV's errors have a number and, as their text, FFmpeg's.
        reason = error.strerror or str(error)
        raise ValueError(
            f"{what} {path} cannot be written: {reason}; {_advice(error.errno, path)}."
        ) from error


def make_folder(what: str, path: Path) -> None:
    """Make a folder and its parents. Raises ValueError where no file can be made in it."""
    with written_to_disk(what, path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def write_text(what: str, path: Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made.

    Raises ValueError for what the disk refuses.
    """
    with written_to_disk(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


def require_place(path: Path, *, is_folder: bool) -> Path:
    """Give `path` back where it could be written now; nothing is made. For what is written after
    hours of work. Raises ValueError with the reason."""
    if path.exists() and path.is_dir() != is_folder:
        wanted, found = ("folder", "file") if is_folder else ("file", "folder")
        raise ValueError(f"{path} is a {found}; a {wanted} is written, so choose another path.")
    folders = (path, *path.absolute().parents)[0 if is_folder else 1 :]
    existing = next(folder for folder in folders if folder.exists())
    # Some file systems say only at the first file that they take none.
    with (
        written_to_disk("the folder" if is_folder else "the file", path),
        tempfile.NamedTemporaryFile(dir=existing, prefix=".par_"),
    ):
        return path


def require_replaceable(folder: Path, manifest: str, entry: str, kind: tuple[str, str]) -> None:
    """Only what the same command wrote is ever deleted.

    Args:
        manifest, entry: a JSON file in such a folder, and a name in it.
        kind: what such a folder is, for an earlier and for a new one: "an earlier X", "an X".

    Raises ValueError for another folder with files in it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    file = folder / manifest
    if not (file.is_file() and f'"{entry}"'.encode() in file.read_bytes()):
        raise ValueError(
            f"{folder} exists and is not {kind[0]}; {kind[1]} replaces its folder, so choose one "
            "that does not exist."
        )


def _advice(number: int | None, path: Path) -> str:
    if number not in _NO_SPACE:
        return _ADVICE.get(number or 0, "check the path and the disk")
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free_mb = shutil.disk_usage(existing).free / 1e6
    return f"{free_mb:.0f} MB are free there; make room, or choose another disk"
