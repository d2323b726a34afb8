"""Means over seeds, and paired differences with their confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

METRICS = ("auc", "gauc", "logloss")


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    """Mean of ``second - first`` over pairs, with a two-sided t interval.

    Args:
        first, second: one value per seed, in the same order.
        level: coverage of the interval.

    Returns:
        ``mean``, ``low``, ``high``, ``level`` and ``n``; low and high are None for one pair, which
        has no spread.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"paired values must be as many in both, at least one; found {len(first)} and {len(second)}")
    gain = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n, mean = len(gain), float(gain.mean())
    low = high = None
    if n > 1:
        half = float(special.stdtrit(n - 1, 0.5 + level / 2) * gain.std(ddof=1) / np.sqrt(n))
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "level": level, "n": n}


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per arm mean and standard deviation over seeds, and the difference res minus plain.

    Args:
        runs: the entries of ``result.json``'s "runs".

    Returns:
        ``{"arms": {arm: {part: {metric: {"mean", "std"}}}}, "difference": {part: {metric: ...}}}``
        with parts "valid", "test" and "test_seen"; "difference" is None with one arm.
    """
    arms: dict[str, Any] = {}
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        parts = {"valid": run["valid"], "test": run["test"], "test_seen": run["test"]["seen"]}
        for part, metrics in parts.items():
            for metric in METRICS:
                of_arm = values.setdefault(run["embedding"], {}).setdefault(part, {})
                of_arm.setdefault(metric, []).append(metrics[metric])
    for arm, parts_of in values.items():
        arms[arm] = {
            part: {metric: _spread(of_seed) for metric, of_seed in metrics.items()}
            for part, metrics in parts_of.items()
        }
    difference = None
    if {"plain", "res"} <= set(values):
        difference = {
            part: {
                metric: paired_difference(of_seed, values["res"][part][metric]) for metric, of_seed in metrics.items()
            }
            for part, metrics in values["plain"].items()
        }
    return {"arms": arms, "difference": difference}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}
