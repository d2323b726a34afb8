"""How a text file is laid out: what parts its values, whether its first line has names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .columns import GUESSES, looks_like_data, printable
from .lines import LINE_LIMIT, text_lines

# What values are parted by where a file's suffix says it; other text files are looked at.
DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".dat": "::", ".txt": None, ".data": None}
_TRIED = (",", "\t", ";", "|", "::")
_SAMPLE = 20  # lines that a delimiter has to fit
_LEAST = 3  # columns: user, item, time
_MOVIELENS = ("user_id", "item_id", "rating", "timestamp")
_KNOWN = frozenset(name for names in GUESSES.values() for name in names)
_NAMES_HINT = (
    "; its first line looks like data: name the columns with header= "
    "(resemb data convert --header writes a log that has them)"
)
_OPTION = "delimiter= (--delimiter on the command line)"


@dataclass(frozen=True)
class Layout:
    """Attributes:
    delimiter: the sign between two values: one character, or twice the same.
    names: of the columns.
    preamble: lines before the header that say nothing.
    skip: lines before the first row.
    quotes: whether a quote may open a value; else it is a letter like any other.
    trim: whether blanks around values are no part of them.
    types: of RecBole's columns, by name.
    hint: what to add to a message about columns that are missing.
    """

    delimiter: str
    names: list[str]
    preamble: int
    skip: int
    quotes: bool
    trim: bool
    types: dict[str, str]
    hint: str

    @property
    def step(self) -> int:
        """Characters of the delimiter: parsers know one, which finds an empty column within a doubled one."""
        return len(self.delimiter)

    @property
    def spread(self) -> list[str]:
        """Column names as a parser of one character sees them; those of empty columns begin with NUL."""
        if self.step == 1:
            return self.names
        return [n for name in self.names for n in (name, f"\0{name}")][:-1]

    def records(self, path: Path, quotes: bool, strict: bool = False) -> Iterator[tuple[int, int, list[str]]]:
        """``records`` of the file from the header on; rows begin after ``skip`` lines."""
        for begin, last, values in records(text_lines(path), self.delimiter, quotes, strict):
            if begin > self.preamble:
                yield begin, last, values


def records(
    lines: Iterable[str], delimiter: str, quotes: bool, strict: bool = False
) -> Iterator[tuple[int, int, list[str]]]:
    """Values of each record that is not empty, after its first and last line, counted from 1.

    Raises:
        csv.Error: strictly read, quotes are not well-formed.
        ValueError: a value of more than ``LINE_LIMIT`` bytes.
    """
    reader = csv.reader(
        lines, delimiter=delimiter[0], quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=strict
    )
    begin, limit = 1, csv.field_size_limit()
    csv.field_size_limit(max(LINE_LIMIT, limit))  # one for the whole process
    try:
        for values in reader:
            if values:
                yield begin, reader.line_num, values
            begin = reader.line_num + 1
    except csv.Error as error:
        if "field limit" not in str(error):
            raise
        raise ValueError(
            f"the row that begins in line {begin} has a value of more than {LINE_LIMIT >> 20} MiB, or a stray quote"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _columns(lines: Sequence[str], delimiter: str, quotes: bool) -> list[list[str]] | None:
    """Rows of the sample; None where the delimiter gives them unequal numbers of columns."""
    step = len(delimiter)
    try:
        rows = [values for _, _, values in records(lines, delimiter, quotes)]
    except csv.Error:
        return None
    if any(any(row[1::2]) or len(row) % 2 == 0 for row in rows if step > 1):
        return None
    rows = [row[::step] for row in rows]
    return rows if len({len(row) for row in rows}) == 1 else None


def check_delimiter(delimiter: str) -> str:
    """The delimiter, with the escape of a tab resolved.

    Raises:
        ValueError: it is neither one character nor twice the same, or one that cannot part values.
    """
    sign = {r"\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if not (len(sign) == 1 or (len(sign) == 2 and sign[0] == sign[1])) or sign[0] in '"\r\n\0' or not sign.isascii():
        raise ValueError(f"delimiter: expected one ASCII character, or twice the same, found {delimiter!r}")
    return sign


def _find_delimiter(sample: list[str], usual: str | None, columns: int | None, least: int) -> str:
    """What parts the values: the usual sign unless the sample says otherwise for certain."""

    def fits(sign: str) -> bool:
        for quotes in (len(sign) == 1, False):
            rows = _columns(sample, sign, quotes)
            if rows is not None and (len(rows[0]) == columns if columns else len(rows[0]) >= least):
                return True
        return False

    if usual is not None:
        _, _, first = next(records(sample, usual, len(usual) == 1))
        parts, gaps = first[:: len(usual)], first[1::2] if len(usual) == 2 else []
        if not any(gaps) and (len(parts) == columns if columns else len(parts) >= least):
            return usual
    found = [sign for sign in _TRIED if sign != usual and fits(sign)] or [sign for sign in (" ",) if fits(sign)]
    if len(found) == 1:
        return found[0]
    if usual is not None:
        return usual
    raise ValueError(
        f"cannot tell what parts the values of its first line '{printable(sample[0], 60)}'; give {_OPTION}"
    )


def layout_of(
    path: Path, kind: str, header: Sequence[str] | None, delimiter: str | None, least: int = _LEAST
) -> Layout:
    """Looks at the first lines of a text file, which has at least so many columns.

    Raises:
        ValueError: an empty file, a ``header`` or ``delimiter`` that cannot be, or values parted by nothing known.
    """
    if delimiter is not None:
        delimiter = check_delimiter(delimiter)
    before, sample = 0, []
    for line in text_lines(path):
        if line.strip("\r\n"):
            sample.append(line)
            if len(sample) == _SAMPLE:
                break
        elif not sample:
            before += 1
    if not sample:
        raise ValueError("it is empty")
    declared = re.fullmatch(r'"?sep=(.)"?\s*', sample[0]) if len(sample) > 1 else None  # Excel's first line
    if declared:
        delimiter = delimiter or declared[1]
        sample, before = sample[1:], before + 1
    columns = None if header is None else len(header)
    usual = DELIMITERS[kind]
    if delimiter is None:
        fixed = kind == ".inter"
        delimiter = usual if fixed and usual else _find_delimiter(sample, usual, columns, least)
    step, quotes = len(delimiter), len(delimiter) == 1 and kind != ".inter"
    _, last, first = next(records(sample, delimiter, quotes))
    found = first[::step]
    names, hint, types, preamble, skip = list(header or found), "", {}, before if declared else 0, before + last
    if header is not None:
        skip = preamble
        named = {name.strip().lower() for name in found} & {name.lower() for name in (*header, *_KNOWN)}
        if named:
            raise ValueError(f"header: line 1 holds names itself ({', '.join(sorted(named))}); leave header out")
    elif kind == ".dat" and delimiter == "::" and looks_like_data(found):
        header, names, skip = _MOVIELENS, list(_MOVIELENS), 0
    elif kind == ".inter":
        # RecBole's typed header: user_id:token, timestamp:float.
        types = dict(name.rsplit(":", 1) for name in names if ":" in name)
        names = [name.rsplit(":", 1)[0] for name in names]
        if not types:
            raise ValueError(f"expected a header such as user_id:token, found '{printable(first[0], 60)}'")
    trim = any(name != name.strip(" ") for name in found) if header is None else _blank_after_each(found)
    if trim:
        names = [name.strip(" ") for name in names]
    if header is None and looks_like_data(names):
        hint = _NAMES_HINT
    if header is None and len(names) < least:
        hint += f"; if something else parts its columns, give {_OPTION}"
    if len(found) != len(names) or any(first[1::step] if step > 1 else ()):
        raise ValueError(
            f"line {before + 1} has {len(found)} columns, expected {len(names)}: {printable(delimiter.join(names))}"
        )
    return Layout(delimiter, names, preamble, skip, quotes, trim, types, hint)


def _blank_after_each(values: Sequence[str]) -> bool:
    return len(values) > 1 and all(value.startswith(" ") for value in values[1:])


def bad_line(path: Path, layout: Layout, quotes: bool) -> str | None:
    """Which line of a file that cannot be parsed is at fault, and why; None where none is seen."""
    step, expected = layout.step, len(layout.names)
    for begin, last, values in layout.records(path, quotes):
        shown = f"{layout.delimiter.join(values[::step]):.60}"
        found = -(-len(values) // step)
        if len(values) != expected * step - (step - 1):
            lines = f"line {last}" if begin == last else f"lines {begin} to {last}, one quoted value among them"
            return f"{lines}: expected {expected} columns, found {found} ({shown!a})"
        if any("\ufffd" in value for value in values):
            return f"line {last} is not UTF-8 text ({shown!a}); save it as UTF-8"
    return None
