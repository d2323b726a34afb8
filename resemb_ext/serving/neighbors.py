"""Items whose vectors are nearest: exact, by blocks of a table, or through an index of another library.

An index holds the items of a table: padding and the out-of-vocabulary row are left out, and its labels are the table's
row numbers. ``NAME.json`` beside it says what it was made of, so that an index of another table is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resemb_ext.runtime.digests import sha256_of
from resemb_ext.runtime.files import check_report, read_json, write_atomic, write_json

from .indexes import DTYPES, LIBRARIES, METRICS, Hnswlib, Index, unit
from .lite.rows import decode
from .lite.snapshot import Snapshot

FORMAT, VERSION = "resemb-index", 1
BLOCK = 1 << 16  # rows that are decoded at a time
_PACKAGES = {"usearch": "usearch", "faiss": "faiss-cpu", "hnswlib": "hnswlib"}


class Searchable(Protocol):
    """What neighbours are looked for in.

    Attributes:
        rows: H.
        dim: D.
        no_items: rows that are no items: padding, out of vocabulary.
        made_of: JSON that identifies the rows and their version; None where there is none.
    """

    rows: int
    dim: int
    no_items: tuple[int, ...]
    made_of: dict[str, Any] | None

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows int64 [n]: float32 [n, D]."""


class TableRows:
    """The rows of a version of a table; attributes as of ``Searchable``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.rows, self.dim = snapshot.rows, snapshot.header.dim
        self.no_items = tuple(row for row in (snapshot.header.padding, snapshot.oov) if row is not None)
        self.made_of: dict[str, Any] | None = {
            "table": snapshot.header.id,
            "sequence": snapshot.sequence,
            "fingerprint": snapshot.fingerprint,
        }

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows int64 [n]: float32 [n, D]."""
        return decode(self._snapshot.gather(rows), self._snapshot.header.dtype, self.dim)


@dataclass(frozen=True)
class Near:
    """The items nearest to one.

    Attributes:
        rows: int64 [k], row numbers, the nearest first; ties by row number.
        similarity: float32 [k]: cosine, inner product, or for "l2" the squared distance.
    """

    rows: np.ndarray
    similarity: np.ndarray


def nearest(source: Any, row: int, k: int = 10, *, metric: str = "cos", index: OpenIndex | None = None) -> Near:
    """The items nearest to an item, itself left out.

    Without an index all rows are compared, some at a time. With one, the items that it finds are, so that similarities
    and their order are those of the rows; some of the nearest may be missing.

    Args:
        source: what the item is a row of: a ``Table``, a ``Snapshot`` or ``Searchable``.
        row: its number.
        k: how many at most.
        metric: "cos", "ip" (inner product) or "l2" (squared distance, the smallest first).
        index: of ``open_index``.

    Raises:
        IndexError: ``row`` is no item.
        ValueError: ``k`` below 1, another metric, or an index of other rows, another version or another metric.
    """
    vectors = searchable(source)
    check_metric(metric)
    if k < 1:
        raise ValueError(f"k: found {k}; expected at least 1")
    if not 0 <= row < vectors.rows or row in vectors.no_items:
        raise IndexError(f"row: found {row}; expected an item: a row from 0 to {vectors.rows - 1}{_but(vectors)}")
    query = vectors.gather(np.array([row]))[0]
    left_out = np.array([row, *vectors.no_items])
    if index is not None:
        index.check(vectors, metric)
        blocks: Iterator[np.ndarray] = iter([index.labels(query, k + 1)])
    else:
        blocks = (np.arange(start, min(start + BLOCK, vectors.rows)) for start in range(0, vectors.rows, BLOCK))
    best, value = np.empty(0, np.int64), np.empty(0, np.float32)
    for rows in blocks:
        rows = rows[~np.isin(rows, left_out)]
        best = np.concatenate([best, rows])
        value = np.concatenate([value, _closeness(vectors.gather(rows), query, metric)])
        if len(best) > k:
            least = np.partition(value, -k)[-k]
            best, value = best[value >= least], value[value >= least]
        order = np.lexsort((best, -value))[:k]
        best, value = best[order], value[order]
    return Near(best, -value if metric == "l2" else value)


