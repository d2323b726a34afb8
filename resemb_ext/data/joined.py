"""Histories written as ids joined by ``^``: distinct ones split once, as jagged numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import BadEntry, as_arrow

_SEPARATOR = "^"
# Histories split at a time, so that their texts never all exist at once.
CHUNK = 1 << 18


class Sequences(NamedTuple):
    """Jagged tokens: ``codes`` into ``words``, sequence k is ``codes[start[k]:start[k + 1]]``."""

    codes: np.ndarray
    start: np.ndarray
    words: pa.Array


def split_histories(values: Any, column: str) -> tuple[np.ndarray, Sequences]:
    """Which distinct history each row has (-1: none), and these histories' tokens."""
    array = as_arrow(values, column)
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise TypeError(f"column {column!r} has type {array.type}; histories are ids joined by {_SEPARATOR}")
    array = pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
    encoded = array.dictionary_encode()
    index = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    codes, lengths, words = [], [np.zeros(1, np.int64)], pa.array([], pa.large_string())
    for low, tokens, sizes in _split(encoded.dictionary):
        empty = pc.equal(tokens, "")
        if pc.any(empty).as_py():
            at = int(np.flatnonzero(empty.to_numpy(zero_copy_only=False))[0])
            bad = low + int(np.searchsorted(np.cumsum(sizes), at, side="right"))
            raise BadEntry(int(np.flatnonzero(index == bad)[0]), column, "empty id in a history")
        chunk = tokens.dictionary_encode()
        words = pc.unique(pa.concat_arrays([words, chunk.dictionary]))
        place = pc.index_in(chunk.dictionary, value_set=words).to_numpy(zero_copy_only=False)
        codes.append(place[chunk.indices.to_numpy(zero_copy_only=False)].astype(np.int32))
        lengths.append(sizes)
    start = np.cumsum(np.concatenate(lengths))
    flat = np.concatenate(codes) if codes else np.zeros(0, np.int32)
    return index, Sequences(flat, start, words)


def _split(texts: pa.Array) -> Iterator[tuple[int, pa.Array, np.ndarray]]:
    for low in range(0, len(texts), CHUNK):
        lists = pc.split_pattern(texts.slice(low, CHUNK).cast(pa.large_string()), _SEPARATOR)
        sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        yield low, pc.list_flatten(lists).cast(pa.large_string()), sizes


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
