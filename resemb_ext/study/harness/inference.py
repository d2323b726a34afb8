"""Differences of gAUC: a bootstrap over users and seeds, an interval over users, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from resemb_ext.metrics import user_aucs
from resemb_ext.train.statistics import paired_difference


def bootstrap_difference(
    gain: np.ndarray, rows: np.ndarray, *, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """A difference of gAUC with an interval over users and seeds, and a two-sided p value.

    Each draw takes as many users as there are, with replacement, then as many seeds, and averages the
    chosen seeds' differences of gAUC over the chosen users. The seeds of a pair stay together, and
    a draw's seeds are the same for all its users: training varies from seed to seed for everybody
    at once.

    Args:
        gain: float64 [S, U], each user's difference of AUC under each seed.
        rows: [U], a user's rows, gAUC's weights.
        draws: of the bootstrap.
        seed: of the draws.
        level: of the percentile interval.

    Returns:
        ``value``, ``low``, ``high``, ``p`` (twice the smaller share of draws on one side of 0, each
        count plus one), ``draws``, ``users``, ``seeds``, ``by_seed``.

    Raises:
        ValueError: shapes do not fit, or nothing is there.
    """
    seeds, users = gain.shape
    if rows.shape != (users,) or not users or not seeds:
        raise ValueError(f"gain must be [seeds, users] and rows [users], found {gain.shape} and {rows.shape}")
    weight = rows.astype(np.float64)
    weighted = (gain * weight).T
    rng = np.random.default_rng([33, seed])
    found = np.empty(draws)
    for draw in range(draws):
        count = np.bincount(rng.integers(users, size=users), minlength=users).astype(np.float64)
        of_seed = count @ weighted
        chosen = rng.integers(seeds, size=seeds)
        found[draw] = of_seed[chosen].mean() / (count @ weight)
    by_seed = weighted.sum(axis=0) / weight.sum()
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    side = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return {
        "value": float(by_seed.mean()),
        "low": float(low),
        "high": float(high),
        "p": min(1.0, 2 * (side + 1) / (draws + 1)),
        "level": level,
        "draws": draws,
        "users": users,
        "seeds": seeds,
        "by_seed": by_seed.tolist(),
    }


def user_interval(
    labels: Any, first: Sequence[Any], second: Sequence[Any], users: Any, level: float = 0.95
) -> dict[str, Any]:
    """gAUC of ``second`` minus that of ``first``, with an interval over test users.

    gAUC is a ratio of sums over users, so its standard error is the ratio estimator's; users are
    taken as independent and the trained models as given. The spread of training over seeds is
    not in it: the scores of several seeds are averaged per user.

    Args:
        labels: 0/1 [n].
        first, second: one score vector [n] per seed.
        users: the user of each row [n].
        level: coverage of the interval.

    Returns:
        ``mean``, ``low``, ``high`` (None with fewer than two users), ``level`` and ``n``, the
        users with both classes.
    """
    gain, rows = np.zeros(0), np.zeros(0)
    for a, b in zip(first, second, strict=True):
        auc_a, rows = user_aucs(labels, a, users)
        auc_b, _ = user_aucs(labels, b, users)
        gain = (gain if len(gain) else np.zeros(len(rows))) + (auc_b - auc_a) / len(first)
    both = ~np.isnan(gain)
    gain, weight = gain[both], rows[both].astype(np.float64)
    n, total = len(gain), float(weight.sum())
    if not n:
        return {"mean": None, "low": None, "high": None, "level": level, "n": 0}
    mean = float((weight * gain).sum() / total)
    low = high = None
    if n > 1:
        error = weight * (gain - mean)
        half = float(special.ndtri(0.5 + level / 2) * np.sqrt((error**2).sum() * n / (n - 1)) / total)
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "level": level, "n": n}


def equivalence(first: Sequence[float], second: Sequence[float], margin: float, alpha: float = 0.05) -> dict[str, Any]:
    """Two one-sided t tests of whether ``second`` is as good as ``first``, paired (Schuirmann 1987).

    Args:
        first, second: one value a seed, in the same order, at least two.
        margin: the largest difference, either way, that counts as none.
        alpha: of each test.

    Returns:
        as ``resemb_ext.train.paired_difference`` with the interval of level 1 - 2 alpha; ``margin``, ``p`` (the
        larger of both tests) and ``equivalent``, whether the interval lies inside the margin.

    Raises:
        ValueError: fewer than two pairs, or other lengths.
    """
    if len(first) < 2:
        raise ValueError(f"equivalence needs at least two pairs, found {len(first)}")
    found = paired_difference(first, second, 1 - 2 * alpha)
    gain = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    distance = margin - abs(gain.mean())
    p = float(special.stdtr(len(gain) - 1, -distance / error)) if error else float(distance <= 0)
    return {**found, "margin": margin, "p": p, "equivalent": bool(p < alpha)}


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted.tolist()
