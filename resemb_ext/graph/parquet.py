"""Graphs of Parquet files read in batches: what ``InterestGraph.from_parquet`` does."""

import math
import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import checks, numbering
from .data import GraphData
from .events import (
    Events,
    Progress,
    Totals,
    built,
    count_pairs,
    event_store,
    events_of,
    from_counts,
    meta_of,
    progress_call,
    thread_count,
)
from .options import Options, categories


class Ids(Protocol):
    """A map from raw ids to numbers, such as ``rx.data.IdMap``."""

    @property
    def size(self) -> int: ...
    def encode(self, ids: Any, *, name: str = "id") -> tuple[np.ndarray, int]: ...


class Source(NamedTuple):
    """Where events are: files, the names of their columns, and which of them count."""

    paths: list[Path]
    user: str
    item: str
    time: str | None
    label: str | None
    before: Any
    users: Ids | None
    items: Ids | None
    batch_rows: int


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


def build(
    source: Source,
    *,
    num_items: int | None,
    padding_idx: int | None,
    keep_counts: bool,
    memory: int | None,
    spill_dir: str | os.PathLike[str] | None,
    threads: int | None,
    progress: Progress,
    options: dict[str, Any],
) -> GraphData:
    """The arrays and meta data of ``InterestGraph.from_parquet``, which documents the arguments."""
    folder = os.fspath(spill_dir) if spill_dir is not None else tempfile.gettempdir()
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"spill_dir: folder {folder} does not exist")
    limit = _memory(memory)
    if num_items is None and source.items is not None:
        num_items = source.items.size
    if num_items is not None:
        num_items = checks.whole_number("num_items", num_items, 1, checks.INT32_MAX - 1)
    padding = None
    if padding_idx is not None:
        most = None if num_items is None else num_items - 1
        padding = checks.whole_number("padding_idx", padding_idx, 0, most)
    workers = thread_count(threads)
    rows, unit = _survey(source)
    chosen = Options.of(options, unit, source.time is not None)
    source = source._replace(before=_cut(source.before, unit))
    store = event_store(rows, folder, limit)
    totals, times = Totals(), None
    with progress_call(progress) as report:
        total, done = 3 * max(rows, 1), 0
        for events, read in _read_ahead(source):
            store.add(
                *events[:3],
                num_items=-1 if num_items is None else num_items,
                padding=-1 if padding is None else padding,
            )
            totals, times = totals.plus(events, workers), events.time
            done += read
            if report is not None:
                report(done, total)
        height = num_items
        if height is None:
            height = max(store.largest_item, -1 if padding is None else padding) + 1
            if not height:
                raise ValueError("num_items is None and there are no events; give num_items")
        category = categories(options.get("category"), height)
        native = chosen.native(num_items=height, events=store.count, padding=padding, category=category)
        ids = numbering.of_maps(source.items, source.users, keep_counts)
        meta = meta_of(chosen, height, padding, totals, unit) | ids

        def later(step: int, steps: int) -> None:
            if report is not None:
                report(rows + (2 * rows * step // steps if steps else 2 * rows), total)

        if keep_counts:
            counts = count_pairs(store, native, times, category, workers, later)
            return from_counts(counts, native, meta, workers)
        arrays = store.build(native, threads=workers, progress=later)
    return built(arrays, height, meta)


def _memory(memory: int | None) -> int:
    if memory is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return checks.whole_number("memory", memory, 1)


def _cut(before: Any, unit: str | None) -> Any:
    """``before`` as times are compared with it: a number, or datetime64 where times are dates."""
    if before is None:
        return None
    number = isinstance(before, (int, float, np.number)) and not isinstance(before, bool)
    if unit is None:
        if not number:
            raise TypeError(f"before is {before!r}, expected a number as times are numbers")
        if not math.isfinite(before):
            raise ValueError(f"before is {before}, expected a finite number")
        return before
    if number:
        raise TypeError(f"before is {before!r}, expected a date as times are dates")
    try:
        date = np.datetime64(before)
    except (TypeError, ValueError):
        date = np.datetime64("NaT")
    if np.isnat(date):
        raise ValueError(f"before is {before!r}, expected a date")
    return date


def _columns(source: Source) -> dict[str, str]:
    named = {"user": source.user, "item": source.item, "time": source.time, "label": source.label}
    return {field: name for field, name in named.items() if name is not None}


def _survey(source: Source) -> tuple[int, str | None]:
    """Rows of all files and the dtype of dates; checks that the columns are there and agree."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, kinds = 0, {}
    for path in source.paths:
        try:
            with pq.ParquetFile(path) as file:
                rows += file.metadata.num_rows
                schema = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        for field, name in _columns(source).items():
            if name not in schema.names:
                raise ValueError(
                    f"{path} has no column {name!r} (the {field}); it has {', '.join(schema.names) or 'none'}"
                )
        if source.time is not None:
            kinds[schema.field(source.time).type] = path
    if len(kinds) > 1:
        raise ValueError(f"column {source.time!r} is {' and '.join(map(str, kinds))} in the files")
    for kind in kinds:
        if pa.types.is_timestamp(kind):
            return rows, f"<M8[{kind.unit}]"
        if pa.types.is_date(kind):
            return rows, "<M8[D]" if pa.types.is_date32(kind) else "<M8[ms]"
    return rows, None


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"cannot read {str(path)!r}: {' '.join(str(error).split())}")


def _read_ahead(source: Source) -> Iterator[tuple[Events, int]]:
    """``_batches``, of which a thread reads the next one while the caller uses this one."""
    batches = _batches(source)
    try:
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = reader.submit(next, batches, None)
                yield batch
    finally:
        batches.close()


def _batches(source: Source) -> Generator[tuple[Events, int]]:
    """The events that count, and how many rows they were picked from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(source)
    first = 0
    for path in source.paths:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(source.batch_rows, columns=[*columns.values()]):
                    values = {f: batch.column(name) for f, name in columns.items()}
                    yield _picked(source, columns, values, first), len(batch)
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of the file's content
            raise _unreadable(path, error) from None


def _picked(source: Source, columns: dict[str, str], values: dict[str, Any], first: int) -> Events:
    for field, array in values.items():
        if array.null_count:
            row = first + int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"column {columns[field]!r}, row {row}: null, expected a {field}")
    user = _ids("user", columns["user"], values["user"], source.users)
    item = _ids("item", columns["item"], values["item"], source.items)
    time = _numpy(values["time"]) if "time" in values else None
    use = None
    if "label" in values:
        use = _clicks(columns["label"], values["label"], first)
    if source.before is not None and time is not None:
        early = time < source.before
        use = early if use is None else use & early
    if use is not None:
        user, item = user[use], item[use]
        time = None if time is None else time[use]
    try:
        return events_of(user, item, time)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rows from {first} on: {error}") from None


def _clicks(column: str, values: Any, first: int) -> np.ndarray:
    """bool [n]: which of the labels, 0/1 or booleans without nulls, are 1."""
    labels = values.to_numpy(zero_copy_only=False)
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"column {column!r} is {values.type}, expected labels of 0/1 or booleans")
    bad = (labels != 0) & (labels != 1)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"column {column!r}, row {first + at}: label is {labels[at]}, expected 0 or 1;"
            " --label-column - leaves the column out"
        )
    return labels == 1


def _numpy(values: Any) -> np.ndarray:
    """An Arrow array without nulls. Numbers come as they lie: to_numpy would import pandas first."""
    import pyarrow as pa

    if not len(values) or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return values.to_numpy(zero_copy_only=False)
    dtype = np.dtype(values.type.to_pandas_dtype())
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def _ids(field: str, column: str, values: Any, known: Ids | None) -> np.ndarray:
    if known is not None:
        return known.encode(values, name=column)[0]
    array = _numpy(values)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"column {column!r} is {values.type}, expected integers; map other ids with {field}s=rx.data.IdMap.fit(...)"
        )
    return array
