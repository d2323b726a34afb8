"""Every row of docs/moving.md has a test that runs the library, marked ``moving(library, row)``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "moving.md"
ENVIRONMENTS = ROOT / "tests" / "integrations" / "environments"
HEADER = ["what", "there", "here", "what to do"]


class Row(NamedTuple):
    """A row of the page, by its section and its first cell."""

    library: str
    what: str


def tables(text: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Of each table: the heading above it, its header, its rows."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0].strip()
        for table in re.findall(r"(?:^\|.*\|\n)+", section + "\n", re.MULTILINE):
            lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.strip().split("\n")]
            yield heading, lines[0], lines[2:]


def marks(path: Path) -> Iterator[Row]:
    """Arguments of the marks ``moving`` on the tests of a file, without importing it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.moving":
                    yield Row(*map(ast.literal_eval, mark.args))


def marked_rows() -> set[Row]:
    return {row for path in sorted((ROOT / "tests").rglob("test_*.py")) for row in marks(path)}


TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [Row(heading, row[0]) for heading, _, rows in tables(TEXT) for row in rows]


def test_tables_have_four_columns() -> None:
    for heading, header, rows in tables(TEXT):
        assert header == HEADER, heading
        for row in rows:
            assert len(row) == len(HEADER) and all(row), f"{heading}: {row}"


def test_every_row_is_tested_and_every_test_has_its_row() -> None:
    assert len(set(ROWS)) == len(ROWS)
    marked = marked_rows()
    assert sorted(set(ROWS) - marked) == [], 'without a test marked @pytest.mark.moving("library", "row")'
    assert sorted(marked - set(ROWS)) == [], "marked, but not in docs/moving.md"


def test_sections_are_listed_with_the_versions_of_the_environments() -> None:
    listed = re.findall(r"^\| \[([^\]]+)\]\(#[\w-]+\) \| ([\w. ,+]+) \|$", TEXT, re.MULTILINE)
    assert [name for name, _ in listed] == list(dict.fromkeys(heading for heading, _, _ in tables(TEXT)))
    pins: dict[str, set[str]] = {}
    for path in ENVIRONMENTS.rglob("*.txt"):
        for name, version in re.findall(r"^([\w-]+)==([\w.]+)", path.read_text(), re.MULTILINE):
            pins.setdefault(name.lower(), set()).add(version)
    for name, version in listed:
        pinned = pins.get(name.lower().replace(" ", "-"))
        assert pinned is None or version in pinned, f"{name}: {version} is tested as {pinned}"


def test_rows_and_marks_are_found(tmp_path: Path) -> None:
    page = "# A\n\n| a |\n|---|\n| b |\n\n## B\n\n| what | there |\n|---|---|\n| ids | `x` |\n\n## C\n\ntext\n"
    assert list(tables(page)) == [("B", ["what", "there"], [["ids", "`x`"]])]
    path = tmp_path / "test_x.py"
    path.write_text("@pytest.mark.moving('B', 'ids')\n@pytest.mark.moving('B', 'b')\ndef test_x(): ...\n")
    assert list(marks(path)) == [("B", "ids"), ("B", "b")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library}: {row.what}")
def test_first_cells_are_short(row: Row) -> None:
    assert len(row.what.split()) <= 8
