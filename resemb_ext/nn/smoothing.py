"""A trained table smoothed over the graph: rows that were seldom met move to the mean of their neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext import functional
from resemb_ext._growth import RowMoves
from resemb_ext.graph import InterestGraph

from .base import ResEmbeddingBase
from .graph_tensors import host_tensors

_BLOCK_ROWS = 1 << 16


class Smoothing:
    """Tables smoothed after training, by how often an item was met.

    Row i of a table E becomes (1 - a_i) E_i + a_i (W E)_i, with a_i = k / (k + n_i). So an item without events
    becomes the mean of its neighbours, and one with n_i >> k stays. It is one step of the graph's low-pass filter, as
    in Ju et al. 2024, TAG-CF (arXiv 2404.08660), which takes the step at test time too; the gate is the posterior
    mean of a row whose prior is centred on its neighbours', with the weight of k events (empirical Bayes).

    Args:
        graph: interest graph over the H rows. W is its rows divided by their sums: the link "average" where its
            weights are raw. A row without weights stays.
        counts: [H] integers or floats, training events of each item (``split.item_counts``).
        strength: k >= 0, in events; 0 smooths nothing.

    Raises:
        TypeError: ``graph`` is no InterestGraph, or counts or strength are no numbers.
        ValueError: other sizes; a count or strength that is negative or not finite.
    """

    def __init__(self, graph: InterestGraph, counts: Any, strength: float) -> None:
        if not isinstance(graph, InterestGraph):
            raise TypeError(f"graph: found {type(graph).__name__}; expected an InterestGraph")
        if isinstance(strength, bool) or not isinstance(strength, (int, float, np.integer, np.floating)):
            raise TypeError(f"strength: found {type(strength).__name__}; expected a number of events")
        self.strength = float(strength)
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength: found {strength}; expected a finite number of events, 0 or more")
        numbers = np.asarray(counts)
        if numbers.dtype.kind not in "iuf":
            raise TypeError(f"counts: found an array of {numbers.dtype}; expected numbers of events")
        if numbers.shape != (graph.num_items,):
            raise ValueError(f"counts: found shape {list(numbers.shape)}; expected [{graph.num_items}], one an item")
        if not (np.isfinite(numbers).all() and (numbers >= 0).all()):
            raise ValueError("counts: found a negative number or one that is not finite; expected numbers of events")
        self._graph, self._counts = graph, numbers.astype(np.float64)
        self._tensors: tuple[Tensor, Tensor, Tensor] | None = None  # indptr, neighbors, weights
        self._gate = torch.empty(0)

    @property
    def counts(self) -> np.ndarray:
        """float64 [H], training events of each item."""
        return self._counts

    def grown(self, graph: InterestGraph, moves: RowMoves) -> Smoothing:
        """The same strength over a larger graph, for rows that grew; new rows were met in no training event.

        Args:
            graph: over the ``moves.new`` rows.
            moves: from the rows of this smoothing.
        """
        return Smoothing(graph, moves.apply(torch.from_numpy(self._counts)).numpy(), self.strength)

    def _prepared(self) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """The gated rows of W, and the gate, float32 [H]: made once."""
        if self._tensors is None:
            graph = self._graph.with_link("average") if self._graph.link == "raw" else self._graph
            degree = np.diff(graph.indptr)
            rows = np.repeat(np.arange(graph.num_items), degree)
            weights = graph.weights.astype(np.float64)
            sums = np.bincount(rows, weights, minlength=graph.num_items)
            gate = np.zeros(graph.num_items)
            met = (sums > 0) & (self.strength > 0)
            gate[met] = self.strength / (self.strength + self._counts[met])
            weights *= np.divide(gate, sums, out=np.zeros_like(sums), where=sums > 0)[rows]
            tensors = host_tensors(graph, "given", pinned=False)
            link = torch.from_numpy(weights.astype(np.float32))
            self._tensors = tensors["_indptr"], tensors["_neighbors"], link
            self._gate = torch.from_numpy(gate.astype(np.float32))
        return self._tensors, self._gate

    def table(self, table: Tensor, padding_idx: int | None = None) -> Tensor:
        """The smoothed rows of a table.

        Args:
            table: [H, D] float32, float64, float16 or bfloat16, on any device.
            padding_idx: a row that stays as it is.

        Returns:
            [H, D] of the table's dtype, on its device; sums are made on the CPU.

        Raises:
            ValueError: another number of rows.
        """
        if table.dim() != 2 or len(table) != self._graph.num_items:
            raise ValueError(f"table: found shape {list(table.shape)}; expected [{self._graph.num_items}, D]")
        tensors, gate = self._prepared()
        with torch.no_grad():
            central = table.detach().cpu().contiguous()
            kept = central * (1 - gate).to(central.dtype).unsqueeze(1)
            out = torch.empty_like(central)
            for start in range(0, len(out), _BLOCK_ROWS):
                ids = torch.arange(start, min(start + _BLOCK_ROWS, len(out)))
                out[start : start + len(ids)] = functional.res_embedding(ids, central, kept, *tensors)
            if padding_idx is not None:
                out[padding_idx] = central[padding_idx]
            return out.to(table.device)

    def embedding(self, embedding: nn.Embedding, freeze: bool = True) -> nn.Embedding:
        """A plain embedding with the smoothed vectors, to serve.

        Args:
            embedding: ``nn.Embedding`` or ``ResEmbedding`` of H rows, whose vectors are smoothed.
            freeze: its weight takes no gradient.

        Raises:
            TypeError: another module.
            ValueError: another number of rows.
        """
        if not isinstance(embedding, nn.Embedding):
            raise TypeError(f"embedding: found {type(embedding).__name__}; expected nn.Embedding or ResEmbedding")
        if isinstance(embedding, ResEmbeddingBase):
            plain = embedding.to_plain()
            vectors = plain.weight
        else:
            vectors = embedding.weight
        # Of 16 bits they would be rounded once more, after the rounding of what they are made of.
        vectors = vectors.detach().float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
        return nn.Embedding.from_pretrained(
            self.table(vectors, embedding.padding_idx),
            freeze=freeze,
            padding_idx=embedding.padding_idx,
            sparse=embedding.sparse,
        ).train(embedding.training)
