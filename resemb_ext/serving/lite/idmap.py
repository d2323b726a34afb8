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


class _Part:
    """Raw ids of one type, one after another, and how they are found."""

    def __init__(self, values: np.ndarray | list[str], first: int) -> None:
        self.values, self.first = values, first

    def __len__(self) -> int:
        return len(self.values)

    def check_distinct(self) -> None:
        """Refuses repeats."""
        _ = self._by_text if isinstance(self.values, list) else self._by_value

    @cached_property
    def _by_text(self) -> dict[str, int]:
        known = {word: number for number, word in enumerate(self.values, self.first)}
        self._check_distinct(len(known))
        return known

    @cached_property
    def _by_value(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.values, kind="stable")
        ascending = np.asarray(self.values)[order]
        self._check_distinct(len(ascending) - int((ascending[1:] == ascending[:-1]).sum()))
        return order, ascending

    def _check_distinct(self, distinct: int) -> None:
        if distinct < len(self):
            raise TableError(f"items: {len(self) - distinct} of the {len(self)} ids are repeats")

    def find_text(self, words: list[str], out: np.ndarray) -> None:
        """Puts numbers of those that are there into ``out``."""
        known = self._by_text
        for place, word in enumerate(words):
            number = known.get(word)
            if number is not None:
                out[place] = number

    def find(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """The same for integers."""
        order, values = self._by_value
        if not len(values):
            return
        # What the type of the values cannot hold is not among them.
        fits = numbers >= 0 if values.dtype == np.uint64 else numbers <= np.iinfo(np.int64).max
        cast = np.where(fits, numbers, 0).astype(values.dtype)
        place = np.minimum(np.searchsorted(values, cast), len(values) - 1)
        found = fits & (values[place] == cast)
        out[found] = order[place[found]] + self.first


class Items:
    """Raw ids in the order of their numbers. It never changes.

    Args:
        values: int64 or uint64 [n], or texts; each once.
        first: number of the first of them.

    Raises:
        TableError: ids of another type, or integers and texts among one another.
    """

    def __init__(self, values: np.ndarray | Sequence[str], first: int = 1) -> None:
        held: np.ndarray | list[str]
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            held = values.astype(np.uint64 if values.dtype == np.uint64 else np.int64, copy=False)
            self.kind = str(held.dtype)
        else:
            held = list(values)
            odd = next((value for value in held if type(value) is not str), None)
            if odd is not None:
                raise TableError(f"items: found the id {str(odd)[:40]!r} of type {type(odd).__name__}, expected text")
            self.kind = "text"
        self.first = int(first)
        self._set((_Part(held, self.first),))

    def _set(self, parts: tuple[_Part, ...]) -> None:
        self._parts = parts
        self._count = sum(map(len, parts))
        if self.oov > MAX_ROWS:
            raise TableError(f"items: their numbers would reach {self.oov}, and may reach {MAX_ROWS}")

    @cached_property
    def values(self) -> np.ndarray | list[str]:
        """int64 or uint64 [n], or a list of texts."""
        if self.kind == "text":
            return [word for part in self._parts for word in part.values]
        return np.concatenate([np.asarray(part.values).astype(self.kind, copy=False) for part in self._parts])

    @property
    def oov(self) -> int:
        """Number of every id that is not there."""
        return self.first + self._count

    def __len__(self) -> int:
        return self._count

    def check_distinct(self) -> None:
        """Sorts or hashes all ids, as the first ``encode`` does.

        Raises:
            TableError: an id is there twice.
        """
        for part in self._parts:  # ``extended`` has compared them with one another
            part.check_distinct()

    def section(self) -> np.ndarray:
        """uint8: the bytes of the section.

        Raises:
            TableError: a text that UTF-8 cannot hold.
        """
        values = self.values
        if isinstance(values, np.ndarray):
            return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).view(np.uint8)
        try:
            letters = [value.encode() for value in values]
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
        """These with further ids behind; takes as long as the new ones need, where these were looked up before.

        Raises:
            TableError: integers behind texts or the other way round, repeats, numbers that do not follow, or integers
                that no one type holds.
        """
        if (new.kind == "text") != (self.kind == "text"):
            raise TableError(f"items: found {new.kind} ids, and the table's are {self.kind}")
        if new.first != self.oov:
            raise TableError(f"items: the new ids are numbered from {new.first}, expected {self.oov}")
        new.check_distinct()
        if len(new) and (self.encode(new.values) != self.oov).any():
            raise TableError("items: some of the new ids are there already")
        out = object.__new__(Items)
        out.first, out.kind = self.first, self.kind
        if self.kind != new.kind:
            arrays = [np.asarray(part.values) for part in (*self._parts, *new._parts)]
            if any(array.dtype == np.int64 and array.size and array.min() < 0 for array in arrays):
                raise TableError("items: negative ids and ids beyond 2**63 - 1 fit no one type")
            out.kind = "uint64"
        # The first part, most often that of the base, stays; the others are joined so that they are few.
        parts, last = list(self._parts), _joined(new._parts)
        while len(parts) > 1 and len(parts[-1]) <= len(last):
            last = _joined((parts.pop(), last))
        out._set((*parts, last))
        return out

    def encode(self, ids: Any) -> np.ndarray:
        """Numbers of raw ids.

        Args:
            ids: integers or texts, any array-like of one dimension.

        Returns:
            int64 [n]; ids that are not there have ``oov``.

        Raises:
            TypeError: texts where the ids are integers, the other way round, or what is neither.
            TableError: the table has an id twice.
        """
        if self.kind == "text":
            words = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
            odd = next((word for word in words if not isinstance(word, str)), None)
            if odd is not None:
                raise TypeError(f"ids: found {str(odd)[:40]!r} of type {type(odd).__name__}, and the table's are text")
            out = np.full(len(words), self.oov, np.int64)
            for part in self._parts:
                part.find_text(words, out)
            return out
        numbers, other = _integers(ids)
        out = np.full(len(numbers), self.oov, np.int64)
        for part in self._parts:
            part.find(numbers, out)
        for place, value in other.items():  # beyond int64, among integers of Python
            out[place] = self.oov if value >= 2**64 or value < 0 else self.encode(np.array([value], np.uint64))[0]
        return out


def _joined(parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0].values, list):
        return _Part([word for part in parts for word in part.values], parts[0].first)
    arrays = [np.asarray(part.values) for part in parts]
    kind = np.uint64 if any(array.dtype == np.uint64 for array in arrays) else np.int64
    return _Part(np.concatenate([array.astype(kind, copy=False) for array in arrays]), parts[0].first)


def _integers(ids: Any) -> tuple[np.ndarray, dict[int, int]]:
    """Ids as int64 or uint64, and by their places those that neither holds."""
    if isinstance(ids, np.ndarray) and (ids.dtype.kind in "iu" or not ids.size):
        return ids.astype(np.int64) if not ids.size else ids, {}
    values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if set(map(type, values)) == {int}:
        try:
            return np.array(values, np.int64), {}
        except OverflowError:
            pass  # some lie beyond int64
    odd = next((v for v in values if isinstance(v, (bool, np.bool_)) or not isinstance(v, (int, np.integer))), None)
    if odd is not None:
        raise TypeError(f"ids: found {str(odd)[:40]!r} of type {type(odd).__name__}, and the table's are integers")
    other = {place: int(v) for place, v in enumerate(values) if not -(2**63) <= v < 2**63}
    return np.array([0 if place in other else int(v) for place, v in enumerate(values)], np.int64), other
