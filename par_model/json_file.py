# SPDX-License-Identifier: Apache-2.0
"""Read JSON objects from untrusted or damaged files; a ValueError names the fault.

Everything that a checkpoint or an export states about itself is read here, and so is the rule for
the names of files in such folders: a name in the folder, never a way out of it.
"""

import json
from pathlib import Path
from typing import Any

# The largest file of this kind, a record of a training, has 100 kB.
MAX_BYTES = 16 * 2**20
# Configurations nest three deep, records of a training six.
MAX_DEPTH = 50
_MAX_NAME_BYTES = 255


def read_object(path: Path, advice: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in `path`; `advice` ends the error message.

    Raises:
        ValueError: the file is missing, cannot be read, is larger than `max_bytes`, or does not
            hold a JSON object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read: {reason}; {advice}.") from error
    if len(content) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes // 2**20} MiB; {advice}.")
    return parse_object(content, str(path), advice)


def parse_object(content: bytes | str, what: str, advice: str) -> dict[str, Any]:
    """The JSON object in `content`. Raises ValueError, naming it `what`, for anything else."""
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError(_too_deep(what, advice)) from error
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON ({error}); {advice}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{what} must hold a JSON object, got {kind_of(value)}; {advice}.")
    if _is_deeper(value, MAX_DEPTH):
        raise ValueError(_too_deep(what, advice))
    return value


def texts_of(values: dict[str, Any], name: str, what: str, advice: str) -> dict[str, str]:
    """The object `values[name]` whose values are texts. Raises ValueError where it is not that."""
    found = values.get(name)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f'{what} must hold an object "{name}" of texts; {advice}.')
    return found


def file_in(folder: Path, name: str, what: str) -> Path:
    """`folder`/`name`, where `what` gave the name of a file in that folder.

    Raises:
        ValueError: the name is not that of a file in the folder itself, or the file there is a
            symbolic link to one elsewhere.
    """
    require_plain_name(folder, name, what)
    path = folder / name
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise ValueError(
            f"{path} is a symbolic link out of its folder; copy the file itself into the folder."
        )
    return path


def require_plain_name(folder: Path, name: str, what: str) -> None:
    """Raise ValueError where `name`, given by `what`, is not a name in `folder` itself."""
    is_plain = name.isprintable() and Path(name).name == name and "\\" not in name
    if not is_plain or name in ("", "..") or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{what} names {shown(name)}, which is not a file of the folder {folder} "
            "itself; nothing outside it is read."
        )


def kind_of(value: object) -> str:
    """What JSON calls a value that `json` read."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


def shown(value: object, limit: int = 60) -> str:
    """`value` for a sentence, not longer than `limit`."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _too_deep(what: str, advice: str) -> str:
    return f"{what} nests lists and objects deeper than {MAX_DEPTH}; {advice}."


def _is_deeper(value: object, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
