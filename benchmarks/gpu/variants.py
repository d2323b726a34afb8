"""What is timed on a device: ours, and the ways of plain PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks import baselines, fbgemm, steps
from benchmarks.cells import Case
from benchmarks.gpu.cells import step_state
from benchmarks.steps import Step, StepState

LOOKUP = "forward: resemb_ext"
LOOKUP_BF16 = "forward: resemb_ext, bfloat16 tables"
LOOKUP_HALF_WEIGHTS = "forward: resemb_ext, link weights in float16"
GATHER_SUM = "forward: embedding_bag over the unique rows' list"
STEP = "step: resemb_ext, Adam in backward"
STEP_BF16 = "step: resemb_ext, Adam in backward, bfloat16 tables"
STEP_COMPACT = "step: resemb_ext, Adam in backward, compact state"
STEP_BF16_COMPACT = "step: resemb_ext, Adam in backward, bfloat16 tables rounded at random, compact state"
OTHER_STATES = ("bfloat16", "rowwise", "bfloat16_rowwise")
CAPTURED = "step: resemb_ext, Adam in backward, replayed from a CUDA graph"
SPARSE_ADAM = "step: plain, SparseAdam"
AVERAGE = "forward + backward: resemb_ext, dense gradients"
ATTENTION = "forward + backward: resemb_ext, attention link, dense gradients"
UNIQUE = "dedupe: torch.unique with inverse and counts (CUB)"
EDGE_SORT = "transpose: torch.sort of the touched edges, stable (CUB)"

Run = Callable[[int], Any]  # one turn
Maker = Callable[[], Run]


class Refused(RuntimeError):
    """A variant that cannot run here, and why."""


@functools.lru_cache(1)
def _without_edges(items: int) -> rx.InterestGraph:
    """Of millions of items it takes seconds."""
    empty = np.zeros(items + 1, dtype=np.int64)
    return rx.InterestGraph.from_csr(empty, empty[:0], np.zeros(0, dtype=np.float32))


def embedding(case: Case, **options: Any) -> rx.ResEmbedding:
    """A module over the case's graph, which is not copied through the host, with tables of its own."""
    graph, device = _without_edges(case.cell.items), case.central.device
    link, kind = options.pop("link", "given"), options.pop("weights", torch.float32)
    module = rx.ResEmbedding(graph, case.cell.dim, link=link, device=device, **options)
    weights = case.link_weights.log() if link == "attention" else case.link_weights
    module._indptr, module._neighbors, module._link_weights = case.indptr, case.neighbors32, weights.to(kind)
    return module


def in_backward(case: Case, dtype: torch.dtype = torch.float32, **options: Any) -> Step:
    module = embedding(case, sparse=True, dtype=dtype)
    rx.optim.Adam(module.parameters(), lr=steps.LR, **options).step_in_backward(module)
    cast = functools.lru_cache(1)(lambda upstream: upstream.to(dtype))  # a model's gradient has it
    return lambda ids, upstream: module(ids).backward(cast(upstream))


def pinned_in_backward(case: Case) -> Step:
    """The graph read from pinned host memory."""
    if not case.central.is_cuda:
        raise Refused("pinned memory is for CUDA")
    module = embedding(case, sparse=True)
    for name in ("_indptr", "_neighbors", "_link_weights"):
        setattr(module, name, getattr(module, name).cpu().pin_memory())
    rx.optim.Adam(module.parameters(), lr=steps.LR).step_in_backward(module)
    return lambda ids, upstream: module(ids).backward(upstream)


