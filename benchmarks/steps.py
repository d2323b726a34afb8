"""Whole training steps of the tables, forward, backward and Adam: ours and the ways of plain PyTorch.

All variants share tables and moments, so that a cell fits in memory and every one finds the same pages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

import resemb_ext as rx
from benchmarks.adam import LazyAdam
from benchmarks.peers import Case, bag_over_unique, operator, plain_embedding
from resemb_ext._memory import empty_table

LR = 1e-3
Step = Callable[[Tensor, Tensor], None]  # ids [P], upstream gradient [P, D]


@dataclass(frozen=True)
class Bench:
    """A case with Adam's moments of its tables, zero at the start."""

    case: Case
    central: tuple[Tensor, Tensor]
    residual: tuple[Tensor, Tensor]
    plain: tuple[Tensor, Tensor]
    eps: float = 1e-8

    @classmethod
    def of(cls, case: Case) -> Bench:
        def moments(table: Tensor) -> tuple[Tensor, Tensor]:
            first, second = (empty_table(table.shape).zero_() for _ in range(2))
            return first, second

        return cls(case, *(moments(t) for t in (case.central, case.residual, case.plain)))

    @property
    def tables(self) -> list[Tensor]:
        return [self.case.central, self.case.residual, self.case.plain]

    def moments_of(self, table: Tensor) -> tuple[Tensor, Tensor]:
        pairs = (self.central, self.residual, self.plain)
        return next(pair for t, pair in zip(self.tables, pairs, strict=True) if t is table)


def _share(optimizer: torch.optim.Optimizer, bench: Bench) -> None:
    """Gives an optimizer the moments of all variants."""
    sparse_adam = isinstance(optimizer, torch.optim.SparseAdam)
    for group in optimizer.param_groups:
        for table in group["params"]:
            first, second = bench.moments_of(table)
            optimizer.state[table] = {
                "step": 0 if sparse_adam else torch.tensor(0.0),
                "exp_avg": first,
                "exp_avg_sq": second,
            }


def _with_optimizer(
    look_up: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, bench: Bench
) -> Step:
    _share(optimizer, bench)

    def step(ids: Tensor, upstream: Tensor) -> None:
        look_up(ids).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()

    return step


def own(bench: Bench) -> Step:
    case = bench.case
    optimizer = rx.optim.Adam([case.central, case.residual], lr=LR, eps=bench.eps)
    return _with_optimizer(operator(case), optimizer, bench)


def own_in_backward(bench: Bench) -> Step:
    case = bench.case
    graph = rx.InterestGraph.from_csr(
        case.indptr.numpy(), case.neighbors32.numpy(), case.weights.reshape(-1).numpy()
    )
    module = rx.ResEmbedding(graph, case.central.shape[1], link="given", sparse=True)
    module.central, module.residual = (torch.nn.Parameter(t.detach()) for t in bench.tables[:2])
    optimizer = rx.optim.Adam(module.parameters(), lr=LR, eps=bench.eps)
    optimizer.step_in_backward(module)
    for table, pair in ((module.central, bench.central), (module.residual, bench.residual)):
        optimizer.state[table] = {
            "step": torch.tensor(0.0), "exp_avg": pair[0], "exp_avg_sq": pair[1]}  # fmt: skip

    def step(ids: Tensor, upstream: Tensor) -> None:
        module(ids).backward(upstream)

    return step


def unique_sparse_adam(bench: Bench) -> Step:
    tables = bench.tables[:2]
    return _with_optimizer(
        bag_over_unique(bench.case), torch.optim.SparseAdam(tables, lr=LR, eps=bench.eps), bench
    )


def unique_dense_adam(bench: Bench) -> Step:
    tables = bench.tables[:2]
    optimizer = torch.optim.Adam(tables, lr=LR, eps=bench.eps, fused=True)
    return _with_optimizer(bag_over_unique(bench.case, sparse=False), optimizer, bench)


def touched_rows(bench: Bench) -> Step:
    """The touched rows of both tables as small dense leaves, lazy Adam by hand."""
    case = bench.case
    central = LazyAdam(case.central, bench.central, LR, bench.eps)
    residual = LazyAdam(case.residual, bench.residual, LR, bench.eps)

    def step(ids: Tensor, upstream: Tensor) -> None:
        rows, inverse = ids.unique(return_inverse=True)
        columns, places = case.neighbors[rows].unique(return_inverse=True)
        c = case.central.detach()[columns].requires_grad_()
        r = case.residual.detach()[rows].requires_grad_()
        table = F.embedding_bag(places, c, mode="sum", per_sample_weights=case.weights[rows]) + r
        F.embedding(inverse, table).backward(upstream)
        assert c.grad is not None
        assert r.grad is not None
        central.step(columns, c.grad)
        residual.step(rows, r.grad)

    return step


