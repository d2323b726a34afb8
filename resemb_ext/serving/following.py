"""What a next version of a table may be: it goes on from the one in force, or is refused."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resemb_ext.data import IdMap

from .lite.errors import TableError
from .lite.idmap import Items
from .lite.snapshot import Snapshot
from .vectors import Vectors

_INSTEAD = "a full publication (--full) may differ"


@dataclass(frozen=True)
class Next:
    """What the next version is, but for its rows."""

    rows: int
    oov: int | None
    new_items: Items | None = None


def following(now: Snapshot, vectors: Vectors, items: Items | None, dtype: str | None, oov: int | None) -> Next:
    """What a source is as the version behind the one in force.

    Raises:
        TableError: it cannot be.
    """
    if dtype not in (None, now.dtype):
        raise TableError(f"dtype: found {dtype}, and the table's is {now.dtype}; {_INSTEAD}")
    if vectors.dim != now.dim:
        raise TableError(f"source: found D = {vectors.dim}, and the table's is {now.dim}; {_INSTEAD}")
    if vectors.rows < now.rows:
        raise TableError(f"source: found {vectors.rows} rows, and the table has {now.rows}; {_INSTEAD}")
    if vectors.padding != now.padding and (vectors.padding is not None or not _zero_at(vectors, now.padding)):
        raise TableError(f"source: its padding is {vectors.padding}, and the table's is {now.padding}; {_INSTEAD}")
    oov = now.oov if oov is None else oov
    if now.items is not None and items is None and oov != now.oov:
        raise TableError(
            f"oov: found {oov}, and the table's is {now.oov}, the row behind those of its raw ids; give items as well"
        )
    if (oov is None) != (now.oov is None) or (oov is not None and not 0 <= oov < vectors.rows):
        raise TableError(f"oov: found {oov}, and the table's is {now.oov}, of {vectors.rows} rows; {_INSTEAD}")
    return Next(vectors.rows, oov, _new_items(now, vectors, items))


def _zero_at(vectors: Vectors, row: int | None) -> bool:
    return row is not None and not bool(vectors.block(row, row + 1).any())


def _new_items(now: Snapshot, vectors: Vectors, items: Items | None) -> Items | None:
    known = now.items
    if known is None and items is None:
        return None
    if known is None:
        raise TableError(f"items: the table has no raw ids to compare them with; {_INSTEAD}")
    if items is None:
        if vectors.rows > now.rows:
            raise TableError(
                f"items: the table has raw ids, so those of its {vectors.rows - now.rows} new rows are needed"
            )
        return None
    if (items.kind == "text") != (known.kind == "text"):
        raise TableError(f"items: found {items.kind} ids, and the table's are {known.kind}; {_INSTEAD}")
    count = len(known)
    same = items.first == known.first and len(items) >= count
    if same:
        a, b = items.values[:count], known.values
        same = a == b if isinstance(a, list) else bool(np.array_equal(a, np.asarray(b)))
    if not same:
        raise TableError(f"items: they number the table's {count} items otherwise; {_INSTEAD}")
    return None if len(items) == count else Items(items.values[count:], known.oov)


def grown_by(now: Snapshot, new_ids: Any) -> Next:
    """The version in force with further items.

    Raises:
        TableError: the table has no raw ids or no out-of-vocabulary row at its end, or has some of these.
    """
    if new_ids is None or not len(new_ids):
        return Next(now.rows, now.oov)
    if now.oov is None or now.items is None:
        raise TableError("new_ids: the table has no raw ids, so none can be added")
    if now.oov != now.rows - 1:
        raise TableError(f"new_ids: oov is row {now.oov} of {now.rows}, expected the last one")
    new = new_ids if isinstance(new_ids, Items) else Items(_plain(new_ids), now.oov)
    now.items.extended(new)  # refuses repeats and other types
    return Next(now.rows + len(new), now.oov + len(new), new)


def _plain(ids: Any) -> Any:
    array = np.asarray(ids)
    return array if array.dtype.kind in "iu" else list(ids)


def first_new(now: Snapshot, upcoming: Next) -> int:
    """The first row that may stand for something else than in the version before."""
    return now.rows if upcoming.oov == now.oov or now.oov is None else min(now.oov, now.rows)


def check_all_new(now: Snapshot, upcoming: Next, numbers: np.ndarray) -> None:
    """Refuses new rows without vectors.

    Raises:
        ValueError: the first of them is named.
    """
    if upcoming.rows > now.rows:
        expected = np.arange(first_new(now, upcoming), upcoming.rows)
        missing = np.setdiff1d(expected, numbers)
        if len(missing):
            raise ValueError(f"numbers: row {missing[0]} is new, and has no vector")


def row_numbers(rows: Any, total: int, name: str) -> np.ndarray:
    """Row numbers as int64 [n].

    Raises:
        ValueError: other numbers; the first bad one is named.
    """
    array = rows.detach().cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: found {array.dtype} of shape {array.shape}; expected integers [n]")
    array = array.astype(np.int64)
    bad = (array < 0) | (array >= total)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(f"{name}: found {array[at]} at position {at}; expected rows from 0 to {total - 1}")
    return array


def oov_row(oov: Any) -> int | None:
    """An out-of-vocabulary row as an integer; whether the table has it is checked elsewhere.

    Raises:
        ValueError: no whole number.
    """
    if oov is None:
        return None
    try:
        if isinstance(oov, bool):
            raise TypeError
        return operator.index(oov)
    except TypeError:
        raise ValueError(f"oov: found {oov!r}; expected the number of a row, or None") from None


def items_of(items: IdMap | Items | None) -> Items | None:
    """An id map as what a table keeps of it.

    Raises:
        TypeError: something else.
        TableError: an id is there twice.
    """
    if items is None:
        return None
    if isinstance(items, Items):
        items.check_distinct()
        return items
    if not isinstance(items, IdMap):
        raise TypeError(f"items: found {type(items).__name__}; expected an IdMap, or Items of resemb_ext.serving.lite")
    return Items(items.values.tolist() if items.kind == "text" else items.values, items.first)
