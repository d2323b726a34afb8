"""Events of Parquet files, read in batches."""

import hashlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from . import arrow


def paths_of(path: Any) -> list[Path]:
    """One path or several, all of them files."""
    several = isinstance(path, Sequence) and not isinstance(path, (str, bytes))
    paths = [Path(os.fspath(p)) for p in (path if several else [path])]
    if not paths:
        raise ValueError("path is empty, expected at least one Parquet file")
    for found in paths:
        if not found.exists():
            raise FileNotFoundError(f"path: no file {found}")
        if not found.is_file():
            raise ValueError(f"path: {found} is not a file, expected a Parquet file")
    return paths


def survey(paths: Sequence[Path], columns: dict[str, str]) -> tuple[int, str | None]:
    """Rows of all files and the dtype of dates; checks that the columns are there and agree."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, kinds = 0, {}
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                rows += file.metadata.num_rows
                schema = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        for field, name in columns.items():
            if name not in schema.names:
                raise ValueError(
                    f"{path} has no column {name!r} (the {field}); it has {', '.join(schema.names) or 'none'}"
                )
        if "time" in columns:
            kinds[schema.field(columns["time"]).type] = path
    if len(kinds) > 1:
        raise ValueError(f"column {columns['time']!r} is {' and '.join(map(str, kinds))} in the files")
    return rows, next(map(arrow.time_unit, kinds), None)


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"cannot read {str(path)!r}: {' '.join(str(error).split())}")


def identity(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """JSON-able, of files that ``survey`` could read: what changes when their content does.

    That is their size, the time of their last change and a digest of Parquet's footer, which says where every
    page lies and, as most writers make it, between which values.
    """
    found = []
    for path in paths:
        status = path.stat()
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            size = int.from_bytes(file.read(4), "little")
            file.seek(-8 - min(size, status.st_size - 8), os.SEEK_END)
            footer = hashlib.sha256(file.read()).hexdigest()
        found.append(
            {"path": str(path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns, "footer": footer}
        )
    return found


def read(paths: Sequence[Path], columns: Sequence[str], rows: int, skip: int = 0) -> Generator[Any]:
    """The files' batches of these columns, without the first ``skip`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                groups = list(range(file.num_row_groups))
                while groups and (size := file.metadata.row_group(groups[0]).num_rows) <= skip:
                    skip -= size
                    del groups[0]
                if not groups:
                    continue
                for batch in file.iter_batches(rows, groups, columns=list(columns)):
                    left = batch.slice(min(skip, len(batch)))
                    skip -= len(batch) - len(left)
                    if len(left):
                        yield left
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of the file's content
            raise _unreadable(path, error) from None