def materialise(bench: Bench) -> Step:
    """W C + R as one CSR product a step, F.embedding over it, dense fused Adam."""
    case = bench.case
    items = case.central.shape[0]
    matrix = torch.sparse_csr_tensor(
        case.indptr, case.neighbors.reshape(-1), case.weights.reshape(-1), (items, items),
        check_invariants=False)  # fmt: skip
    optimizer = torch.optim.Adam(bench.tables[:2], lr=LR, eps=bench.eps, fused=True)

    def look_up(ids: Tensor) -> Tensor:
        return F.embedding(ids, matrix @ case.central + case.residual)

    return _with_optimizer(look_up, optimizer, bench)


def plain_sparse_adam(bench: Bench) -> Step:
    optimizer = torch.optim.SparseAdam([bench.case.plain], lr=LR, eps=bench.eps)
    return _with_optimizer(plain_embedding(bench.case), optimizer, bench)


def plain_dense_adam(bench: Bench) -> Step:
    optimizer = torch.optim.Adam([bench.case.plain], lr=LR, eps=bench.eps, fused=True)
    return _with_optimizer(plain_embedding(bench.case, sparse=False), optimizer, bench)


def plain_touched_rows(bench: Bench) -> Step:
    case = bench.case
    optimizer = LazyAdam(case.plain, bench.plain, LR, bench.eps)

    def step(ids: Tensor, upstream: Tensor) -> None:
        rows, inverse = ids.unique(return_inverse=True)
        leaf = case.plain.detach()[rows].requires_grad_()
        F.embedding(inverse, leaf).backward(upstream)
        assert leaf.grad is not None
        optimizer.step(rows, leaf.grad)

    return step


def plain_own_adam(bench: Bench) -> Step:
    optimizer = rx.optim.Adam([bench.case.plain], lr=LR, eps=bench.eps)
    return _with_optimizer(plain_embedding(bench.case), optimizer, bench)


OWN_STEPS = {"resemb_ext, optim.Adam": own, "resemb_ext, Adam in backward": own_in_backward}
RES_STEPS = {
    "unique + embedding_bag, SparseAdam": unique_sparse_adam,
    "unique + embedding_bag, dense fused Adam": unique_dense_adam,
    "touched rows as leaves, lazy Adam by hand": touched_rows,
    "materialise, dense fused Adam": materialise,
}
PLAIN_STEPS = {
    "plain, SparseAdam": plain_sparse_adam,
    "plain, dense fused Adam": plain_dense_adam,
    "plain, touched rows, lazy Adam by hand": plain_touched_rows,
}
PLAIN_OWN = "plain, resemb_ext.optim.Adam"


def make_steps(bench: Bench, skip: Collection[str] = ()) -> dict[str, Step]:
    """Every variant by name, ours first; those of `skip` left out."""
    makers = {**OWN_STEPS, **RES_STEPS, **PLAIN_STEPS, PLAIN_OWN: plain_own_adam}
    return {name: make(bench) for name, make in makers.items() if name not in skip}


def check_steps(bench: Bench, count: int, skip: Collection[str] = ()) -> None:
    """Every variant makes the same first step, before it is timed.

    From zero moments dense and lazy Adam agree: a row without gradient does not move. Adam's eps is made
    small, as SparseAdam has it at another place.

    Raises:
        AssertionError: a variant that differs, by name.
    """
    ids = bench.case.batches[0][:count]
    upstream = torch.randn(ids.shape[0], bench.case.central.shape[1])
    start = [t.detach().clone() for t in bench.tables]
    expected: list[Tensor | None] = [None, None, None]
    for name, step in make_steps(replace(bench, eps=1e-20), skip).items():
        step(ids, upstream)
        for i, (table, before) in enumerate(zip(bench.tables, start, strict=True)):
            moved = table.detach() - before
            if moved.any():
                if expected[i] is None:
                    expected[i] = moved
                torch.testing.assert_close(
                    moved, expected[i], rtol=1e-2, atol=1e-2 * LR, msg=lambda m, n=name: f"{n}: {m}"
                )
            elif (i < 2) != name.startswith("plain"):
                raise AssertionError(f"{name}: a table did not move")
            table.detach().copy_(before)
            for moment in bench.moments_of(table):
                moment.zero_()
