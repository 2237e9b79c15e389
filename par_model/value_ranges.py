# SPDX-License-Identifier: Apache-2.0
"""Types and ranges of a dataclass's values, as its annotations say. Torch is not imported here."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from par_model.json_file import shown

MAX_LEVELS = 8
_MAX_TEXT = 200


@dataclass(frozen=True)
class Range:
    """What a number of the configuration may be, both ends included.

    The ends are far beyond every preset: they keep a damaged or hostile file from asking for
    minutes of work or all of the memory.
    """

    least: float
    most: float


def require_ranges(config: object, where: str) -> None:
    """Raise ValueError naming the first field of the dataclass `config` whose value has another
    type than it is annotated with, or is out of its range."""
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        _require_kind(f"{where}{name}", getattr(config, name), hint)


def _require_kind(what: str, value: object, hint: Any) -> None:
    if dataclasses.is_dataclass(hint):
        require_ranges(value, f"{what}.")
        return
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            _require_kind(what, value, parts[0])
    elif origin is tuple:
        # A list of objects may be empty: its default.
        least = 0 if dataclasses.is_dataclass(parts[0]) else 1
        if not isinstance(value, tuple) or not least <= len(value) <= MAX_LEVELS:
            raise ValueError(_not_that(what, value, f"a list of {least} to {MAX_LEVELS} values"))
        for index, part in enumerate(value):
            _require_kind(f"{what}[{index}]", part, parts[0])
    elif origin is Literal:
        if value not in parts:
            raise ValueError(_not_that(what, value, "one of " + ", ".join(map(repr, parts))))
    elif origin is Annotated:
        _require_number(what, value, parts[0], parts[1])
    elif hint is bool:
        if not isinstance(value, bool):
            raise ValueError(_not_that(what, value, "true or false"))
    else:
        assert hint is str, hint
        if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_TEXT:
            raise ValueError(_not_that(what, value, f"a text of at most {_MAX_TEXT} characters"))


def _require_number(what: str, value: object, kind: type, limits: Range) -> None:
    is_kind = isinstance(value, int) or (kind is float and isinstance(value, float))
    words = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not is_kind or not _is_within(value, limits):
        between = f"{words} from {limits.least:.12g} to {limits.most:.12g}"
        raise ValueError(_not_that(what, value, between))


def _is_within(value: Any, limits: Range) -> bool:
    return not math.isnan(value) and limits.least <= value <= limits.most


def _not_that(what: str, value: object, expected: str) -> str:
    return f"{what} is {shown(value)}; it must be {expected}. Check the configuration."
