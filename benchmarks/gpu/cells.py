"""Cells drawn on the device itself: a graph, tables and batches as ``benchmarks.cells`` makes on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.cells import Case, Cell
from benchmarks.steps import StepState

_ROWS = 1 << 20  # of the graph drawn at a time, to bound memory


class Zipf:
    """Draws of ranks from [0, items), rank k with weight (k + 1)^-exponent."""

    def __init__(self, items: int, exponent: float, device: str, seed: int) -> None:
        ranks = torch.arange(1, items + 1, dtype=torch.float64, device=device)
        self.cumulated = (ranks**-exponent).cumsum(0)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.places = torch.randperm(items, generator=self.generator, device=device)

    def ranks(self, count: int) -> Tensor:
        draws = torch.rand(count, dtype=torch.float64, device=self.places.device, generator=self.generator)
        found = torch.searchsorted(self.cumulated, draws * self.cumulated[-1])
        return found.clamp_(max=self.places.numel() - 1)

    def ids(self, count: int) -> Tensor:
        """Popularity falls on random items, so that popular rows lie apart in memory."""
        return self.places[self.ranks(count)]


def draw_graph(items: int, neighbors: int, device: str, seed: int = 0) -> Tensor:
    """int64 [H, K]: the row's own item and distinct popular neighbours, ascending within a row."""
    zipf = Zipf(items, 1.05, device, seed)
    graph = torch.empty((items, neighbors), dtype=torch.int64, device=device)
    for first in range(0, items, _ROWS):
        rows = min(_ROWS, items - first)
        values = zipf.ranks(rows * neighbors).reshape(rows, neighbors)
        open_ = torch.arange(rows, device=device)  # that may hold repeats
        while len(open_):
            drawn = values[open_].sort(dim=1).values
            repeated = torch.zeros_like(drawn, dtype=torch.bool)
            repeated[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
            drawn[repeated] = zipf.ranks(int(repeated.sum()))
            values[open_] = drawn
            open_ = open_[repeated.any(dim=1)]
        values = zipf.places[values]
        own = torch.arange(first, first + rows, device=device)
        lacking = (values != own[:, None]).all(dim=1)
        values[lacking, 0] = own[lacking]
        graph[first : first + rows] = values.sort(dim=1).values
    return graph


def draw_batches(items: int, positions: int, count: int, device: str, seed: int = 1) -> list[Tensor]:
    """int64 [P] each, Zipf(1.05)."""
    zipf = Zipf(items, 1.05, device, seed)
    return [zipf.ids(positions) for _ in range(count)]


def make_case(cell: Cell, graph: Tensor, device: str) -> Case:
    """Tables and batches over a graph that has been drawn."""
    generator = torch.Generator(device).manual_seed(cell.seed)
    weights = torch.rand(graph.shape, device=device, generator=generator) + 0.1
    weights /= weights.sum(dim=1, keepdim=True)
    tables = [
        torch.empty((cell.items, cell.dim), device=device).normal_(generator=generator).requires_grad_()
        for _ in range(3)
    ]
    indptr = torch.arange(cell.items + 1, device=device) * cell.neighbors
    return Case(
        cell,
        *tables,
        graph,
        weights,
        indptr,
        graph.reshape(-1).to(torch.int32),
        weights.reshape(-1),
        draw_batches(cell.items, cell.positions, cell.batches, device),
    )


def step_state(case: Case) -> StepState:
    """Adam's moments, shared by all variants of a case."""

    def moments(table: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (torch.zeros_like(table, requires_grad=False) for _ in range(2))
        return first, second

    shared = (moments(case.central), moments(case.residual), moments(case.plain))
    return StepState(case, shared, shared)
