"""One cell of the whole step: times, profile, peak memory, and the ceiling that memory sets."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import resemb_ext as rx
from benchmarks.ceiling import FORMULA, ceiling, measure_rates
from benchmarks.cells import Case
from benchmarks.machine import too_much
from benchmarks.report import OWN_STEP
from benchmarks.steps import OWN_STEPS, Step, StepState, check_steps, make_steps, needs, plain_steps, res_steps
from benchmarks.timing import best, interleave, summary
from resemb_ext import _loader
from resemb_ext.runtime.peak_memory import PeakMemory

OWN = OWN_STEP


def profile(step: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Milliseconds a step by stage of the operators, means."""
    _loader.take_profile(True)
    for turn in range(rounds):
        step(turn)
    spent = _loader.take_profile(False)
    return {stage: round(ms / rounds, 3) for stage, ms in spent.items()}


def peak_bytes(step: Callable[[int], Any]) -> int | None:
    """Resident bytes that a step adds at its peak to what was there before, from a cold pool."""
    rx.release_memory()
    with PeakMemory() as peak:
        step(0)
    if not peak.before_mb:  # the high-water mark cannot be reset here
        return None
    return int((peak.peak_mb - peak.before_mb) * 2**20)


def run_step(case: Case, *, rounds: int, warmup: int, slow: float | None = None) -> dict[str, Any]:
    """Times the whole Adam step of a case.

    Returns:
        JSON-able: "step" (summary by variant, ratios to ``OWN``), best baselines, "profile", "peak", "rates",
        "ceiling" in ms, "formula", "skipped" variants with the bytes they would need, and "refused"
        ones with torch's words.
    """
    cell = case.cell
    state = StepState.of(case)
    res, plain = res_steps(case), plain_steps(case)
    skipped = {name: bytes_ for name in (*res, *plain) if (bytes_ := too_much(needs(name, case)))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta notices of sparse CSR and of compiled forms
        refused = check_steps(state, 5000, skip=skipped)
        steps = make_steps(state, skip={*skipped, *refused})
    upstream = torch.randn(cell.positions, cell.dim, dtype=case.central.dtype)

    def run(step: Step) -> Callable[[int], None]:
        return lambda turn: step(case.batches[turn % cell.batches], upstream)

    seconds = interleave(
        {name: run(step) for name, step in steps.items()},
        rounds=rounds,
        warmup=warmup,
        label=f"{cell.name}, step",
        slow=(OWN, slow) if slow else None,
    )
    times = summary(seconds, OWN)
    unique, touched = case.touched
    size = case.central.element_size()
    result = {
        "step": times,
        "best_baseline_step": best(times, [n for n in res if n in times]),
        "best_plain_step": best(times, [n for n in plain if n in times]),
        "profile": {name: profile(run(steps[name]), cell.batches) for name in OWN_STEPS},
        "peak": {
            "bytes": peak_bytes(run(steps[OWN])),
            "output_and_touched_rows": size * cell.dim * (cell.positions + unique + touched),
        },
        "skipped": skipped,
        "refused": refused,
    }
    if case.central.dtype == torch.float32:
        result.update(_memory_bound(case, state, unique, touched, max(5, rounds)))
    return result


def _memory_bound(case: Case, state: StepState, unique: int, touched: int, rounds: int) -> dict[str, Any]:
    rates = measure_rates(case.central.detach(), state.moments[0], _touched_rows(case), rounds)
    return {
        "rates": {name: round(value, 2) for name, value in rates.items()},
        "ceiling": ceiling(
            rates,
            unique=unique,
            touched=touched,
            positions=case.cell.positions,
            edges=unique * case.cell.neighbors,
            dim=case.cell.dim,
        ),
        "formula": FORMULA,
    }


def _touched_rows(case: Case) -> Tensor:
    return case.neighbors[case.batches[0].unique()].unique()
