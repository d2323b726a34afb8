"""Open a file or folder by its kind: text, JSON lines, Parquet, or a folder of parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from .delimited import open_delimited
from .folders import open_parts
from .json_lines import open_json_lines
from .kinds import JSON, PARQUET, SUFFIXES, kind_of
from .layout import DELIMITERS
from .source import Source, readable


def open_source(path: Path, header: Sequence[str] | None = None, delimiter: str | None = None) -> Source:
    """Looks at the columns of a file, or of a folder of parts.

    Args:
        path: a file whose suffix is one of ``SUFFIXES``; all but Parquet may be compressed (``.gz``, ``.bz2``,
            ``.zst``). Or a folder of such files.
        header: names of a text file's columns, whose first line is then data.
        delimiter: what parts a text file's values, where its suffix or first lines do not tell.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, an empty or damaged one, or a ``header`` or ``delimiter`` that cannot be.
    """
    if not path.exists():
        raise FileNotFoundError(f"no log at {str(path)!r}")
    if path.is_dir():
        return open_parts(path, lambda part: open_source(part, header, delimiter))
    kind = kind_of(path)
    if not kind:
        raise ValueError(f"cannot read {str(path)!r}: expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if kind not in DELIMITERS:
        if header is not None:
            raise ValueError(f"header: {path.name} names its columns itself")
        if delimiter is not None:
            raise ValueError(f"delimiter: is for text files, not for {path.name}")
    with readable(path):
        if kind in PARQUET:
            return _open_parquet(path)
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        return open_json_lines(path) if kind in JSON else open_delimited(path, kind, header, delimiter)


def _open_parquet(path: Path) -> Source:
    with pa.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names

    def read(columns: Sequence[str]) -> pa.Table:
        with readable(path), pa.parquet.ParquetFile(path) as file:
            return file.read(columns=list(columns))

    return Source(path, names, read)
