"""A file of folded rows, mapped: lookups and bags straight from its 8-bit rows."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resemb_ext._bags import check_ids, check_pooling
from resemb_ext._loader import _C
from resemb_ext._registration_serving import pool_rows, read_rows
from resemb_ext.data import IdMap
from resemb_ext.runtime.files import write_atomic

from . import lite
from .following import items_of, oov_row
from .neighbors import export_index
from .vectors import vectors_of

_BITS = {"int4": 4, "int8": 8, "float16": 16, "float32": 32}
_TORCH = {"float16": torch.float16, "float32": torch.float32}
_IDS = (torch.int64, torch.int32)
_STRIDED = torch.strided


class _Version(NamedTuple):
    """A version of a table: what readers take in one step."""

    snapshot: lite.Snapshot
    arguments: tuple[Any, ...]  # of the operators, behind ids and bags


def _version(snapshot: lite.Snapshot) -> _Version:
    none = (-1 if row is None else row for row in (snapshot.oov, snapshot.header.padding))
    tensors = (
        _tensor(snapshot.base),
        _tensor(snapshot.bits.view(np.int64)),
        _tensor(snapshot.before),
        _tensor(snapshot.overlay),
    )
    return _Version(snapshot, (*tensors, _BITS[snapshot.header.dtype], snapshot.rows, *none))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class Table:
    """The rows of an embedding in a file that is mapped: made by ``write``, opened by ``open``.

    The file holds float32, float16, or 8 or 4 bits a number. Rows of 8 and 4 bits are in the form of FBGEMM and of
    ``torch.ops.quantized``. Vectors are float32 whatever the file holds. Opening takes milliseconds whatever its size:
    rows come into memory as they are read, and all processes on a machine share one copy. Lookups run on the CPU, take
    any number of threads, and have no gradient.

    An id below 0 or from ``rows`` on reads the row ``oov``; where the table has none, the first such id is refused by
    IndexError. ``padding`` reads zeros, and is not counted in a bag.

    ``refresh`` goes to the version that is in force. A lookup sees one version as a whole, also where other threads
    refresh meanwhile.

    Attributes:
        path: of the file.
    """

    path: Path

    def __init__(self, path: Path | str, *, preload: bool = False) -> None:
        self.path = Path(path)
        self._preload = preload
        self._lock = threading.Lock()
        self._now = self._made(lite.read_snapshot(self.path, None))

    @classmethod
    def open(cls, path: Path | str, *, preload: bool = False) -> Table:
        """Opens a table at the version in force.

        Args:
            path: of the file that ``write`` made.
            preload: read the whole file into memory now, on huge pages where the system has them for its file
                system. Without, a page is read when a row on it is first asked for, and costs as long as the disk takes.

        Raises:
            FileNotFoundError: no such file.
            TableError: no table, or a damaged one; one line.
        """
        return cls(path, preload=preload)

    @classmethod
    def write(
        cls,
        source: Any,
        path: Path | str,
        dtype: str = "int8",
        *,
        oov: int | None = None,
        items: IdMap | lite.Items | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Table:
        """Writes the rows of an embedding, block by block, and opens the file.

        The file appears whole, or the one before stays. Padding is that of the embedding; ``nn.Embedding`` whose padding
        row is not zero has none here, since its lookup gives that row.

        Args:
            source: ``ResEmbedding``, ``ResEmbeddingBag``, ``nn.Embedding``, ``nn.EmbeddingBag``, or a floating tensor or
                array [H, D]. A Res-embedding's rows are computed on the way; dropout of edges is off.
            path: of the file, in a folder that is there.
            dtype: "float32", "float16", "int8" or "int4". The last two cost D + 8 and D / 2 + 4 bytes a row. int8: scale =
                (max - min) / 255 of the row, as ``torch.ops.quantized.embedding_bag_byte_prepack``; int4: as
                ``embedding_bag_4bit_prepack``, for even D.
            oov: row for ids that the table lacks.
            items: raw ids of the rows below ``oov``, kept in the file.
            meta: JSON that the file keeps, such as the run that it came from.

        Raises:
            TypeError: another source, or items that are no id map.
            ValueError: a matrix of another shape, an oov that is no row, a path that has versions beside it.
            TableError: numbers that are not finite in ``dtype``, the row is named; a dtype or dim that no table has;
                items with repeats, or that do not end below ``oov``.
            OSError: the file cannot be written.
        """
        found, path, oov, items = vectors_of(source), Path(path), oov_row(oov), items_of(items)
        lite.row_bytes(dtype, found.dim)  # refuses what no table can have
        if oov is not None and not 0 <= oov < found.rows:
            raise ValueError(f"oov: found {oov}; expected a row from 0 to {found.rows - 1}, or None")
        _check_alone(path)
        fields = {
            "dtype": dtype,
            "rows": found.rows,
            "dim": found.dim,
            "oov": oov,
            "padding": found.padding,
            "meta": meta or {},
        }

        def fill(target: Path) -> None:
            lite.write_table(target, fields, found.encoded(dtype), items)
            _check_alone(path)  # a publisher may have come meanwhile, whose versions need the file that is there

        write_atomic(path, fill)
        return cls.open(path)

    @property
    def snapshot(self) -> lite.Snapshot:
        """The version that is open, as NumPy arrays."""
        return self._now.snapshot

    @property
    def rows(self) -> int:
        """H."""
        return self.snapshot.rows

    @property
    def dim(self) -> int:
        """D."""
        return self.snapshot.header.dim

    @property
    def dtype(self) -> str:
        """ "float32", "float16", "int8" or "int4"."""
        return self.snapshot.header.dtype

    @property
    def oov(self) -> int | None:
        """Row of ids that the table lacks."""
        return self.snapshot.oov

    @property
    def padding(self) -> int | None:
        """The id whose vector is zero."""
        return self.snapshot.header.padding

    @property
    def sequence(self) -> int:
        """Number of the version."""
        return self.snapshot.sequence

    def __call__(self, ids: Tensor) -> Tensor:
        """Vectors of ids.

        Args:
            ids: int64 or int32, any shape, on the CPU.

        Returns:
            float32 [*ids.shape, D].

        Raises:
            IndexError: the first id that is no row, with its position in ``ids.flatten()``, where the table has no
                ``oov``.
            TypeError: no tensor, or another dtype.
            ValueError: ids on another device, or of another layout than strided.
        """
        if type(ids) is not Tensor or ids.dtype not in _IDS or not ids.is_cpu or ids.layout is not _STRIDED:
            _check(ids)
        return read_rows(ids, *self._now.arguments)

    def bag(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        mode: str = "mean",
        weights: Tensor | None = None,
        *,
        include_last_offset: bool = False,
        mean_divisor: str = "weights",
    ) -> Tensor:
        """Vectors of bags of ids, in one pass; the arguments mean what those of ``res_embedding_bag`` mean.

        Args:
            ids: int64 or int32, [P] with ``offsets``, or without them [B, N], N ids a bag.
            offsets: int64 or int32 [B], the start of each bag; [B + 1] with ``include_last_offset``.
            mode: "sum" or "mean". Padding adds nothing and is not counted; an empty bag is zero.
            weights: floating, the shape of ``ids``; without gradient.
            include_last_offset: ``offsets`` ends with the end of the last bag; ids behind it are not read.
            mean_divisor: of mode "mean" with weights: "weights" divides by their sum, "count" by the number of ids.

        Returns:
            float32 [B, D].

        Raises:
            IndexError, TypeError: as lookups.
            ValueError: shapes, dtypes, devices, mode or offsets that do not fit.
            RuntimeError: weights that require a gradient.
        """
        if type(ids) is not Tensor or ids.dtype not in _IDS or not ids.is_cpu or ids.layout is not _STRIDED:
            _check(ids)
        if mode != "mean" or mean_divisor != "weights":
            check_pooling(mode, mean_divisor)
        if offsets is None and include_last_offset:
            raise ValueError("include_last_offset: needs offsets")
        if offsets is not None and not (type(offsets) is Tensor and offsets.dtype == torch.int64 and offsets.is_cpu):
            offsets = _offsets(offsets)
        if weights is not None:
            weights = _weights(weights, ids)
        divisor = 0 if mode == "sum" else 2 if weights is not None and mean_divisor == "weights" else 1
        return pool_rows(ids, offsets, weights, include_last_offset, divisor, *self._now.arguments)

    def as_torch(self) -> Tensor:
        """The rows as torch's and FBGEMM's operators take them.

        int8 and int4: the bytes that ``torch.ops.quantized.embedding_bag_byte_prepack`` and ``embedding_bag_4bit_prepack``
        make, for ``torch.ops.quantized.embedding_bag_byte_rowwise_offsets`` and ``embedding_bag_4bit_rowwise_offsets``, and
        for ``torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat``. Those operators have no rule for ids that are no rows, nor
        for padding, whose row is zero.

        Returns:
            uint8 [H, row_bytes]; float16 or float32 [H, D] of such a table. Without deltas the mapped rows themselves,
            else a copy. Writes into it stay in this process.
        """
        snapshot = self.snapshot
        rows = _tensor(snapshot.base)
        if len(snapshot.numbers) or snapshot.rows != len(rows):
            base, rows = rows, torch.empty(snapshot.rows, rows.shape[1], dtype=torch.uint8)
            rows[: len(base)] = base
            rows[_tensor(snapshot.numbers)] = _tensor(snapshot.overlay)
        return rows.view(_TORCH[self.dtype]) if self.dtype in _TORCH else rows

    def export_index(
        self,
        kind: str,
        path: Path | str,
        *,
        metric: str = "cos",
        dtype: str = "f32",
        connectivity: int = 16,
        expansion: int = 128,
    ) -> Path:
        """Writes an index of the items of this version, by usearch, faiss or hnswlib; see ``neighbors.export_index``.

        Args:
            kind: "usearch", "faiss" or "hnswlib"; each is an extra.
            path: file to write; ``PATH.json`` beside it says what it was made of.
            metric: "cos", "ip" or "l2".
            dtype: "f32"; for usearch also "f16", and with "cos" "i8".
            connectivity, expansion: links of an item, and candidates that are looked at when one is added.

        Raises:
            ValueError, ImportError, OSError: as ``neighbors.export_index``.
        """
        return export_index(
            self, kind, path, metric=metric, dtype=dtype, connectivity=connectivity, expansion=expansion
        )

    def refresh(self) -> bool:
        """Goes to the version in force; lookups that run meanwhile finish with theirs.

        Returns:
            Whether there was another one.

        Raises:
            FileNotFoundError, TableError: as ``open``; the table stays at its version.
        """
        with self._lock:
            known = self._now.snapshot
            found = lite.read_snapshot(self.path, known)
            if found is known:
                return False
            self._now = self._made(found)
            return True

    def verify(self) -> None:
        """Compares all rows and raw ids with their sha256; reads the whole file.

        Raises:
            TableError: they differ.
        """
        self.snapshot.verify()

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        fields = f"rows={self.rows}, dim={self.dim}, dtype={self.dtype!r}, oov={self.oov}, padding={self.padding}"
        return f"Table({str(self.path)!r}, {fields}, sequence={self.sequence})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the same file, at the version in force there."""
        return _opened, (os.path.abspath(self.path), self._preload)

    def _made(self, snapshot: lite.Snapshot) -> _Version:
        base = snapshot.base
        if self._preload and base.size and not _C.preload_pages(base.ctypes.data, base.nbytes):
            base.reshape(-1)[:: mmap.PAGESIZE].max()
        return _version(snapshot)


