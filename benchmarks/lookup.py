"""One cell: forward, forward + backward with sparse gradients, and the whole Adam step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import OWN, PLAIN, RES_PEERS, Case, make_case, operator, plain_embedding
from benchmarks.step_cell import run_step
from benchmarks.timing import best, interleave, summary


def check_equal(case: Case, variants: dict[str, Callable[[Tensor], Tensor]]) -> None:
    """Every Res-embedding variant gives the operator's numbers and gradients before it is timed."""
    ids = case.batches[0][:5000]
    upstream = torch.randn(ids.shape[0], case.central.shape[1])
    expected: list[Tensor] | None = None
    for name, function in variants.items():
        if name == PLAIN:
            continue
        out = function(ids)
        gradients = torch.autograd.grad(out, [case.central, case.residual], upstream)
        found = [out.detach(), *(g.to_dense() if g.is_sparse else g for g in gradients)]
        expected = expected or found
        for value, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4, msg=name)


def run_cell(
    *,
    num_items: int,
    dim: int,
    neighbors: int,
    positions: int,
    exponent: float,
    batches: int,
    rounds: int,
    warmup: int,
    seed: int,
) -> dict[str, Any]:
    """Times one cell.

    Returns:
        JSON-able: the cell's settings, U, V, and for "forward" and "forward+backward" the summary of
        every variant with the best Res-embedding peer's name; and what `run_step` returns.
    """
    case = make_case(num_items, dim, neighbors, positions, exponent, batches, seed)
    variants = {
        OWN: operator(case),
        **{name: make(case) for name, make in RES_PEERS.items()},
        PLAIN: plain_embedding(case),
    }
    check_equal(case, variants)
    upstream = torch.randn(positions, dim)
    leaves = [case.central, case.residual, case.plain]

    def forward(function: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
        def run(turn: int) -> Tensor:
            with torch.no_grad():
                return function(case.batches[turn % batches])

        return run

    def both(function: Callable[[Tensor], Tensor]) -> Callable[[int], list[Tensor | None]]:
        def run(turn: int) -> list[Tensor | None]:
            function(case.batches[turn % batches]).backward(upstream)
            gradients = [leaf.grad for leaf in leaves]
            for leaf in leaves:
                leaf.grad = None
            return gradients

        return run

    unique, touched = case.touched
    cell: dict[str, Any] = {
        "num_items": num_items, "dim": dim, "neighbors": neighbors, "positions": positions,
        "zipf": exponent, "batches": batches, "rounds": rounds, "unique": unique,
        "touched_neighbors": touched}  # fmt: skip
    for phase, wrap in (("forward", forward), ("forward+backward", both)):
        seconds = interleave(
            {name: wrap(function) for name, function in variants.items()},
            rounds=rounds, warmup=warmup, label=f"H={num_items:,} {phase}")  # fmt: skip
        cell[phase] = summary(seconds, OWN)
        cell[f"best_peer_{phase}"] = best(cell[phase], list(RES_PEERS))
    cell.update(run_step(case, rounds=rounds, warmup=warmup))
    return cell
