"""A graph with more events: what `InterestGraph.update` computes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks, _events
from ._kept import KeptCounts
from ._options import Options, categories

if TYPE_CHECKING:
    from .interest_graph import InterestGraph


def updated(
    graph: "InterestGraph",
    new_events: Any,
    num_items: int | None,
    category: Any,
    threads: int | None,
    progress: _events.Progress,
) -> _events.Built:
    """The graph of the old events followed by the new ones.

    A new event pairs with new ones and with the last `window` of its user's old ones. So the pairs
    of (last old events + new ones) less those of the last old events alone are what is added.
    """
    old = graph.counts
    if old is None:
        raise ValueError("the graph keeps no counts, which update needs; build it with keep_counts=True")
    found = graph.meta["options"]
    options = Options.of_meta(found)
    events = _events_in(new_events, bool(graph.meta.get("sessions")))
    _check_times(graph, old, events)
    height = graph.num_items
    if num_items is not None:
        height = _checks.whole_number("num_items", num_items, height)
    if category is not None and not options.category_edges:
        raise ValueError("category is given but the graph has no category edges")
    groups = categories(category, height) if category is not None else old.category
    if groups is not None and len(groups) != height:
        raise ValueError(f"category is None, expected one for every one of the {height} items")
    workers = _events.thread_count(threads)
    padding = found["padding_idx"]
    native = options.native(
        num_items=height, events=int(old.occurrences.sum()) + len(events.item), padding=padding, category=groups
    )
    has_time = old.tail_time if len(old.tail_user) else events.time
    tail = (old.tail_user, old.tail_item, old.tail_time if len(old.tail_user) else None)
    counted = []
    with _events.progress_call(progress) as report:
        for parts in ((tail,), (tail, events[:3])):
            store = _events.event_store(sum(len(part[1]) for part in parts))
            for part in parts:
                if len(part[1]):
                    store.add(*part, num_items=height, padding=native["padding"], first=0)
            counted.append(
                _events.count_pairs(store, native, has_time, groups, workers, report if len(parts) == 2 else None)
            )
    before, after = counted
    indptr, neighbors, masses = _sum(old, before, after, height)
    grown = np.zeros(height - graph.num_items, np.int64)
    counts = replace(
        after,
        indptr=indptr,
        neighbors=neighbors,
        masses=masses,
        occurrences=np.concatenate([old.occurrences, grown]) + after.occurrences - before.occurrences,
    )
    totals = _events.Totals(
        graph.meta["events"],
        graph.meta["time_cut"],
        (int(graph.meta["event_digest"][:16], 16), int(graph.meta["event_digest"][16:], 16)),
    ).plus(events, workers)
    unit = events.time_unit if len(events.item) else graph.meta["time_unit"]
    meta = _events.meta_of(options, height, padding, totals, unit)
    if "sessions" in graph.meta:
        meta["sessions"] = graph.meta["sessions"]
    return _events.from_counts(counts, native, meta, workers)


def _sum(
    old: KeptCounts, before: KeptCounts, after: KeptCounts, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR of old - before + after, rows ascending and without zeros."""
    from scipy.sparse import csr_array

    def matrix(counts: KeptCounts) -> Any:
        indptr = np.concatenate([counts.indptr, np.full(height + 1 - len(counts.indptr), counts.indptr[-1], np.int64)])
        return csr_array((counts.masses, counts.neighbors, indptr), shape=(height, height))

    total = matrix(old) + (matrix(after) - matrix(before))
    total.eliminate_zeros()
    total.sort_indices()
    return (
        total.indptr.astype(np.int64, copy=False),
        total.indices.astype(np.int32, copy=False),
        total.data.astype(np.int64, copy=False),
    )


def _events_in(new_events: Any, sessions: bool) -> _events.Events:
    if hasattr(new_events, "content_hash") and hasattr(new_events, "user"):
        if sessions:
            raise ValueError(
                "new_events is a log but the graph joins events within sessions, which every log"
                " numbers from 0; give (session, item, time) arrays that go on with the numbers of"
                " the old log's sessions"
            )
        return _events.events_of(*log_events(new_events, False))
    if hasattr(new_events, "columns") or isinstance(new_events, Mapping):
        return _events.events_of(*frame_events(new_events, "user", "item", "time"))
    if isinstance(new_events, (tuple, list)) and len(new_events) in (2, 3):
        return _events.events_of(*new_events, *([None] if len(new_events) == 2 else []))
    raise TypeError(
        f"new_events is a {type(new_events).__name__}, expected a log, (user, item, time) or a"
        " DataFrame or mapping with these columns"
    )


def log_events(log: Any, sessions: bool) -> tuple[Any, Any, Any]:
    """user (or session), item and time of a log's events that graphs may see: those with label 1."""
    label = getattr(log, "label", None)
    use = slice(None) if label is None else np.asarray(label) == 1
    who = log.session if sessions else log.user
    return who[use], log.item[use], None if log.time is None else log.time[use]


def frame_events(frame: Any, user: str, item: str, time: str | None, required: bool = False) -> tuple[Any, Any, Any]:
    """user, item and time out of a DataFrame, Arrow table or mapping of columns."""
    names = getattr(frame, "column_names", None)  # Arrow
    if names is None:
        names = frame.columns if hasattr(frame, "columns") else frame.keys()
    available = list(names)
    wanted = [("user", user), ("item", item)]
    if time is not None and (required or time in available):
        wanted.append(("time", time))
    for field, name in wanted:
        if name not in available:
            raise ValueError(f"no column {name!r} (the {field}), found {', '.join(map(str, available))}")
    columns = [np.asarray(frame[name]) for _, name in wanted]
    return columns[0], columns[1], columns[2] if len(columns) == 3 else None


def _check_times(graph: "InterestGraph", old: KeptCounts, events: _events.Events) -> None:
    """Times of the same kind, and none before its user's last old event."""
    if not len(events.item) or not len(old.tail_user):
        return
    if (events.time is None) != (old.tail_time is None):
        with_, without = ("new", "old") if old.tail_time is None else ("old", "new")
        raise ValueError(f"the {with_} events have times, the {without} ones have none")
    if events.time is None or old.tail_time is None:
        return
    if events.time.dtype != old.tail_time.dtype or events.time_unit != graph.meta["time_unit"]:
        raise TypeError(
            f"time is {events.time_unit or events.time.dtype}, expected"
            f" {graph.meta['time_unit'] or old.tail_time.dtype}, as of the graph's events"
        )
    last = np.append(old.tail_user[1:] != old.tail_user[:-1], True)
    users, newest = old.tail_user[last], old.tail_time[last]
    place = np.minimum(np.searchsorted(users, events.user), len(users) - 1)
    early = (users[place] == events.user) & (events.time < newest[place])
    if early.any():
        at = int(np.argmax(early))
        raise ValueError(
            f"time[{at}] is {events.time[at]}, before the last event of user {events.user[at]} that"
            f" the graph saw, at {newest[place][at]}; events that come late need a rebuild"
        )
