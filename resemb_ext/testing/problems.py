"""One generator of lookup problems, for tests and benchmarks alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class Problem:
    """Inputs of a lookup (offsets None: ids [P]) or of a bag (offsets [B])."""

    ids: Tensor
    central: Tensor
    residual: Tensor
    indptr: Tensor
    neighbors: Tensor
    weights: Tensor
    padding_idx: int | None = None
    offsets: Tensor | None = None
    mode: str = "sum"
    per_sample_weights: Tensor | None = None
    recipe: str = ""

    def __repr__(self) -> str:
        return self.recipe or f"Problem(ids {tuple(self.ids.shape)}, tables {tuple(self.central.shape)})"

    @property
    def graph(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.indptr, self.neighbors, self.weights

    def with_tensors(self, **tensors: Tensor | None) -> Problem:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **tensors)  # type: ignore[arg-type]

    def call(self, functions: object, **options: object) -> Tensor:
        """The problem solved by ``resemb_ext.functional`` or by ``resemb_ext.reference``."""
        if self.offsets is None:
            return functions.res_embedding(  # type: ignore[attr-defined]
                self.ids, self.central, self.residual, *self.graph, padding_idx=self.padding_idx, **options
            )
        return functions.res_embedding_bag(  # type: ignore[attr-defined]
            self.ids,
            self.offsets,
            self.central,
            self.residual,
            *self.graph,
            mode=self.mode,
            per_sample_weights=self.per_sample_weights,
            padding_idx=self.padding_idx,
            **options,
        )


def zipf_ranks(rng: np.random.Generator, num_items: int, count: int, exponent: float) -> np.ndarray:
    """``count`` draws of ranks from [0, num_items), rank k with weight (k + 1)^-exponent; 0 is uniform."""
    if exponent == 0:
        return rng.integers(0, num_items, count)
    cdf = np.cumsum(np.arange(1, num_items + 1, dtype=np.float64) ** -exponent)
    draws = torch.from_numpy(rng.random(count) * cdf[-1])
    ranks = torch.searchsorted(torch.from_numpy(cdf), draws)  # as NumPy's, on all threads
    return np.minimum(ranks.numpy(), num_items - 1)


def zipf_ids(rng: np.random.Generator, num_items: int, count: int, exponent: float) -> np.ndarray:
    """``count`` draws from ``num_items`` items by a Zipf law.

    Popularity falls on random items, so that popular rows lie apart in memory.
    """
    return rng.permutation(num_items)[zipf_ranks(rng, num_items, count, exponent)]


def make_graph(
    rng: np.random.Generator, num_items: int, neighbors: int, *, exponent: float = 1.05, vary: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random CSR graph: rows sorted and without duplicates, weights of a row summing to 1.

    Args:
        rng: source of randomness.
        num_items: H.
        neighbors: entries of a row, fewer where draws collide; with ``vary`` from 0 to twice as many.
        exponent: Zipf exponent of the neighbours' popularity.
        vary: rows of different lengths, empty ones among them.

    Returns:
        indptr int64 [H + 1], neighbors int32 [E], weights float32 [E].
    """
    lengths = np.full(num_items, neighbors)
    if vary:
        lengths = rng.integers(0, 2 * neighbors + 1, num_items)
    row = np.repeat(np.arange(num_items), lengths)
    drawn = zipf_ids(rng, num_items, row.size, exponent) if row.size else row
    key = np.unique(row.astype(np.int64) * num_items + drawn)
    row, column = key // num_items, key % num_items
    counts = np.bincount(row, minlength=num_items)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    weights = rng.random(column.size) + 0.1
    weights /= np.maximum(np.bincount(row, weights, num_items), 1e-30)[row]
    return indptr, column.astype(np.int32), weights.astype(np.float32)


def make_problem(
    *,
    num_items: int,
    dim: int,
    positions: int,
    neighbors: int,
    id_exponent: float = 1.05,
    neighbor_exponent: float = 1.05,
    vary: bool = False,
    padding_idx: int | None = None,
    padding_share: float = 0.0,
    bags: int | None = None,
    mode: str = "sum",
    sample_weights: bool = False,
    dtype: torch.dtype = torch.float32,
    weights_dtype: torch.dtype = torch.float32,
    id_dtype: torch.dtype = torch.int64,
    neighbor_dtype: torch.dtype = torch.int32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Problem:
    """A random problem, a function of its arguments.

    Args:
        num_items: H. dim: D. positions: P. neighbors: entries of a graph row, K.
        id_exponent, neighbor_exponent: Zipf exponents of ids and of neighbours.
        vary: graph rows of different lengths, some empty.
        padding_idx, padding_share: the padding item and the share of positions that hold it.
        bags: split the positions into this many jagged bags, some empty.
        mode, sample_weights: of the bags.
        dtype, weights_dtype, id_dtype, neighbor_dtype, device: of the tensors.
        seed: of the generator.
    """
    recipe = "make_problem(" + ", ".join(f"{k}={v}" for k, v in locals().items()) + ")"
    rng = np.random.default_rng(seed)
    indptr, columns, weights = make_graph(rng, num_items, neighbors, exponent=neighbor_exponent, vary=vary)
    ids = zipf_ids(rng, num_items, positions, id_exponent)
    if padding_idx is not None:
        ids = np.where(rng.random(positions) < padding_share, padding_idx % num_items, ids)
    offsets = samples = None
    if bags is not None:
        cuts = np.sort(rng.integers(0, positions + 1, max(bags - 1, 0)))
        offsets = torch.from_numpy(np.concatenate([[0], cuts])[:bags].astype(np.int64))
        if sample_weights:
            samples = torch.from_numpy(rng.random(positions) + 0.1).to(dtype)
    tables = torch.from_numpy(rng.standard_normal((2, num_items, dim), dtype=np.float32)).to(dtype)

    def to(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(device)

    device_tensors = (
        torch.from_numpy(ids).to(device=device, dtype=id_dtype),
        tables[0].clone().to(device),
        (tables[1] * 0.1).to(device),
        torch.from_numpy(indptr).to(device),
        torch.from_numpy(columns).to(device=device, dtype=neighbor_dtype),
        torch.from_numpy(weights).to(device=device, dtype=weights_dtype),
    )
    return Problem(*device_tensors, padding_idx, to(offsets), mode, to(samples), recipe)
