"""The cells of the benchmark: their factors, and the tables, graph and batches that follow from them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import resemb_ext as rx
from resemb_ext._huge_pages import empty_table
from resemb_ext.testing.problems import zipf_ids, zipf_ranks

DISTRIBUTIONS = ("zipf", "uniform", "clustered", "real")
BLOCK = 256  # adjacent ids that clustered neighbours come from
_CHUNK = 1 << 20  # graph rows drawn at a time, to bound memory


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Factors of one cell; the defaults are the base cell.

    Args:
        name: of the cell. items: H. dim: D. neighbors: K, entries of every graph row. positions: P, the
            ids of a batch, its histories laid end to end.
        zipf: exponent of the ids' popularity, 0 is uniform.
        distribution: of the neighbours: "zipf" (popular ones elsewhere than the popular ids, the unfavourable
            case for caches), "uniform" (the worst locality), "clustered" (of a row's block of ``BLOCK``
            adjacent ids), or "real" (ids and graph of a log).
        dtype: of the tables and of their gradients.
        every_baseline: also torch.compile of every form, and FBGEMM where it is installed.
        batches: that rotate. seed: of everything drawn.
    """

    name: str = "base"
    items: int = 1_000_000
    dim: int = 64
    neighbors: int = 20
    positions: int = 200_000
    zipf: float = 1.05
    distribution: str = "zipf"
    dtype: str = "float32"
    every_baseline: bool = False
    batches: int = 8
    seed: int = 0


