"""From arrays of events to the C++ builder: checks, defaults, progress."""

import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from resemb_ext.runtime.frames import Frame, to_arrow

from . import arrow, checks
from .counts import KeptCounts
from .data import GraphData
from .extension import builder
from .options import Options, categories

Call = Callable[[int, int], object]
Progress = Call | bool | None

RAW_IDS = "rx.data.read_log(frame) numbers other ids"
# Inferring more rows than this from few events would allocate gigabytes for raw, unmapped ids.
_SPARSE_IDS = 10**8


class Events(NamedTuple):
    """Checked arrays of events: int64 user and item, int64 or float64 time or None."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    time_unit: str | None  # dtype of dates, whose ticks ``time`` holds


def events_of(user: Any, item: Any, time: Any) -> Events:
    """Checks arrays of events, which ``InterestGraph.from_events`` documents."""
    users, items = checks.integers("user", user), checks.integers("item", item)
    times, unit = (None, None) if time is None else _times(time)
    for name, array in (("user", users), ("time", times)):
        if array is not None and len(array) != len(items):
            raise ValueError(f"{name} has {len(array)} entries, expected {len(items)}, as item has")
    return Events(users, items, times, unit)


def check_log(log: Any, name: str) -> bool:
    """Whether ``log`` is one; TypeError for a split, which holds the events of several parts."""
    if hasattr(log, "train") and hasattr(log, "log"):
        raise TypeError(f"{name} is a {type(log).__name__}, expected a log: give its training events, split.train")
    return hasattr(log, "content_hash") and hasattr(log, "user")


def log_events(log: Any, sessions: bool) -> tuple[Any, Any, Any]:
    """user (or session), item and time of a log's events that graphs may see: those with label 1."""
    label = getattr(log, "label", None)
    use = slice(None) if label is None else np.asarray(label) == 1
    who = log.session if sessions else log.user
    return who[use], log.item[use], None if log.time is None else log.time[use]


def frame_columns(frame: Frame, user: str, item: str, time: str | None, required: bool = False) -> dict[str, str]:
    """Names of the columns of "user", "item" and, where it is there or ``required``, "time"."""
    wanted = {"user": user, "item": item}
    if time is not None and (required or time in frame.names):
        wanted["time"] = time
    for field, name in wanted.items():
        if name not in frame.names:
            raise ValueError(f"no column {name!r} (the {field}), found {', '.join(map(str, frame.names))}")
    frame.check(list(wanted.values()))
    return wanted


def frame_events(frame: Frame, columns: dict[str, str]) -> tuple[Any, Any, Any]:
    """user, item and time of a table, all of it in memory."""
    names = list(dict.fromkeys(columns.values()))
    values = frame.columns(names)
    arrays = {field: _array(field, name, values[name]) for field, name in columns.items()}
    return arrays["user"], arrays["item"], arrays.get("time")


def _array(field: str, column: str, values: Any) -> np.ndarray:
    """A column as NumPy has it; what it has no type for comes through Arrow."""
    if not hasattr(values, "combine_chunks") and not hasattr(values, "dictionary_decode"):
        array = np.asarray(values)
        if array.dtype.kind in ("iufM" if field == "time" else "iu"):
            return array
    found = arrow.filled(field, column, to_arrow(values, column))
    return arrow.numbers(found) if field == "time" else arrow.whole_ids(column, found, RAW_IDS)


def build(
    user: Any,
    item: Any,
    time: Any,
    *,
    num_items: int | None,
    padding_idx: int | None,
    keep_counts: bool,
    threads: int | None,
    progress: Progress,
    options: dict[str, Any],
    log_meta: dict[str, Any] | None = None,
) -> GraphData:
    """The arrays and meta data of ``InterestGraph.from_events``, which documents the arguments.

    log_meta: what the log says of its events, over what the events themselves say.
    """
    events = events_of(user, item, time)
    height = _num_items(num_items, events.item, padding_idx)
    padding = checks.padding_option(padding_idx, height)
    chosen = Options.of(options, events.time_unit, events.time is not None)
    category = categories(options.get("category"), height)
    workers = thread_count(threads)
    native = chosen.native(num_items=height, events=len(events.item), padding=padding, category=category)
    totals = Totals.of(events, workers)
    meta = meta_of(chosen, height, padding, totals, events.time_unit) | (log_meta or {})
    with progress_call(progress) as report:
        if keep_counts:
            store = event_store(len(events.item))
            store.add(*events[:3], num_items=height, padding=native["padding"])
            counts = count_pairs(store, native, events.time, category, workers, report)
            return from_counts(counts, native, meta, workers)
        arrays = builder.build(*events[:3], options=native, threads=workers, progress=report)
    return built(arrays, height, meta)


