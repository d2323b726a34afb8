"""How long an interest stays: the chance that two events share a domain, by how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize

from resemb_ext.study.methods.behaviour import Sequences, same_as_last

#: Limits of time gaps, in seconds: a minute, ten, an hour, six, a day, a week, a month.
GAPS = (0.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0)
MARGIN = 0.1  # a shape this near 1 counts as geometric; one known less well tells nothing of the tail


def pairs_by_lag(parts: Sequence[Sequences], max_lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a user's events k = 1..max_lag apart, and those of them that share a domain.

    Lags count all events; pairs with an event that has no domain are left out. Parts may differ in
    their domains (folds): only whether two events share one counts.

    Returns:
        two int64 [users, max_lag], the users of all parts one after another.
    """
    pairs, same = [], []
    for part in parts:
        row = np.cumsum(part.first) - 1
        users = int(part.first.sum())
        of_part = np.zeros((2, users, max_lag), dtype=np.int64)
        for lag in range(1, min(max_lag, len(part) - 1) + 1):
            together = part.user[lag:] == part.user[:-lag]
            together &= (part.domain[lag:] >= 0) & (part.domain[:-lag] >= 0)
            equal = together & (part.domain[lag:] == part.domain[:-lag])
            of_part[0, :, lag - 1] = np.bincount(row[lag:][together], minlength=users)
            of_part[1, :, lag - 1] = np.bincount(row[lag:][equal], minlength=users)
        pairs.append(of_part[0])
        same.append(of_part[1])
    return np.concatenate(pairs), np.concatenate(same)


def chance_between_users(parts: Sequence[Sequences]) -> float:
    """Chance that two events of the log at large share a domain: sum of squared shares."""
    total, weight = 0.0, 0
    for part in parts:
        count = np.bincount(part.known.domain).astype(np.float64)
        n = int(count.sum())
        if n > 1:
            total += float((count * (count - 1)).sum()) / (n - 1)
            weight += n
    return total / weight if weight else float("nan")


