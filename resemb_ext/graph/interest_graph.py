"""The item-interest graph: built from events, given as CSR, linked, saved and loaded."""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import _checks, _events, _file, _links, _stats

if TYPE_CHECKING:
    from scipy.sparse import csr_array


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
            event seen, or None), event_hash, and link after `with_link`.
    """

    indptr: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray
    degree: np.ndarray
    link: str = "raw"
    meta: dict[str, Any] = field(default_factory=dict)

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
    def from_events(
        cls,
        user: Any,
        item: Any,
        time: Any = None,
        *,
        num_items: int | None = None,
        window: int = 3,
        top_k: int | None = 10,
        min_count: int = 1,
        weighting: str = "count",
        self_weight: str | float = "max",
        directed: bool = False,
        padding_idx: int | None = None,
        threads: int | None = None,
        progress: _events.Progress = None,
    ) -> "InterestGraph":
        """Counts which items users meet close together, on several threads.

        Events are sorted stably by (user, time). A pair of events of one user at most `window`
        positions apart counts once for its two items; a pair of one item with itself does not
        count. `count_ij` is the number of such pairs; pairs counted fewer than `min_count` times
        are no edges. A row keeps its `top_k` heaviest other items (ties: the smaller id) and its
        own entry. The result depends on the events and options alone, never on `threads`.

        Args:
            user: integers [n]; any values.
            item: integers [n] in [0, num_items).
            time: integers, floats or datetime64 [n]; None means that the input is in time order.
            num_items: H; None means the largest id + 1.
            window: positions, >= 1.
            top_k: other items kept in a row; None keeps all.
            min_count: smallest pair count that makes an edge, >= 1.
            weighting: "count" (w_ij = count_ij) or "cosine" (count_ij / sqrt(n_i n_j), n_i being
                the number of events of item i, repeats included). Cosines are ranked as they are
                stored, in float32.
            self_weight: weight of a row's own entry: "max", the row's largest weight (1 in a row
                without neighbours), or a number >= 0.
            directed: count a pair only in the row of its earlier item.
            padding_idx: an id that no event may have; its row is the only one without entries.
            threads: worker threads; None means the CPUs that this process may use.
            progress: callable(done, total), called on this thread from (0, total) to (total, total)
                in steps of about 50 ms (its units are steps of work, not events), or True for a
                tqdm bar on a terminal. An exception it raises, and Ctrl-C, end the build.

        Returns:
            A graph with raw weights.

        Raises:
            IndexError: an item id outside [0, num_items).
            ValueError: arrays of different lengths, a time that is not finite, an event whose item
                is `padding_idx`, an option outside its range.
            TypeError: ids that are not integers, times that are not numbers or dates.
        """
        built = _events.build(
            user,
            item,
            time,
            num_items=num_items,
            window=window,
            top_k=top_k,
            min_count=min_count,
            weighting=weighting,
            self_weight=self_weight,
            directed=directed,
            padding_idx=padding_idx,
            threads=threads,
            progress=progress,
        )
        return cls(built.indptr, built.neighbors, built.weights, built.degree, meta=built.meta)

    @classmethod
    def from_log(
        cls,
        log: EventLog,
        *,
        window: int = 3,
        top_k: int | None = 10,
        min_count: int = 1,
        weighting: str = "count",
        self_weight: str | float = "max",
        directed: bool = False,
        padding_idx: int | None = 0,
        threads: int | None = None,
        progress: _events.Progress = None,
    ) -> "InterestGraph":
        """`from_events` on the events of a log (`rx.data.read_log`), best of `split.train`.

        Of a log with labels only events with label 1 count. Number of items, times and event hash
        are the log's; options and errors are those of `from_events`.
        """
        label = getattr(log, "label", None)
        use = slice(None) if label is None else np.asarray(label) == 1
        built = _events.build(
            log.user[use],
            log.item[use],
            None if log.time is None else log.time[use],
            num_items=log.num_items,
            window=window,
            top_k=top_k,
            min_count=min_count,
            weighting=weighting,
            self_weight=self_weight,
            directed=directed,
            padding_idx=padding_idx,
            threads=threads,
            progress=progress,
            event_hash=log.content_hash,
        )
        return cls(built.indptr, built.neighbors, built.weights, built.degree, meta=built.meta)

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
        indptr = _checks.integers("indptr", indptr).copy()
        ids = _checks.integers("neighbors", neighbors)
        _checks.check_indptr(indptr, len(ids))
        rows = len(indptr) - 1
        height = rows if num_items is None else _checks.whole_number("num_items", num_items, 1)
        if height < max(rows, 1):
            raise ValueError(
                f"num_items is {height}, expected at least 1 and the {rows} rows of indptr"
            )
        if directed is not None and not isinstance(directed, (bool, np.bool_)):
            raise TypeError(f"directed is {directed!r}, expected True, False or None")
        indptr = np.concatenate([indptr, np.full(height - rows, len(ids), np.int64)])
        _checks.check_neighbors(indptr, ids, height)
        ids = ids.astype(_checks.neighbor_dtype(height))
        values = (
            np.ones(len(ids), np.float32) if weights is None else _checks.floats("weights", weights)
        )
        if len(values) != len(ids):
            raise ValueError(
                f"weights has {len(values)} entries, expected {len(ids)}, as neighbors has"
            )
        if _checks.unsorted_at(indptr, ids) is not None:
            order = np.lexsort((ids, _checks.row_ids(indptr)))
            ids, values = ids[order], values[order]
        twice = _checks.unsorted_at(indptr, ids)
        if twice is not None:
            row = int(np.searchsorted(indptr, twice, side="right")) - 1
            raise ValueError(
                f"neighbors: row {row} holds {ids[twice]} twice, expected no duplicates in a row"
            )
        given = _links.Rows(indptr, ids, values, _checks.row_sums(indptr, values))
        meta = {
            "version": 1,
            "source": "csr",
            "options": {
                "num_items": height,
                "directed": None if directed is None else bool(directed),
            },
            "events": None,
            "time_cut": None,
            "event_hash": None,
        }
        degree = _links.with_diagonal(given, None, None).degree
        return cls(indptr, ids, values, degree, meta=meta)

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
        self, link: str, *, padding_idx: int | None = None, self_weight: str | float = "max"
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

        Args:
            link: "average", "gcn", "attention" or "given".
            padding_idx: its row becomes empty.
            self_weight: for rows that lack their own entry: "max", the row's largest weight (1 in
                an empty row), or a number >= 0.

        Raises:
            ValueError: an unknown link; another row points at padding; the graph already holds the
                weights of another link; a weight of 0 under "attention".
        """
        return replace(self, **_links.linked(self, link, padding_idx, self_weight))

    def stats(self) -> dict[str, Any]:
        """Numbers that describe the graph, JSON-able.

        Returns:
            num_items, num_edges, link; self_edges (own entries), isolated (rows without another
            item), empty_rows; others_per_row and degree: mean, min, p50, p90, p99, max (degree only
            over rows with entries); kept_mass: stored weight of other items over their weight
            before pruning (1.0 where there is none, None once a link is applied); events, time_cut.
        """
        return _stats.stats(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one npz file with a JSON header: first beside `path`, then moved into place.

        Raises:
            FileNotFoundError: the folder does not exist.
            OSError: it cannot be written.
        """
        header = {"link": self.link, "hash": self.hash, "meta": self.meta}
        _file.write(path, self._arrays(), header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "InterestGraph":
        """Reads a file written by `save`, without pickle; content hash and structure are verified.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, damaged, foreign or of another version.
        """
        arrays, header = _file.read(path)
        try:
            _verify(arrays, header["link"])
        except (ValueError, IndexError) as error:
            raise ValueError(f"{os.fspath(path)} holds no valid interest graph: {error}") from error
        graph = cls(**arrays, link=header["link"], meta=header["meta"])
        graph.__dict__["hash"] = header["hash"]
        return graph


def _verify(arrays: dict[str, np.ndarray], link: str) -> None:
    """ValueError or IndexError where loaded arrays break what the class promises."""
    indptr, neighbors, weights, degree = (arrays[name] for name in _file.ARRAYS)
    if link not in ("raw", *_links.LINKS):
        raise ValueError(f"link is {link!r}, expected raw or one of {', '.join(_links.LINKS)}")
    _checks.check_indptr(indptr, len(neighbors))
    height = len(indptr) - 1
    if neighbors.dtype != _checks.neighbor_dtype(height):
        raise ValueError(f"neighbors has dtype {neighbors.dtype} for {height} items")
    _checks.check_neighbors(indptr, neighbors, height)
    if _checks.unsorted_at(indptr, neighbors) is not None:
        raise ValueError("neighbors: rows are not ascending")
    if len(weights) != len(neighbors) or len(degree) != height:
        raise ValueError("weights or degree have the wrong length")
    for name, array in (("weights", weights), ("degree", degree)):
        _checks.finite_total(name, array)
