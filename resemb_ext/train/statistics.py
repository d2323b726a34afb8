"""Means over seeds, paired differences with their confidence interval, and how both are shown.

A metric may be undefined: gAUC where no user has both classes, any metric of no rows. It is NaN where it is
measured and None in JSON. What is computed from it is undefined too (None), and is shown as ``UNDEFINED``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METRICS = ("auc", "gauc", "logloss")
#: What stands for an undefined number in tables and text.
UNDEFINED = "-"


def defined(value: float | None) -> bool:
    """Whether a metric or another number is there: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def paired_difference(
    first: Sequence[float | None], second: Sequence[float | None], level: float = 0.95
) -> dict[str, Any]:
    """Mean of ``second - first`` over pairs, with a two-sided t interval.

    Args:
        first, second: one value per seed, in the same order; NaN or None where it is undefined.
        level: coverage of the interval.

    Returns:
        ``mean``, ``low``, ``high``, ``level`` and ``n``; low and high are None for one pair, which
        has no spread; all three are None where a value is undefined.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"paired values must be as many in both, at least one; found {len(first)} and {len(second)}")
    n = len(first)
    mean = low = high = None
    if all(defined(value) for value in (*first, *second)):
        gain = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
        mean = float(gain.mean())
        if n > 1:
            from scipy import special  # slow to import, and of no use with one seed

            half = float(special.stdtrit(n - 1, 0.5 + level / 2) * gain.std(ddof=1) / np.sqrt(n))
            low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "level": level, "n": n}


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """``mean`` and ``std`` (with n - 1) of one value per seed; std is None for one value, both where one is undefined."""
    if not values or not all(defined(value) for value in values):
        return {"mean": None, "std": None}
    numbers = np.asarray(values, dtype=np.float64)
    return {"mean": float(numbers.mean()), "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else None}


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per arm mean and standard deviation over seeds, and the difference res minus plain.

    Args:
        runs: the entries of ``result.json``'s "runs".

    Returns:
        ``{"arms": {arm: {part: {metric: {"mean", "std"}}}}, "difference": {part: {metric: ...}}}``
        with parts "valid", "test" and "test_seen"; "difference" is None with one arm. What is undefined
        is None, as in ``spread`` and ``paired_difference``.
    """
    arms: dict[str, Any] = {}
    values: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for run in runs:
        parts = {"valid": run["valid"], "test": run["test"], "test_seen": run["test"]["seen"]}
        for part, metrics in parts.items():
            for metric in METRICS:
                of_arm = values.setdefault(run["embedding"], {}).setdefault(part, {})
                of_arm.setdefault(metric, []).append(metrics[metric])
    for arm, parts_of in values.items():
        arms[arm] = {
            part: {metric: spread(of_seed) for metric, of_seed in metrics.items()} for part, metrics in parts_of.items()
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


def shown(value: float | None, form: str = ".4f") -> str:
    """A number by its format, ``UNDEFINED`` where there is none."""
    return format(value, form) if value is not None and defined(value) else UNDEFINED


def shown_spread(value: Mapping[str, Any]) -> str:
    """Mean ± standard deviation of ``spread``; the mean alone for one value."""
    text = shown(value["mean"])
    return text if value["std"] is None else f"{text} ± {value['std']:.4f}"


def shown_interval(value: Mapping[str, Any]) -> str:
    """A difference with its interval, both with signs: "+0.0100 [+0.0050, +0.0150]"."""
    text = shown(value["mean"], "+.4f")
    return text if value["low"] is None else f"{text} [{value['low']:+.4f}, {value['high']:+.4f}]"


def shown_mean(runs: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """Mean of an entry of the runs; ``UNDEFINED`` where one lacks it."""
    return shown(spread([run[key] for run in runs])["mean"], form)
