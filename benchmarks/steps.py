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
from benchmarks.baselines import (
    LookUp,
    bag_over_positions,
    bag_over_unique,
    compiled_bag,
    compiled_gather,
    compiled_unique,
    module_over,
    operator,
    plain_embedding,
)
from benchmarks.cells import Case, compared_rows
from resemb_ext._huge_pages import empty_table

LR = 1e-3
FEW_ITEMS = 100_000  # up to which the whole table can be worth computing
Step = Callable[[Tensor, Tensor], None]  # ids [P], upstream gradient [P, D]
Moments = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StepState:
    """A case with Adam's moments of its tables, zero at the start.

    Our optimizer keeps float32 moments for tables of any dtype, torch's ones have the table's dtype;
    in float32 both have the same ones.
    """

    case: Case
    moments: tuple[Moments, Moments, Moments]  # of central, residual, plain, in the tables' dtype
    own_moments: tuple[Moments, Moments, Moments]
    eps: float = 1e-8
    lr: float = LR

    @classmethod
    def of(cls, case: Case) -> StepState:
        def moments(table: Tensor, dtype: torch.dtype) -> Moments:
            first, second = (empty_table(table.shape, dtype=dtype).zero_() for _ in range(2))
            return first, second

        tables = (case.central, case.residual, case.plain)
        central, residual, plain = (moments(t, t.dtype) for t in tables)
        shared = (central, residual, plain)
        if case.central.dtype == torch.float32:
            return cls(case, shared, shared)
        central, residual, plain = (moments(t, torch.float32) for t in tables)
        return cls(case, shared, (central, residual, plain))

    @property
    def tables(self) -> list[Tensor]:
        return [self.case.central, self.case.residual, self.case.plain]

    def moments_of(self, table: Tensor, own: bool = False) -> Moments:
        pairs = self.own_moments if own else self.moments
        return next(pair for t, pair in zip(self.tables, pairs, strict=True) if t is table)


def _share(optimizer: torch.optim.Optimizer, state: StepState) -> None:
    """Gives an optimizer the moments of all variants."""
    sparse_adam = isinstance(optimizer, torch.optim.SparseAdam)
    for group in optimizer.param_groups:
        for table in group["params"]:
            first, second = state.moments_of(table, own=isinstance(optimizer, rx.optim.Adam))
            optimizer.state[table] = {
                # Fused Adam wants its count beside the table.
                "step": 0 if sparse_adam else torch.tensor(0.0, device=table.device if group.get("fused") else "cpu"),
                "exp_avg": first,
                "exp_avg_sq": second,
            }


def _with_optimizer(look_up: LookUp, optimizer: torch.optim.Optimizer, state: StepState) -> Step:
    _share(optimizer, state)

    def step(ids: Tensor, upstream: Tensor) -> None:
        look_up(ids).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _with_dense_adam(look_up: LookUp, state: StepState) -> Step:
    optimizer = torch.optim.Adam(state.tables[:2], lr=state.lr, eps=state.eps, fused=True)
    return _with_optimizer(look_up, optimizer, state)


def own(state: StepState) -> Step:
    case = state.case
    optimizer = rx.optim.Adam([case.central, case.residual], lr=state.lr, eps=state.eps)
    return _with_optimizer(operator(case), optimizer, state)


def own_in_backward(state: StepState) -> Step:
    case = state.case
    module = module_over(case, *(t.detach() for t in state.tables[:2]))
    optimizer = rx.optim.Adam(module.parameters(), lr=state.lr, eps=state.eps)
    optimizer.step_in_backward(module)
    for table, pair in zip((module.central, module.residual), state.own_moments[:2], strict=True):
        optimizer.state[table] = {"step": torch.tensor(0.0), "exp_avg": pair[0], "exp_avg_sq": pair[1]}

    def step(ids: Tensor, upstream: Tensor) -> None:
        module(ids).backward(upstream)

    return step


def unique_sparse_adam(state: StepState) -> Step:
    tables = state.tables[:2]
    return _with_optimizer(
        bag_over_unique(state.case), torch.optim.SparseAdam(tables, lr=state.lr, eps=state.eps), state
    )


def unique_dense_adam(state: StepState) -> Step:
    return _with_dense_adam(bag_over_unique(state.case, sparse=False), state)


def bag_dense_adam(state: StepState) -> Step:
    return _with_dense_adam(bag_over_positions(state.case, sparse=False), state)


def compiled_gather_dense_adam(state: StepState) -> Step:
    return _with_dense_adam(compiled_gather(state.case), state)


def compiled_bag_dense_adam(state: StepState) -> Step:
    return _with_dense_adam(compiled_bag(state.case), state)