def _opened(path: str, preload: bool) -> Table:
    return Table.open(path, preload=preload)


def _check(ids: Any) -> None:
    """Of all but a plain tensor of ids on the CPU: small lookups would feel these checks."""
    check_ids(ids)
    if ids.is_nested:
        raise ValueError("ids: a nested tensor; a table takes ids and offsets")
    _check_cpu(ids, "ids")
    if ids.layout is not _STRIDED:
        raise ValueError(f"ids: of layout {ids.layout}; expected torch.strided: give ids.to_dense()")


def _check_cpu(tensor: Tensor, name: str) -> None:
    if not tensor.is_cpu:
        raise ValueError(f"{name}: on {tensor.device}; a table is read on the CPU: give {name}.cpu()")


def _check_alone(path: Path) -> None:
    """Refuses to write over the base of versions."""
    if lite.read_head(path) is not None:
        raise ValueError(f"path: {path} has versions in {lite.folder_of(path)}; publish the next one, or remove both")


def _offsets(offsets: Any) -> Tensor:
    if not isinstance(offsets, Tensor) or offsets.dtype not in _IDS:
        found = getattr(offsets, "dtype", type(offsets).__name__)
        raise TypeError(f"offsets: found {found}; expected a tensor of int64 or int32")
    _check_cpu(offsets, "offsets")
    return offsets.to(torch.int64)


def _weights(weights: Any, ids: Tensor) -> Tensor:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        found = getattr(weights, "dtype", type(weights).__name__)
        raise TypeError(f"weights: found {found}; expected a floating tensor")
    if weights.shape != ids.shape:
        raise ValueError(f"weights: shape {tuple(weights.shape)}; expected that of ids, {tuple(ids.shape)}")
    _check_cpu(weights, "weights")
    if weights.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("weights: require a gradient, which a table does not give; use weights.detach()")
    return weights.to(torch.float32)