def add_cell_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a cell's factors, a cell for each of ``--items``, and of how it is run."""
    parser.add_argument("--items", type=int, nargs="+", default=[63_000, 1_000_000], help="H")
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--neighbors", type=int, default=20, help="K, entries of a graph row")
    parser.add_argument("--positions", type=int, default=200_000, help="P, ids in a batch")
    parser.add_argument("--zipf", type=float, default=1.05, help="exponent of the ids")
    parser.add_argument("--batches", type=int, default=8, help="rotating batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)


def suite() -> list[Cell]:
    """Base cells, one factor varied at a time, and 12 named corners."""
    base = Cell(name="base, H=1M", every_baseline=True)
    small = replace(base, name="base, H=63k", items=63_000)
    one = replace(base, every_baseline=False)

    def vary(name: str, **factors: object) -> Cell:
        return replace(one, name=name, **factors)  # type: ignore[arg-type]

    factors = [
        vary("H=3.7k", items=3_700),
        *(vary(f"D={d}", dim=d) for d in (16, 18, 32, 128)),
        *(vary(f"P={p // 1000}k", positions=p) for p in (20_000, 800_000)),
        *(vary(f"K={k}", neighbors=k) for k in (5, 10, 50)),
        *(vary(f"ids Zipf {z:g}", zipf=z) for z in (0.0, 0.8, 1.3)),
        *(vary(f"{distribution} neighbours", distribution=distribution) for distribution in ("uniform", "clustered")),
        vary("real ids and graph", distribution="real"),
        vary("bfloat16", dtype="bfloat16"),
    ]
    corners = [
        vary("all small", items=3_700, dim=16, positions=20_000, neighbors=5),
        vary("H=63k, D=128, P=800k, K=50", items=63_000, dim=128, positions=800_000, neighbors=50),
        vary("uniform ids and neighbours", zipf=0.0, distribution="uniform"),
        vary("D=16, P=800k", dim=16, positions=800_000),
        vary("H=63k, D=128, bfloat16", items=63_000, dim=128, dtype="bfloat16"),
        vary("H=3.7k, P=800k, K=50, ids Zipf 1.3", items=3_700, positions=800_000, neighbors=50, zipf=1.3),
        vary("H=63k, uniform ids and neighbours", items=63_000, zipf=0.0, distribution="uniform"),
        vary("D=32, K=50, uniform neighbours", dim=32, neighbors=50, distribution="uniform"),
        vary("H=63k, D=18, P=20k, K=5", items=63_000, dim=18, positions=20_000, neighbors=5),
        vary("bfloat16, uniform neighbours", dtype="bfloat16", distribution="uniform"),
        vary("D=128, P=20k, K=5", dim=128, positions=20_000, neighbors=5),
    ]
    large = [
        vary("H=10M, D=16, K=10", items=10_000_000, dim=16, neighbors=10),
        vary("H=10M, D=16, K=10, uniform neighbours", items=10_000_000, dim=16, neighbors=10, distribution="uniform"),
    ]
    return [base, small, *factors, *corners, *large]


@dataclass(frozen=True)
class Case:
    """A cell made real: tables as leaves that require gradients, a graph, id batches."""

    cell: Cell
    central: Tensor  # [H, D]
    residual: Tensor  # [H, D]
    plain: Tensor  # [H, D], the table of F.embedding
    neighbors: Tensor  # int64 [H, K], rows filled up to K with their last neighbour, weight 0
    weights: Tensor  # [H, K], dtype of the tables, as embedding_bag asks
    indptr: Tensor  # int64 [H + 1]: the graph as the operator takes it
    neighbors32: Tensor  # int32 [E]
    link_weights: Tensor  # float32 [E]
    batches: list[Tensor]  # int64 [P] each

    @property
    def touched(self) -> tuple[int, int]:
        """U and V of the first batch."""
        rows = self.batches[0].unique()
        return len(rows), len(self.neighbors[rows].unique())

    @property
    def fill(self) -> float:
        """Share of the entries of ``neighbors`` that are the graph's."""
        return self.neighbors32.numel() / self.neighbors.numel()


def _distinct(draw: Callable[[int], np.ndarray], rows: int, neighbors: int) -> np.ndarray:
    """int64 [rows, K], ascending: ``draw(count)`` by row, a row's repeated values drawn again."""
    values = draw(rows * neighbors).reshape(rows, neighbors)
    open_ = np.arange(rows)  # that may hold repeats
    while len(open_):
        drawn = np.sort(values[open_], axis=1)
        repeated = np.zeros(drawn.shape, dtype=bool)
        repeated[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        drawn[repeated] = draw(int(repeated.sum()))
        values[open_] = drawn
        open_ = open_[repeated.any(axis=1)]
    return values


def drawn_graph(rng: np.random.Generator, cell: Cell) -> Tensor:
    """int64 [H, K], ascending within a row, by the cell's distribution."""
    graph = empty_table((cell.items, cell.neighbors), dtype=torch.int64)
    block = min(BLOCK, cell.items)
    distribution = {
        "zipf": lambda n: zipf_ranks(rng, cell.items, n, 1.05),
        "uniform": lambda n: rng.integers(0, cell.items, n),
        "clustered": lambda n: rng.integers(0, block, n),
    }[cell.distribution]
    places = rng.permutation(cell.items) if cell.distribution == "zipf" else None
    for first in range(0, cell.items, _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, cell.items))
        values = _distinct(distribution, len(rows), cell.neighbors)
        if places is not None:
            values = places[values]
        elif cell.distribution == "clustered":
            values += np.minimum(rows // block * block, cell.items - block)[:, None]
        values.sort(axis=1)
        graph[first : first + len(rows)] = torch.from_numpy(values)
    return graph


def on_huge_pages(array: Tensor) -> Tensor:
    return empty_table(array.shape, dtype=array.dtype).copy_(array)


def make_tables(cell: Cell) -> list[Tensor]:
    """C, R and the plain table, on huge pages as ResEmbedding's are, for every variant alike."""
    generator = torch.Generator().manual_seed(cell.seed)
    dtype = getattr(torch, cell.dtype)
    return [
        empty_table((cell.items, cell.dim), dtype=dtype)
        .normal_(std=1.0 if dtype == torch.float32 else 0.05, generator=generator)
        .requires_grad_()
        for _ in range(3)
    ]


def make_case(cell: Cell, log: Path | None = None) -> Case:
    """Tables, graph and batches of a cell, a function of it (and of the log) alone.

    Raises:
        ValueError: a "real" cell without a log.
    """
    if cell.distribution == "real":
        return _real_case(cell, log)
    rng = np.random.default_rng(cell.seed)
    columns = drawn_graph(rng, cell)
    weights = empty_table(columns.shape, dtype=torch.float32)
    rng.random(out=weights.numpy(), dtype=np.float32)
    weights += 0.1
    weights /= weights.sum(dim=1, keepdim=True)
    draws = zipf_ids(rng, cell.items, cell.positions * cell.batches, cell.zipf)
    flat = on_huge_pages(columns.reshape(-1).to(torch.int32))
    return _assemble(
        cell,
        columns,
        weights,
        torch.arange(cell.items + 1) * cell.neighbors,
        flat,
        weights.reshape(-1),
        draws.reshape(cell.batches, cell.positions),
    )


def _real_case(cell: Cell, log: Path | None) -> Case:
    """Users' histories end to end, in a random order of users, and the log's own average graph."""
    if log is None:
        raise ValueError(f"cell {cell.name!r} needs a log: pass --log FILE")
    events = rx.data.read_log(log)
    graph = rx.InterestGraph.from_log(events, window=3, top_k=cell.neighbors - 1).with_link("average")
    lengths = np.diff(graph.indptr)
    neighbors = int(lengths.max())
    places = np.minimum(np.arange(neighbors), np.maximum(lengths, 1)[:, None] - 1)
    at = np.minimum(graph.indptr[:-1, None] + places, graph.num_edges - 1)
    weights = np.where(np.arange(neighbors) < lengths[:, None], graph.weights[at], np.float32(0))
    columns = graph.neighbors[at].astype(np.int64)
    rng = np.random.default_rng(cell.seed)
    histories = np.split(np.asarray(events.item), events.user_start[1:-1])
    draws = np.concatenate([histories[user] for user in rng.permutation(len(histories))])
    draws = np.resize(draws, (cell.batches, cell.positions)).astype(np.int64)
    cell = replace(cell, items=graph.num_items, neighbors=neighbors)
    flat, links = (torch.from_numpy(a.copy()) for a in (graph.neighbors, graph.weights))
    return _assemble(
        cell,
        *(on_huge_pages(torch.from_numpy(a)) for a in (columns, weights)),
        torch.from_numpy(graph.indptr.copy()),
        *(on_huge_pages(a) for a in (flat, links)),
        draws,
    )


def _assemble(
    cell: Cell, columns: Tensor, weights: Tensor, indptr: Tensor, flat: Tensor, links: Tensor, draws: np.ndarray
) -> Case:
    central, residual, plain = make_tables(cell)
    if central.dtype != torch.float32:
        weights = on_huge_pages(weights.to(central.dtype))
    batches = [torch.from_numpy(row.copy()) for row in draws]
    return Case(cell, central, residual, plain, columns, weights, indptr, flat, links, batches)


def compared_rows(case: Case, ids: Tensor) -> Tensor:
    """Rows of the tables in which variants are compared: all, or of many those touched and a sample."""
    items = case.cell.items
    if items <= 100_000:
        return torch.arange(items)
    touched = torch.cat([ids, case.neighbors[ids].reshape(-1)])
    return torch.cat([touched, torch.arange(0, items, 97)]).unique()
