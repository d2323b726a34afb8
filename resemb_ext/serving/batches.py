"""Raw (history, target) rows of a Parquet or CSV file, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from resemb_ext.data import BadEntry, IdMap
from resemb_ext.data.findings import WARNING, Finding, warn
from resemb_ext.data.joined import expanded, is_list, read_histories, row_with, split_histories, without_nulls
from resemb_ext.data.layout import layout_of
from resemb_ext.data.lines import LINE_LIMIT, LineStream, filled_lines
from resemb_ext.data.separators import NULLS, BadHistory, Targets, check_words, find_separator, unescaped
from resemb_ext.data.source import readable
from resemb_ext.data.spelled import is_text

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
        layout = layout_of(source, ".csv", None, None)
    if layout.step > 1:
        raise ValueError(f"cannot read {source}: {layout.delimiter} parts its columns, expected one character")
    names = layout.names
    yield names, True, None
    filled = rows = 0

    def count(chunk: bytes) -> None:
        nonlocal filled
        filled += filled_lines(chunk)

    stream = LineStream(source, BATCH_BYTES, layout.skip, count)
    if stream.at_end():
        return
    # All as text: what is not an id passes through as it stands.
    convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names})
    parse = pa.csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True)
    read = pa.csv.ReadOptions(use_threads=False, block_size=4 * LINE_LIMIT, column_names=names)
    with pa.csv.open_csv(stream, read, parse, convert) as reader:
        for batch in reader:
            rows += len(batch)
            if layout.trim:
                batch = pa.RecordBatch.from_arrays([pc.utf8_trim(c, " ") for c in batch.columns], names=names)
            for low in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(low, BATCH_ROWS)
    if rows < filled:
        found = f"{rows:,} rows are in {filled:,} lines: quoted values hold line ends, or a quote is a stray one"
        warn(source.name, [Finding(WARNING, "quotes", found, "scored as rows of several lines")])


def find_columns(names: Sequence[str], history: str | None, target: str | None, source: Path) -> tuple[str, str]:
    """The history's and the target's column."""
    listing = f"{source.name} has the columns: {', '.join(names) or '(none)'}"
    plain = {name.lower().replace("-", "_"): name for name in reversed(names)}
    found = []
    for what, given, known in (("history", history, _HISTORY_NAMES), ("target", target, _TARGET_NAMES)):
        if given is not None and given not in names:
            raise ValueError(f"no column {given!r} (given as {what} column); {listing}")
        guess = given or next((plain[name] for name in known if name in plain), None)
        if guess is None:
            raise ValueError(f"cannot guess the {what} column: name it (known names: {', '.join(known)}); {listing}")
        found.append(guess)
    return found[0], found[1]


def targets_of(values: pa.Array, column: str) -> pa.Array:
    """``values``, none of them null or empty text."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    bad = pc.is_null(values)
    if is_text(values.type):
        bad = pc.or_(bad, pc.fill_null(pc.equal(values, ""), False))
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        raise BadEntry(row, column, "null or empty id")
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
        self._nulls = [word for word in NULLS if not self._known.holds(word)]

    def split(self, values: pa.Array, column: str) -> tuple[pa.Array, np.ndarray]:
        """Ids of all histories one after another, large_string, and how many each has.

        Raises:
            BadEntry: ids that cannot be those of the run, an empty id, or a second separator.
        """
        histories, missing = without_nulls(read_histories(values, column), self._nulls)
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
    bad = pc.is_null(ids)
    if is_text(ids.type):
        bad = pc.or_(bad, pc.fill_null(pc.equal(ids, ""), False))
    if pc.any(bad).as_py():
        place = pc.index(bad, True).as_py()
        row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        raise BadEntry(row, column, "null or empty id in the history")
    return ids, lengths


def without_lists(batch: pa.RecordBatch, separator: str) -> pa.RecordBatch:
    """Lists as joined text, which a CSV can hold."""
    arrays = [
        pc.binary_join(column.cast(pa.list_(pa.string())), separator) if is_list(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