def export_index(
    source: Any,
    kind: str,
    path: Path | str,
    *,
    metric: str = "cos",
    dtype: str = "f32",
    connectivity: int = 16,
    expansion: int = 128,
) -> Path:
    """Writes an index of all items, and ``PATH.json`` beside it.

    Args:
        source: as of ``nearest``.
        kind: "usearch", "faiss" or "hnswlib"; each is an extra.
        path: file to write.
        metric: "cos", "ip" or "l2". For "cos", faiss holds vectors of length 1.
        dtype: "f32"; for usearch also "f16", and with "cos" "i8".
        connectivity: links of an item; more find more, in more memory.
        expansion: candidates looked at when an item is added; more find more, and take longer.

    Returns:
        ``path``.

    Raises:
        ValueError: another kind, metric or dtype, or one that the library ranks otherwise than it says. No items.
            ``PATH.json`` is there and of something else.
        ImportError: the library is not installed; the extra is named.
        OSError: it cannot be written.
    """
    path, vectors = Path(path), searchable(source)
    check_metric(metric)
    for name, value, known in (("kind", kind, tuple(LIBRARIES)), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(known)}")
    for name, number in (("connectivity", connectivity), ("expansion", expansion)):
        if number < 2:
            raise ValueError(f"{name}: found {number}; expected at least 2")
    items = np.setdiff1d(np.arange(vectors.rows), vectors.no_items)
    if not len(items):
        raise ValueError(f"the table has no items: {vectors.rows} rows, which are padding and out of vocabulary")
    check_report(_about(path), {"format", "library", "metric"})
    options: dict[str, Any] = {"count": len(items)} if LIBRARIES[kind] is Hnswlib else {}
    index: Index = LIBRARIES[kind](vectors.dim, metric, dtype, connectivity, expansion, **options)
    for start in range(0, len(items), BLOCK):
        rows = items[start : start + BLOCK]
        index.add(rows, vectors.gather(rows))
    write_atomic(path, index.save)
    about = {
        "format": FORMAT,
        "version": VERSION,
        "library": kind,
        "library_version": version(_PACKAGES[kind]),
        "metric": metric,
        "dtype": dtype,
        "dim": vectors.dim,
        "items": len(items),
        "made_of": vectors.made_of,
        "sha256": sha256_of(path),
    }
    write_json(_about(path), about)
    return path


class OpenIndex:
    """An index that ``export_index`` wrote.

    Args:
        about: what ``PATH.json`` holds.
        index: of the library.
        path: of the index.
    """

    def __init__(self, about: dict[str, Any], index: Index, path: Path) -> None:
        self.about, self._index, self._path = about, index, path

    def labels(self, vector: np.ndarray, k: int) -> np.ndarray:
        """Row numbers of the items that it finds nearest to a vector float32 [D]: int64 [at most k]."""
        return self._index.labels(np.ascontiguousarray(vector, np.float32), min(k, self.about["items"]))

    def check(self, vectors: Searchable, metric: str) -> None:
        """Raises ValueError where it is of other rows than ``vectors``, or ranks by another metric."""
        if metric != self.about["metric"]:
            raise ValueError(f"index: {self._path} ranks by {self.about['metric']!r}; asked was {metric!r}")
        if vectors.made_of is None or self.about["made_of"] != vectors.made_of:
            raise ValueError(
                f"index: {self._path} was made of {self.about['made_of']}, these rows are {vectors.made_of}; export it again"
            )


def open_index(path: Path | str) -> OpenIndex:
    """Opens what ``export_index`` wrote.

    Raises:
        FileNotFoundError: the index, or ``PATH.json`` beside it, is missing.
        ValueError: it is no such index, or its sha256 differs from that in ``PATH.json``.
        ImportError: its library is not installed.
    """
    path = Path(path)
    for file in (path, _about(path)):
        if not file.is_file():
            raise FileNotFoundError(f"index: no file {file}")
    about = read_json(_about(path))
    fits = isinstance(about, dict) and about.get("format") == FORMAT and about.get("version") == VERSION
    if not fits or about.get("library") not in LIBRARIES or about.get("metric") not in METRICS:
        raise ValueError(f"index: {_about(path)} is not of export_index, or of another release")
    if sha256_of(path) != about["sha256"]:
        raise ValueError(f"index: {path} is not the file that was written: its sha256 differs; export it again")
    index = LIBRARIES[about["library"]].open(path, about["dim"], about["metric"], about["items"])
    return OpenIndex(about, index, path)


def searchable(source: Any) -> Searchable:
    """The vectors of a ``Table``, a ``Snapshot`` or what has them already."""
    snapshot = getattr(source, "snapshot", source)
    return TableRows(snapshot) if isinstance(snapshot, Snapshot) else snapshot


def check_metric(metric: str) -> None:
    """Raises ValueError for a metric that is none."""
    if metric not in METRICS:
        raise ValueError(f"metric: found {metric!r}; expected one of {', '.join(METRICS)}")


def _closeness(vectors: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """Float32 [n], more being nearer."""
    if metric == "cos":
        return unit(vectors) @ unit(query[None])[0]
    if metric == "ip":
        return vectors @ query
    return -np.square(vectors - query).sum(1)


def _about(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _but(vectors: Searchable) -> str:
    listed = " and ".join(map(str, sorted(vectors.no_items)))
    return f", but not {listed}" if listed else ""
