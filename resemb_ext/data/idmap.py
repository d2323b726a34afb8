"""Raw ids of any kind to the dense numbers that tables use, and back."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import canonical_ids

_KINDS = {"int64": pa.int64(), "uint64": pa.uint64(), "text": pa.large_string()}


def _kind(array: pa.Array) -> str:
    return next(name for name, kind in _KINDS.items() if array.type == kind)


class IdMap:
    """A map from raw ids (integers up to 64 bit, negative ones too, or text) to ``first + rank``.

    ``fit`` numbers ids by their sorted order, so that its map depends on the set of ids alone;
    ``extended`` puts further ids behind those of a map. ``first`` is 1 for items and categories,
    whose 0 is padding, and 0 for users. Every id that the map has not seen gets the
    out-of-vocabulary number ``oov`` ``= first + len(self)``.

    Args:
        values: unique raw ids in the order of their numbers (use ``fit`` for anything else).
        first: number of the first known id.
    """

    def __init__(self, values: pa.Array, *, first: int = 1) -> None:
        self._values = values
        self.first = int(first)
        self.kind = _kind(values)

    @classmethod
    def fit(cls, ids: Any, *, first: int = 1, name: str = "id") -> IdMap:
        """Build the map of all distinct ids.

        Args:
            ids: raw ids, 1-D, any array-like, repeats included.
            first: number of the first known id.
            name: column name for messages.

        Raises:
            ValueError: null, empty or fractional id; the row is named.
            TypeError: ids that are neither integers nor text.
        """
        unique = pc.unique(canonical_ids(ids, name))
        return cls(unique.take(pc.sort_indices(unique)), first=first)

    def extended(self, ids: Any, *, name: str = "id") -> IdMap:
        """This map with the ids that it lacks behind its own, sorted; known ids keep their numbers.

        The out-of-vocabulary number moves behind the new ids.

        Args:
            ids: raw ids, 1-D, any array-like, known ones and repeats included.
            name: column name for messages.

        Raises:
            ValueError: as ``encode``, and an id beyond 2**63 - 1 where the map holds negative ones.
            TypeError: as ``encode``.
        """
        array = canonical_ids(ids, name)
        new = pc.unique(array.filter(pa.array(self.encode(array, name=name)[0] == self.oov)))
        if not len(new):
            return self
        known = self._values
        try:
            if new.type != known.type and self.kind != "text":
                known, new = known.cast(pa.uint64()), new.cast(pa.uint64())
        except pa.ArrowInvalid:
            raise ValueError(
                f"column {name!r}: negative ids and ids beyond 2**63 - 1 fit no one type; read both logs with text ids"
            ) from None
        return IdMap(pa.concat_arrays([known, new.take(pc.sort_indices(new))]), first=self.first)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdMap):
            return NotImplemented
        return self.first == other.first and self._values.equals(other._values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IdMap({len(self)} {self.kind} ids, numbered {self.first}..{self.oov - 1})"

    @property
    def oov(self) -> int:
        """The number of every id that the map has not seen."""
        return self.first + len(self)

    @property
    def size(self) -> int:
        """Rows of a table indexed by this map: padding (if any), known ids and the OOV row."""
        return self.oov + 1

    @property
    def values(self) -> np.ndarray:
        """Known raw ids in order of their numbers: int64, uint64, or an object array of str."""
        return self._values.to_numpy(zero_copy_only=False)

    def encode(self, ids: Any, *, name: str = "id") -> tuple[np.ndarray, int]:
        """Number raw ids.

        Args:
            ids: raw ids, 1-D, any array-like.
            name: column name for messages.

        Returns:
            ``(numbers int64 [n], unseen)``: ``unseen`` counts the entries that got ``oov``.

        Raises:
            ValueError: null, empty or fractional id; the row is named.
            TypeError: text where the map holds integers, or the other way round.
        """
        array = canonical_ids(ids, name)
        if len(array) and (_kind(array) == "text") != (self.kind == "text"):
            raise TypeError(
                f"column {name!r} holds {_kind(array)} ids, but the map was made from {self.kind} "
                "ids; convert the column to the same type"
            )
        if array.type != self._values.type:
            # Mixed widths: what does not fit the map's type cannot be in the map; it casts to null.
            array = pa.array(array.to_pylist()) if not len(array) else _cast_or_null(array, self._values.type)
        if len(array) and not array.null_count and (table := self._table) is not None:
            return self._looked_up(array, *table)
        rank = pc.index_in(array, value_set=self._values)
        numbers = pc.fill_null(rank, len(self)).to_numpy(zero_copy_only=False)
        numbers = numbers.astype(np.int64) + self.first
        return numbers, int((numbers == self.oov).sum())

    @cached_property
    def _table(self) -> tuple[int, np.ndarray] | None:
        """The smallest id and the numbers of it and all above, the last one of those beyond; None where ids lie apart.

        Arrow would make a hash table of all ids at every call.
        """
        if self.kind == "text" or not len(self):
            return None
        values = self._values.to_numpy(zero_copy_only=False)
        low, span = int(values.min()), int(values.max()) - int(values.min()) + 1
        if span > 4 * len(self) + 4096:
            return None
        numbers = np.full(span + 1, self.oov, np.int32 if self.oov < 2**31 else np.int64)
        numbers[_above(values, low)] = np.arange(self.first, self.oov)
        return low, numbers

    def _looked_up(self, array: pa.Array, low: int, table: np.ndarray) -> tuple[np.ndarray, int]:
        place = np.minimum(_above(array.to_numpy(), low), np.uint64(len(table) - 1))
        numbers = table[place.view(np.int64)].astype(np.int64)
        return numbers, int((numbers == self.oov).sum())

    def decode(self, numbers: Any) -> np.ndarray:
        """Raw ids of known numbers.

        Raises:
            IndexError: a number that stands for no known id (padding, OOV, out of range).
        """
        index = np.asarray(numbers, dtype=np.int64).reshape(-1) - self.first
        bad = np.flatnonzero((index < 0) | (index >= len(self)))
        if len(bad):
            raise IndexError(
                f"number {index[bad[0]] + self.first} at position {bad[0]} is no known id; known "
                f"ids are {self.first}..{self.oov - 1}"
            )
        return self._values.take(pa.array(index)).to_numpy(zero_copy_only=False)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, to be kept with a model."""
        return {"kind": self.kind, "first": self.first, "values": self._values.to_pylist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> IdMap:
        """The inverse of ``to_dict``; ValueError if ``data`` is not such a description."""
        try:
            values = pa.array(data["values"], type=_KINDS[data["kind"]])
            first = int(data["first"])
        except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            raise ValueError(f"not an id map: {error!r}") from None
        if values.null_count or pc.count_distinct(values).as_py() < len(values):
            raise ValueError("not an id map: its values must be unique and not null")
        return cls(values, first=first)

    def fingerprint(self, count: int | None = None) -> str:
        """Hex sha256 over the first ``count`` known ids (None: all) and the number of the first.

        Equal where two maps give these ids the same numbers. A graph keeps it of its log's maps.
        """
        known = self._values if count is None else self._values[:count]
        text = self.kind == "text"
        digest = hashlib.sha256(f"{'text' if text else 'integers'}:{self.first}:{len(known)}:".encode())
        if text and len(known):
            _, offsets, letters = known.buffers()
            ends = np.frombuffer(offsets, np.int64, len(known) + 1, 8 * known.offset)
            digest.update(np.diff(ends).astype("<i8").tobytes())
            digest.update(memoryview(letters)[ends[0] : ends[-1]])
        elif not text:
            # An extended map may be uint64 where the one before was int64.
            negative = self.kind == "int64" and len(known) > 0 and pc.min(known).as_py() < 0
            digest.update(b"-" if negative else b"+")
            digest.update(known.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        return digest.hexdigest()

    def digest(self) -> bytes:
        """Bytes that identify the map, for hashes of logs."""
        head = json.dumps([self.kind, self.first, len(self)]).encode()
        if self.kind == "text":
            return head + "\0".join(self._values.to_pylist()).encode()
        return head + self.values.tobytes()


def _above(values: np.ndarray, low: int) -> np.ndarray:
    """uint64: values of 64 bits less ``low``; those below it wrap round and are large."""
    return values.view(np.uint64) - np.uint64(low % 2**64)


def _cast_or_null(array: pa.Array, kind: pa.DataType) -> pa.Array:
    numbers = array.to_numpy()
    fits = numbers >= 0 if kind == pa.uint64() else numbers <= np.iinfo(np.int64).max
    return pa.array(np.where(fits, numbers, 0).astype(kind.to_pandas_dtype()), mask=~fits)
