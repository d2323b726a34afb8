"""The ways from events to an interest graph: what ``InterestGraph`` inherits."""

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from resemb_ext.runtime.frames import open_frame

from . import arrow, checks, numbering, parquet
from .data import GraphData
from .events import RAW_IDS, Progress, check_log, frame_columns, frame_events, log_events
from .events import build as build_from_arrays
from .streamed import Ids, Kept, Source
from .streamed import build as build_from_batches
from .update import updated

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .options import BuildOptions


class EventLog(Protocol):
    """What ``InterestGraph.from_log`` reads of a log: mapped events of users."""

    @property
    def user(self) -> np.ndarray: ...
    @property
    def item(self) -> np.ndarray: ...
    @property
    def time(self) -> np.ndarray | None: ...
    @property
    def num_items(self) -> int: ...
    @property
    def content_hash(self) -> str: ...


class FromEvents(GraphData):
    """Graphs of events, and graphs with more events."""

    if TYPE_CHECKING:

        def save(self, path: str | os.PathLike[str]) -> None: ...

    @classmethod
    def _of(cls, built: GraphData) -> "Self":
        """A graph of this class with that content."""
        arrays = (built.indptr, built.neighbors, built.weights, built.degree)
        return cls(*arrays, link=built.link, meta=built.meta, counts=built.counts)

    @classmethod
    def from_events(
        cls,
        user: Any,
        item: Any,
        time: Any = None,
        *,
        num_items: int | None = None,
        padding_idx: int | None = None,
        keep_counts: bool = False,
        threads: int | None = None,
        progress: Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "Self":
        """Counts which items users meet close together, on several threads.

        Events are sorted stably by (user, time). A pair of events of one user at distance g, that
        is with g - 1 events between them, counts f(g) for its two items, where

        - g <= ``window``;
        - their times differ by at most ``max_gap``;
        - no two neighbouring events from the one to the other are more than ``session_gap`` apart;
        - the items differ.

        c_ij is the sum of f over the pairs of i and j (with ``directed``, those where i comes first);
        c_ij < ``min_count`` f(w) makes no edge, w being the largest g in the window with f(g) > 0. n_i is the
        number of events of i, repeats included, and
        m_i = sum_j c_ij, m'_j = sum_i c_ij, T = sum_i m_i, before ``min_count``. The raw weight is

            z_ij = weighting(i, j) / (n_i n_j)^damping + category_weight [i and j are kin]

        rounded to float32; 0 is no edge. A row keeps its ``top_k`` heaviest other items (ties: the
        smaller id) and its own entry. The result depends on the events and options alone, never on
        ``threads``, nor on the order in which users come.

        Args:
            user: integers [n]; any values.
            item: integers [n] in [0, num_items).
            time: integers, floats or datetime64 [n]; None means that the input is in time order.
            num_items: H; None means the largest id + 1.
            padding_idx: an id that no event may have; its row is the only one without entries.
            keep_counts: keep all pairs' counts for ``update`` (memory and file grow with them).
            threads: worker threads; None means the CPUs that this process may use.
            progress: callable(done, total), called on this thread from (0, total) to (total, total)
                in steps of about 50 ms (its units are steps of work, not events), or True for a
                tqdm bar on a terminal. An exception it raises, and Ctrl-C, end the build.
            window: positions, >= 1; default 3.
            max_gap, session_gap: in the units of ``time``, or a timedelta where times are dates; None
                (default): no limit.
            decay: f. None (default): f(g) = 1; "inverse": 1 / g; a number r in (0, 1): r^(g - 1);
                the latter two rounded to whole multiples of 2^-16, so that sums are exact.
            min_count: smallest count that makes an edge, >= 1; default 1. With decay, pairs count as if
                they all lay at the far end of the window, so that 1 keeps every pair.
            weighting: "count" (default): c_ij; "cosine": c_ij / sqrt(n_i n_j); "jaccard":
                c_ij / (m_i + m'_j - c_ij), the share of pairs of either item that are pairs of both;
                "ppmi": max(0, ln(c_ij T / (m_i m'_j))), positive pointwise mutual information.
            damping: of popular items, 0 (default) to 16. Cosine is count with damping 0.5.
            category: integers [H], the category of each item, negative: none.
            category_edges: k. i and j are kin where j is among the k items of i's category with the
                most events (ties: the smaller id), or, unless ``directed``, i among those of j's;
                default 0.
            category_weight: weight of these edges, default 1.
            top_k: other items kept in a row, default 10; None keeps all.
            self_weight: weight of a row's own entry: "max" (default), the row's largest weight (1 in
                a row without neighbours), or a number >= 0.
            directed: count a pair only in the row of its earlier item; default False.

        Returns:
            A graph with raw weights.

        Raises:
            IndexError: an item id outside [0, num_items).
            ValueError: arrays of different lengths, a time that is not finite, an event whose item
                is ``padding_idx``, an option outside its range.
            TypeError: ids that are not integers, times that are not numbers or dates, an unknown
                option.
        """
        return cls._of(
            build_from_arrays(
                user,
                item,
                time,
                num_items=num_items,
                padding_idx=padding_idx,
                keep_counts=keep_counts,
                threads=threads,
                progress=progress,
                options=dict(options),
            )
        )

    @classmethod
    def from_log(
        cls,
        log: EventLog,
        *,
        sessions: bool = True,
        padding_idx: int | None = 0,
        keep_counts: bool = False,
        threads: int | None = None,
        progress: Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "Self":
        """``from_events`` on the events of a log (``rx.data.read_log``), best of ``split.train``.

        Of a log with labels only events with label 1 count. Number of items, times, event hash and,
        for ``category_edges``, the items' categories are the log's; options and errors are those of
        ``from_events``. ``meta["ids"]`` keeps a digest of the log's id maps, of items and, with
        ``keep_counts``, of users.

        Args:
            log: the events. Where it has sessions, they take the place of users: only events of one
                session make pairs, at the distance they have within it, also where sessions of a user
                interleave. ``meta["sessions"]`` says whether that was so; the event hash covers them.
            sessions: False joins the events of a user whatever their sessions.
            padding_idx, keep_counts, threads, progress, options: as of ``from_events``.

        Raises:
            TypeError: a split in place of its training events, and as ``from_events``.
            ValueError, IndexError: as ``from_events``.
        """
        if not isinstance(sessions, (bool, np.bool_)):
            raise TypeError(f"sessions is {sessions!r}, expected True or False")
        if not check_log(log, "log"):
            raise TypeError(f"log is a {type(log).__name__}, expected a log: rx.data.read_log gives one")
        within = bool(sessions) and getattr(log, "session", None) is not None
        if options.get("category_edges") and options.get("category") is None:
            options["category"] = getattr(log, "category_domain", None)
            if options["category"] is None:
                raise ValueError(
                    f"category_edges is {options['category_edges']} but the log has no category column;"
                    " name one when reading it (category=, --category-column)"
                )
        return cls._of(
            build_from_arrays(
                *log_events(log, within),
                num_items=log.num_items,
                padding_idx=padding_idx,
                keep_counts=keep_counts,
                threads=threads,
                progress=progress,
                log_meta={
                    "event_hash": log.content_hash,
                    "sessions": within,
                    **numbering.of_maps(
                        getattr(log, "items", None), getattr(log, "users", None), keep_counts and not within
                    ),
                },
                options=dict(options),
            )
        )

    @classmethod
    def from_dataframe(
        cls,
        frame: Any,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = "timestamp",
        num_items: int | None = None,
        padding_idx: int | None = None,
        keep_counts: bool = False,
        memory: int | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        batch_rows: int = 1 << 18,
        threads: int | None = None,
        progress: Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "Self":
        """``from_events`` on columns of a table of any library.

        A query or dataset is read in batches as ``from_parquet`` reads files, so that it may be larger than
        memory; of polars before 1.34 and Spark before 4.3 its three columns are in memory at once.

        Args:
            frame: the events, item ids mapped to [0, num_items): a mapping of arrays, a DataFrame of
                pandas, polars (also lazy) or Spark, a DuckDB relation, a pyarrow Table, Dataset or
                RecordBatchReader, or another object with ``__arrow_c_stream__``.
            user, item, time: names of columns; time None means that rows are in time order.
            memory, spill_dir, batch_rows: as of ``from_parquet``. Events that are in memory already are
                used as they are, unless ``memory`` or ``spill_dir`` is given.
            num_items, padding_idx, keep_counts, threads, progress, options: as of ``from_events``.

        Raises:
            ValueError: a column is missing (those found are listed) or there twice, a null (its row is
                named), and as ``from_events``.
            TypeError: no table, and as ``from_events``.
        """
        batch_rows = checks.whole_number("batch_rows", batch_rows, 1)
        opened = open_frame(frame, "frame")
        columns = frame_columns(opened, user, item, time, required=True)
        common: dict[str, Any] = {
            "num_items": num_items,
            "padding_idx": padding_idx,
            "keep_counts": keep_counts,
            "threads": threads,
            "progress": progress,
            "options": dict(options),
        }
        if not opened.lazy and memory is None and spill_dir is None:
            return cls._of(build_from_arrays(*frame_events(opened, columns), **common))
        with opened.reader(list(dict.fromkeys(columns.values())), batch_rows) as reader:
            unit = arrow.time_unit(reader.schema.field(columns["time"]).type) if "time" in columns else None
            source = Source(columns, lambda _: (batch for batch in reader), None, unit, RAW_IDS)
            return cls._of(build_from_batches(source, memory=memory, spill_dir=spill_dir, **common))

    @classmethod
    def from_parquet(
        cls,
        path: Any,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = "timestamp",
        label: str | None = None,
        before: Any = None,
        users: Ids | None = None,
        items: Ids | None = None,
        num_items: int | None = None,
        padding_idx: int | None = None,
        keep_counts: bool = False,
        memory: int | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        batch_rows: int = 1 << 18,
        work_dir: str | os.PathLike[str] | None = None,
        restart: bool = False,
        save: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "Self":
        """``from_events`` on Parquet files read in batches; the log may be larger than memory.

        The graph is that of the same events in arrays, whatever ``memory`` is. Past it, events go to a
        file without a name in ``spill_dir``, which is gone however the process ends: 12 bytes an event
        (20 where users or times do not fit 32 bits) and 4 or 8 more. What counts beside ``memory``: batches,
        the graph itself, 4 to 8 bytes an item and thread, and all pairs' counts with ``keep_counts``.

        With ``work_dir``, the same call goes on where a killed one, or one that was interrupted or met a full
        disk, stood: at most one GiB of events or of positions is done again. Finished rows lie on disk
        until the graph is whole, 8 bytes an edge.

        Args:
            path: a file, or several, whose rows follow each other.
            user, item, time: names of columns; time None means that rows are in time order.
            label: column of 0/1; only rows with 1 count.
            before: only events of a time below it count, so that a graph sees training events only; a
                number, or where times are dates a datetime64, datetime or ISO text.
            users, items: maps from raw ids to numbers, as ``rx.data.IdMap`` (their ``encode`` is called);
                None: the columns hold integers, items in [0, num_items).
            num_items: H; None means items.size or the largest id + 1.
            memory: bytes; None means half of the machine's.
            spill_dir: folder; None means the system's folder for temporary files.
            batch_rows: rows read at once.
            work_dir: folder to keep the work in, made where it is not there; the call that ends removes
                what it keeps, also where the events or arguments turn out wrong. It takes the place of
                ``spill_dir``.
            restart: drop the work that ``work_dir`` holds, of whatever build.
            save: with ``work_dir``: file to save the graph to before the work is removed.
            padding_idx, keep_counts, threads, progress, options: as of ``from_events``.

        Raises:
            FileNotFoundError: no such file or folder.
            OSError: the disk is full, or has no room for the events.
            ValueError: ``work_dir`` holds the work of another build, other files or damaged work, or is used
                with ``keep_counts`` or ``spill_dir``; a column is missing, a file is damaged, a null or a label other than 0 and 1 (its
                row is named), a ``before`` that is no number or date, and as ``from_events``, where
                positions count the events that count.
            TypeError: labels that are not numbers, ``before`` of another kind than the times, and as
                ``from_events``.
        """
        if before is not None and time is None:
            raise ValueError(f"before is {before!r} but time is None; name the column of times")
        batch_rows = checks.whole_number("batch_rows", batch_rows, 1)
        paths = parquet.paths_of(path)
        named = {"user": user, "item": item, "time": time, "label": label}
        columns = {field: name for field, name in named.items() if name is not None}
        kept: Kept | None = None
        made: list[Self] = []

        def finish(graph: GraphData) -> None:
            made.append(cls._of(graph))
            if save is not None:
                made[0].save(save)

        if work_dir is not None:
            if spill_dir is not None:
                raise ValueError("spill_dir and work_dir are both given; work_dir takes its place")
            kept = Kept(work_dir, restart, finish)
        elif restart or save is not None:
            raise ValueError(f"{'restart' if restart else 'save'} needs work_dir, whose work it is about")
        rows, unit = parquet.survey(paths, columns)
        source = Source(
            columns,
            lambda skip: parquet.read(paths, list(columns.values()), batch_rows, skip),
            rows,
            unit,
            "map other ids with {field}s=rx.data.IdMap.fit(...)",
            before,
            users,
            items,
            None if kept is None else parquet.identity(paths),
        )
        graph = build_from_batches(
            source,
            num_items=num_items,
            padding_idx=padding_idx,
            keep_counts=keep_counts,
            memory=memory,
            spill_dir=spill_dir,
            threads=threads,
            progress=progress,
            options=dict(options),
            kept=kept,
        )
        return made[0] if made else cls._of(graph)

    def update(
        self,
        new_events: Any,
        *,
        num_items: int | None = None,
        category: Any = None,
        threads: int | None = None,
        progress: Progress = None,
    ) -> "Self":
        """A graph with more events: the same arrays as a rebuild from the old events and these.

        Args:
            new_events: a log that was read by the id maps of the graph's log, ``read_log(...,
                users=log.users, items=log.items)``; or, with the numbers that the graph's events have,
                (user, item) or (user, item, time) arrays, or a DataFrame or mapping with columns of
                these names. They follow the old ones: none may come before the last event of its user
                that the graph saw. For a graph within sessions: arrays, with sessions as users, since
                every log numbers its own sessions.
            num_items: H of the new graph, >= this one's; None takes a log's ``num_items``, which grew
                by the new items, and else keeps it. The row that was the log's out-of-vocabulary one
                is then the first new item's, and the last row is the new one.
            category: with category edges and a larger H, the category of each item, old ones too. (The
                ``category_domain`` of a log knows those of its own events alone.)
            threads, progress: as of ``from_events``.

        Returns:
            A new graph, with counts, whose event_hash is the digest of all its events.

        Raises:
            ValueError: the graph keeps no counts, an event comes late, a log numbers its ids otherwise
                than the graph's log or the graph does not know (its events were arrays, or its file is
                of an older release), and as ``from_events``.
            TypeError: times of another kind than the old ones, a split in place of a log.
        """
        return type(self)._of(updated(self, new_events, num_items, category, threads, progress))
