# SPDX-License-Identifier: Apache-2.0
"""The command `fit_capsules`: prints what an arm file's section `collision` needs of a URDF."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from par_ros.control.settings import parameter


@dataclass(frozen=True)
class FitCapsulesArguments:
    """fit_capsules: capsules around a URDF's collision shapes, for an arm file."""

    urdf: str = parameter("", "the arm's URDF")
    mesh_folder: str = parameter("", "where names of mesh files begin; not set: the URDF's folder")
    pieces: str = parameter(
        "", "links that get several capsules, LINK=NUMBER by commas; the others get one"
    )


def print_capsules(arguments: FitCapsulesArguments) -> None:
    """Some seconds a link. Raises ValueError for what cannot be read."""
    # Heavy, and of no use to the other commands.
    from par_ros.capsule_fit import fit_urdf, section

    pieces = read_pieces(arguments.pieces)
    print(section(fit_urdf(Path(arguments.urdf), arguments.mesh_folder, pieces)), end="")


def read_pieces(text: str) -> Mapping[str, int]:
    """LINK=NUMBER by commas. Raises ValueError for anything else."""
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        link, _, number = entry.partition("=")
        if not number.isdigit() or not 1 <= int(number) <= 10:
            raise ValueError(f"pieces must be LINK=NUMBER by commas, 1 to 10, got {entry!r}.")
        found[link] = int(number)
    return found
