"""Raw ids of the items of a table: kept in its file as plain arrays, and mapped to numbers.

The k-th raw id, from 0, has the number ``first`` + k; every other id has ``oov`` = ``first`` + their count. Integers
take 8 bytes each; texts are int64 offsets [n + 1] and then all letters in UTF-8. This is what ``resemb_ext.data.IdMap``
numbers, without Arrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .errors import TableError
from .framing import Fields, sha256_of

KINDS = ("int64", "uint64", "text")
MAX_ROWS = 2**31 - 2


@dataclass(frozen=True)
class ItemsHeader:
    """What the header of a file says of its section of raw ids.

    Attributes:
        kind: "int64", "uint64" or "text".
        first: number of the first of them.
        count: how many they are.
        bytes: size of the section.
        digest: hex sha256 of it.
    """

    kind: str
    first: int
    count: int
    bytes: int
    digest: str

    @classmethod
    def of(cls, fields: dict[str, Any], name: str) -> ItemsHeader:
        """Reads a header's object.

        Raises:
            TableError: it is none.
        """
        take = Fields(fields, f"{name}: items")
        kind, count = take.text("kind", KINDS), take.number("count", 0, MAX_ROWS)
        low = 8 * count if kind != "text" else 8 * (count + 1)
        size = take.number("bytes", low, low if kind != "text" else 2**50)
        return cls(kind, take.number("first", 0, MAX_ROWS), count, size, take.hex("sha256", 64))

    def fields(self) -> dict[str, Any]:
        """What ``of`` reads."""
        return {"kind": self.kind, "first": self.first, "count": self.count, "bytes": self.bytes, "sha256": self.digest}


class Items:
    """Raw ids in the order of their numbers.

    Args:
        values: int64 or uint64 [n], or texts; each once.
        first: number of the first of them.

    Raises:
        TableError: ids of another type, or integers and texts among one another.
    """

    def __init__(self, values: np.ndarray | Sequence[str], first: int = 1) -> None:
        self.first = int(first)
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            wide = np.uint64 if values.dtype == np.uint64 else np.int64
            self._values: np.ndarray | list[str] = values.astype(wide, copy=False)
            self.kind = str(self._values.dtype)
        else:
            self._values = list(values)
            if not all(type(value) is str for value in self._values):
                odd = next(value for value in self._values if type(value) is not str)
                raise TableError(f"items: found the id {str(odd)[:40]!r} of type {type(odd).__name__}, expected text")
            self.kind = "text"
        if self.oov > MAX_ROWS:
            raise TableError(f"items: their numbers would reach {self.oov}, and may reach {MAX_ROWS}")

    @property
    def values(self) -> np.ndarray | list[str]:
        """int64 or uint64 [n], or a list of texts."""
        return self._values

    @property
    def oov(self) -> int:
        """Number of every id that is not there."""
        return self.first + len(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def section(self) -> np.ndarray:
        """uint8: the bytes of the section.

        Raises:
            TableError: a text that UTF-8 cannot hold.
        """
        if isinstance(self._values, np.ndarray):
            return np.ascontiguousarray(self._values, self._values.dtype.newbyteorder("<")).view(np.uint8)
        try:
            letters = [value.encode() for value in self._values]
        except UnicodeEncodeError as error:
            raise TableError(f"items: {error.object[:40]!r} cannot be written as UTF-8") from None
        offsets = np.zeros(len(letters) + 1, "<i8")
        np.cumsum([len(word) for word in letters], out=offsets[1:])
        return np.concatenate([offsets.view(np.uint8), np.frombuffer(b"".join(letters), np.uint8)])

    def header(self, section: np.ndarray) -> ItemsHeader:
        """The header of its section."""
        return ItemsHeader(self.kind, self.first, len(self), section.nbytes, sha256_of(section))

    @classmethod
    def of(cls, header: ItemsHeader, section: np.ndarray, name: str) -> Items:
        """Reads a section.

        Raises:
            TableError: it does not match its sha256, or holds no such ids.
        """
        if sha256_of(section) != header.digest:
            raise TableError(f"{name}: is damaged: its raw ids do not match their sha256")
        if header.kind != "text":
            return cls(section.view("<i8" if header.kind == "int64" else "<u8"), header.first)
        offsets = section[: 8 * (header.count + 1)].view("<i8")
        letters = section[8 * (header.count + 1) :].tobytes()
        if offsets[0] != 0 or offsets[-1] != len(letters) or (np.diff(offsets) < 0).any():
            raise TableError(f"{name}: its raw ids have wrong offsets")
        ends = offsets.tolist()
        try:
            words = [letters[a:b].decode() for a, b in pairwise(ends)]
        except UnicodeDecodeError:
            raise TableError(f"{name}: its raw ids are no UTF-8") from None
        return cls(words, header.first)

    def extended(self, new: Items) -> Items:
        """These with further ids behind.

        Raises:
            TableError: integers behind texts or the other way round, repeats, numbers that do not follow, or integers
                that no one type holds.
        """
        if (new.kind == "text") != (self.kind == "text"):
            raise TableError(f"items: found {new.kind} ids, and the table's are {self.kind}")
        if new.first != self.oov:
            raise TableError(f"items: the new ids are numbered from {new.first}, expected {self.oov}")
        if len(new) and (self.encode(new.values) != self.oov).any():
            raise TableError("items: some of the new ids are there already")
        if isinstance(self._values, list):
            return Items([*self._values, *new.values], self.first)
        parts = [self._values, np.asarray(new.values)]
        if self.kind != new.kind:
            if any(part.dtype == np.int64 and part.size and part.min() < 0 for part in parts):
                raise TableError("items: negative ids and ids beyond 2**63 - 1 fit no one type")
            parts = [part.astype(np.uint64) for part in parts]
        return Items(np.concatenate(parts), self.first)

    def encode(self, ids: Any) -> np.ndarray:
        """Numbers of raw ids.

        Args:
            ids: integers or texts, any array-like of one dimension.

        Returns:
            int64 [n]; ids that are not there have ``oov``.

        Raises:
            TypeError: texts where the ids are integers, the other way round, or what is neither.
            TableError: the table has an id twice.
        TableError: the table has an id twice.
        """
        if self.kind == "text":
            words = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
            odd = next((word for word in words if type(word) is not str), None)
            if odd is not None:
                raise TypeError(f"ids: found {str(odd)[:40]!r} of type {type(odd).__name__}, and the table's are text")
            known = self._by_text
            return np.array([known.get(word, self.oov) for word in words], np.int64)
        numbers = np.asarray(ids)
        if not numbers.size:
            return np.empty(0, np.int64)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"ids: found {numbers.dtype}, and the table's are integers")
        order, values = self._by_value
        # What the type of the values cannot hold is not among them.
        fits = numbers >= 0 if values.dtype == np.uint64 else numbers <= np.iinfo(np.int64).max
        if not len(values):
            return np.full(len(numbers), self.oov, np.int64)
        cast = np.where(fits, numbers, 0).astype(values.dtype)
        place = np.minimum(np.searchsorted(values, cast), len(values) - 1)
        return np.where(fits & (values[place] == cast), order[place] + self.first, self.oov)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        known = {word: number for number, word in enumerate(self._values, self.first)}
        self._check_distinct(len(known))
        return known

    @cached_property
    def _by_value(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._values, kind="stable")
        ascending = np.asarray(self._values)[order]
        self._check_distinct(len(ascending) - int((ascending[1:] == ascending[:-1]).sum()))
        return order, ascending

    def _check_distinct(self, distinct: int) -> None:
        if distinct < len(self):
            raise TableError(f"items: {len(self) - distinct} of the {len(self)} ids are repeats")
