"""A graph's rows in Parquet files, dealt to parts by item, so that a process can read its own."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import checks, csr
from . import meta as meta_data
from .data import ARRAYS

FORMAT = "resemb-interest-graph-rows"
VERSION = 1
HEADER = "_graph.json"  # readers of Parquet folders skip names that begin so
_BATCH = 4096  # rows read at once


class RowBlock(NamedTuple):
    """Rows of a graph.

    Attributes:
        items: int64 [n], the items whose rows these are.
        indptr: int64 [n + 1], where they begin in ``neighbors``.
        neighbors: int32 [E], ascending and unique in every row, in the numbers of the whole graph.
        weights: float32 [E], raw.
        degree: float64 [n], as of ``InterestGraph``.
    """

    items: np.ndarray
    indptr: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray
    degree: np.ndarray


class GraphRows:
    """A folder that holds the rows of an interest graph, as ``rx.spark.interest_graph`` writes it.

    The row of item i is in ``part=P/*.parquet`` with P = i mod ``parts``, with the columns item (integer), neighbors
    (list of int32), weights (list of float32) and degree (float64). Every item has one row. ``_graph.json`` is written
    last and holds the rest, so a folder without it is unfinished.

    Args:
        path: the folder, or a URI that ``pyarrow.fs`` knows, such as s3://bucket/graph.

    Attributes:
        path: as given, as text.
        num_items: H.
        parts: in how many parts the rows lie.
        meta: as of ``InterestGraph``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no rows, unfinished ones, or those of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._files, self._root = file_system(self.path)
        header = _read_header(self._files, self._root, self.path)
        try:
            self.num_items = checks.whole_number("num_items", header["num_items"], 1, checks.INT32_MAX - 1)
            self.parts = checks.whole_number("parts", header["parts"], 1)
            self.meta: dict[str, Any] = header["meta"]
            meta_data.verify(self.meta, self.num_items, None)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.path} holds no valid rows of a graph: {HEADER}: {error}") from error

    def __repr__(self) -> str:
        return f"GraphRows({self.path!r}, num_items={self.num_items}, parts={self.parts})"

    def __fspath__(self) -> str:
        return self.path

    def blocks(self, rank: int = 0, ranks: int = 1) -> Iterator[RowBlock]:
        """The rows of the items i with i mod ``ranks`` = ``rank``, some thousand at a time.

        Only parts that hold such rows are read: of all parts, one in gcd(``parts``, ``ranks``). Every part that is
        read is checked for being whole.

        Args:
            rank: in [0, ranks).
            ranks: how many processes share the rows.

        Raises:
            ValueError: a part is missing, damaged, or has too few or too many rows.
        """
        rank, ranks = _rank(rank, ranks)
        return self._blocks(rank, ranks, ("neighbors", "weights", "degree"))

    def shard(self, rank: int = 0, ranks: int = 1) -> RowBlock:
        """All rows of ``blocks`` as one, by ascending item: row k is that of item ``rank`` + k ``ranks``.

        Beside the result, some thousand rows are in memory. The files are read twice.

        Args:
            rank, ranks: as of ``blocks``.

        Raises:
            ValueError: as ``blocks``, and rows that are not ascending, or hold ids out of range or weights that are
                negative or not finite.
        """
        rank, ranks = _rank(rank, ranks)
        items = np.arange(rank, self.num_items, ranks, dtype=np.int64)
        lengths, degree = np.full(len(items), -1, np.int64), np.zeros(len(items))
        for block in self._blocks(rank, ranks, ("neighbors", "degree")):
            row = (block.items - rank) // ranks
            lengths[row], degree[row] = np.diff(block.indptr), block.degree
        if len(lengths) and lengths.min() < 0:  # as many rows as items: another one is there twice
            raise self._damaged(f"no row of item {items[int(np.argmin(lengths))]}")
        indptr = np.zeros(len(items) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        neighbors, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        for block in self._blocks(rank, ranks, ("neighbors", "weights")):
            begin = indptr[(block.items - rank) // ranks]
            place = np.repeat(begin - block.indptr[:-1], np.diff(block.indptr)) + np.arange(block.indptr[-1])
            neighbors[place], weights[place] = block.neighbors, block.weights
        try:
            csr.verify_rows(indptr, neighbors, weights, degree, self.num_items)
        except (ValueError, IndexError) as error:
            raise self._damaged(str(error)) from error
        return RowBlock(items, indptr, neighbors, weights, degree)

    def num_rows(self) -> int:
        """How many rows the files say that they hold; H, where none is missing."""
        return sum(file.metadata.num_rows for part in range(self.parts) for file in self._opened(part))

    def fields(self) -> dict[str, Any]:
        """The fields of the whole graph, as ``InterestGraph`` takes them."""
        rows = self.shard()
        arrays = (rows.indptr, rows.neighbors, rows.weights, rows.degree)
        return {**dict(zip(ARRAYS, arrays, strict=True)), "meta": self.meta}

    def _damaged(self, why: str) -> ValueError:
        return ValueError(f"{self.path} does not hold all rows of a graph: {why}")

    def _blocks(self, rank: int, ranks: int, columns: Sequence[str]) -> Iterator[RowBlock]:
        step = math.gcd(self.parts, ranks)
        for part in range(rank % step, self.parts, step):
            expected, found = len(range(part, self.num_items, self.parts)), 0
            for batch in self._batches(part, ("item", *columns)):
                block = self._block(part, batch)
                found += len(block.items)
                yield block if step == ranks else _picked(block, block.items % ranks == rank)
            if found != expected:
                raise self._damaged(f"part={part} has {found:,} rows, expected {expected:,}")

    def _batches(self, part: int, columns: Sequence[str]) -> Iterator[Any]:
        with self._naming(part):
            for file in self._opened(part):
                lacking = [name for name in columns if name not in file.schema_arrow.names]
                if lacking:
                    raise self._damaged(f"part={part} has no column {lacking[0]!r}")
                yield from file.iter_batches(_BATCH, columns=list(columns), use_threads=False)

    def _opened(self, part: int) -> Iterator[Any]:
        """The Parquet files of a part, one after the other."""
        import pyarrow as pa
        import pyarrow.fs
        import pyarrow.parquet as pq

        with self._naming(part):
            selector = pa.fs.FileSelector(f"{self._root}/part={part}", allow_not_found=True)
            found = self._files.get_file_info(selector)
            for path in sorted(info.path for info in found if info.path.endswith(".parquet")):
                with self._files.open_input_file(path) as source, pq.ParquetFile(source) as file:
                    yield file

    @contextmanager
    def _naming(self, part: int) -> Iterator[None]:
        """Names the part in what Arrow raises of a damaged file; a fault of the disk passes as it is."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise self._damaged(f"part={part}: {' '.join(str(error).split())}") from None

    def _block(self, part: int, batch: Any) -> RowBlock:
        columns = {name: batch.column(name) for name in batch.schema.names}
        for name, column in columns.items():
            if column.null_count:
                raise self._damaged(f"part={part}: null in column {name!r}")
        items = columns["item"].to_numpy().astype(np.int64)
        wrong = (items < 0) | (items >= self.num_items) | (items % self.parts != part)
        if wrong.any():
            raise self._damaged(f"part={part} has a row of item {items[int(np.argmax(wrong))]}")
        indptr = np.zeros(len(items) + 1, np.int64)
        np.cumsum(columns["neighbors"].value_lengths().to_numpy(), out=indptr[1:])
        return RowBlock(
            items,
            indptr,
            self._entries(part, columns["neighbors"], np.int32, indptr[-1]),
            self._entries(part, columns.get("weights"), np.float32, indptr[-1]),
            columns["degree"].to_numpy() if "degree" in columns else np.empty(0),
        )

    def _entries(self, part: int, lists: Any, dtype: type, size: int) -> np.ndarray:
        if lists is None:  # not asked for
            return np.empty(0, dtype)
        values = lists.flatten()
        if values.null_count or len(values) != size or values.type.to_pandas_dtype() != dtype:
            raise self._damaged(f"part={part}: {len(values)} {values.type} in lists, expected {size} {dtype.__name__}")
        return values.to_numpy()


def _rank(rank: int, ranks: int) -> tuple[int, int]:
    ranks = checks.whole_number("ranks", ranks, 1)
    return checks.whole_number("rank", rank, 0, ranks - 1), ranks


def _picked(block: RowBlock, use: np.ndarray) -> RowBlock:
    lengths = np.diff(block.indptr)
    entries = np.repeat(use, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths[use])])
    weights, degree = block.weights, block.degree  # empty where they were not asked for
    return RowBlock(
        block.items[use],
        indptr,
        block.neighbors[entries],
        weights[entries] if len(weights) else weights,
        degree[use] if len(degree) else degree,
    )


def file_system(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The Arrow file system of a path or URI, and the path in it.

    Raises:
        ValueError: a URI that ``pyarrow.fs`` does not know.
    """
    import pyarrow as pa
    import pyarrow.fs

    text = os.fspath(path)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return pa.fs.LocalFileSystem(), str(Path(text).absolute())
    try:
        # Hadoop's names of S3 are not Arrow's.
        return pa.fs.FileSystem.from_uri(f"{'s3' if scheme in ('s3a', 's3n') else scheme}://{rest}")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{text}: {' '.join(str(error).split())}") from None


def write_header(path: str | os.PathLike[str], num_items: int, parts: int, meta: dict[str, Any]) -> None:
    """Makes a folder of rows whole, once all of its parts are there."""
    files, root = file_system(path)
    text = json.dumps(
        {"format": FORMAT, "version": VERSION, "num_items": num_items, "parts": parts, "meta": meta}, allow_nan=False
    )
    with files.open_output_stream(f"{root}/{HEADER}") as stream:
        stream.write(text.encode())


def _read_header(files: Any, root: str, path: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.fs

    try:
        with files.open_input_file(f"{root}/{HEADER}") as stream:
            header = json.loads(stream.read())
    except FileNotFoundError:
        if files.get_file_info(root).type != pa.fs.FileType.Directory:
            raise FileNotFoundError(f"path: no folder {path}") from None
        raise ValueError(
            f"{path} holds no {HEADER}: no rows of a graph, or such as were not written to the end"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {HEADER} cannot be read: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(f"{path}: {HEADER} is foreign or of another version, expected {FORMAT} {VERSION}")
    return header
