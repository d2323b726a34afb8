"""The ways to compute a Res-embedding lookup in plain PyTorch, and the operator.

All graph rows have K entries here, as the gather needs; the operator takes the CSR form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.cells import Case
from resemb_ext import functional

LookUp = Callable[[Tensor], Tensor]  # ids [P] to vectors [P, D]


def operator(case: Case) -> LookUp:
    def look_up(ids: Tensor) -> Tensor:
        return functional.res_embedding(
            ids, case.central, case.residual, case.indptr, case.neighbors32, case.link_weights, sparse=True
        )

    return look_up


def module_over(case: Case, central: Tensor, residual: Tensor) -> rx.ResEmbedding:
    """ResEmbedding over the case's graph, sparse, with these tables [H, D] as its parameters."""
    graph = rx.InterestGraph.from_csr(case.indptr.numpy(), case.neighbors32.numpy(), case.link_weights.numpy())
    module = rx.ResEmbedding(graph, case.central.shape[1], link="given", sparse=True)
    module.central, module.residual = nn.Parameter(central), nn.Parameter(residual)
    return module


def forward_of(case: Case, look_up: LookUp) -> Callable[[int], Tensor]:
    """The lookup of a turn's batch, without gradients."""

    def run(turn: int) -> Tensor:
        with torch.no_grad():
            return look_up(case.batches[turn % len(case.batches)])

    return run


def gather(case: Case) -> LookUp:
    """(C[nbrs[ids]] * w[ids, :, None]).sum(1) + R[ids]: a [P, K, D] tensor."""

    def look_up(ids: Tensor) -> Tensor:
        rows = F.embedding(case.neighbors[ids], case.central, sparse=True)
        return (rows * case.weights[ids][:, :, None]).sum(1) + F.embedding(ids, case.residual, sparse=True)

    return look_up


def compiled_gather(case: Case) -> LookUp:
    """The gather under torch.compile, which fuses it into one loop (dense gradients)."""

    def look_up(ids: Tensor) -> Tensor:
        rows = case.central[case.neighbors[ids]]
        return (rows * case.weights[ids][:, :, None]).sum(1) + case.residual[ids]

    return torch.compile(look_up, fullgraph=True, dynamic=False)


def bag_over_positions(case: Case, sparse: bool = True) -> LookUp:
    """embedding_bag with link weights over every position."""

    def look_up(ids: Tensor) -> Tensor:
        rows = F.embedding_bag(
            case.neighbors[ids], case.central, mode="sum", sparse=sparse, per_sample_weights=case.weights[ids]
        )
        return rows + F.embedding(ids, case.residual, sparse=sparse)

    return look_up


def compiled_bag(case: Case) -> LookUp:
    """embedding_bag over every position under torch.compile (dense gradients)."""
    return torch.compile(bag_over_positions(case, sparse=False), fullgraph=True, dynamic=False)


def bag_over_unique(case: Case, sparse: bool = True) -> LookUp:
    """unique, embedding_bag over the unique rows, then the rows of the positions."""

    def look_up(ids: Tensor) -> Tensor:
        rows, inverse = ids.unique(return_inverse=True)
        table = F.embedding_bag(
            case.neighbors[rows], case.central, mode="sum", sparse=sparse, per_sample_weights=case.weights[rows]
        )
        table = table + F.embedding(rows, case.residual, sparse=sparse)
        return F.embedding(inverse, table)

    return look_up


def compiled_unique(case: Case) -> LookUp:
    """unique, then its gather under torch.compile, for any number of rows (dense gradients)."""

    def table(rows: Tensor, inverse: Tensor) -> Tensor:
        taken = case.central[case.neighbors[rows]]
        return ((taken * case.weights[rows][:, :, None]).sum(1) + case.residual[rows])[inverse]

    compiled = torch.compile(table, fullgraph=True, dynamic=True)

    def look_up(ids: Tensor) -> Tensor:
        return compiled(*ids.unique(return_inverse=True))

    return look_up


def plain_embedding(case: Case, sparse: bool = True) -> LookUp:
    """F.embedding of one table: no graph at all."""

    def look_up(ids: Tensor) -> Tensor:
        return F.embedding(ids, case.plain, sparse=sparse)

    return look_up


OWN = "resemb_ext"
PLAIN = "plain F.embedding"
RES_BASELINES: dict[str, Callable[[Case], LookUp]] = {
    "gather": gather,
    "embedding_bag over positions": bag_over_positions,
    "unique + embedding_bag": bag_over_unique,
}
COMPILED_BASELINES: dict[str, Callable[[Case], LookUp]] = {
    "torch.compile of the gather": compiled_gather,
    "torch.compile of embedding_bag over positions": compiled_bag,
    "unique + torch.compile of its gather": compiled_unique,
}


def baselines_of(case: Case) -> dict[str, Callable[[Case], LookUp]]:
    """The Res-embedding baselines of a case's cell."""
    return {**RES_BASELINES, **(COMPILED_BASELINES if case.cell.every_baseline else {})}


def needs(name: str, case: Case) -> int:
    """Bytes that a baseline's forward + backward take beyond tables, output and its gradient: an estimate."""
    cell = case.cell
    size = case.central.element_size() * cell.dim
    edges = cell.positions * cell.neighbors
    unique = case.touched[0] * cell.neighbors
    dense = 2 * cell.items
    return size * {
        "gather": 4 * edges,
        "torch.compile of the gather": dense,
        "embedding_bag over positions": 2 * edges,
        "unique + embedding_bag": 2 * unique,
        "torch.compile of embedding_bag over positions": dense,
        "unique + torch.compile of its gather": dense,
    }.get(name, 0)
