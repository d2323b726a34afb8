"""Raw (history, target) rows of a Parquet or CSV file, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resemb_ext.data import BadEntry, IdMap
from resemb_ext.data.arrow import as_arrow, missing
from resemb_ext.data.columns import list_names, named_like
from resemb_ext.data.delimited import Delimited
from resemb_ext.data.findings import warn
from resemb_ext.data.joined import expanded, is_list, read_histories, row_with, split_histories, without_nulls
from resemb_ext.data.layout import layout_of
from resemb_ext.data.separators import BadHistory, Targets, check_words, find_separator, unescaped
from resemb_ext.data.source import readable

_HISTORY_NAMES = ("history", "item_history", "history_items", "hist", "item_seq")
_TARGET_NAMES = ("target", "target_item", "item_id", "item")
BATCH_ROWS = 1 << 15
BATCH_BYTES = 1 << 22


def read_batches(source: Path) -> Iterator[Any]:
    """First (column names, whether all is text, rows where known), then record batches."""
    if source.suffix == ".csv":
        yield from _csv_batches(source)
        return
    with pq.ParquetFile(source) as parquet:
        yield parquet.schema_arrow.names, False, parquet.metadata.num_rows
        yield from parquet.iter_batches(BATCH_ROWS)


def _csv_batches(source: Path) -> Iterator[Any]:
    with readable(source):
        file = Delimited(source, layout_of(source, ".csv", None, None, least=2))
    if file.layout.step > 1:
        raise ValueError(f"cannot read {source}: {file.layout.delimiter} parts its columns, expected one character")
    yield file.layout.names, True, None
    # All as text: what is not an id passes through as it stands.
    yield from file.batches(BATCH_ROWS, BATCH_BYTES)
    warn(source.name, file.findings)


def find_columns(names: Sequence[str], history: str | None, target: str | None, source: Path) -> tuple[str, str]:
    """The history's and the target's column."""
    listing = f"{source.name} has the columns: {list_names(names)}"
    found = []
    for what, given, known in (("history", history, _HISTORY_NAMES), ("target", target, _TARGET_NAMES)):
        if given is not None and given not in names:
            raise ValueError(f"no column {given!r} (given as {what} column); {listing}")
        guess = given or next(iter(named_like(names, known)), None)
        if guess is None:
            raise ValueError(f"cannot guess the {what} column: name it (known names: {', '.join(known)}); {listing}")
        if names.count(guess) > 1:
            raise ValueError(f"the {what} column {guess!r} occurs more than once; {listing}")
        found.append(guess)
    return found[0], found[1]


def targets_of(values: pa.Array, column: str) -> pa.Array:
    """``values``, none of them null, NaN or empty text."""
    values = as_arrow(values, column)
    bad = missing(values)
    if bad.any():
        raise BadEntry(int(bad.argmax()), column, "null or empty id")
    return values


class TextHistories:
    """Splits histories that are text, batch after batch of a file, by one separator.

    Args:
        items: id map of the run.
        separator: between the ids, ``"[]"`` for lists in brackets; None finds it.

    Attributes:
        separator: what was given or found; "" until a history has several ids.
        missing: histories that spell a missing value, such as "nan", and were taken for none.
    """

    def __init__(self, items: IdMap, separator: str | None) -> None:
        self.missing = 0
        self._given = separator is not None
        self.separator = "" if separator is None else unescaped(separator)
        integers = items.kind != "text"
        self._known = Targets(
            integers,
            pa.array([] if integers else items.values, pa.large_string()),
            complete=False,
            names="ids of the run's log",
            never="are not in the run's log",
            option="separator= (--separator on the command line)",
        )

    def split(self, values: pa.Array, column: str) -> tuple[pa.Array, np.ndarray]:
        """Ids of all histories one after another, large_string, and how many each has.

        Raises:
            BadEntry: ids that cannot be those of the run, an empty id, or a second separator.
        """
        histories, missing = without_nulls(read_histories(values, column), self._known.nulls)
        self.missing += missing
        if not self.separator:
            self.separator = find_separator(histories.texts, self._known)
        sequences = split_histories(histories, self.separator)
        codes, lengths = expanded(histories, sequences)
        counts = np.bincount(codes, minlength=len(sequences.words))
        try:
            check_words(sequences.words, counts, self.separator, self._known, given=self._given)
        except BadHistory as bad:
            raise BadEntry(row_with(histories, sequences, bad.text) or 0, column, str(bad)) from None
        return sequences.words.take(pa.array(codes)), lengths


def list_histories(values: pa.Array, column: str) -> tuple[pa.Array, np.ndarray]:
    """Ids of all histories, each a list, one after another, and how many each has."""
    if pa.types.is_null(values.type):
        values = values.cast(pa.list_(pa.int64()))
    if not is_list(values.type):
        raise TypeError(
            f"column {column!r} has type {values.type}; a history is a list of ids, or text of ids "
            "joined by the separator"
        )
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype(np.int64)
    ids = values.flatten()
    if pa.types.is_null(ids.type) and not len(ids):
        ids = ids.cast(pa.int64())
    bad = missing(ids)
    if bad.any():
        row = int(np.searchsorted(np.cumsum(lengths), bad.argmax(), side="right"))
        raise BadEntry(row, column, "null or empty id in the history")
    return ids, lengths


def without_lists(batch: pa.RecordBatch, separator: str) -> pa.RecordBatch:
    """Lists as joined text, which a CSV can hold."""
    arrays = [
        pc.binary_join(column.cast(pa.list_(pa.string())), separator) if is_list(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
