# SPDX-License-Identifier: Apache-2.0
"""Defaults and refusals of options that mean different things to different protocols."""

import dataclasses
from typing import Any, TypeVar

# A frozen dataclass; what was not given is None.
Options = TypeVar("Options", bound=Any)


def with_defaults(options: Options, **defaults: object) -> Options:
    """The options with `defaults` where nothing is given. Raises ValueError for a count below 1."""
    missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    options = dataclasses.replace(options, **missing)  # type: ignore[arg-type]
    for name in ("episodes", "max_steps", "streams"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    return options


def refuse(options: Options, what: str, *names: str) -> None:
    """Raise ValueError for an option that would do nothing. None is the default of one that may
    be given with each of its values."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} has no place in {what}, which says it itself; leave it out.")
