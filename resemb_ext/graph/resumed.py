"""Builds in a ``Work`` folder: every step leaves what another process can go on from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import checks
from .events import Call, Totals, builder
from .work import Work

# Work that a kill may cost: bytes of events, and of positions whose rows are counted.
_EVENT_BYTES, _POSITION_BYTES = 1 << 30, 1 << 30
_SORTED_EVENTS = 1 << 26
_LEAST_PASSES = 8
_SHARES = 4, 2, 6  # of reading, sorting and counting in the time of a build

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Steps(NamedTuple):
    """How far a build is, for its progress."""

    report: Call | None
    rows: int

    def at(self, step: int) -> Callable[[int, int], None]:
        """Reports ``done`` of ``total`` of a step: 0 reading, 1 sorting, 2 counting."""
        before, share = sum(_SHARES[:step]), _SHARES[step]
        rows = max(self.rows, 1)

        def show(done: int, total: int) -> None:
            if self.report is not None:
                part = share * rows if not total else share * rows * done // total
                self.report(before * rows + part, sum(_SHARES) * rows)

        return show


class EventWork:
    """The events of a build: added in batches, spilled and saved at times."""

    def __init__(self, work: Work, expected: int, memory: int) -> None:
        self.work = work
        self.limit = min(memory, _EVENT_BYTES)
        # Batches end beyond the limit: the store itself spills where they are larger than it.
        self.store = builder.EventStore(str(work.folder), 2 * self.limit, expected, name="events")
        self.rows: int = work.state.get("rows", 0)
        if work.state.get("events"):
            self.store.restore(np.array(work.state["events"], np.int64))

    @property
    def all_read(self) -> bool:
        return bool(self.work.state.get("read"))

    @property
    def totals(self) -> Totals:
        """Of the events that were saved."""
        events, cut, digest = self.work.state.get("totals", [0, None, ["0", "0"]])
        return Totals(events, cut, (int(digest[0], 16), int(digest[1], 16)))

    @property
    def largest_item(self) -> int:
        return max(self.store.largest_item, self.work.state.get("largest", -1))

    def save(self, rows: int, totals: Totals, end: bool = False) -> None:
        """After ``rows`` rows were added, all of them at the ``end``: if it is time to."""
        if end or self.store.held_bytes >= self.limit:
            self.work.save(
                rows=rows,
                totals=[totals.events, totals.time_cut, [f"{part:x}" for part in totals.digest]],
                events=self.store.checkpoint().tolist(),
                largest=self.store.largest_item,
                read=end,
            )


def build(events: EventWork, native: dict[str, Any], memory: int, threads: int, steps: Steps) -> Arrays:
    """The graph's arrays, once all events were read; raises what the builder raises."""
    work, store = events.work, events.store
    height = native["num_items"]
    if "counting" not in work.state:
        _sort(work, store, native, threads, steps.at(1))
    return _count(work, native, height, memory, threads, steps.at(2))


def _sort(work: Work, store: Any, native: dict[str, Any], threads: int, show: Callable[[int, int], None]) -> None:
    offsets, height = store.close(), native["num_items"]
    occurrences = np.zeros(height, np.uint32)
    sums: list[int] = []
    if "sorted" in work.state:
        sums = work.state["sorted"]["sums"]
        work.read(_occurrences(len(sums)), [occurrences], work.state["sorted"]["crc"])
    events = int(offsets[-1])
    while len(sums) < store.buckets:
        first = len(sums)
        last = int(np.searchsorted(offsets, offsets[first] + _SORTED_EVENTS, side="right")) - 1
        last = min(max(last, first + 1), store.buckets)
        found = store.sort_to_file(
            native,
            first,
            last,
            occurrences,
            threads=threads,
            progress=lambda done, _, begun=int(offsets[first]): show(begun + done, events),
        )
        sums = [*sums, *found.tolist()]
        crc = work.write(_occurrences(last), [occurrences])
        work.save(sorted={"sums": sums, "crc": crc})
        work.remove(_occurrences(first))
    work.save(counting={"offsets": offsets.tolist(), "parts": []}, events=None)


def _occurrences(buckets: int) -> str:
    return f"occurrences-{buckets}"


def _count(
    work: Work, native: dict[str, Any], height: int, memory: int, threads: int, show: Callable[[int, int], None]
) -> Arrays:
    work.remove("events")
    state, sums = work.state["counting"], work.state["sorted"]["sums"]
    parts = list(state["parts"])
    first = parts[-1]["last"] if parts else 0
    if first < height:
        occurrences = np.empty(height, np.uint32)
        work.read(_occurrences(len(sums)), [occurrences], work.state["sorted"]["crc"])
        events = state["offsets"][-1]
        rows = builder.StoredRows(
            str(work.folder),
            np.array(state["offsets"], np.int64),
            np.array(sums, np.uint64),
            native,
            occurrences,
            memory=memory,
            threads=threads,
            progress=None,
        )
        # A pass holds its rows twice for a moment, so it makes a part of them even where all positions fit.
        positions = min(_POSITION_BYTES, max(events * 4 // _LEAST_PASSES, 1))
        while first < height:
            begun = int(occurrences[:first].sum(dtype=np.int64))
            last, found = rows.rows(
                first, positions, threads=threads, progress=lambda done, _, begun=begun: show(begun + done, events)
            )
            crc = work.write(f"rows-{first}", found)
            parts.append({"first": first, "last": last, "edges": len(found[1]), "crc": crc})
            del found
            work.save(counting={**state, "parts": parts})
            first = last
        del rows, occurrences
    work.remove("sequence", "sequence.reach")
    return _joined(work, parts, height)


def _joined(work: Work, parts: list[dict[str, Any]], height: int) -> Arrays:
    edges = sum(part["edges"] for part in parts)
    indptr, degree = np.zeros(height + 1, np.int64), np.empty(height)
    neighbors, weights = np.empty(edges, checks.neighbor_dtype(height)), np.empty(edges, np.float32)
    at = 0
    for part in parts:
        first, last, size = part["first"], part["last"], part["edges"]
        before = indptr[first]
        into = [indptr[first : last + 1], neighbors[at : at + size], weights[at : at + size], degree[first:last]]
        work.read(f"rows-{first}", into, part["crc"])
        indptr[first : last + 1] += before
        at += size
    return indptr, neighbors, weights, degree
