"""A graph with more events: what ``InterestGraph.update`` computes."""

from dataclasses import replace
from typing import Any

import numpy as np

from resemb_ext.runtime.frames import is_frame, open_frame

from . import checks, numbering
from .counts import KeptCounts
from .data import GraphData
from .events import (
    Events,
    Progress,
    Totals,
    check_log,
    count_pairs,
    event_store,
    events_of,
    frame_columns,
    frame_events,
    from_counts,
    log_events,
    meta_of,
    progress_call,
    thread_count,
)
from .options import Options, categories


class LateEventError(ValueError):
    """An event comes before the last one of its user that the graph saw.

    Attributes:
        user: its user, as numbered.
        time, last: of the event, and of the user's last one before.
    """

    def __init__(self, at: int, user: int, time: Any, last: Any) -> None:
        super().__init__(
            f"time[{at}] is {time}, before the last event of user {user} that the graph saw, at {last}; events that come"
            " late need a rebuild"
        )
        self.user, self.time, self.last = user, time, last


def updated(
    graph: GraphData, new_events: Any, num_items: int | None, category: Any, threads: int | None, progress: Progress
) -> GraphData:
    """The graph of the old events followed by the new ones.

    A new event pairs with new ones and with the last ``window`` of its user's old ones. So the pairs
    of (last old events + new ones) less those of the last old events alone are what is added.
    """
    old = graph.counts
    if old is None:
        raise ValueError("the graph keeps no counts, which update needs; build it with keep_counts=True")
    found = graph.meta["options"]
    options = Options.of_meta(found)
    is_log = check_log(new_events, "new_events")
    events = _events_in(new_events, is_log, bool(graph.meta.get("sessions")))
    ids = numbering.after_log(graph.meta, new_events) if is_log else numbering.after_arrays(graph.meta, events)
    _check_times(graph, old, events)
    height = graph.num_items
    if num_items is not None:
        height = checks.whole_number("num_items", num_items, height)
    elif is_log:
        height = max(height, new_events.num_items)
    elif len(events.item) and events.item.max() >= height:
        at = int(np.argmax(events.item >= height))
        raise IndexError(
            f"item[{at}] is {events.item[at]}, expected an id in [0, num_items = {height}); give num_items, more than the "
            "largest id, for new items"
        )
    if category is not None and not options.category_edges:
        raise ValueError("category is given but the graph has no category edges")
    groups = categories(category, height) if category is not None else old.category
    if groups is not None and len(groups) != height:
        raise ValueError(
            f"category is None but the items grow from {graph.num_items} to {height}; give the category of each"
        )
    workers = thread_count(threads)
    padding = found["padding_idx"]
    native = options.native(
        num_items=height, events=int(old.occurrences.sum()) + len(events.item), padding=padding, category=groups
    )
    has_time = old.tail_time if len(old.tail_user) else events.time
    tail = (old.tail_user, old.tail_item, old.tail_time if len(old.tail_user) else None)
    counted = []
    with progress_call(progress) as report:
        for parts in ((tail,), (tail, events[:3])):
            store = event_store(sum(len(part[1]) for part in parts))
            for part in parts:
                if len(part[1]):
                    store.add(*part, num_items=height, padding=native["padding"], first=0)
            counted.append(count_pairs(store, native, has_time, groups, workers, report if len(parts) == 2 else None))
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
    totals = Totals(
        graph.meta["events"],
        graph.meta["time_cut"],
        (int(graph.meta["event_digest"][:16], 16), int(graph.meta["event_digest"][16:], 16)),
    ).plus(events, workers)
    unit = events.time_unit if len(events.item) else graph.meta["time_unit"]
    meta = meta_of(options, height, padding, totals, unit) | ids
    if "sessions" in graph.meta:
        meta["sessions"] = graph.meta["sessions"]
    return from_counts(counts, native, meta, workers)


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


def _events_in(new_events: Any, is_log: bool, sessions: bool) -> Events:
    if is_log:
        if sessions:
            raise ValueError(
                "new_events is a log but the graph joins events within sessions, which every log"
                " numbers from 0; give (session, item, time) arrays that go on with the numbers of"
                " the old log's sessions"
            )
        return events_of(*log_events(new_events, False))
    if is_frame(new_events):
        frame = open_frame(new_events, "new_events")
        return events_of(*frame_events(frame, frame_columns(frame, "user", "item", "time")))
    if isinstance(new_events, (tuple, list)) and len(new_events) in (2, 3):
        return events_of(*new_events, *([None] if len(new_events) == 2 else []))
    raise TypeError(
        f"new_events is a {type(new_events).__name__}, expected a log, (user, item, time) or a"
        " DataFrame or mapping with these columns"
    )


def _check_times(graph: GraphData, old: KeptCounts, events: Events) -> None:
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
            f" {graph.meta['time_unit'] or old.tail_time.dtype}, as of the graph's events; give the times of both in"
            " one type, or build the graph of both anew"
        )
    last = np.append(old.tail_user[1:] != old.tail_user[:-1], True)
    users, newest = old.tail_user[last], old.tail_time[last]
    place = np.minimum(np.searchsorted(users, events.user), len(users) - 1)
    early = (users[place] == events.user) & (events.time < newest[place])
    if early.any():
        at = int(np.argmax(early))
        raise LateEventError(at, int(events.user[at]), events.time[at], newest[place][at])
