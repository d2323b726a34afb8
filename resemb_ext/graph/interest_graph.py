"""The item-interest graph: built from events, given as CSR, linked, saved and loaded."""

import copy
import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import csr, edges, file, links, made, meta, mixing, numbering, precision, rows, shifted, stats
from .counts import KeptCounts
from .from_events import FromEvents

if TYPE_CHECKING:
    import torch


class InterestGraph(FromEvents):
    """Items that users meet close together in time: row i holds the neighbours of item i.

    Make one with ``from_events``, ``from_log``, ``from_csr``, ``from_scipy``, ``from_edge_index`` or ``load``.
    The arrays are read-only. H is the number of items, E the number of stored entries.

    Attributes:
        indptr: int64 [H + 1], row offsets; row i is ``[indptr[i], indptr[i + 1])``.
        neighbors: int32 [E] (int64 where H > 2**31 - 1), ascending and unique in every row.
        weights: float32 [E], or float16 after ``with_weights_dtype``: raw weights, or the link's after ``with_link``.
        degree: float64 [H], self weight + sum of a row's raw weights before it was pruned to top_k.
        link: "raw", or the link whose weights it holds ("average", "gcn", "given").
        meta: JSON-able: version, source, options, events (their number), time_cut (time of the last
            event seen, or None), time_unit (numpy dtype of dates, whose ticks times are), event_digest
            (``rx.graph.digest_events`` of them), event_hash (the log's, or the digest again), of logs
            sessions (whether pairs stay within the log's) and ids (digests of the id maps, of events
            that came with some), link after ``with_link``, shift after ``shift``: the row of the first
            item (offset), and the graph's own number of items; and rounded, of weights in float16: the hash
            that the graph has with its weights in float32.
        counts: with ``keep_counts=True``, what ``update`` needs.
    """

    def __repr__(self) -> str:
        return f"InterestGraph(num_items={self.num_items}, num_edges={self.num_edges}, link={self.link!r})"

    @cached_property
    def hash(self) -> str:
        """Hex sha256 over the four arrays and the link's name; meta does not enter."""
        return file.content_hash(self.arrays(), self.link)

    def same_items(self, items: Any, *, offset: int = 0) -> bool | None:
        """Whether row numbers are those that an id map (``log.items``) gives its items, plus ``offset``.

        Args:
            items: the map.
            offset: what a table adds to the map's numbers; of a graph after ``shift``, its offset.

        Returns:
            True where the map has the graph's items under their numbers, perhaps with more behind;
            None where the graph does not know: it was not built of a log, or by a release that kept
            no digest.
        """
        same = numbering.agrees(self.meta, "items", items)
        return same and offset == shifted.offset_of(self.meta)

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
            directed: whether ``gcn`` must symmetrise first; None means: where the matrix differs from
                its transpose.

        Raises:
            IndexError: a neighbour outside [0, num_items).
            ValueError: wrong offsets or lengths; duplicates; weights negative or not finite.
            TypeError: offsets or neighbours that are not integers, weights that are not numbers.
        """
        return cls(**csr.given(indptr, neighbors, weights, num_items, directed))

    @classmethod
    def from_scipy(cls, matrix: Any, *, directed: bool | None = None) -> "InterestGraph":
        """``from_csr`` of a square SciPy sparse matrix or array; explicit zeros are kept.

        Args:
            matrix: [H, H] of raw weights, finite and >= 0, any sparse format.
            directed: as of ``from_csr``.

        Raises:
            TypeError: no sparse matrix.
            ValueError: one that is not square, and as ``from_csr``.
        """
        if not hasattr(matrix, "tocsr"):
            raise TypeError(f"matrix is a {type(matrix).__name__}, expected a scipy.sparse matrix")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix has shape {matrix.shape}, expected a square one")
        csr = matrix.tocsr()
        return cls.from_csr(csr.indptr, csr.indices, csr.data, directed=directed)

    @classmethod
    def from_edge_index(
        cls, edge_index: Any, weights: Any = None, num_items: int | None = None, *, directed: bool | None = None
    ) -> "InterestGraph":
        """A graph from edges in the form of PyTorch Geometric, which need not be installed.

        Column e joins two items: ``edge_index[0, e]``, the source, is a neighbour of ``edge_index[1, e]``,
        the target, in whose row it is stored. So a row holds those items of which a message-passing layer
        collects messages (PyG's default flow, "source_to_target").

        Args:
            edge_index: integers [2, E], a torch tensor or array, edges in any order; no duplicates.
            weights: real numbers [E], finite and >= 0, raw; None means 1 each. A loop (an edge from an
                item to itself) is its self weight.
            num_items: H; None means the largest id + 1.
            directed: as of ``from_csr``.

        Raises:
            IndexError: an id outside [0, num_items).
            ValueError: wrong shapes or lengths; an edge that is there twice; weights negative or not
                finite; no edges and no ``num_items``.
            TypeError: ids that are not integers, weights that are not numbers.
        """
        indptr, neighbors, values = edges.csr_of(edge_index, weights, num_items)
        return cls.from_csr(indptr, neighbors, values, directed=directed)

    @classmethod
    def from_rows(cls, path: "str | os.PathLike[str] | rows.GraphRows") -> "InterestGraph":
        """The graph whose rows ``rx.spark.interest_graph`` wrote into a folder of Parquet files.

        Beside the graph, some thousand rows are in memory. ``rx.graph.GraphRows`` reads the rows of one of several
        processes.

        Args:
            path: the folder, or a URI that ``pyarrow.fs`` knows.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: the folder is unfinished, or a part is missing or damaged.
        """
        stored = path if isinstance(path, rows.GraphRows) else rows.GraphRows(path)
        return cls(**stored.fields())

    @classmethod
    def from_categories(
        cls, category: Any, popularity: Any = None, *, top_k: int = 10, padding_idx: int | None = None
    ) -> "InterestGraph":
        """Joins each item to the most popular other ones of its category, with weight 1.

        It knows of no event, so it serves items that were never met. ``mixed`` adds it to a graph of events.

        Args:
            category: integers [H], the category of each item (``log.item_category``); negative: none.
            popularity: numbers [H] >= 0, such as ``split.item_counts``; None: ties by id alone.
            top_k: other items kept in a row; ties: the smaller id.
            padding_idx: a row without entries, that no other points at.

        Raises:
            ValueError: no items, another number of popularities, one that is negative or not finite; top_k below 1.
            TypeError: categories that are no integers.
        """
        return cls(**made.by_category(category, popularity, top_k, padding_idx))

    @classmethod
    def from_vectors(cls, vectors: Any, *, top_k: int = 10, padding_idx: int | None = None) -> "InterestGraph":
        """Joins each item to those with the most similar vectors, weighted by their cosine, where it is above 0.

        For vectors of content (text, images), or of another model. All pairs are compared, in blocks: the time grows
        with H^2 D. Where vectors saw held-out events, so does the graph.

        Args:
            vectors: floats [H, D], an array or tensor. Rows of zeros have no neighbours.
            top_k: other items kept in a row.
            padding_idx: a row without entries, that no other points at.

        Raises:
            ValueError: another shape or dtype, a number that is not finite, top_k below 1.
        """
        return cls(**made.by_vectors(vectors, top_k, padding_idx))

    @classmethod
    def mixed(cls, graphs: Any, shares: Any = None, *, top_k: int | None = None) -> "InterestGraph":
        """Several graphs over the same items as one: z_ij = sum over graphs g of share_g z^g_ij / sum_{k != i} z^g_ik.

        A row's own entries are left out, so that a link adds its self weight anew. A graph in which an item has no
        neighbour adds nothing to its row.

        Args:
            graphs: InterestGraphs of raw weights and of the same H items.
            shares: numbers above 0, one a graph; None: the same for all.
            top_k: heaviest other items kept in a row, ties by id; None keeps all.

        Returns:
            A directed graph of raw weights. It keeps the event digest that all its graphs of events share, so that
            ``resemb train`` knows it as one of training events; ``from_categories`` has no events.

        Raises:
            ValueError: no graphs; other numbers of items, or items numbered by another map; a graph that holds a
                link's weights or is shifted; shares that are not positive.
            TypeError: no list of graphs, or shares that are no numbers.
        """
        return cls(**mixing.mixed(graphs, shares, top_k))

    def to_edge_index(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """The stored entries as edges in the form of PyTorch Geometric; degree and meta do not go along.

        Returns:
            edge_index, int64 [2, E]: sources, which are neighbours, over targets, in whose rows they are stored;
            sorted by target, then by source (PyG's ``sort_by_row=False``). And weights, float32 [E]. Both are
            copies on the CPU.
        """
        return edges.edges_of(self)

    def shift(self, offset: int, rows: int) -> "InterestGraph":
        """The graph at rows [offset, offset + H) of a table of ``rows`` rows; its other rows are empty.

        For tables that hold the ids of several fields one behind the other. Shift the graph of raw
        weights: a link then gives each of the other rows its own entry, so that their vectors are C + R.
        The other rows of a graph that has a link already stay empty: their vectors are R.

        Args:
            offset: row of the graph's item 0, >= 0.
            rows: rows of the table, >= offset + H.

        Returns:
            A graph of ``rows`` items with the same link. Of its meta data, ``shift`` is new; options,
            event digests and ids tell of the graph's own numbers, as before. It keeps no counts: update
            the graph before it is shifted.

        Raises:
            ValueError: a negative offset, fewer rows than offset + H.
            TypeError: numbers that are not integers.
        """
        return replace(self, **shifted.shifted(self, offset, rows))

    def with_link(
        self,
        link: str,
        *,
        padding_idx: int | None = None,
        self_weight: str | float = "max",
        hops: int = 1,
        hop_top_k: int | None = None,
        weights_dtype: Any = None,
    ) -> "InterestGraph":
        """The graph with the weights that a link gives it, in float64 rounded to float32, then to ``weights_dtype``.

        With z_ij the raw weights and s_i the self weight (a row's own entry; where a row has none,
        ``self_weight``):

        - "average": w_ij = (z_ij + s_i [i = j]) / the row's sum of these;
        - "gcn": w_ij = (z_ij + s_i [i = j]) / sqrt(d_i d_j), d_i = ``degree``: s_i + the row's sum
          before pruning. Directed graphs are symmetrised first: Z + Z^T off the diagonal, with
          degrees of the new rows, which then keep their top_k heaviest others again;
        - "attention": w_ij = z_ij + s_i [i = j], the prior of a learned link; they must be above 0;
        - "given": w_ij = z_ij, untouched.

        Rows whose sum or degree is 0 get weights 0.

        With ``hops`` > 1, "gcn" is a power: from P = W on, P <- prune(P W) for every further hop, where
        prune keeps a row's ``hop_top_k`` heaviest other items (by float32 weight, ties: the smaller id)
        and its own entry, and nothing is renormalised; W is pruned first. With hop_top_k >= H it is the
        dense power. ``meta["link"]["kept_mass"]`` holds what each pruning kept of all rows' sums.

        Args:
            link: "average", "gcn", "attention" or "given".
            padding_idx: its row becomes empty.
            self_weight: for rows that lack their own entry: "max", the row's largest weight (1 in
                an empty row), or a number >= 0.
            hops: of "gcn", 1 to 8.
            hop_top_k: None means the graph's top_k, and no pruning where it has none.
            weights_dtype: "float32" or "float16", see ``with_weights_dtype``; None means as this graph has them.

        Raises:
            ValueError: an unknown link; hops of another link than "gcn"; another row points at
                padding; the graph already holds the weights of another link; a weight of 0 under
                "attention"; one that float16 does not hold.
        """
        fields = links.linked(self, link, padding_idx, self_weight, hops, hop_top_k, weights_dtype)
        return replace(self, counts=None, **fields)

    def with_weights_dtype(self, dtype: Any) -> "InterestGraph":
        """The graph with its weights in float16, rounded to nearest; or the same numbers in float32.

        In float16 an edge takes 6 bytes in place of 8. A weight w moves by at most ``max(2**-11 w, 2**-25)``. Indptr,
        neighbours and degree are shared with this graph. Counts do not go along.

        Args:
            dtype: "float32" or "float16", or the dtype of NumPy or torch.

        Raises:
            ValueError: another dtype; a weight above 65504 (65520 after rounding), or one above 0 that would become 0.
        """
        wanted = precision.weights_dtype(dtype)
        if wanted == self.weights.dtype:
            return self
        if wanted == np.float32:
            return replace(self, counts=None, weights=self.weights.astype(np.float32))
        values = precision.slices(self.indptr, self.weights)
        weights, rounded = precision.rounded(self.arrays(), self.link, values)
        return replace(self, counts=None, weights=weights, meta={**self.meta, "rounded": rounded})

    def differs_by_rounding(self, hash: str) -> bool:
        """Whether a graph of that hash is this one but for the rounding of weights to float16.

        Args:
            hash: as of ``InterestGraph.hash``.
        """
        if self.meta.get("rounded", {}).get("hash") == hash:
            return True
        try:
            return self.weights.dtype == np.float32 and self.with_weights_dtype(np.float16).hash == hash
        except ValueError:  # no float16 graph of these weights
            return False

    def __deepcopy__(self, memo: dict[int, Any]) -> "InterestGraph":
        """A graph that shares the arrays, which nobody writes."""
        return self.over(self.arrays(), copy.deepcopy(self.meta, memo))

    def over(self, arrays: dict[str, Any], meta: dict[str, Any] | None = None) -> "InterestGraph":
        """This graph with the same numbers in other memory.

        Args:
            arrays: those that lie elsewhere, by name.
            meta: in place of its meta data.
        """
        twin = replace(self, **arrays, meta=self.meta if meta is None else meta)
        if "hash" in self.__dict__:
            twin.__dict__["hash"] = self.hash
        return twin

    def stats(self) -> dict[str, Any]:
        """Numbers that describe the graph, JSON-able.

        Returns:
            num_items, num_edges, link; self_edges (own entries), isolated (rows without another
            item), empty_rows; others_per_row and degree: mean, min, p50, p90, p99, max (degree only
            over rows with entries); kept_mass: stored weight of other items over their weight
            before pruning (1.0 where there is none, None once a link is applied); hop_kept_mass: of
            "gcn" with several hops, what each pruning kept; events, time_cut.
        """
        return stats.stats(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one npz file with a JSON header: first beside ``path``, then moved into place.

        Raises:
            FileNotFoundError: the folder does not exist.
            OSError: it cannot be written.
        """
        header = {"link": self.link, "hash": self.hash, "meta": self.meta}
        kept = None if self.counts is None else self.counts.arrays()
        file.write(path, self.arrays(), header, kept)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mapped: bool = False) -> "InterestGraph":
        """Reads a file written by ``save``, without pickle; content hash and structure are verified.

        Args:
            path: of the file.
            mapped: the arrays stay in the file, whose memory the processes of a host share (mmap). Save the graph with
                its link (``with_link``): a link of other weights would copy them.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, damaged, foreign or of another version; with ``mapped``, of an earlier
                release that did not align its arrays.
        """
        arrays, header, kept = file.read(path, mapped)
        try:
            csr.verify(arrays, header["link"])
            counts: KeptCounts | None = None
            if kept:
                counts = KeptCounts(**kept)
                counts.verify(len(arrays["indptr"]) - 1, header["meta"]["options"])
            meta.verify(header["meta"], len(arrays["indptr"]) - 1, counts)
        except (ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)} holds no valid interest graph: {error}") from error
        graph = cls(**arrays, link=header["link"], meta=header["meta"], counts=counts)
        graph.__dict__["hash"] = header["hash"]
        return graph
