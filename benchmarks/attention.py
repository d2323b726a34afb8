"""``python -m benchmarks.attention``: the attention link against the average link, forward + backward."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import forward_of, operator
from benchmarks.cells import Case, Cell, add_cell_options, make_case
from benchmarks.machine import machine
from benchmarks.report import ratio_text
from benchmarks.timing import interleave, summary
from resemb_ext import _loader, functional
from resemb_ext.runtime.files import write_json

AVERAGE = "average"


def with_own_entries(case: Case) -> Case:
    """The case with every row's own item among its neighbours, in the place of the nearest of them."""
    own = torch.arange(case.neighbors.shape[0])[:, None]
    place = (case.neighbors - own).abs().argmin(1, keepdim=True)
    columns = case.neighbors.scatter_(1, place, own)
    case.neighbors32.copy_(columns.reshape(-1))
    return case


def attention(case: Case, heads: int) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """The operator and its small leaves."""
    generator = torch.Generator().manual_seed(0)
    dim = case.central.shape[1]
    leaves = [torch.randn(n, generator=generator) / dim**0.5 for n in (dim, dim)]
    leaves = [t.requires_grad_() for t in (*leaves, torch.ones(heads))]
    log_weights = case.weights.reshape(-1).log()

    def look_up(ids: Tensor) -> Tensor:
        return functional.attention_embedding(
            ids, case.central, case.residual, case.indptr, case.neighbors32, log_weights, *leaves, sparse=True
        )

    return look_up, leaves


def run_cell(factors: Cell, *, heads: list[int], rounds: int, warmup: int) -> dict[str, Any]:
    """Times one cell.

    Returns:
        JSON-able: the settings, U, V, for "forward" and "forward+backward" the summary of both links
        (ratios are to the average link), and milliseconds of forward + backward by stage.
    """
    case = with_own_entries(make_case(factors))
    batches = factors.batches
    upstream = torch.randn(factors.positions, factors.dim)
    functions = {AVERAGE: (operator(case), [])}
    for n in heads:
        functions[f"attention, {n} heads" if n > 1 else "attention"] = attention(case, n)

    def forward(function: Callable[[Tensor], Tensor], _: list[Tensor]) -> Callable[[int], Any]:
        return forward_of(case, function)

    def both(function: Callable[[Tensor], Tensor], small: list[Tensor]) -> Callable[[int], Any]:
        leaves = [case.central, case.residual, *small]

        def run(turn: int) -> Any:
            return torch.autograd.grad(function(case.batches[turn % batches]), leaves, upstream)

        return run

    unique, touched = case.touched
    cell: dict[str, Any] = {
        **asdict(factors),
        "rounds": rounds,
        "unique": unique,
        "touched_neighbors": touched,
        "profile": {},
    }
    for phase, wrap in (("forward", forward), ("forward+backward", both)):
        variants = {name: wrap(*pair) for name, pair in functions.items()}
        seconds = interleave(variants, rounds=rounds, warmup=warmup, label=f"{factors.name}, {phase}")
        cell[phase] = summary(seconds, AVERAGE)
    for name, variant in variants.items():
        _loader.take_profile(True)
        for turn in range(rounds):
            variant(turn)
        spent = _loader.take_profile(False)
        cell["profile"][name] = {k: round(v / rounds, 2) for k, v in spent.items() if v > 0}
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description="A lookup under the attention link against one under the average link: forward, and "
        "forward + backward with sparse gradients. Ratio: attention's time over average's in one round.",
        epilog="example: python -m benchmarks.attention --items 63000 --heads 1 4",
    )
    add_cell_options(parser)
    parser.add_argument("--heads", type=int, nargs="+", default=[1], help="heads, each a variant")
    parser.add_argument("--rounds", type=int, default=21, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=3, help="rounds not timed")
    parser.add_argument("--out", type=Path, help="JSON file (default: none)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cells = []
    for items in args.items:
        factors = Cell(
            name=f"H={items:,}",
            items=items,
            dim=args.dim,
            neighbors=args.neighbors,
            positions=args.positions,
            zipf=args.zipf,
            batches=args.batches,
            seed=args.seed,
        )
        cell = run_cell(factors, heads=args.heads, rounds=args.rounds, warmup=args.warmup)
        cells.append(cell)
        print(f"H={items:,} U={cell['unique']:,} V={cell['touched_neighbors']:,}")
        for phase in ("forward", "forward+backward"):
            for name, v in cell[phase].items():
                print(f"  {phase:17}{name:20}{v['median_ms']:8.1f} ms   {ratio_text(v)}")
        for name, stages in cell["profile"].items():
            print(f"  {name}: {stages}", flush=True)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine(), "cells": cells}
        write_json(args.out, result)
        print(f"written to {args.out}")


if __name__ == "__main__":
    main()
