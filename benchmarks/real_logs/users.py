"""How far a difference of gAUC could be due to the choice of test users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from resemb_ext.metrics import user_aucs


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
