"""Interleaved timing: every variant once a round, so that noise of the machine falls on all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm


def interleave(
    variants: dict[str, Callable[[int], Any]],
    *,
    rounds: int,
    warmup: int,
    label: str,
) -> dict[str, list[float]]:
    """Times variants[name](round) once a round, in a random order of its own for every round.

    So none of them always follows the one that leaves it a warm cache.

    Returns:
        Seconds by variant, one a round, warm-up rounds left out; index i is the same round for all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = np.array(list(variants))
    rng = np.random.default_rng(0)
    for turn in tqdm(range(warmup + rounds), desc=label, leave=False, disable=None):
        gc.collect()
        for name in rng.permutation(names):
            start = time.perf_counter()
            result = variants[name](turn)
            elapsed = time.perf_counter() - start
            del result
            if turn >= warmup:
                seconds[name].append(elapsed)
    return seconds


def summary(seconds: dict[str, list[float]], own: str) -> dict[str, dict[str, float]]:
    """Median milliseconds, and quartiles of the paired ratios to `own` (over 1: `own` is faster)."""
    result = {}
    base = np.asarray(seconds[own])
    for name, values in seconds.items():
        ratio = np.asarray(values) / base
        low, middle, high = np.percentile(ratio, [25, 50, 75])
        result[name] = {
            "median_ms": round(1e3 * float(np.median(values)), 3),
            "ratio": round(float(middle), 3),
            "ratio_q1": round(float(low), 3),
            "ratio_q3": round(float(high), 3),
        }
    return result


def best(cell: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """The fastest of `names` by median ratio."""
    return min(names, key=lambda name: cell[name]["ratio"])
