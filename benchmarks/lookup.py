"""One cell: forward, forward + backward with sparse gradients, and the whole Adam step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import fbgemm
from benchmarks.baselines import OWN, PLAIN, LookUp, baselines_of, forward_of, needs, operator, plain_embedding
from benchmarks.cells import Case, Cell, compared_rows, make_case
from benchmarks.machine import too_much
from benchmarks.step_cell import run_step
from benchmarks.timing import best, interleave, summary


def check_equal(case: Case, variants: dict[str, LookUp]) -> dict[str, str]:
    """Every Res-embedding variant gives the operator's numbers and gradients before it is timed.

    Returns:
        Variants that torch refuses, by name with its words.

    Raises:
        AssertionError: a variant that differs, by name.
    """
    ids = case.batches[0][:5000]
    upstream = torch.randn(ids.shape[0], case.cell.dim, dtype=case.central.dtype)
    rows = compared_rows(case, ids)
    expected: list[Tensor] | None = None
    refused = {}
    for name, function in variants.items():
        if name == PLAIN:
            continue
        try:
            out = function(ids)
            gradients = torch.autograd.grad(out, [case.central, case.residual], upstream)
        except (RuntimeError, NotImplementedError) as error:
            refused[name] = str(error).strip().splitlines()[0][:200]
            continue
        dense = [g.to_dense() if g.is_sparse else g for g in gradients]
        found = [value.float() for value in (out.detach(), *(g[rows] for g in dense))]
        expected = expected or found
        for value, reference in zip(found, expected, strict=True):
            if case.central.dtype == torch.float32:
                torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
                continue
            # torch's sums round to bfloat16 at every term of a popular row's gradient.
            atol = 0.05 * float(reference.abs().max())
            if torch.isclose(value, reference, rtol=0.05, atol=atol).float().mean() < 0.999:
                raise AssertionError(f"{name}: over .1 % of the numbers differ")
    return refused


def run_cell(
    cell: Cell, *, rounds: int, warmup: int, log: Path | None = None, slow: float | None = None
) -> dict[str, Any]:
    """Times one cell.

    Args:
        rounds, warmup: rounds timed and not timed.
        log: file of events for a cell with real ids and graph.
        slow: variants over this many times our time are timed in fewer rounds (see ``interleave``).

    Returns:
        JSON-able: the cell's factors, U, V, and for "forward" and "forward+backward" the summary of
        every variant with the best Res-embedding baseline's name; "skipped" (bytes) and "refused" (torch's
        words) variants; and what ``run_step`` returns.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # every variant compiles for several sizes
    case = make_case(cell, log)
    cell = case.cell
    makers = baselines_of(case)
    skipped = {name: bytes_ for name in makers if (bytes_ := too_much(needs(name, case)))}
    variants = {OWN: operator(case)}
    variants.update({name: make(case) for name, make in makers.items() if name not in skipped})
    variants[PLAIN] = plain_embedding(case)
    with warnings.catch_warnings():
        # The compiled forms take a scalar capture warning and the like: not about the numbers.
        warnings.simplefilter("ignore")
        refused = check_equal(case, variants)
    variants = {name: v for name, v in variants.items() if name not in refused}
    upstream = torch.randn(cell.positions, cell.dim, dtype=case.central.dtype)
    leaves = [case.central, case.residual, case.plain]

    def both(function: LookUp) -> Callable[[int], list[Tensor | None]]:
        def run(turn: int) -> list[Tensor | None]:
            function(case.batches[turn % cell.batches]).backward(upstream)
            gradients = [leaf.grad for leaf in leaves]
            for leaf in leaves:
                leaf.grad = None
            return gradients

        return run

    unique, touched = case.touched
    result: dict[str, Any] = {
        **asdict(cell),
        "rounds": rounds,
        "unique": unique,
        "touched_neighbors": touched,
        "fill": round(case.fill, 3),
    }
    for phase, wrap in (("forward", partial(forward_of, case)), ("forward+backward", both)):
        timed = {name: wrap(function) for name, function in variants.items()}
        if phase == "forward" and cell.every_baseline and fbgemm.why_not() is None:
            timed[fbgemm.LOOKUP] = forward_of(case, _checked_fbgemm(case))
        seconds = interleave(
            timed, rounds=rounds, warmup=warmup, label=f"{cell.name}, {phase}", slow=(OWN, slow) if slow else None
        )
        result[phase] = summary(seconds, OWN)
        baselines = [name for name in seconds if name not in (OWN, PLAIN)]
        result[f"best_baseline_{phase}"] = best(result[phase], baselines)
    step = run_step(case, rounds=rounds, warmup=warmup, slow=slow)
    step["skipped"] = {**skipped, **step["skipped"]}
    step["refused"] = {**refused, **step["refused"]}
    if cell.every_baseline:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notice of torch's sparse Adagrad
            adagrad = fbgemm.run_adagrad(case, rounds=rounds, warmup=warmup, slow=slow)
        step["refused"].update(adagrad.pop("refused"))
        step.update(adagrad)
    return {**result, **step}


def _checked_fbgemm(case: Case) -> LookUp:
    """FBGEMM's lookup, once it gave the operator's vectors.

    Raises:
        AssertionError: it differs.
    """
    look_up = fbgemm.lookup(case)
    with torch.no_grad():
        ids = case.batches[0][:5000]
        torch.testing.assert_close(look_up(ids), operator(case)(ids), rtol=1e-4, atol=1e-4)
    return look_up
