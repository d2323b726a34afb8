"""Graphs of events that are read in batches."""

import errno
import hashlib
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import arrow, checks, numbering, resumed
from .data import GraphData
from .events import (
    Call,
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
from .work import Work

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
        batches: gives the Arrow batches, which have these columns, without the first rows, as many as its
            argument says; called once.
        rows: of all batches, None: not known.
        unit: the dtype of dates, where times are dates.
        remedy: what to do about ids that are no integers.
        before, users, items: as of ``InterestGraph.from_parquet``.
        identity: JSON-able, what changes when the events do.
    """

    columns: dict[str, str]
    batches: Callable[[int], Generator[Any]]
    rows: int | None
    unit: str | None
    remedy: str
    before: Any = None
    users: Ids | None = None
    items: Ids | None = None
    identity: Any = None


class Kept(NamedTuple):
    """A folder to go on in after a kill; ``work_dir`` and ``restart`` as of ``InterestGraph.from_parquet``.

    finish: called with the graph before the work is removed.
    """

    work_dir: str | os.PathLike[str]
    restart: bool
    finish: Callable[[GraphData], object]


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
    kept: Kept | None = None,
) -> GraphData:
    """The arrays and meta data of ``InterestGraph.from_parquet``, which documents the arguments."""
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
    source = source._replace(before=cut_of(source.before, source.unit))
    plan = _Plan(source, num_items, padding, keep_counts, limit, workers, chosen, options)
    if kept is not None:
        if keep_counts:
            raise ValueError("keep_counts keeps all pairs in memory, and cannot go on in a work_dir; leave one out")
        with Work(kept.work_dir, plan.identity(), kept.restart) as work, progress_call(progress) as report:
            _check_room("work_dir", work.folder, plan, _bytes_on_disk(plan, 0) if not work.state else 0)
            events = resumed.EventWork(work, source.rows or 0, limit)
            graph = _resumable(plan, events, report)
            kept.finish(graph)
            work.finish()
            return graph
    folder = os.fspath(spill_dir) if spill_dir is not None else tempfile.gettempdir()
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"spill_dir: folder {folder} does not exist")
    _check_room("spill_dir", folder, plan, _bytes_on_disk(plan, limit))
    with progress_call(progress) as report:
        return _at_once(plan, event_store(source.rows or 0, folder, limit), report)


class _Plan(NamedTuple):
    """Checked arguments of a build."""

    source: Source
    num_items: int | None
    padding: int | None
    keep_counts: bool
    memory: int
    workers: int
    chosen: Options
    given: dict[str, Any]

    def add(self, store: Any, events: Events) -> None:
        store.add(
            *events[:3],
            num_items=-1 if self.num_items is None else self.num_items,
            padding=-1 if self.padding is None else self.padding,
        )

    def height(self, largest_item: int) -> int:
        if self.num_items is not None:
            return self.num_items
        height = max(largest_item, -1 if self.padding is None else self.padding) + 1
        if not height:
            raise ValueError("num_items is None and there are no events; give num_items")
        return height

    def native(self, height: int, events: int, category: np.ndarray | None) -> dict[str, Any]:
        return self.chosen.native(num_items=height, events=events, padding=self.padding, category=category)

    def category(self, height: int) -> np.ndarray | None:
        return categories(self.given.get("category"), height)

    def meta(self, height: int, totals: Totals) -> dict[str, Any]:
        ids = numbering.of_maps(self.source.items, self.source.users, self.keep_counts)
        return meta_of(self.chosen, height, self.padding, totals, self.source.unit) | ids

    def identity(self) -> dict[str, Any]:
        """JSON-able, all that the graph depends on."""
        source = self.source
        groups = self.given.get("category")
        return {
            "files": source.identity,
            "columns": source.columns,
            "before": None if source.before is None else str(source.before),
            "users": _map_identity("users", source.users),
            "items": _map_identity("items", source.items),
            "num_items": self.num_items,
            "padding_idx": self.padding,
            "category": None
            if groups is None
            else hashlib.sha256(checks.integers("category", groups).data).hexdigest(),
            **self.chosen.meta(),
        }


def _map_identity(name: str, ids: Any) -> list[Any] | None:
    if ids is None:
        return None
    if not hasattr(ids, "fingerprint"):
        raise TypeError(f"{name} is a {type(ids).__name__}; with work_dir, expected a map such as rx.data.IdMap")
    return [ids.size, ids.fingerprint()]


def _bytes_on_disk(plan: _Plan, memory: int) -> int:
    """The least that the events of a log, all of which count, take on disk beyond this memory."""
    source = plan.source
    if source.rows is None or source.before is not None or "label" in source.columns:
        return 0
    events, sequence = 12 * source.rows, (4 if plan.chosen.max_gap is None else 8) * source.rows
    return (events if events > memory else 0) + (sequence if sequence > memory - memory // 4 else 0)


def _check_room(name: str, folder: str | os.PathLike[str], plan: _Plan, need: int) -> None:
    """OSError where a folder has no room for what will surely be spilled."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"{name}: {plan.source.rows:,} events need {need / 1e9:.1f} GB, and {os.fspath(folder)} has"
            f" {free / 1e9:.1f} GB free; choose another folder",
        )


def _resumable(plan: _Plan, events: resumed.EventWork, report: Call | None) -> GraphData:
    rows, totals = events.rows, events.totals
    steps = resumed.Steps(report, plan.source.rows or 0)
    if not events.all_read:
        steps.at(0)(rows, steps.rows)
        for batch, read in _read_ahead(plan.source, rows):
            plan.add(events.store, batch)
            totals = totals.plus(batch, plan.workers)
            rows += read
            steps.at(0)(rows, steps.rows)
            events.save(rows, totals)
        events.save(rows, totals, end=True)
    height = plan.height(events.largest_item)
    native = plan.native(height, totals.events, plan.category(height))
    arrays = resumed.build(events, native, plan.memory, plan.workers, steps)
    return built(arrays, height, plan.meta(height, totals))


def _at_once(plan: _Plan, store: Any, report: Call | None) -> GraphData:
    rows, totals, times = 0, Totals(), None
    known = plan.source.rows
    for events, read in _read_ahead(plan.source, 0):
        plan.add(store, events)
        totals, times = totals.plus(events, plan.workers), events.time
        rows += read
        if known is not None:
            resumed.Steps(report, known).at(0)(rows, known)
    steps = resumed.Steps(report, rows if known is None else known)
    height = plan.height(store.largest_item)
    category = plan.category(height)
    native = plan.native(height, store.count, category)
    meta = plan.meta(height, totals)

    def later(done: int, total: int) -> None:
        if 2 * done < total:
            steps.at(1)(2 * done, total)
        else:
            steps.at(2)(2 * done - total, total)

    if plan.keep_counts:
        counts = count_pairs(store, native, times, category, plan.workers, later)
        return from_counts(counts, native, meta, plan.workers)
    return built(store.build(native, threads=plan.workers, progress=later), height, meta)


def _memory(memory: int | None) -> int:
    if memory is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return checks.whole_number("memory", memory, 1)


def cut_of(before: Any, unit: str | None) -> Any:
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


def _read_ahead(source: Source, skip: int) -> Iterator[tuple[Events, int]]:
    """``_batches``, of which a thread reads the next ones while the caller uses this one."""
    batches = _batches(source, skip)
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


def _batches(source: Source, first: int) -> Generator[tuple[Events, int]]:
    """The events that count from row ``first`` on, and how many rows they were picked from."""
    batches = source.batches(first)
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