def captured(case: Case) -> Step:
    """One step of ours in a CUDA graph; ids are copied to where it reads them."""
    if not case.central.is_cuda:
        raise Refused("CUDA graphs are for CUDA")
    step = in_backward(case, capturable=True)
    ids = case.batches[0].clone()
    upstream = torch.randn(ids.numel(), case.cell.dim, device=ids.device)
    step(ids, upstream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(ids, upstream)

    # What the graph reads and writes must live as long as it: it holds addresses alone.
    def replay(values: Tensor, _: Tensor, kept: tuple[Step, Tensor] = (step, upstream)) -> None:
        ids.copy_(values)
        graph.replay()

    return replay


def dense_adam(look_up: Callable[[Tensor], Tensor], state: StepState, plain: bool = False) -> Step:
    tables = state.tables[2:] if plain else state.tables[:2]
    optimizer = torch.optim.Adam(tables, lr=steps.LR, fused=True)
    return steps._with_optimizer(look_up, optimizer, state)


def plain_with(case: Case, make: Callable[[list[Tensor]], torch.optim.Optimizer], sparse: bool) -> Step:
    """Plain nn.Embedding with an optimizer whose state is its own."""
    optimizer, look_up = make([case.plain]), baselines.plain_embedding(case, sparse=sparse)

    def step(ids: Tensor, upstream: Tensor) -> None:
        look_up(ids).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()

    return step


def gather_sum(case: Case) -> Run:
    """A plain gather-sum kernel over the unique rows' index list: what the lookup's kernel can reach.

    The lists are made beforehand, where ours reads them from the graph.
    """
    lists = [(case.neighbors[rows], case.weights[rows]) for rows in map(torch.unique, case.batches)]
    table = case.central.detach()

    def run(turn: int) -> Tensor:
        rows, weights = lists[turn % len(lists)]
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    return run


def cusparse(case: Case) -> Callable[[Tensor], Tensor]:
    """W C + R as one CSR product a step, F.embedding over it; the matrix is made once."""
    items = case.cell.items
    matrix = torch.sparse_csr_tensor(
        case.indptr, case.neighbors.reshape(-1), case.weights.reshape(-1), (items, items), check_invariants=False
    )
    return lambda ids: F.embedding(ids, matrix @ case.central + case.residual)


def fbgemm_tables(case: Case) -> fbgemm.Tables:
    missing = fbgemm.why_not(case.central.device.type)
    if missing is not None:
        raise Refused(missing)
    return fbgemm.Tables(case)


def both_ways(module: nn.Module) -> Step:
    def step(ids: Tensor, upstream: Tensor) -> None:
        module.zero_grad()
        module(ids).backward(upstream)

    return step


def variants(case: Case, compiled: bool) -> dict[str, Maker]:
    """What is timed, by name; each is made when its turn comes, so that its memory is its own.

    Args:
        compiled: also torch.compile of the gather, which takes half a minute to compile.
    """
    device = case.central.device
    upstream = torch.randn(case.cell.positions, case.cell.dim, device=device)
    unique = [ids.unique() for ids in case.batches]
    shared = functools.cache(lambda: step_state(case))

    def batch(turn: int) -> Tensor:
        return case.batches[turn % len(case.batches)]

    def forward(make: Callable[[Case], Callable[[Tensor], Tensor]]) -> Maker:
        def maker() -> Run:
            look_up = make(case)

            def run(turn: int) -> Tensor:
                with torch.no_grad():
                    return look_up(batch(turn))

            return run

        return maker

    def whole(make: Callable[[], Step]) -> Maker:
        def maker() -> Run:
            step = make()
            return lambda turn: step(batch(turn), upstream)

        return maker

    def with_state(make: Callable[[StepState], Step]) -> Maker:
        return whole(lambda: make(shared()))

    def deduped() -> Run:
        ids = [ids.int() for ids in case.batches]
        return lambda turn: ids[turn % len(ids)].unique(return_inverse=True, return_counts=True)

    def sorted_edges() -> Run:
        edges = [case.neighbors32.view(case.cell.items, -1)[rows].reshape(-1) for rows in unique]
        return lambda turn: edges[turn % len(edges)].sort(stable=True)

    def plain(make: Callable[[list[Tensor]], torch.optim.Optimizer], sparse: bool) -> Maker:
        return whole(lambda: plain_with(case, make, sparse))

    def tbe_step() -> Step:
        tables = fbgemm_tables(case)
        return lambda ids, grad: tables.look_up(ids).backward(grad)

    found: dict[str, Maker] = {
        LOOKUP: forward(lambda c: embedding(c)),
        LOOKUP_BF16: forward(lambda c: embedding(c, dtype=torch.bfloat16)),
        LOOKUP_HALF_WEIGHTS: forward(lambda c: embedding(c, weights=torch.float16)),
        GATHER_SUM: lambda: gather_sum(case),
        UNIQUE: deduped,
        EDGE_SORT: sorted_edges,
        "forward: gather": forward(baselines.gather),
        "forward: unique + embedding_bag": forward(baselines.bag_over_unique),
        "forward: FBGEMM TBE over unique rows": forward(lambda c: fbgemm_tables(c).look_up),
        "forward: plain F.embedding": forward(baselines.plain_embedding),
        AVERAGE: whole(lambda: both_ways(embedding(case))),
        ATTENTION: whole(lambda: both_ways(embedding(case, link="attention"))),
        STEP: whole(lambda: in_backward(case)),
        STEP_BF16: whole(lambda: in_backward(case, torch.bfloat16)),
        STEP_COMPACT: whole(lambda: in_backward(case, state="compact")),
        STEP_BF16_COMPACT: whole(lambda: in_backward(case, torch.bfloat16, state="compact", stochastic_rounding=True)),
        **{
            f"step: resemb_ext, Adam in backward, {state} state": whole(
                lambda state=state: in_backward(case, state=state)
            )
            for state in OTHER_STATES
        },
        CAPTURED: whole(lambda: captured(case)),
        "step: resemb_ext, Adam in backward, graph in pinned host memory": whole(lambda: pinned_in_backward(case)),
        "step: resemb_ext, optim.Adam": with_state(steps.own),
        "step: res, unique + embedding_bag, SparseAdam": with_state(steps.unique_sparse_adam),
        "step: res, unique + embedding_bag, dense fused Adam": with_state(
            lambda b: dense_adam(baselines.bag_over_unique(case, sparse=False), b)
        ),
        "step: res, touched rows as leaves, lazy Adam by hand": with_state(steps.touched_rows),
        "step: res, cuSPARSE W C + R, dense fused Adam": with_state(lambda b: dense_adam(cusparse(case), b)),
        "step: res, FBGEMM TBE over unique rows, Adam": whole(tbe_step),
        SPARSE_ADAM: with_state(steps.plain_sparse_adam),
        "step: plain, dense fused Adam": with_state(
            lambda b: dense_adam(baselines.plain_embedding(case, sparse=False), b, plain=True)
        ),
        "step: plain, touched rows, lazy Adam by hand": with_state(steps.plain_touched_rows),
        "step: plain, resemb_ext optim.Adam": with_state(steps.plain_own_adam),
        "step: plain, SGD, sparse gradients": plain(lambda t: torch.optim.SGD(t, lr=0.01), True),
        "step: plain, Adagrad, sparse gradients": plain(lambda t: torch.optim.Adagrad(t, lr=0.01), True),
        "step: plain, fused SGD, dense gradients": plain(lambda t: torch.optim.SGD(t, lr=0.01, fused=True), False),
    }
    if compiled:
        found["forward: torch.compile of the gather"] = forward(baselines.compiled_gather)
        found["step: res, torch.compile of the gather, dense fused Adam"] = with_state(
            lambda b: dense_adam(baselines.compiled_gather(case), b)
        )
    return found
