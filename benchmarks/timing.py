"""Interleaved timing: every variant once a round, so that noise of the machine falls on all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

SLOW_ROUNDS = 3
HOPELESS = 40.0  # a variant slower by this factor is timed once
COLLECTED = (
    0.05  # seconds of a round before which garbage is collected: in a shorter one, the collector's cold caches show
)


def interleave(
    variants: dict[str, Callable[[int], Any]],
    *,
    rounds: int,
    warmup: int,
    label: str,
    slow: tuple[str, float] | None = None,
) -> dict[str, list[float]]:
    """Times variants[name](round) once a round, in a random order of its own for every round.

    So none of them always follows the one that leaves it a warm cache.

    Args:
        rounds, warmup: rounds timed and not timed.
        slow: (name, factor): a variant that takes over ``factor`` times as long as that one in the first
            round is timed in ``SLOW_ROUNDS`` rounds only, and warmed up once; over ``HOPELESS`` times in one.

    Returns:
        Seconds by variant, one a round, warm-up rounds left out, NaN in a round that a slow variant sat
        out; index i is the same round for all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = np.array(list(variants))
    rng = np.random.default_rng(0)
    first: dict[str, float] = {}
    limit: dict[str, int] = {}  # rounds of slow variants
    spent_last = COLLECTED
    for turn in tqdm(range(warmup + rounds), desc=label, leave=False, disable=None):
        if spent_last >= COLLECTED:
            gc.collect()
        began = time.perf_counter()
        for name in rng.permutation(names):
            elapsed = np.nan
            if name not in limit or warmup <= turn < warmup + limit[name]:
                start = time.perf_counter()
                result = variants[name](turn)
                elapsed = time.perf_counter() - start
                del result
            first.setdefault(name, elapsed)
            if turn >= warmup:
                seconds[name].append(elapsed)
        spent_last = time.perf_counter() - began
        if slow and turn == 0 and warmup:
            times = {name: spent / first[slow[0]] for name, spent in first.items()}
            limit = {n: 1 if x > HOPELESS else SLOW_ROUNDS for n, x in times.items() if x > slow[1]}
    return seconds


def summary(seconds: dict[str, list[float]], own: str) -> dict[str, dict[str, float]]:
    """Median milliseconds, and quartiles of the paired ratios to ``own`` (over 1: ``own`` is faster)."""
    result = {}
    base = np.asarray(seconds[own])
    for name, values in seconds.items():
        ratio = np.asarray(values) / base
        low, middle, high = np.nanpercentile(ratio, [25, 50, 75])
        result[name] = {
            "median_ms": round(1e3 * float(np.nanmedian(values)), 3),
            "ratio": round(float(middle), 3),
            "ratio_q1": round(float(low), 3),
            "ratio_q3": round(float(high), 3),
            "rounds": int(np.isfinite(ratio).sum()),
        }
    return result


def best(cell: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """The fastest of ``names`` by median ratio."""
    return min(names, key=lambda name: cell[name]["ratio"])