def estimate_dwell(
    parts: Sequence[Sequences], *, max_lag: int = 10, resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Mean stay of the delay model, in events, in two ways, with intervals over users.

    ``by_stays`` counts: 1 / (1 - share of neighbouring events in one domain). Right where domains are
    known; wrong domains of some items break stays and shorten it. ``by_decay`` fits

        S(k) = B + A r^k,   r = 1 - (1 - s) / (1 - B),   dwell = 1 / (1 - s)

    by least squares over lags, weighted by pairs: S(k) the chance that events k apart share a domain,
    B that of two events at large. Items put at random into wrong domains lower A, not r. It
    takes for granted that jumps go by the shares at large: fixed interests of users lengthen it.

    Args:
        parts: sequences; several where folds of users have domains of their own.
        max_lag: largest k.
        resamples: bootstrap draws of users behind the 95 % intervals.
        seed: of the bootstrap.

    Returns:
        ``lags``, ``pairs``, ``share`` [max_lag], ``share_low`` and ``share_high``, ``chance`` (B),
        ``excess`` (S(1) - B) and the two dwells, each with ``value``, ``low``, ``high``. A dwell by
        decay is NaN where S(1) is not above B or S(k) does not fall.

    Raises:
        ValueError: no two events of one user have domains.
    """
    pairs, same = pairs_by_lag(parts, max_lag)
    if not pairs[:, 0].sum():
        raise ValueError("dwell: no user has two events in a row with domains")
    chance = chance_between_users(parts)
    rng = np.random.default_rng([22, seed])
    users = len(pairs)
    draws = [np.bincount(rng.integers(0, users, users), minlength=users) for _ in range(resamples)]
    figures = [_figures(w @ pairs, w @ same, chance) for w in (np.ones(users, dtype=np.int64), *draws)]
    curves = np.array([figure[0] for figure in figures])
    result: dict[str, Any] = {
        "lags": list(range(1, max_lag + 1)),
        "pairs": pairs.sum(axis=0),
        "share": curves[0],
        "share_low": _quantile(curves[1:], 0.025),
        "share_high": _quantile(curves[1:], 0.975),
        "chance": chance,
        "events": sum(len(part) for part in parts),
        "with_domain": sum(len(part.known) for part in parts),
        "users": users,
    }
    for place, name in enumerate(("excess", "by_stays", "by_decay"), 1):
        values = np.array([figure[place] for figure in figures], dtype=np.float64)
        low, high = _quantile(values[1:, None], 0.025)[0], _quantile(values[1:, None], 0.975)[0]
        result[name] = {"value": values[0], "low": low, "high": high}
    return result


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """Quantile of each column over the rows that are finite; NaN where none is."""
    return np.array(
        [np.quantile(column[np.isfinite(column)], q) if np.isfinite(column).any() else np.nan for column in values.T]
    )


def _figures(pairs: np.ndarray, same: np.ndarray, chance: float) -> tuple[np.ndarray, float, float, float]:
    """The curve S(k), its excess over chance at k = 1, and both dwells."""
    share = np.divide(same, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    stay = share[0]
    by_stays = 1 / (1 - stay) if stay < 1 else np.inf
    by_decay = np.nan
    use = np.flatnonzero(pairs > 0)
    if stay > chance and len(use) > 2:
        lag, weight, above = use + 1.0, np.sqrt(pairs[use]), share[use] - chance

        def lack(rate: float) -> float:
            power = weight * rate**lag
            height = (power @ (weight * above)) / (power @ power)
            return float(((weight * above - height * power) ** 2).sum())

        rate = optimize.minimize_scalar(lack, bounds=(1e-3, 1 - 1e-6), method="bounded").x
        if 0.002 < rate < 1 - 1e-5:  # at a limit there is no decay to read a dwell from
            by_decay = 1 / ((1 - rate) * (1 - chance))
    return share, float(stay - chance), float(by_stays), float(by_decay)


def dwell_tail(events: Sequences) -> dict[str, Any]:
    """Whether stays are geometric or have a heavier or lighter tail.

    Stays are runs of one domain; a user's first is left out (its start is not seen), her last one is
    taken as censored. Their distribution is a discrete Weibull, P(stay > k) = q^(k^b), by maximum likelihood:
    b = 1 is the geometric distribution, b < 1 a heavier tail. Users who differ in their stays give b < 1 too.

    Returns:
        ``stays`` (whole ones), ``cut``, ``longest`` (whole), ``shape`` (b) with ``low`` and ``high``,
        ``statistic`` (twice the gain in log-likelihood over b = 1) and ``verdict``: "geometric"
        (the 95 % interval lies in 0.9 to 1.1, or holds 1 and is no wider), "heavier" or "lighter" (it
        leaves out 1), else "cannot tell", with ``why``.
    """
    events = events.known
    new = ~same_as_last(events)
    starts = np.flatnonzero(new)
    length = np.diff(np.append(starts, len(events)))
    user_first = events.first[starts]
    cut = np.append(user_first[1:], True)
    length, cut = length[~user_first], cut[~user_first]
    whole, whole_count = np.unique(length[~cut], return_counts=True)
    short, short_count = np.unique(length[cut], return_counts=True)
    result: dict[str, Any] = {
        "stays": int(whole_count.sum()),
        "cut": int(short_count.sum()),
        "longest": int(whole.max()) if len(whole) else 0,
    }
    if len(whole) < 3:
        return {**result, "verdict": "cannot tell", "why": "fewer than three lengths of whole stays"}

    def lack(log_rate: float, shape: float) -> float:
        rate = np.exp(log_rate)
        ended = np.exp(-rate * (whole - 1.0) ** shape) - np.exp(-rate * whole**shape)
        lasted = rate * (short - 1.0) ** shape
        logs = np.log(np.maximum(ended, 1e-300))
        return float((short_count * lasted).sum() - (whole_count * logs).sum())

    def profile(shape: float) -> float:
        return float(optimize.minimize_scalar(lack, args=(shape,), bounds=(-12, 4), method="bounded").fun)

    best = optimize.minimize_scalar(profile, bounds=(0.05, 4), method="bounded")
    shape, step = float(best.x), 0.01
    bend = (profile(shape + step) - 2 * best.fun + profile(shape - step)) / step**2
    half = 1.96 / np.sqrt(bend) if bend > 0 else np.inf
    result |= {
        "shape": shape,
        "low": shape - half,
        "high": shape + half,
        "statistic": 2 * (profile(1.0) - float(best.fun)),
    }
    if abs(shape - 1) + half > MARGIN:
        if abs(shape - 1) > half:
            return {**result, "verdict": "heavier" if shape < 1 else "lighter"}
        if half > MARGIN:
            why = f"shape known to +-{half:.2f} only"
            return {**result, "verdict": "cannot tell", "why": why}
    return {**result, "verdict": "geometric"}


def share_by_gap(events: Sequences, max_lag: int = 20) -> dict[str, Any]:
    """Chance that two events of a user share a domain by the seconds between them.

    Returns:
        ``low`` and ``high`` limits of each gap [s] (the last ``high`` is None), ``pairs``, ``share``,
        ``mean_lag``: pairs at most ``max_lag`` events apart; and ``lag_pairs``, int64 [gaps, max_lag],
        to average a model's chance by lag over the pairs of a gap.

    Raises:
        ValueError: the events have no times.
    """
    if events.time is None:
        raise ValueError("time: these events have none")
    edges = np.append(GAPS[1:], np.inf)
    pairs = np.zeros((len(edges), max_lag), dtype=np.int64)
    same = np.zeros_like(pairs)
    for lag in range(1, min(max_lag, len(events) - 1) + 1):
        use = events.user[lag:] == events.user[:-lag]
        use &= (events.domain[lag:] >= 0) & (events.domain[:-lag] >= 0)
        equal = events.domain[lag:] == events.domain[:-lag]
        place = np.searchsorted(edges, events.time[lag:] - events.time[:-lag], side="right")
        pairs[:, lag - 1] = np.bincount(place[use], minlength=len(edges))
        same[:, lag - 1] = np.bincount(place[use & equal], minlength=len(edges))
    total = pairs.sum(axis=1)
    some = np.maximum(total, 1)
    return {
        "low": list(GAPS),
        "high": [*GAPS[1:], None],
        "pairs": total,
        "share": np.where(total > 0, same.sum(axis=1) / some, np.nan),
        "mean_lag": np.where(total > 0, pairs @ np.arange(1, max_lag + 1) / some, np.nan),
        "lag_pairs": pairs,
    }