def compiled_unique_dense_adam(state: StepState) -> Step:
    return _with_dense_adam(compiled_unique(state.case), state)


def touched_rows(state: StepState, compiled: bool = False) -> Step:
    """The touched rows of both tables as small dense leaves, lazy Adam by hand."""
    case = state.case
    central, residual = (
        LazyAdam(table, pair, state.lr, state.eps, compiled)
        for table, pair in zip(state.tables[:2], state.moments[:2], strict=True)
    )

    def bag(c: Tensor, r: Tensor, places: Tensor, weights: Tensor, inverse: Tensor) -> Tensor:
        table = F.embedding_bag(places, c, mode="sum", per_sample_weights=weights) + r
        return F.embedding(inverse, table)

    def gather(c: Tensor, r: Tensor, places: Tensor, weights: Tensor, inverse: Tensor) -> Tensor:
        return ((c[places] * weights[:, :, None]).sum(1) + r)[inverse]

    look_up = torch.compile(gather, fullgraph=True, dynamic=True) if compiled else bag

    def step(ids: Tensor, upstream: Tensor) -> None:
        rows, inverse = ids.unique(return_inverse=True)
        columns, places = case.neighbors[rows].unique(return_inverse=True)
        c = case.central.detach()[columns].requires_grad_()
        r = case.residual.detach()[rows].requires_grad_()
        look_up(c, r, places, case.weights[rows], inverse).backward(upstream)
        assert c.grad is not None
        assert r.grad is not None
        central.step(columns, c.grad)
        residual.step(rows, r.grad)

    return step


def compiled_touched_rows(state: StepState) -> Step:
    return touched_rows(state, compiled=True)


def materialise(state: StepState) -> Step:
    """W C + R as one CSR product a step, F.embedding over it, dense fused Adam."""
    case = state.case
    items = case.central.shape[0]
    matrix = torch.sparse_csr_tensor(
        case.indptr,
        case.neighbors32.to(torch.int64),
        case.link_weights.to(case.central.dtype),
        (items, items),
        check_invariants=False,
    )

    def look_up(ids: Tensor) -> Tensor:
        return F.embedding(ids, matrix @ case.central + case.residual)

    return _with_dense_adam(look_up, state)


def plain_sparse_adam(state: StepState) -> Step:
    optimizer = torch.optim.SparseAdam([state.case.plain], lr=state.lr, eps=state.eps)
    return _with_optimizer(plain_embedding(state.case), optimizer, state)


def plain_dense_adam(state: StepState) -> Step:
    optimizer = torch.optim.Adam([state.case.plain], lr=state.lr, eps=state.eps, fused=True)
    return _with_optimizer(plain_embedding(state.case, sparse=False), optimizer, state)


def plain_touched_rows(state: StepState, compiled: bool = False) -> Step:
    case = state.case
    optimizer = LazyAdam(case.plain, state.moments[2], state.lr, state.eps, compiled)
    look_up = torch.compile(F.embedding, fullgraph=True, dynamic=True) if compiled else F.embedding

    def step(ids: Tensor, upstream: Tensor) -> None:
        rows, inverse = ids.unique(return_inverse=True)
        leaf = case.plain.detach()[rows].requires_grad_()
        look_up(inverse, leaf).backward(upstream)
        assert leaf.grad is not None
        optimizer.step(rows, leaf.grad)

    return step


def compiled_plain_touched_rows(state: StepState) -> Step:
    return plain_touched_rows(state, compiled=True)


def plain_own_adam(state: StepState) -> Step:
    optimizer = rx.optim.Adam([state.case.plain], lr=state.lr, eps=state.eps)
    return _with_optimizer(plain_embedding(state.case), optimizer, state)


Makers = dict[str, Callable[[StepState], Step]]
OWN_STEPS: Makers = {"resemb_ext, optim.Adam": own, "resemb_ext, Adam in backward": own_in_backward}
RES_STEPS: Makers = {
    "unique + embedding_bag, SparseAdam": unique_sparse_adam,
    "unique + embedding_bag, dense fused Adam": unique_dense_adam,
    "touched rows as leaves, lazy Adam by hand": touched_rows,
    "materialise, dense fused Adam": materialise,
}
PLAIN_STEPS: Makers = {
    "plain, SparseAdam": plain_sparse_adam,
    "plain, dense fused Adam": plain_dense_adam,
    "plain, touched rows, lazy Adam by hand": plain_touched_rows,
}
MORE_RES_STEPS: Makers = {
    "embedding_bag over positions, dense fused Adam": bag_dense_adam,
    "torch.compile of the gather, dense fused Adam": compiled_gather_dense_adam,
    "torch.compile of embedding_bag over positions, dense fused Adam": compiled_bag_dense_adam,
    "unique + torch.compile of its gather, dense fused Adam": compiled_unique_dense_adam,
    "torch.compile of touched rows and lazy Adam": compiled_touched_rows,
}
MORE_PLAIN_STEPS: Makers = {"plain, torch.compile of touched rows and lazy Adam": compiled_plain_touched_rows}
PLAIN_OWN = "plain, resemb_ext.optim.Adam"


