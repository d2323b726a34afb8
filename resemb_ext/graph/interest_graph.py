"""The item-interest graph: built from events, given as CSR, linked, saved and loaded."""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import _checks, _csr, _events, _file, _links, _parquet, _stats, _update
from ._kept import KeptCounts

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from typing_extensions import Unpack

    from ._options import BuildOptions


class EventLog(Protocol):
    """What `InterestGraph.from_log` reads of a log: mapped events of users."""

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


@dataclass(frozen=True, eq=False, repr=False)
class InterestGraph:
    """Items that users meet close together in time: row i holds the neighbours of item i.

    Make one with `from_events`, `from_log`, `from_csr`, `from_scipy` or `load`. The arrays are
    read-only. H is the number of items, E the number of stored entries.

    Attributes:
        indptr: int64 [H + 1], row offsets; row i is `[indptr[i], indptr[i + 1])`.
        neighbors: int32 [E] (int64 where H > 2**31 - 1), ascending and unique in every row.
        weights: float32 [E], raw weights, or the link's weights after `with_link`.
        degree: float64 [H], self weight + sum of a row's raw weights before it was pruned to top_k.
        link: "raw", or the link whose weights it holds ("average", "gcn", "given").
        meta: JSON-able: version, source, options, events (their number), time_cut (time of the last
            event seen, or None), time_unit (numpy dtype of dates, whose ticks times are), event_digest
            (`rx.graph.digest_events` of them), event_hash (the log's, or the digest again), and link
            after `with_link`.
        counts: with `keep_counts=True`, what `update` needs.
    """

    indptr: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray
    degree: np.ndarray
    link: str = "raw"
    meta: dict[str, Any] = field(default_factory=dict)
    counts: KeptCounts | None = None

    def __post_init__(self) -> None:
        for name in _file.ARRAYS:
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __repr__(self) -> str:
        return (
            f"InterestGraph(num_items={self.num_items}, num_edges={self.num_edges},"
            f" link={self.link!r})"
        )

    @property
    def num_items(self) -> int:
        """H, the number of rows."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """E, the number of stored entries, rows' own entries included."""
        return len(self.neighbors)

    @cached_property
    def hash(self) -> str:
        """Hex sha256 over the four arrays and the link's name; meta does not enter."""
        return _file.content_hash(self._arrays(), self.link)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in _file.ARRAYS}

    @classmethod
    def _of(cls, built: _events.Built) -> "InterestGraph":
        arrays = (built.indptr, built.neighbors, built.weights, built.degree)
        return cls(*arrays, meta=built.meta, counts=built.counts)

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
        progress: _events.Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "InterestGraph":
        """Counts which items users meet close together, on several threads.

        Events are sorted stably by (user, time). A pair of events of one user at distance g, that
        is with g - 1 events between them, counts f(g) for its two items, where

        - g <= `window`;
        - their times differ by at most `max_gap`;
        - no two neighbouring events from the one to the other are more than `session_gap` apart;
        - the items differ.

        c_ij is the sum of f over the pairs of i and j (with `directed`, those where i comes first);
        c_ij < `min_count` f(w) makes no edge, w being the largest g in the window with f(g) > 0. n_i is the number of events of i, repeats included, and
        m_i = sum_j c_ij, m'_j = sum_i c_ij, T = sum_i m_i, before `min_count`. The raw weight is

            z_ij = weighting(i, j) / (n_i n_j)^damping + category_weight [i and j are kin]

        rounded to float32; 0 is no edge. A row keeps its `top_k` heaviest other items (ties: the
        smaller id) and its own entry. The result depends on the events and options alone, never on
        `threads`, nor on the order in which users come.

        Args:
            user: integers [n]; any values.
            item: integers [n] in [0, num_items).
            time: integers, floats or datetime64 [n]; None means that the input is in time order.
            num_items: H; None means the largest id + 1.
            padding_idx: an id that no event may have; its row is the only one without entries.
            keep_counts: keep all pairs' counts for `update` (memory and file grow with them).
            threads: worker threads; None means the CPUs that this process may use.
            progress: callable(done, total), called on this thread from (0, total) to (total, total)
                in steps of about 50 ms (its units are steps of work, not events), or True for a
                tqdm bar on a terminal. An exception it raises, and Ctrl-C, end the build.
            window: positions, >= 1; default 3.
            max_gap, session_gap: in the units of `time`, or a timedelta where times are dates; None
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
                most events (ties: the smaller id), or, unless `directed`, i among those of j's;
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
                is `padding_idx`, an option outside its range.
            TypeError: ids that are not integers, times that are not numbers or dates, an unknown
                option.
        """
        return cls._of(
            _events.build(
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
        padding_idx: int | None = 0,
        keep_counts: bool = False,
        threads: int | None = None,
        progress: _events.Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "InterestGraph":
        """`from_events` on the events of a log (`rx.data.read_log`), best of `split.train`.

        Of a log with labels only events with label 1 count. Number of items, times, event hash and,
        for `category_edges`, the items' categories are the log's; options and errors are those of
        `from_events`.
        """
        if options.get("category_edges") and options.get("category") is None:
            options["category"] = getattr(log, "category_domain", None)
        return cls._of(
            _events.build(
                *_update.log_events(log),
                num_items=log.num_items,
                padding_idx=padding_idx,
                keep_counts=keep_counts,
                threads=threads,
                progress=progress,
                event_hash=log.content_hash,
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
        threads: int | None = None,
        progress: _events.Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "InterestGraph":
        """`from_events` on columns of a DataFrame, Arrow table or mapping of arrays.

        Args:
            frame: the events, item ids mapped to [0, num_items).
            user, item, time: names of columns; time None means that rows are in time order.
            num_items, padding_idx, keep_counts, threads, progress, options: as of `from_events`.

        Raises:
            ValueError: a column is missing (those found are listed), and as `from_events`.
        """
        return cls._of(
            _events.build(
                *_update.frame_events(frame, user, item, time, required=True),
                num_items=num_items,
                padding_idx=padding_idx,
                keep_counts=keep_counts,
                threads=threads,
                progress=progress,
                options=dict(options),
            )
        )

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
        users: _parquet.Ids | None = None,
        items: _parquet.Ids | None = None,
        num_items: int | None = None,
        padding_idx: int | None = None,
        keep_counts: bool = False,
        memory: int | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        batch_rows: int = 1 << 20,
        threads: int | None = None,
        progress: _events.Progress = None,
        **options: "Unpack[BuildOptions]",
    ) -> "InterestGraph":
        """`from_events` on Parquet files read in batches; the log may be larger than memory.

        The graph is that of the same events in arrays, whatever `memory` is. Past it, events go to a
        file without a name in `spill_dir`, which is gone however the process ends: 20 bytes an event
        and 4 or 8 more. What counts beside `memory`: batches, the graph itself, 4 to 8 bytes an item
        and thread, and all pairs' counts with `keep_counts`.

        Args:
            path: a file, or several, whose rows follow each other.
            user, item, time: names of columns; time None means that rows are in time order.
            label: column of 0/1; only rows with 1 count.
            before: only events of a time below it count, so that a graph sees training events only.
            users, items: maps from raw ids to numbers, as `rx.data.IdMap` (their `encode` is called);
                None: the columns hold integers, items in [0, num_items).
            num_items: H; None means items.size or the largest id + 1.
            memory: bytes; None means half of the machine's.
            spill_dir: folder; None means the system's folder for temporary files.
            batch_rows: rows read at once.
            padding_idx, keep_counts, threads, progress, options: as of `from_events`.

        Raises:
            FileNotFoundError: no such file or folder.
            OSError: the disk is full.
            ValueError: a column is missing, a file is damaged, a null (its row is named), and as
                `from_events`, where positions count the events that count.
        """
        if before is not None and time is None:
            raise ValueError(f"before is {before!r} but time is None; name the column of times")
        batch_rows = _checks.whole_number("batch_rows", batch_rows, 1)
        paths = _parquet.paths_of(path)
        source = _parquet.Source(paths, user, item, time, label, before, users, items, batch_rows)
        return cls._of(
            _parquet.build(
                source,
                num_items=num_items,
                padding_idx=padding_idx,
                keep_counts=keep_counts,
                memory=memory,
                spill_dir=spill_dir,
                threads=threads,
                progress=progress,
                options=dict(options),
            )
        )

    def update(
        self,
        new_events: Any,
        *,
        num_items: int | None = None,
        category: Any = None,
        threads: int | None = None,
        progress: _events.Progress = None,
    ) -> "InterestGraph":
        """A graph with more events: the same arrays as a rebuild from the old events and these.

        Args:
            new_events: a log, (user, item) or (user, item, time) arrays, or a DataFrame or mapping
                with columns of these names. They follow the old ones: none may come before the last
                event of its user that the graph saw.
            num_items: H of the new graph, >= this one's; None keeps it.
            category: with category edges and a larger H, the category of each item.
            threads, progress: as of `from_events`.

        Returns:
            A new graph, with counts, whose event_hash is the digest of all its events.

        Raises:
            ValueError: the graph keeps no counts, an event comes late, and as `from_events`.
            TypeError: times of another kind than the old ones.
        """
        return type(self)._of(
            _update.updated(self, new_events, num_items, category, threads, progress)
        )

    @classmethod
    def from_csr(
        cls,
        indptr: Any,
        neighbors: Any,
        weights: Any = None,
        *,
        num_items: int | None = None,
        directed: bool | None = None,
    ) -> "InterestGraph":
        """A graph from CSR arrays, which are copied; rows may be unsorted.

        Args:
            indptr: integers [rows + 1], from 0 to the number of neighbours, never falling.
            neighbors: integers [E] in [0, num_items); no duplicates in a row.
            weights: real numbers [E], finite and >= 0, raw; None means 1 each. A row's own
                entry is its self weight.
            num_items: H >= rows; None means rows. Rows that indptr lacks are empty.
            directed: whether `gcn` must symmetrise first; None means: where the matrix differs from
                its transpose.

        Raises:
            IndexError: a neighbour outside [0, num_items).
            ValueError: wrong offsets or lengths; duplicates; weights negative or not finite.
            TypeError: offsets or neighbours that are not integers, weights that are not numbers.
        """
        return cls(**_csr.given(indptr, neighbors, weights, num_items, directed))

    @classmethod
    def from_scipy(cls, matrix: Any, *, directed: bool | None = None) -> "InterestGraph":
        """`from_csr` of a square SciPy sparse matrix or array; explicit zeros are kept."""
        if not hasattr(matrix, "tocsr"):
            raise TypeError(f"matrix is a {type(matrix).__name__}, expected a scipy.sparse matrix")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix has shape {matrix.shape}, expected a square one")
        csr = matrix.tocsr()
        return cls.from_csr(csr.indptr, csr.indices, csr.data, directed=directed)

    def to_scipy(self) -> "csr_array":
        """The stored rows as a SciPy CSR array float32 [H, H]; degree and meta do not go along."""
        from scipy.sparse import csr_array

        shape = (self.num_items, self.num_items)
        arrays = (self.weights.copy(), self.neighbors.copy(), self.indptr.copy())
        return csr_array(arrays, shape=shape)

    def with_link(
        self,
        link: str,
        *,
        padding_idx: int | None = None,
        self_weight: str | float = "max",
        hops: int = 1,
        hop_top_k: int | None = None,
    ) -> "InterestGraph":
        """The graph with the weights that a link gives it, in float64 rounded to float32.

        With z_ij the raw weights and s_i the self weight (a row's own entry; where a row has none,
        `self_weight`):

        - "average": w_ij = (z_ij + s_i [i = j]) / the row's sum of these;
        - "gcn": w_ij = (z_ij + s_i [i = j]) / sqrt(d_i d_j), d_i = `degree`: s_i + the row's sum
          before pruning. Directed graphs are symmetrised first: Z + Z^T off the diagonal, with
          degrees of the new rows, which then keep their top_k heaviest others again;
        - "attention": w_ij = z_ij + s_i [i = j], the prior of a learned link; they must be above 0;
        - "given": w_ij = z_ij, untouched.

        Rows whose sum or degree is 0 get weights 0.

        With `hops` > 1, "gcn" is a power: from P = W on, P <- prune(P W) for every further hop, where
        prune keeps a row's `hop_top_k` heaviest other items (by float32 weight, ties: the smaller id)
        and its own entry, and nothing is renormalised; W is pruned first. With hop_top_k >= H it is the
        dense power. `meta["link"]["kept_mass"]` holds what each pruning kept of all rows' sums.

        Args:
            link: "average", "gcn", "attention" or "given".
            padding_idx: its row becomes empty.
            self_weight: for rows that lack their own entry: "max", the row's largest weight (1 in
                an empty row), or a number >= 0.
            hops: of "gcn", 1 to 8.
            hop_top_k: None means the graph's top_k, and no pruning where it has none.

        Raises:
            ValueError: an unknown link; hops of another link than "gcn"; another row points at
                padding; the graph already holds the weights of another link; a weight of 0 under
                "attention".
        """
        fields = _links.linked(self, link, padding_idx, self_weight, hops, hop_top_k)
        return replace(self, counts=None, **fields)

    def stats(self) -> dict[str, Any]:
        """Numbers that describe the graph, JSON-able.

        Returns:
            num_items, num_edges, link; self_edges (own entries), isolated (rows without another
            item), empty_rows; others_per_row and degree: mean, min, p50, p90, p99, max (degree only
            over rows with entries); kept_mass: stored weight of other items over their weight
            before pruning (1.0 where there is none, None once a link is applied); hop_kept_mass: of
            "gcn" with several hops, what each pruning kept; events, time_cut.
        """
        return _stats.stats(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one npz file with a JSON header: first beside `path`, then moved into place.

        Raises:
            FileNotFoundError: the folder does not exist.
            OSError: it cannot be written.
        """
        header = {"link": self.link, "hash": self.hash, "meta": self.meta}
        kept = None if self.counts is None else self.counts.arrays()
        _file.write(path, self._arrays(), header, kept)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "InterestGraph":
        """Reads a file written by `save`, without pickle; content hash and structure are verified.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, damaged, foreign or of another version.
        """
        arrays, header, kept = _file.read(path)
        try:
            _csr.verify(arrays, header["link"])
            counts = None
            if kept:
                counts = KeptCounts(**kept)
                counts.verify(len(arrays["indptr"]) - 1, header["meta"]["options"])
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise ValueError(f"{os.fspath(path)} holds no valid interest graph: {error}") from error
        graph = cls(**arrays, link=header["link"], meta=header["meta"], counts=counts)
        graph.__dict__["hash"] = header["hash"]
        return graph
