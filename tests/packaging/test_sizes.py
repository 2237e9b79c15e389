# SPDX-License-Identifier: Apache-2.0
"""No file over 500 lines, no class over 300, no function over 60 except tables."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("par_model", "par_ros")
MAX_FILE, MAX_CLASS, MAX_FUNCTION = 500, 300, 60

# Functions that are tables: one expression of names and values.
TABLES = {"par_ros/node_graph.py: sim_graph"}


def too_long(name: str, text: str) -> Iterator[str]:
    """What of a file is over the limits, with its number of lines; decorators count."""
    num_lines = len(text.splitlines())
    if num_lines > MAX_FILE:
        yield f"{name}: {num_lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            most = MAX_CLASS
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            most = MAX_FUNCTION
        else:
            continue
        assert node.end_lineno is not None
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        num_lines = node.end_lineno - first + 1
        if num_lines > most and f"{name}: {node.name}" not in TABLES:
            yield f"{name}: {node.name}: {num_lines} lines"


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_no_file_class_or_function_is_too_long() -> None:
    paths = sources()
    assert len(paths) > 100
    found = [
        text
        for path in paths
        for text in too_long(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert found == [], "split what is too long into parts that a reader can name"


def test_each_table_is_there_still_and_long() -> None:
    for table in TABLES:
        name, function = table.split(": ")
        nodes = [
            node
            for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert len(nodes) == 1, f"{table} is gone: take it out of TABLES"
        assert nodes[0].end_lineno is not None
        is_long = nodes[0].end_lineno - nodes[0].lineno >= MAX_FUNCTION
        assert is_long, f"{table} is short: take it out of TABLES"


@pytest.mark.parametrize(
    ("head", "most"),
    [("class Long:", 300), ("def long():", 60), ("@cache\ndef long():", 60)],
)
def test_one_line_too_many_is_found(head: str, most: int) -> None:
    body = [f"    x{number} = 0" for number in range(most - head.count("\n") - 1)]
    fits = "\n".join([head, *body])
    assert list(too_long("a.py", fits)) == []
    (found,) = too_long("a.py", f"{fits}\n    last = 0")
    assert found.endswith(f"{most + 1} lines")


def test_a_file_of_501_lines_is_found() -> None:
    assert list(too_long("a.py", "x = 0\n" * 500)) == []
    assert list(too_long("a.py", "x = 0\n" * 501)) == ["a.py: 501 lines"]
