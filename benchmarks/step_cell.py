"""One cell of the whole step: times, profile, peak memory, and the ceiling that memory sets."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import resemb_ext as rx
from benchmarks.ceiling import FORMULA, ceiling, measure_rates
from benchmarks.machine import memory_bytes
from benchmarks.peers import Case
from benchmarks.steps import (
    OWN_STEPS,
    PLAIN_STEPS,
    RES_STEPS,
    Bench,
    Step,
    check_steps,
    make_steps,
)
from benchmarks.timing import best, interleave, summary
from resemb_ext import _loader
from resemb_ext.train.memory import PeakMemory

OWN = next(reversed(OWN_STEPS))  # in backward: what the goals are about
_SKIP_OVER = 0.4  # of the machine's memory


def needs(name: str, num_items: int, dim: int, memory: int) -> int | None:
    """Bytes that a variant needs beyond the shared tables, where they are too many; else None."""
    dense = {
        "unique + embedding_bag, dense fused Adam": 2,
        "plain, dense fused Adam": 1,
        "materialise, dense fused Adam": 4,
    }
    bytes_ = 4 * num_items * dim * dense.get(name, 0)
    return bytes_ if bytes_ > _SKIP_OVER * memory else None


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


def run_step(case: Case, *, rounds: int, warmup: int) -> dict[str, Any]:
    """Times the whole Adam step of a case.

    Returns:
        JSON-able: "step" (summary by variant, ratios to `OWN`), best peers, "profile", "peak", "rates",
        "ceiling" in ms, "formula", and "skipped" variants with the bytes they would need.
    """
    num_items, dim = case.central.shape
    positions = case.batches[0].numel()
    memory = memory_bytes()
    bench = Bench.of(case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        skipped = {
            name: bytes_
            for name in (*RES_STEPS, *PLAIN_STEPS)
            if (bytes_ := needs(name, num_items, dim, memory)) is not None
        }
        check_steps(bench, 5000, skip=set(skipped))
        steps = make_steps(bench, skip=set(skipped))
    upstream = torch.randn(positions, dim)

    def run(step: Step) -> Callable[[int], None]:
        return lambda turn: step(case.batches[turn % len(case.batches)], upstream)

    seconds = interleave(
        {name: run(step) for name, step in steps.items()},
        rounds=rounds,
        warmup=warmup,
        label=f"H={num_items:,} step",
    )
    times = summary(seconds, OWN)
    unique, touched = case.touched
    rows = _touched_rows(case)
    rates = measure_rates(case.central.detach(), bench.central, rows, max(5, rounds))
    return {
        "step": times,
        "best_peer_step": best(times, [n for n in RES_STEPS if n in times]),
        "best_plain_step": best(times, [n for n in PLAIN_STEPS if n in times]),
        "profile": {name: profile(run(steps[name]), len(case.batches)) for name in OWN_STEPS},
        "peak": {
            "bytes": peak_bytes(run(steps[OWN])),
            "output_and_touched_rows": 4 * dim * (positions + unique + touched),
        },
        "rates": {name: round(value, 2) for name, value in rates.items()},
        "ceiling": ceiling(
            rates,
            unique=unique,
            touched=touched,
            positions=positions,
            edges=unique * case.neighbors.shape[1],
            dim=dim,
        ),
        "formula": FORMULA,
        "skipped": skipped,
    }


def _touched_rows(case: Case) -> Tensor:
    return case.neighbors[case.batches[0].unique()].unique()
