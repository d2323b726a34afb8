"""Approximate indexes of three libraries under one form: usearch, faiss and hnswlib.

Each is a graph index (HNSW, Malkov and Yashunin 2018, arXiv 1603.09320) with the row numbers of a table as labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

#: Similarities: cosine, inner product, squared Euclidean distance.
METRICS = ("cos", "ip", "l2")
DTYPES = ("f32", "f16", "i8")


class Index(Protocol):
    """An index of one library."""

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        """Adds items: labels int64 [n], vectors float32 [n, D]."""

    def save(self, path: Path) -> None:
        """Writes the index into a file."""

    def labels(self, vector: np.ndarray, k: int) -> np.ndarray:
        """The labels nearest to a vector float32 [D], int64 [at most k]."""


class Usearch:
    """An index of usearch.

    Args:
        dim: D.
        metric: of ``METRICS``.
        dtype: of the numbers in the index.
        connectivity: links of an item.
        expansion: candidates that are looked at when an item is added.
    """

    extra = "usearch"

    def __init__(self, dim: int, metric: str, dtype: str, connectivity: int, expansion: int) -> None:
        if dtype == "i8" and metric != "cos":
            raise ValueError(
                f"metric: found {metric!r} with dtype 'i8'; usearch scales each vector to 8 bits by its own norm, so that "
                "only 'cos' ranks as it says"
            )
        usearch = _module("usearch.index", self.extra)
        self._index: Any = usearch.Index(
            ndim=dim,
            metric={"cos": "cos", "ip": "ip", "l2": "l2sq"}[metric],
            dtype=dtype,
            connectivity=connectivity,
            expansion_add=expansion,
        )

    @classmethod
    def open(cls, path: Path, dim: int, metric: str, count: int) -> Usearch:
        """The index in a file."""
        index = cls.__new__(cls)
        index._index = _module("usearch.index", cls.extra).Index.restore(str(path))
        return index

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        self._index.add(labels.astype(np.uint64), vectors)

    def save(self, path: Path) -> None:
        self._index.save(str(path))

    def labels(self, vector: np.ndarray, k: int) -> np.ndarray:
        self._index.expansion_search = _effort(k)
        return np.asarray(self._index.search(vector, k).keys).astype(np.int64)


class Faiss:
    """An index of faiss; arguments as of ``Usearch``. For "cos" it holds vectors of length 1."""

    extra = "faiss"

    def __init__(self, dim: int, metric: str, dtype: str, connectivity: int, expansion: int) -> None:
        _only_float32(self.extra, dtype)
        faiss = _module("faiss", self.extra)
        graph = faiss.IndexHNSWFlat(
            dim, connectivity, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = expansion
        self._index: Any = faiss.IndexIDMap2(graph)
        self._unit = metric == "cos"

    @classmethod
    def open(cls, path: Path, dim: int, metric: str, count: int) -> Faiss:
        """The index in a file."""
        index = cls.__new__(cls)
        index._index = _module("faiss", cls.extra).read_index(str(path))
        index._unit = metric == "cos"
        return index

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        self._index.add_with_ids(unit(vectors) if self._unit else vectors, labels)

    def save(self, path: Path) -> None:
        _module("faiss", self.extra).write_index(self._index, str(path))

    def labels(self, vector: np.ndarray, k: int) -> np.ndarray:
        faiss = _module("faiss", self.extra)
        query = unit(vector[None]) if self._unit else vector[None]
        found = self._index.search(query, k, params=faiss.SearchParametersHNSW(efSearch=_effort(k)))[1][0]
        return found[found >= 0]


class Hnswlib:
    """An index of hnswlib; arguments as of ``Usearch``, and ``count``, the items that it will hold."""

    extra = "hnswlib"

    def __init__(self, dim: int, metric: str, dtype: str, connectivity: int, expansion: int, count: int = 0) -> None:
        _only_float32(self.extra, dtype)
        self._index = self._made(dim, metric)
        self._index.init_index(max_elements=count, M=connectivity, ef_construction=expansion, random_seed=0)

    @classmethod
    def _made(cls, dim: int, metric: str) -> Any:
        return _module("hnswlib", cls.extra).Index(space={"cos": "cosine"}.get(metric, metric), dim=dim)

    @classmethod
    def open(cls, path: Path, dim: int, metric: str, count: int) -> Hnswlib:
        """The index in a file."""
        index = cls.__new__(cls)
        index._index = cls._made(dim, metric)
        index._index.load_index(str(path), max_elements=count)
        return index

    def add(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        self._index.add_items(vectors, labels)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def labels(self, vector: np.ndarray, k: int) -> np.ndarray:
        k = min(k, self._index.get_current_count())
        self._index.set_ef(_effort(k))
        return self._index.knn_query(vector[None], k=k)[0][0].astype(np.int64)


LIBRARIES: dict[str, type[Usearch] | type[Faiss] | type[Hnswlib]] = {
    "usearch": Usearch,
    "faiss": Faiss,
    "hnswlib": Hnswlib,
}


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, D] of length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length == 0, 1, length)).astype(np.float32)


def _effort(k: int) -> int:
    """Candidates of a search for k."""
    return max(64, 2 * k)


def _only_float32(library: str, dtype: str) -> None:
    if dtype != "f32":
        raise ValueError(
            f"dtype: found {dtype!r}; an index of {library} holds 'f32', one of usearch also 'f16' and 'i8'"
        )


def _module(name: str, extra: str) -> Any:
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise ImportError(f'kind: {extra!r} needs its library (pip install "resemb_ext[{extra}]"): {error}') from error
