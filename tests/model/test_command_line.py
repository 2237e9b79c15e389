# SPDX-License-Identifier: Apache-2.0
"""A command line becomes a frozen dataclass, or one sentence and exit code 2."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, UseAppendAction, arg, create_mutex_group, subcommand

from par_model.command_line import (
    default_is,
    one_of,
    output_file,
    output_folder,
    parse,
    read_by,
    require_some,
    run_command,
    some_of,
)

PROGRAM = "python -m par_model.example"
LENGTH = create_mutex_group(required=True)


def even(text: str) -> int:
    if int(text) % 2:
        raise ValueError(f"{text!r} is not even.")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Walk somewhere."""

    # where to
    place: Positional[Path]
    # maps to take along
    maps: Annotated[tuple[Path, ...], arg(metavar="FILE ...")]
    # how long [steps]
    steps: Annotated[int | None, LENGTH] = None
    # how long [h]
    hours: Annotated[float | None, LENGTH] = None
    # how fast [m/s]
    speed_m_s: float = 1.5
    # what is worn
    shoes: Annotated[str | None, one_of(("boots", "clogs")), default_is("whatever is there")] = None
    # who comes along
    company: Annotated[tuple[str, ...], some_of(("dog", "cat"))] = ("dog",)
    # corners of the way
    corners: Annotated[tuple[int, int] | None, default_is("none")] = None
    # legs
    legs: Annotated[int, read_by(even, "EVEN")] = 2
    # songs to sing, repeatable
    song: UseAppendAction[tuple[str, ...]] = ()
    # when
    when: Literal["now", "later"] = "now"
    # by night
    dark: bool = False
    # where the way is drawn
    sketch: Annotated[Path | None, output_file()] = None
    # where the pictures go
    album: Annotated[Path | None, output_folder()] = None

    def __post_init__(self) -> None:
        require_some("--maps", self.maps)


@dataclass(frozen=True)
class Stay:
    """Stay here."""


Plan = Annotated[Walk, subcommand("walk")] | Annotated[Stay, subcommand("stay")]
GOOD = ["walk", "hill", "--maps", "a", "b", "--steps", "3"]


def test_a_line_becomes_a_frozen_dataclass() -> None:
    plan = parse(Plan, PROGRAM, None, GOOD)
    assert plan == Walk(place=Path("hill"), maps=(Path("a"), Path("b")), steps=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.steps = 4
    assert parse(Plan, PROGRAM, None, ["stay"]) == Stay()


def test_all_ways_to_write_a_value() -> None:
    more = ["--speed_m_s=2", "--shoes", "clogs", "--company", "--corners", "1", "-2", "--dark"]
    more += ["--legs", "4", "--song", "one two", "--song", "three", "--when", "later"]
    plan = parse(Plan, PROGRAM, None, [*GOOD, *more])
    assert (plan.speed_m_s, plan.shoes, plan.company, plan.corners) == (2.0, "clogs", (), (1, -2))
    assert (plan.legs, plan.song, plan.when, plan.dark) == (4, ("one two", "three"), "later", True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected one of {walk, stay}."),
        (["run"], "unrecognized options: run. Available subcommands: walk, stay."),
        (["walk", "--steps", "1"], "missing: PATH, --maps FILE .... See"),
        (["walk", "hill", "--maps", "a"], "one of these is needed: --steps, --hours."),
        ([*GOOD, "--hours", "2"], "arguments --steps and --hours are not allowed together."),
        (["walk", "hill", "--steps", "1", "--maps"], "--maps needs at least one value."),
        ([*GOOD, "--speed-m-s", "fast"], "--speed-m-s: 'fast' is not a number."),
        ([*GOOD, "--speed-m-s", "nan"], "--speed-m-s: 'nan' is not a finite number."),
        ([*GOOD, "--speed-m-s", "-inf"], "--speed-m-s: '-inf' is not a finite number."),
        ([*GOOD, "--steps", "1.5"], "--steps: '1.5' is not a whole number."),
        ([*GOOD, "--legs", "3"], "--legs: '3' is not even."),
        ([*GOOD, "--shoes", "None"], "invalid choice 'None' for argument '--shoes'. Expected one"),
        ([*GOOD, "--company", "dog", "cow"], "invalid choice 'cow' for argument '--company'."),
        ([*GOOD, "--when", "never"], "invalid choice 'never' for argument '--when'."),
        ([*GOOD, "--corners", "1"], "missing value for argument '--corners'. Expected 2 values."),
        ([*GOOD, "--fast"], "unrecognized options: --fast."),
        ([*GOOD, "--no-dark"], "unrecognized options: --no-dark."),
        ([*GOOD, "--fast-" + 200 * "x"], f"unrecognized options: --fast-{200 * 'x'}."),
    ],
)
@pytest.mark.parametrize("columns", [None, "40"])
def test_a_mistake_is_one_sentence_and_code_2(
    words: list[str],
    sentence: str,
    columns: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as end:
        parse(Plan, PROGRAM, None, words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}")
    assert error.endswith(f". See {PROGRAM} --help.\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "path", "reason"),
    [
        ("--sketch", "there", "{} is a folder; a file is written, so choose another path."),
        ("--album", "there/file", "{} is a file; a folder is written, so choose another path."),
        ("--sketch", "there/file/below", "the file {} cannot be written: Not a directory; "),
        ("--album", "/proc/nowhere/album", "the folder {} cannot be written: "),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    option: str, path: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    whole = tmp_path / path
    with pytest.raises(SystemExit) as end:
        parse(Plan, PROGRAM, None, [*GOOD, option, str(whole)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option}: {reason.format(whole)}")
    assert error.count("\n") == 1


def test_an_output_that_can_be_written_is_not_made_yet(tmp_path: Path) -> None:
    whole = tmp_path / "new" / "album"
    assert parse(Plan, PROGRAM, None, [*GOOD, "--album", str(whole)]).album == whole
    assert parse(Plan, PROGRAM, None, [*GOOD, "--album", str(tmp_path)]).album == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_help_shows_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(Plan, PROGRAM, "Plans.", ["walk", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "Walk somewhere.",
        "--speed-m-s FLOAT how fast [m/s] (default: 1.5)",
        "--shoes {boots,clogs} what is worn (default: whatever is there)",
        "--company {dog,cat} ... who comes along (default: dog)",
        "--steps INT how long [steps] (default: not given)",
        "--maps FILE ... maps to take along (required)",
        "--legs EVEN legs (default: 2)",
    ):
        assert words in text


def test_what_the_disk_refuses_during_the_work_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere" / "file"
    assert run_command(lambda: path.write_text("") and None, "walk", "stopped") == 1
    reason = "cannot be read or written: No such file or directory; check the path and the disk."
    assert capsys.readouterr().err == f"walk: {path} {reason}\n"


def test_an_os_error_of_no_file_keeps_its_traceback() -> None:
    def fail() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        run_command(fail, "error", "stopped.")


def test_a_whole_number_may_have_any_size() -> None:
    """One of 400 digits is no float, and no traceback."""
    assert parse(Plan, PROGRAM, None, [*GOOD, "--legs", "4", "--corners", "1", "9" * 400])
