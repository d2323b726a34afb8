"""Graphs of events that are read in batches."""

import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import arrow, checks, numbering
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

_AHEAD = 3  # batches read before they are wanted


class Ids(Protocol):
    """A map from raw ids to numbers, such as ``rx.data.IdMap``."""

    @property
    def size(self) -> int: ...
    def encode(self, ids: Any, *, name: str = "id") -> tuple[np.ndarray, int]: ...


class Source(NamedTuple):
    """Events in batches.

    Attributes:
        columns: names of the columns of "user" and "item", and perhaps "time" and "label".
        batches: gives the Arrow batches, which have these columns; called once.
        rows: of all batches, None: not known.
        unit: the dtype of dates, where times are dates.
        remedy: what to do about ids that are no integers.
        before, users, items: as of ``InterestGraph.from_parquet``.
    """

    columns: dict[str, str]
    batches: Callable[[], Generator[Any]]
    rows: int | None
    unit: str | None
    remedy: str
    before: Any = None
    users: Ids | None = None
    items: Ids | None = None


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
    chosen = Options.of(options, source.unit, "time" in source.columns)
    source = source._replace(before=_cut(source.before, source.unit))
    store = event_store(source.rows or 0, folder, limit)
    totals, times = Totals(), None
    with progress_call(progress) as report:
        done = 0
        for events, read in _read_ahead(source):
            store.add(
                *events[:3],
                num_items=-1 if num_items is None else num_items,
                padding=-1 if padding is None else padding,
            )
            totals, times = totals.plus(events, workers), events.time
            done += read
            if report is not None and source.rows is not None:
                report(done, 3 * max(source.rows, 1))
        rows = done if source.rows is None else source.rows
        total = 3 * max(rows, 1)
        height = num_items
        if height is None:
            height = max(store.largest_item, -1 if padding is None else padding) + 1
            if not height:
                raise ValueError("num_items is None and there are no events; give num_items")
        category = categories(options.get("category"), height)
        native = chosen.native(num_items=height, events=store.count, padding=padding, category=category)
        ids = numbering.of_maps(source.items, source.users, keep_counts)
        meta = meta_of(chosen, height, padding, totals, source.unit) | ids

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


def _read_ahead(source: Source) -> Iterator[tuple[Events, int]]:
    """``_batches``, of which a thread reads the next ones while the caller uses this one."""
    batches = _batches(source)
    try:
        with ThreadPoolExecutor(1) as reader:
            coming = deque(reader.submit(next, batches, None) for _ in range(_AHEAD))
            while (batch := coming.popleft().result()) is not None:
                coming.append(reader.submit(next, batches, None))
                yield batch
    finally:
        _close(batches)


def _close(batches: Generator[Any]) -> None:
    """Closes what the thread may still be reading from: an interrupt at its start leaves nobody to wait for it."""
    while True:
        try:
            return batches.close()
        except ValueError as error:
            if "already executing" not in str(error):
                raise
            time.sleep(0.001)


def _batches(source: Source) -> Generator[tuple[Events, int]]:
    """The events that count, and how many rows they were picked from."""
    first = 0
    batches = source.batches()
    try:
        for batch in batches:
            yield _picked(source, batch, first), len(batch)
            first += len(batch)
    finally:
        batches.close()


def _picked(source: Source, batch: Any, first: int) -> Events:
    columns = source.columns
    values = {f: arrow.filled(f, name, batch.column(name), first) for f, name in columns.items()}
    user = _ids(source, "user", values["user"], source.users)
    item = _ids(source, "item", values["item"], source.items)
    time = arrow.numbers(values["time"]) if "time" in values else None
    use = None
    if "label" in values:
        use = arrow.clicks(columns["label"], values["label"], first)
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


def _ids(source: Source, field: str, values: Any, known: Ids | None) -> np.ndarray:
    column = source.columns[field]
    if known is not None:
        return known.encode(values, name=column)[0]
    return arrow.whole_ids(column, values, source.remedy.format(field=field))
