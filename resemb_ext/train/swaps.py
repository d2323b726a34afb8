"""Ids of training batches swapped at random for neighbours in the graph."""

from __future__ import annotations

import math

import numpy as np

from resemb_ext.data import Batch
from resemb_ext.graph import InterestGraph

_STREAM = 7  # beside those of samples and folds
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Swaps:
    """Stochastic shared embeddings over a graph (SSE-Graph, Wu et al. 2019, arXiv 1905.10630).

    Each id of a batch, of targets and histories alike, is with the given probability another one: a neighbour, drawn
    in proportion to the weights of its row, itself left out. An item without other neighbours stays. The categories
    of a batch stay those of the items that were there.

    What is swapped is a function of seed, epoch, row and the place in the row, whatever the batches are.

    Args:
        graph: over the ids.
        probability: of a swap, from 0 to 1.
        padding_idx: an id that is neither swapped nor swapped for.

    Raises:
        ValueError: the probability is no number from 0 to 1.
    """

    def __init__(self, graph: InterestGraph, probability: float, padding_idx: int | None = None) -> None:
        if not (math.isfinite(probability) and 0 <= probability <= 1):
            raise ValueError(f"swap: found {probability}; expected a probability from 0 to 1")
        self.probability = float(probability)
        self.key = f"{self.probability:g} over graph {graph.hash}"
        degree = np.diff(graph.indptr)
        rows = np.repeat(np.arange(graph.num_items), degree)
        weights = graph.weights.astype(np.float64)
        weights[rows == graph.neighbors] = 0.0
        if padding_idx is not None:
            weights[(rows == padding_idx) | (graph.neighbors == padding_idx)] = 0.0
        kept = weights > 0
        rows, weights = rows[kept], weights[kept]
        sums = np.bincount(rows, weights, minlength=graph.num_items)
        self._neighbors = graph.neighbors[kept].astype(np.int64)
        self._degree = np.bincount(rows, minlength=graph.num_items)
        self._first = np.cumsum(self._degree) - self._degree
        # Row r's places are its number and the share of its weights so far: one ascending list for all rows.
        order = np.cumsum(weights / sums[rows])
        before = np.concatenate([[0.0], order])[self._first]
        self._places = rows + (order - before[rows])

    def ids(self, ids: np.ndarray, rows: np.ndarray, position: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Swapped ids.

        Args:
            ids: int64 [n].
            rows: int64 [n], the row of the samples that each is of.
            position: int64 [n], its place within the row.
            seed, epoch: of training.

        Returns:
            int64 [n].
        """
        key = np.random.SeedSequence([_STREAM, seed, epoch]).generate_state(1, np.uint64)
        of_row = _mixed(key + (rows.astype(np.uint64) + np.uint64(1)) * _STEP)
        whether, which = (
            _unit(_mixed(of_row + (np.uint64(2) * position.astype(np.uint64) + np.uint64(n)) * _STEP)) for n in (1, 2)
        )
        chosen = np.flatnonzero((whether < self.probability) & (self._degree[ids] > 0))
        old = ids[chosen]
        edge = np.searchsorted(self._places, old + which[chosen], side="right")
        # The last share of a row may end a rounding below 1, or above.
        edge = np.clip(edge, self._first[old], self._first[old] + self._degree[old] - 1)
        out = ids.copy()
        out[chosen] = self._neighbors[edge]
        return out

    def batch(self, batch: Batch, rows: np.ndarray, *, seed: int, epoch: int) -> Batch:
        """A batch with swapped targets and histories.

        Args:
            batch: of the samples.
            rows: int64 [B], which rows of the samples it holds.
            seed, epoch: of training.
        """
        lengths = np.diff(np.append(batch.offsets, len(batch.history)))
        position = 1 + np.arange(len(batch.history)) - np.repeat(batch.offsets, lengths)
        return batch._replace(
            target=self.ids(batch.target, rows, np.zeros(len(rows), np.int64), seed=seed, epoch=epoch),
            history=self.ids(batch.history, np.repeat(rows, lengths), position, seed=seed, epoch=epoch),
        )


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Bits as if drawn at random from other bits: the end of splitmix64 (Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _unit(bits: np.ndarray) -> np.ndarray:
    """float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