class Totals(NamedTuple):
    """What meta data say of the events, whatever the way they came."""

    events: int = 0
    time_cut: float | int | None = None
    digest: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, events: Events, threads: int) -> "Totals":
        return cls().plus(events, threads)

    def plus(self, events: Events, threads: int) -> "Totals":
        """With more events, which follow these."""
        user, item, time, _ = events
        if not len(item):
            return self
        more = builder.digest(user, item, time, self.events, threads=threads)
        first, second = ((a + b) % 2**64 for a, b in zip(self.digest, more, strict=True))
        cut = None if time is None else time.max().item()
        if cut is not None and self.time_cut is not None:
            cut = max(cut, self.time_cut)
        return Totals(self.events + len(item), cut, (first, second))

    def hex_digest(self) -> str:
        return "".join(f"{part:016x}" for part in self.digest)


def meta_of(
    options: Options, num_items: int, padding: int | None, totals: Totals, time_unit: str | None
) -> dict[str, Any]:
    """The meta data of a graph of events."""
    return {
        "version": 2,
        "source": "events",
        "options": {"num_items": num_items, **options.meta(), "padding_idx": padding},
        "events": totals.events,
        "time_cut": totals.time_cut,
        "time_unit": time_unit,
        "event_digest": totals.hex_digest(),
        "event_hash": totals.hex_digest(),
    }


def digest_events(user: Any, item: Any, time: Any = None) -> str:
    """Hex digest (128 bits, not cryptographic) of events in their order, as meta data hold it.

    The sum over events of a mix of (index, user, item, time): it can be continued by events that
    follow, as ``InterestGraph.update`` does.

    Args:
        user, item, time: [n] each, as of ``InterestGraph.from_events``, whose errors are raised.

    Returns:
        32 hex digits.
    """
    return Totals.of(events_of(user, item, time), thread_count(None)).hex_digest()


def built(arrays: Any, num_items: int, meta: dict[str, Any], counts: KeptCounts | None = None) -> GraphData:
    """The builder's arrays with neighbors in the dtype of a graph."""
    indptr, neighbors, weights, degree = arrays[:4]
    neighbors = neighbors.astype(checks.neighbor_dtype(num_items), copy=False)
    return GraphData(indptr, neighbors, weights, degree, meta=meta, counts=counts)


def event_store(expected: int, folder: str | None = None, memory: int | None = None) -> Any:
    """A ``_builder.EventStore``; memory None: no limit."""
    return builder.EventStore(folder or tempfile.gettempdir(), -1 if memory is None else memory, expected)


def count_pairs(
    store: Any,
    native: dict[str, Any],
    time: np.ndarray | None,
    category: np.ndarray | None,
    threads: int,
    report: Call | None,
) -> KeptCounts:
    """Counts of all pairs of the stored events; ``time`` is None where they have none."""
    arrays, user, item, stamps = store.count_pairs(native, threads=threads, progress=report)
    indptr, neighbors, counted, _, occurrences = arrays
    return KeptCounts(
        indptr, neighbors, counted, occurrences.astype(np.int64), user, item, None if time is None else stamps, category
    )


def from_counts(counts: KeptCounts, native: dict[str, Any], meta: dict[str, Any], threads: int) -> GraphData:
    """The graph of counted pairs, with the counts."""
    arrays = builder.weigh(
        counts.indptr, counts.neighbors, counts.masses, counts.occurrences, native, threads=threads, progress=None
    )
    return built(arrays, native["num_items"], meta, counts)


def _num_items(num_items: int | None, items: np.ndarray, padding_idx: int | None) -> int:
    if num_items is not None:
        return checks.whole_number("num_items", num_items, 1, 2**62)
    if not len(items):
        raise ValueError("num_items is None and there are no events; give num_items")
    largest = int(items.max())
    if padding_idx is not None:
        largest = max(largest, checks.whole_number("padding_idx", padding_idx, 0))
    if largest >= max(_SPARSE_IDS, 100 * len(items)):
        raise ValueError(
            f"item[{int(items.argmax())}] is {largest}, far beyond the {len(items)} events; map ids"
            " to 0..n-1 (resemb_ext.data.read_log does) or give num_items"
        )
    return max(largest + 1, 1)


def _times(time: Any) -> tuple[np.ndarray, str | None]:
    """int64 or float64 times; dates become their int64 ticks, of the dtype that comes along."""
    array = checks.vector("time", time)
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        if missing.any():
            raise ValueError(f"time[{int(np.argmax(missing))}] is NaT, expected a time")
        return np.ascontiguousarray(array).view(np.int64), array.dtype.str
    if array.size == 0 or array.dtype.kind in "iu":
        return checks.integers("time", array), None
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype=np.float64), None
    raise TypeError(f"time has dtype {array.dtype}, expected integers, floats or datetime64")


def thread_count(threads: int | None) -> int:
    """``threads``, or the CPUs that this process may use."""
    if threads is not None:
        return checks.whole_number("threads", threads, 1, 4096)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Bar:
    """A tqdm bar as a progress callback; silent where stderr is no terminal."""

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm

        self.bar = tqdm(desc="graph", total=1, unit=" steps", unit_scale=True, disable=None)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)


def progress_call(progress: Progress) -> AbstractContextManager[Call | None]:
    if progress is None or progress is False:
        return nullcontext(None)
    if progress is True:
        return _Bar()
    if not callable(progress):
        raise TypeError(f"progress is {progress!r}, expected a callable(done, total), True or None")
    return nullcontext(progress)
