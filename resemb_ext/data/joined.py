"""Histories, as lists or as text that joins ids: distinct ones split once, as jagged numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import BadEntry, as_arrow, canonical_ids
from .findings import WARNING, Finding
from .separators import UNIT, BadHistory, split_texts
from .spelled import is_text

# Histories split at a time, so that their texts never all exist at once.
CHUNK = 1 << 18


class Histories(NamedTuple):
    """The histories of a column, distinct ones once.

    Attributes:
        column: its name, for messages.
        which: int64 [N], which of ``texts`` each row has, -1 for none.
        texts: large_string, distinct, none empty.
        separator: what joins the ids where the column holds lists (``UNIT``); None: to be found.
    """

    column: str
    which: np.ndarray
    texts: pa.Array
    separator: str | None


class Sequences(NamedTuple):
    """Jagged tokens: ``codes`` into ``words``, sequence k is ``codes[start[k]:start[k + 1]]``."""

    codes: np.ndarray
    start: np.ndarray
    words: pa.Array


def is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def read_histories(values: Any, column: str) -> Histories:
    """The histories of a column.

    Args:
        values: lists of ids, text that joins ids, or nothing but nulls.
        column: its name.

    Raises:
        TypeError: another type.
        BadEntry: a null, empty or fractional id in a list.
    """
    array = as_arrow(values, column)
    separator = None
    if is_list(array.type):
        array, separator = _joined(array, column), UNIT
    elif pa.types.is_null(array.type):
        array = array.cast(pa.large_string())
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        array = canonical_ids(array, column, "id in a history", nulls=True)  # each history is one id
    elif not is_text(array.type):
        raise TypeError(f"column {column!r} has type {array.type}; histories are lists of ids, or text that joins ids")
    array = array.cast(pa.large_string())
    blank = pc.equal(pc.utf8_trim_whitespace(array), "") if separator is None else pc.equal(array, "")
    if separator is None:
        blank = pc.or_(blank, pc.match_substring_regex(array, r"^\s*(\[\s*\]|\(\s*\))\s*$"))
    encoded = pc.if_else(blank, pa.scalar(None, array.type), array).dictionary_encode()
    index = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Histories(column, index, encoded.dictionary, separator)


def _joined(array: pa.Array, column: str) -> pa.Array:
    """Lists of ids as text."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    flat = array.flatten()
    try:
        ids = canonical_ids(flat, column, "id in a history").cast(pa.large_string())
        held = pc.match_substring(ids, UNIT)
        if pc.any(held).as_py():
            raise BadEntry(pc.index(held, True).as_py(), column, "an id in a history holds a control character")
    except BadEntry as bad:
        raise bad.at(int(np.searchsorted(np.cumsum(lengths), bad.row, side="right"))) from None
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))
    return pc.binary_join(pa.LargeListArray.from_arrays(offsets, ids), pa.scalar(UNIT, pa.large_string()))


def without_nulls(histories: Histories, words: Sequence[str]) -> tuple[Histories, int]:
    """The histories without those that are one of ``words``, each a missing value; and in how many rows it was."""
    null = pc.is_in(histories.texts, value_set=pa.array(words, pa.large_string())).to_numpy(zero_copy_only=False)
    if histories.separator is not None or not null.any():
        return histories, 0
    number = np.append(np.where(null, -1, np.cumsum(~null) - 1), -1)
    which = number[histories.which]
    rows = int((which < 0).sum() - (histories.which < 0).sum())
    return histories._replace(which=which, texts=histories.texts.filter(pa.array(~null))), rows


def no_history(count: int, done: str) -> Finding:
    """The warning of histories that ``without_nulls`` left out: how many, and what was done with them."""
    some = f"{count:,} histories spell" if count > 1 else "one history spells"
    return Finding(WARNING, "no history", f"{some} a missing value, as nan and None are", done)


