"""Bad entries of columns."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import pyarrow as pa


class BadEntry(ValueError):
    """A bad entry of a column: ``row`` counts from 0, ``what`` says the column and the fault."""

    def __init__(self, row: int, column: str, fault: str) -> None:
        self.row, self.column, self.fault = row, column, fault
        super().__init__(f"column {column!r}, row {row}: {fault}; rows count from 0, no header")

    @property
    def what(self) -> str:
        """Column and fault without the row, for messages that name the place otherwise."""
        return f"column {self.column!r}: {self.fault}"

    def at(self, row: int) -> BadEntry:
        """The same fault in another row."""
        return type(self)(row, self.column, self.fault)


class NullEntry(BadEntry):
    """An entry that is not there: null, NaN or empty text."""


def plural(what: str) -> str:
    """Several of what an entry is: "item ids", "categories"."""
    return what[:-1] + "ies" if what.endswith("y") else what + "s"


def raise_at(
    mask: pa.Array | np.ndarray, column: str, what: str, values: pa.Array, error: type[BadEntry] = BadEntry
) -> NoReturn:
    """Raise ``error`` for the first row where ``mask`` is true; it says how many more there are."""
    rows = np.flatnonzero(np.asarray(mask))
    row = int(rows[0])
    shown = "" if values[row].as_py() is None else f" ({values[row].as_py()!r:.80})"
    more = f", as in {len(rows) - 1} more rows" if len(rows) > 1 else ""
    raise error(row, column, f"{what}{shown}{more}")
