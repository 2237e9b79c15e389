# SPDX-License-Identifier: Apache-2.0
"""Fields of a dataclass that are settings: default, range, unit and description, declared once.

A setting that several classes have is declared in one of them; the others take it by `same_as`.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

Scalar = bool | int | float | str

_TYPES = (bool, int, float, str)


@dataclass(frozen=True)
class Constraint:
    """What a parameter is, beyond its type. Ranges include their ends."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    # Fixed when the node starts. False for what a service reads again (`task`, `seed`, ...).
    read_only: bool = True


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = True,
) -> Any:
    """A dataclass field that is a setting. None as the default means "not set"."""
    constraint = Constraint(description, unit, minimum, maximum, choices, read_only)
    return dataclasses.field(default=default, metadata={"constraint": constraint})


def same_as(kind: type[Any], name: str, **changes: Any) -> Any:
    """The field `name` of `kind` once more, with another `default` or other parts of Constraint."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    default = changes.pop("default", field.default)
    constraint = dataclasses.replace(constraint_of(field), **changes)
    return dataclasses.field(default=default, metadata={"constraint": constraint})


def values_of(kind: type[Any], settings: Any) -> dict[str, Any]:
    """What `settings` has of the fields of `kind`, by name."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}


def validate(parameters: Any, owner: str) -> None:
    """Raise ValueError for the first value outside its range or choices. `owner`: for the text."""
    for field in dataclasses.fields(parameters):
        require_value(owner, field, getattr(parameters, field.name))


def parse_text(owner: str, field: "dataclasses.Field[Any]", text: str) -> Scalar:
    """The value of `name:=text`, typed and checked. Raises ValueError naming the parameter."""
    kind = value_type(field)
    value: Scalar
    try:
        if kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        else:
            value = kind(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(
            f"{owner}: {field.name} must be {expected}, got {text!r}; "
            f"{constraint_of(field).description}."
        ) from None
    require_value(owner, field, value)
    return value


def constraint_of(field: "dataclasses.Field[Any]") -> Constraint:
    """The Constraint that `parameter(...)` stored in a field."""
    constraint = field.metadata["constraint"]
    assert isinstance(constraint, Constraint)
    return constraint


def value_type(field: "dataclasses.Field[Any]") -> type:
    """bool, int, float or str; of `int | None`, int."""
    kind: Any = field.type
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    assert kind in _TYPES, f"{field.name}: {kind}"
    return typing.cast(type, kind)


def require_value(owner: str, field: "dataclasses.Field[Any]", value: Any) -> None:
    """Raise ValueError unless `value` has the field's type, range and choices."""
    if value is None and field.default is None:
        return
    constraint = constraint_of(field)
    kind = value_type(field)
    right_type = type(value) is kind or (kind is float and type(value) is int)
    low = constraint.minimum is None or (right_type and value >= constraint.minimum)
    high = constraint.maximum is None or (right_type and value <= constraint.maximum)
    chosen = not constraint.choices or value in constraint.choices
    if not (right_type and low and high and chosen):
        raise ValueError(
            f"{owner}: {field.name} must be {range_text(field)}, got {value!r}; "
            f"{constraint.description}."
        )


def range_text(field: "dataclasses.Field[Any]") -> str:
    """What values a field takes, in words."""
    constraint = constraint_of(field)
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[
        value_type(field)
    ]
    if constraint.choices:
        return "one of " + ", ".join(constraint.choices)
    unit = f" {constraint.unit}" if constraint.unit else ""
    if constraint.minimum is not None and constraint.maximum is not None:
        return f"{kind} from {constraint.minimum:.12g} to {constraint.maximum:.12g}{unit}"
    if constraint.minimum is not None:
        return f"{kind} of at least {constraint.minimum:.12g}{unit}"
    if constraint.maximum is not None:
        return f"{kind} of at most {constraint.maximum:.12g}{unit}"
    return kind
