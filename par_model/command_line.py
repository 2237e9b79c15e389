# SPDX-License-Identifier: Apache-2.0
"""Command lines as frozen dataclasses, read by tyro.

A field is an option: its name with dashes, its type, its default, and the comment above it as help.
What cannot be read is refused with one sentence on stderr and exit code 2.
"""

import io
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NoReturn, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from par_model.output_files import require_place

BAD_USE = 2
_MARKERS = (tyro.conf.FlagCreatePairsOff,)
_ANSI_CODE = re.compile(r"\x1b\[[0-9;]*m")
# What a number must be, in words.
_NUMBERS: dict[type[int | float], str] = {int: "a whole number", float: "a number"}
# What --help says of the default None.
_NOT_GIVEN = ["not", "given"]
# Wide enough that tyro breaks no line of a message.
_WIDE = "10000"


def parse(options: Any, program: str, description: str | None, words: Sequence[str] | None) -> Any:
    """Read a command line.

    Args:
        options: a frozen dataclass, or a union of them: one subcommand each.
        program: what the user has typed to start it, such as "python -m par_model.train".
        description: the text of --help.
        words: the command line; None: this process's.

    Returns:
        An instance of `options`.

    Raises:
        SystemExit: code 2 for a command line that cannot be read or that `options` refuses with a
            ValueError, after one sentence on stderr; code 0 after --help.
    """
    words = list(sys.argv[1:] if words is None else words)
    messages = io.StringIO()
    try:
        with redirect_stderr(messages), _unbroken_lines(words):
            return tyro.cli(
                options,
                prog=program,
                description=description,
                args=words,
                config=_MARKERS,
                registry=_registry(),
            )
    except SystemExit as end:
        if end.code != BAD_USE:
            raise
        refuse(program, _sentence(messages.getvalue()))


def run_command(run: Callable[[], None], name: str, when_stopped: str) -> int:
    """Do a command's work.

    Args:
        name: before the sentence of a ValueError, or of what the disk refuses.
        when_stopped: what is printed after Ctrl-C: how to go on.

    Returns:
        The exit code: 0, 1 after such an error, 130 after Ctrl-C.
    """
    try:
        run()
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be read or written: {error.strerror}"
        print(f"{name}: {reason}; check the path and the disk.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(when_stopped, file=sys.stderr)
        return 130
    return 0


def refuse(program: str, sentence: str) -> NoReturn:
    """Print what is wrong with a command line, and raise SystemExit with code 2."""
    print(f"error: {sentence} See {program} --help.", file=sys.stderr, flush=True)
    raise SystemExit(BAD_USE)


def default_is(words: str) -> Any:
    """For a field whose default is None: what --help says of it, such as "the checkpoint's"."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {words})")


def one_of(names: Collection[str]) -> PrimitiveConstructorSpec[str | None]:
    """A text that must be one of `names`; or None, where that is the default."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(names) + "}",
        instance_from_str=lambda texts: texts[0],
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: _NOT_GIVEN if value is None else [value],
        choices=tuple(names),
    )


def some_of(names: Collection[str]) -> PrimitiveConstructorSpec[tuple[str, ...] | None]:
    """Any number of texts, each one of `names`; or None, where that is the default."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="{" + ",".join(names) + "} ...",
        instance_from_str=tuple,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: _NOT_GIVEN if value is None else list(value),
        choices=tuple(names),
    )


def read_by(
    read: Callable[[str], Any], metavar: str, show: Callable[[Any], str] = str
) -> PrimitiveConstructorSpec[Any]:
    """A value that `read` makes from one word; it raises ValueError with a sentence."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [show(value)],
    )


def output_file(metavar: str = "FILE") -> PrimitiveConstructorSpec[Path | None]:
    """The path of a file that the command writes; refused before any work where it could not be.
    Or None, where that is the default."""
    return _output(metavar, is_folder=False)


def output_folder(metavar: str = "DIR") -> PrimitiveConstructorSpec[Path | None]:
    """As output_file, of a folder."""
    return _output(metavar, is_folder=True)


def _output(metavar: str, *, is_folder: bool) -> PrimitiveConstructorSpec[Path | None]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: require_place(Path(texts[0]), is_folder=is_folder),
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: _NOT_GIVEN if value is None else [str(value)],
    )


def require_some(option: str, values: Sequence[object] | None) -> None:
    """Raise ValueError for an option that is given without a value after it."""
    if values is not None and not values:
        raise ValueError(f"{option} needs at least one value.")


def require_counts(option: str, values: Sequence[int]) -> None:
    """Raise ValueError for an option without a number after it, or with one below 1."""
    require_some(option, values)
    if min(values) < 1:
        raise ValueError(f"{option} must be 1 or more, got {min(values)}.")


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    registry.primitive_rule(_number_rule)
    registry.primitive_rule(_optional_rule)
    return registry


def _number_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type not in _NUMBERS:
        return None
    kind, what = info.type, _NUMBERS[info.type]

    def read(texts: list[str]) -> int | float:
        try:
            value = kind(texts[0])
        except ValueError:
            raise ValueError(f"{texts[0]!r} is not {what}.") from None
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{texts[0]!r} is not a finite number.")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        # A whole number is a number, too.
        is_instance=lambda value: isinstance(value, (int, kind)),
        str_from_instance=lambda value: [f"{value:g}" if kind is float else str(value)],
    )


def _optional_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`X | None` is read as X: None is what was not given, and no word of a command line."""
    kinds = get_args(info.type)
    if len(kinds) != 2 or type(None) not in kinds:
        return None
    (kind,) = (each for each in kinds if each is not type(None))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return PrimitiveConstructorSpec(
        nargs=spec.nargs,
        metavar=spec.metavar,
        instance_from_str=spec.instance_from_str,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            _NOT_GIVEN if value is None else spec.str_from_instance(value)
        ),
        choices=spec.choices,
    )


@contextmanager
def _unbroken_lines(words: Sequence[str]) -> Iterator[None]:
    """tyro breaks lines at the terminal's width, which is right for --help only."""
    if not {"-h", "--help"}.isdisjoint(words):
        yield
        return
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDE
    try:
        yield
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def _sentence(box: str) -> str:
    """What tyro says in a frame of several lines, as one sentence."""
    lines = [line[2:-2].rstrip() for line in _ANSI_CODE.sub("", box).splitlines()[1:-1]]
    parts = _parts(lines)
    if not parts:
        return "the command line cannot be read."
    first, *others = parts
    if first[0].startswith("Missing from"):
        # Each missing option is followed by its help, further in.
        names = [line.strip() for line in first[1:] if re.match(r" {4}\S", line)]
        return f"missing: {', '.join(names)}."
    text = " ".join(line.strip(" •") for line in first)
    # What a dataclass itself refuses is called by the class's name, which tells a user nothing.
    text = re.sub(r"^Error parsing (?:(--\S+: )|\S+: )", r"\1", text)
    text = text.replace("Missing required argument group:", "one of these is needed:")
    known = [part[0] for part in others if part[0].startswith("Available subcommands:")]
    sentence = ". ".join([text.rstrip(".!"), *known])
    return f"{sentence[0].lower()}{sentence[1:]}."


def _parts(lines: list[str]) -> list[list[str]]:
    """The lines between the frame's horizontal rules."""
    parts: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= set("─-"):
            parts.append([])
        elif line:
            parts[-1].append(line)
    return [part for part in parts if part]
