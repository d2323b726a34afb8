"""A file of columns that are known and not yet read, and the messages about it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from .columns import printable
from .findings import Finding


@dataclass(frozen=True)
class Source:
    """A file, or a folder of parts, whose columns are known and not yet read.

    Attributes:
        path: the file or folder.
        names: its columns.
        read: takes column names and gives a table of them. Text files give text.
        text: whether columns are text that may spell integers.
        hint: what to add to a message about columns that are missing.
        place: takes a row (0-based) to its place, such as "log.csv, line 5"; None stands for the row's number.
        findings: what is odd about the file; ``read`` adds to them.
        lacking: of a folder, what is to be said of each column that some of its parts do not have; filled by ``read``.
    """

    path: Path
    names: list[str]
    read: Callable[[Sequence[str]], pa.Table]
    text: bool = False
    hint: str = ""
    place: Callable[[int], str] | None = field(default=None, repr=False)
    findings: list[Finding] = field(default_factory=list, repr=False)
    lacking: dict[str, str] = field(default_factory=dict, repr=False)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what readers raise into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError, csv.Error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        why = printable(str(error)) or type(error).__name__
        raise ValueError(f"cannot read {str(path)!r}: {why}") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"cannot read {str(path)!r}: {error}") from None
