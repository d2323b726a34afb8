"""What rows far apart cost: the step of the same batches in tables of 1M and of 10M rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.ceiling import read_rows
from benchmarks.cells import Case, Cell, make_case, make_tables
from benchmarks.steps import LR
from benchmarks.timing import interleave

FACTOR = 10  # row i of the small tables is row FACTOR i of the large ones


def _step(case: Case, tables: list[Tensor], scale: int) -> Callable[[int], None]:
    """Adam in backward on tables whose active rows are the case's, times ``scale``."""
    items, dim = tables[0].shape
    neighbors = case.cell.neighbors
    lengths = np.zeros(items, dtype=np.int64)
    lengths[::scale] = neighbors
    graph = rx.InterestGraph.from_csr(
        np.concatenate([[0], np.cumsum(lengths)]), case.neighbors32.numpy() * scale, case.link_weights.numpy()
    )
    module = rx.ResEmbedding(graph, dim, link="given", sparse=True)
    module.central, module.residual = (nn.Parameter(t.detach()) for t in tables[:2])
    rx.optim.Adam(module.parameters(), lr=LR).step_in_backward(module)
    batches = [ids * scale for ids in case.batches]
    upstream = torch.randn(case.cell.positions, dim)
    return lambda turn: module(batches[turn % len(batches)]).backward(upstream)


def run_spread(cell: Cell, *, rounds: int, warmup: int) -> dict[str, Any]:
    """Step and plain reading of the rows, in both sizes, interleaved.

    Returns:
        JSON-able: the cell, medians in ms, and quartiles of (step 10M / step 1M) / (read 10M / read 1M).
    """
    case = make_case(cell)
    large = make_tables(replace(cell, items=cell.items * FACTOR))
    small = [case.central, case.residual, case.plain]
    rows = case.neighbors[case.batches[0].unique()].unique()
    runs: dict[str, Callable[[int], Any]] = {
        "step, small": _step(case, small, 1),
        "step, large": _step(case, large, FACTOR),
        "read, small": lambda _: read_rows(small[0], rows),
        "read, large": lambda _: read_rows(large[0], rows * FACTOR),
    }
    seconds = interleave(runs, rounds=rounds, warmup=warmup, label=cell.name)
    taken = {name: np.asarray(values) for name, values in seconds.items()}
    step = taken["step, large"] / taken["step, small"]
    read = np.median(taken["read, large"] / taken["read, small"])
    return {
        **asdict(cell),
        "factor": FACTOR,
        "rounds": rounds,
        "median_ms": {n: round(1e3 * float(np.median(v)), 3) for n, v in taken.items()},
        "step_ratio": round(float(np.median(step)), 3),
        "read_ratio": round(float(read), 3),
        "ratio": [round(float(q), 3) for q in np.percentile(step / read, [25, 50, 75])],
    }