def split_histories(histories: Histories, separator: str) -> Sequences:
    """The tokens of the distinct histories.

    Args:
        histories: of one column.
        separator: see ``split_texts``; that of lists goes before it.

    Raises:
        BadEntry: an empty id in a history, or with ``LIST`` one that is no list.
    """
    codes, lengths, words = [], [np.zeros(1, np.int64)], pa.array([], pa.large_string())
    for low in range(0, len(histories.texts), CHUNK):
        texts = histories.texts.slice(low, CHUNK)
        try:
            lists = split_texts(texts, histories.separator or separator)
        except BadHistory as bad:
            raise BadEntry(row_of(histories, bad.text), histories.column, str(bad)) from None
        sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        tokens = pc.list_flatten(lists).cast(pa.large_string())
        empty = pc.equal(tokens, "")
        if pc.any(empty).as_py():
            at = int(np.flatnonzero(empty.to_numpy(zero_copy_only=False))[0])
            bad_text = low + int(np.searchsorted(np.cumsum(sizes), at, side="right"))
            row = int(np.flatnonzero(histories.which == bad_text)[0])
            raise BadEntry(row, histories.column, "empty id in a history")
        chunk = tokens.dictionary_encode()
        words = pc.unique(pa.concat_arrays([words, chunk.dictionary]))
        place = pc.index_in(chunk.dictionary, value_set=words).to_numpy(zero_copy_only=False)
        codes.append(place[chunk.indices.to_numpy(zero_copy_only=False)].astype(np.int32))
        lengths.append(sizes)
    start = np.cumsum(np.concatenate(lengths))
    flat = np.concatenate(codes) if codes else np.zeros(0, np.int32)
    return Sequences(flat, start, words)


def expanded(histories: Histories, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the ids of all rows one after another, and how many each row has; int64."""
    lengths = row_lengths(histories.which, sequences)
    begin = np.append(sequences.start[:-1], 0)[histories.which]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return sequences.codes[np.repeat(begin, lengths) + within].astype(np.int64), lengths


def row_with(histories: Histories, sequences: Sequences, word: str | None) -> int | None:
    """The first row whose history holds an id; None where none does."""
    code = pc.index(sequences.words, pa.scalar(word, pa.large_string())).as_py()
    if code < 0:
        return None
    at = np.flatnonzero(sequences.codes == code)[0]
    sequence = np.searchsorted(sequences.start, at, side="right") - 1
    return int(np.flatnonzero(histories.which == sequence)[0])


def ends_with(parts: Sequence[Sequences], word: str) -> tuple[int, int, str] | None:
    """Of ids of histories: how many are ``word``, how many there are, and whether they fill "starts" or "ends".

    None where it occurs within histories too, or not at all.
    """
    count, total, sides = 0, 0, {"starts", "ends"}
    for part in parts:
        total += len(part.codes)
        code = pc.index(part.words, pa.scalar(word, pa.large_string())).as_py()
        if code < 0:
            continue
        same = part.codes == code
        count += int(same.sum())
        first = np.zeros(len(same) + 1, dtype=bool)
        first[part.start] = True
        if (same & ~first[:-1] & ~np.append(False, same[:-1])).any():
            sides.discard("starts")
        if (same & ~first[1:] & ~np.append(same[1:], False)).any():
            sides.discard("ends")
    return (count, total, max(sides)) if count and sides else None


def row_of(histories: Histories, text: str | None) -> int:
    """The first row that has a history."""
    place = pc.index(histories.texts, pa.scalar(text, pa.large_string())).as_py()
    return int(np.flatnonzero(histories.which == place)[0])


def row_lengths(index: np.ndarray, sequences: Sequences) -> np.ndarray:
    return np.append(np.diff(sequences.start), 0)[index]  # -1 takes the 0 at the end


def check_lengths(index: np.ndarray, one: Sequences, other_index: np.ndarray, other: Sequences, column: str) -> None:
    lengths, found = row_lengths(index, one), row_lengths(other_index, other)
    if not np.array_equal(lengths, found):
        row = int(np.flatnonzero(lengths != found)[0])
        raise BadEntry(row, column, f"{found[row]} entries, but {lengths[row]} items in the history")


def aligned(index: np.ndarray, items: Sequences, other_index: np.ndarray, other: Sequences) -> Sequences:
    """The other sequences in the order of the items' (one of each distinct item sequence's)."""
    which = np.zeros(len(items.start) - 1, dtype=np.int64)
    used = index >= 0
    which[index[used]] = other_index[used]
    lengths = np.diff(items.start)
    shift = np.repeat(other.start[which] - items.start[:-1], lengths)
    return Sequences(other.codes[shift + np.arange(len(shift))], items.start, other.words)