def res_steps(case: Case) -> Makers:
    """Ways of Res-embedding; computing the whole table, hopeless for many items, in base cells alone there."""
    cell = case.cell
    if cell.every_baseline:
        return {**RES_STEPS, **MORE_RES_STEPS}
    return {n: m for n, m in RES_STEPS.items() if m is not materialise or cell.items <= FEW_ITEMS}


def plain_steps(case: Case) -> Makers:
    return {**PLAIN_STEPS, **(MORE_PLAIN_STEPS if case.cell.every_baseline else {})}


def make_steps(state: StepState, skip: Collection[str] = ()) -> dict[str, Step]:
    """Every variant of the case by name, ours first; those of ``skip`` left out."""
    case = state.case
    makers = {**OWN_STEPS, **res_steps(case), **plain_steps(case), PLAIN_OWN: plain_own_adam}
    return {name: make(state) for name, make in makers.items() if name not in skip}


def needs(name: str, case: Case) -> int:
    """Bytes that a variant's step takes beyond the shared tables and moments: an estimate."""
    cell = case.cell
    size = case.central.element_size() * cell.dim
    edges = case.touched[0] * cell.neighbors
    if name == "materialise, dense fused Adam":
        return size * 4 * cell.items
    if name == "plain, dense fused Adam":
        return size * cell.items
    if name == "unique + embedding_bag, SparseAdam":
        return size * 6 * edges
    if name == "embedding_bag over positions, dense fused Adam":
        return size * (2 * cell.items + cell.positions * cell.neighbors)
    return size * (2 * cell.items + edges) if name.endswith("dense fused Adam") else 0


def check_steps(state: StepState, count: int, skip: Collection[str] = ()) -> dict[str, str]:
    """Every variant makes the same first step, before it is timed.

    Of many items, those are compared that a step touches, and a sample of the others.

    From zero moments dense and lazy Adam agree: a row without gradient does not move. Adam's eps is made
    small, as SparseAdam has it at another place. In bfloat16 the first move is plus or minus lr, whose
    sign rounding decides where a sum nearly cancels: there 99 % of the moves must agree.

    Returns:
        Variants that torch refuses, by name with its words.

    Raises:
        AssertionError: a variant that differs, by name.
    """
    rounded = state.case.central.dtype != torch.float32
    state = replace(state, eps=1e-20, lr=0.05 if rounded else LR)
    ids = state.case.batches[0][:count]
    upstream = torch.randn(ids.shape[0], state.case.central.shape[1], dtype=state.case.central.dtype)
    rows = compared_rows(state.case, ids)
    start = [t.detach()[rows] for t in state.tables]
    expected: list[Tensor | None] = [None, None, None]
    refused = {}
    for name, step in make_steps(state, skip).items():
        try:
            step(ids, upstream)
        except (RuntimeError, NotImplementedError) as error:
            refused[name] = str(error).strip().splitlines()[0][:200]
        for i, (table, before) in enumerate(zip(state.tables, start, strict=True)):
            moved = table.detach()[rows].float() - before.float()
            table.grad = None
            table.detach()[rows] = before
            for moment in (*state.moments_of(table), *state.moments_of(table, own=True)):
                moment.zero_()
            if name in refused:
                continue
            if not moved.any():
                if (i < 2) != name.startswith("plain"):
                    raise AssertionError(f"{name}: a table did not move")
                continue
            if expected[i] is None:
                expected[i] = moved
            _check_moves(name, moved, expected[i], state.lr, rounded)
    return refused


def _check_moves(name: str, moved: Tensor, expected: Tensor, lr: float, rounded: bool) -> None:
    if not rounded:
        torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-2 * lr, msg=lambda m: f"{name}: {m}")
        return
    rows = (moved != 0).any(1) | (expected != 0).any(1)
    close = torch.isclose(moved[rows], expected[rows], rtol=0.05, atol=0.02 * lr)
    if close.float().mean() < 0.99:
        raise AssertionError(f"{name}: {1 - close.float().mean():.1%} of the moves differ")
