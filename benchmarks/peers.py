"""The ways to compute a Res-embedding lookup in plain PyTorch, and the operator.

All graph rows have K entries here, as the gather needs; the operator takes the CSR form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resemb_ext import functional
from resemb_ext._memory import empty_table
from resemb_ext.testing.problems import zipf_ids, zipf_ranks


@dataclass(frozen=True)
class Case:
    """One cell: tables as leaves that require gradients, a graph of K entries a row, id batches."""

    central: Tensor  # [H, D]
    residual: Tensor  # [H, D]
    plain: Tensor  # [H, D], the table of F.embedding
    neighbors: Tensor  # int64 [H, K], ascending within a row
    neighbors32: Tensor  # int32 [H K], as the operator takes them
    weights: Tensor  # float32 [H, K]
    indptr: Tensor  # int64 [H + 1]
    batches: list[Tensor]  # int64 [P] each

    @property
    def touched(self) -> tuple[int, int]:
        """U and V of the first batch."""
        rows = self.batches[0].unique()
        return len(rows), len(self.neighbors[rows].unique())


def _distinct_rows(
    rng: np.random.Generator, num_items: int, neighbors: int, exponent: float
) -> np.ndarray:
    """int64 [H, K], ascending: Zipf neighbours, a row's repeated ones drawn again by the same law."""
    ranks = zipf_ranks(rng, num_items, num_items * neighbors, exponent).reshape(-1, neighbors)
    rows = np.arange(num_items)  # that may hold repeats
    while len(rows):
        drawn = np.sort(ranks[rows], axis=1)
        repeated = np.zeros(drawn.shape, dtype=bool)
        repeated[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        drawn[repeated] = zipf_ranks(rng, num_items, int(repeated.sum()), exponent)
        ranks[rows] = drawn
        rows = rows[repeated.any(axis=1)]
    return np.sort(rng.permutation(num_items)[ranks], axis=1)


def on_huge_pages(array: Tensor) -> Tensor:
    return empty_table(array.shape, dtype=array.dtype).copy_(array)


def make_case(
    num_items: int,
    dim: int,
    neighbors: int,
    positions: int,
    exponent: float,
    batches: int,
    seed: int,
) -> Case:
    """Zipf ids over random items and Zipf neighbours, rows of exactly `neighbors` distinct entries.

    The popular ids and the popular neighbours are different items: the unfavourable case for caches.
    Tables and graph lie on huge pages, as ResEmbedding's do, for every variant alike.
    """
    rng = np.random.default_rng(seed)
    columns = _distinct_rows(rng, num_items, neighbors, exponent)
    weights = rng.random((num_items, neighbors), dtype=np.float32) + 0.1
    weights /= weights.sum(axis=1, keepdims=True)
    generator = torch.Generator().manual_seed(seed)
    tables = [
        empty_table((num_items, dim)).normal_(generator=generator).requires_grad_()
        for _ in range(3)
    ]
    draws = zipf_ids(rng, num_items, positions * batches, exponent).reshape(batches, positions)
    return Case(
        *tables,
        on_huge_pages(torch.from_numpy(columns)),
        on_huge_pages(torch.from_numpy(columns.reshape(-1).astype(np.int32))),
        on_huge_pages(torch.from_numpy(weights)),
        torch.arange(num_items + 1) * neighbors,
        [torch.from_numpy(row.copy()) for row in draws],
    )


def operator(case: Case) -> Callable[[Tensor], Tensor]:
    weights = case.weights.reshape(-1)

    def look_up(ids: Tensor) -> Tensor:
        return functional.res_embedding(
            ids, case.central, case.residual, case.indptr, case.neighbors32, weights, sparse=True
        )

    return look_up


def gather(case: Case) -> Callable[[Tensor], Tensor]:
    """(C[nbrs[ids]] * w[ids, :, None]).sum(1) + R[ids]: a [P, K, D] tensor."""

    def look_up(ids: Tensor) -> Tensor:
        rows = F.embedding(case.neighbors[ids], case.central, sparse=True)
        return (rows * case.weights[ids][:, :, None]).sum(1) + F.embedding(
            ids, case.residual, sparse=True
        )

    return look_up


def compiled_gather(case: Case) -> Callable[[Tensor], Tensor]:
    """The gather under torch.compile, which fuses it into one loop (dense gradients)."""

    def look_up(ids: Tensor) -> Tensor:
        rows = case.central[case.neighbors[ids]]
        return (rows * case.weights[ids][:, :, None]).sum(1) + case.residual[ids]

    return torch.compile(look_up, fullgraph=True, dynamic=False)


def bag_over_positions(case: Case) -> Callable[[Tensor], Tensor]:
    """embedding_bag with link weights over every position."""

    def look_up(ids: Tensor) -> Tensor:
        rows = F.embedding_bag(
            case.neighbors[ids], case.central, mode="sum", sparse=True,
            per_sample_weights=case.weights[ids])  # fmt: skip
        return rows + F.embedding(ids, case.residual, sparse=True)

    return look_up


def bag_over_unique(case: Case, sparse: bool = True) -> Callable[[Tensor], Tensor]:
    """unique, embedding_bag over the unique rows, then the rows of the positions."""

    def look_up(ids: Tensor) -> Tensor:
        rows, inverse = ids.unique(return_inverse=True)
        table = F.embedding_bag(
            case.neighbors[rows], case.central, mode="sum", sparse=sparse,
            per_sample_weights=case.weights[rows])  # fmt: skip
        table = table + F.embedding(rows, case.residual, sparse=sparse)
        return F.embedding(inverse, table)

    return look_up


def plain_embedding(case: Case, sparse: bool = True) -> Callable[[Tensor], Tensor]:
    """F.embedding of one table: no graph at all."""

    def look_up(ids: Tensor) -> Tensor:
        return F.embedding(ids, case.plain, sparse=sparse)

    return look_up


OWN = "resemb_ext"
PLAIN = "plain F.embedding"
RES_PEERS: dict[str, Callable[[Case], Callable[[Tensor], Tensor]]] = {
    "gather": gather,
    "torch.compile of the gather": compiled_gather,
    "embedding_bag over positions": bag_over_positions,
    "unique + embedding_bag": bag_over_unique,
}
