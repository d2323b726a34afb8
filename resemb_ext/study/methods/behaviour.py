"""Models of the sequence of domains that a user meets, fitted and scored alike.

Notation: K domains, pi_c the share of domain c among all events, d_1, d_2, ... one user's domains.

    independent    p(d_t = c) = pi_c
    delay          p(stay) = s; else a jump to c != d_{t-1} with p = pi_c / (1 - pi_{d_{t-1}})
    markov         p(c | a) = (n_ac + m pi_c) / (n_a + m), n the transitions of the training users
    mixture        p(c | past) = (n_c(past) + alpha pi_c) / (t - 1 + alpha): fixed interests of each user,
                   drawn from a Dirichlet distribution with mean pi and mass alpha, integrated out
    delay+mixture  s [c = d_{t-1}] + (1 - s) (n_c(past) + alpha pi_c) / (t - 1 + alpha)

The first three draw d_1 from pi. Independent and markov take pi as the shares are; where the others jump or
draw to is a distribution of its own, fitted too, since what users stay in or come back to is more common than that. The
last holds dwell and fixed interests at once: it tells whether
a stay is more than a taste. The delay model is that of Zhou et al. 2019 (arXiv 1906.10304) where the
domain of an event is seen; a stay then lasts 1 / (1 - s) events on average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import optimize, special

MODELS = ("independent", "delay", "markov", "mixture", "delay+mixture")
_PSEUDO = 0.5  # events added to each domain's share, so that an unseen one has a chance


@dataclass(frozen=True, eq=False)
class Sequences:
    """Domains of users' events, in order.

    Attributes:
        user: int64 [n], ascending.
        domain: int64 [n] in [0, domains), or -1 where an item has none.
        domains: K.
        time: numbers [n], or None.
    """

    user: np.ndarray
    domain: np.ndarray
    domains: int
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    def where(self, mask: np.ndarray) -> Sequences:
        """The events that ``mask`` keeps."""
        time = None if self.time is None else self.time[mask]
        return Sequences(self.user[mask], self.domain[mask], self.domains, time)

    @cached_property
    def known(self) -> Sequences:
        """The events that have a domain."""
        mask = self.domain >= 0
        return self if mask.all() else self.where(mask)

    @cached_property
    def first(self) -> np.ndarray:
        """bool [n]: whether an event is its user's first."""
        first = np.ones(len(self), dtype=bool)
        first[1:] = self.user[1:] != self.user[:-1]
        return first

    @cached_property
    def place(self) -> np.ndarray:
        """int64 [n]: events of the user before this one."""
        starts = np.flatnonzero(self.first)
        return np.arange(len(self)) - np.repeat(starts, np.diff(np.append(starts, len(self))))

    @cached_property
    def met(self) -> np.ndarray:
        """int64 [n]: the user's earlier events in this event's domain."""
        key = self.user * np.int64(self.domains) + self.domain
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        new = np.ones(len(key), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(new)
        count = np.arange(len(key)) - np.repeat(starts, np.diff(np.append(starts, len(key))))
        result = np.empty(len(key), dtype=np.int64)
        result[order] = count
        return result

    @cached_property
    def shares(self) -> np.ndarray:
        """float64 [K]: share of each domain, with half an event added to each."""
        counts = np.bincount(self.known.domain, minlength=self.domains) + _PSEUDO
        return counts / counts.sum()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model.

    Attributes:
        name: one of ``MODELS``.
        parameters: how many are free.
        values: the parameters that have names, for reports.
        loglik: log-likelihood of the training events, in nats, at its highest.
        score: log p of each event of other sequences (without -1), float64 [n].
        shares: pi as fitted, float64 [K].
        share: chance that events k steps apart share a domain, for k [m]; None where not known. The delay
            model's is exact for k = 1 and for domains of one size, else near by.
    """

    name: str
    parameters: int
    values: Mapping[str, float]
    loglik: float
    shares: np.ndarray
    score: Callable[[Sequences], np.ndarray]
    share: Callable[[np.ndarray], np.ndarray] | None


def fit(name: str, events: Sequences) -> Fitted:
    """Fits a model by maximum likelihood, with half an event added to each domain's share.

    Args:
        name: one of ``MODELS``.
        events: of the training users; events without a domain are left out.

    Raises:
        ValueError: an unknown name, fewer than two domains, or no user with two events.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}; found {name!r}")
    events = events.known
    if events.domains < 2 or not len(events) or events.first.all():
        raise ValueError(
            "events must have at least 2 domains and a user with 2 events that have one; found "
            f"{events.domains} domains and {len(events)} events"
        )
    return _FIT[name](events)


def fit_all(events: Sequences, heldout: Sequences) -> dict[str, Any]:
    """Every model fitted on ``events``: BIC there, and log-likelihood on ``heldout``.

    Returns:
        ``events``, ``heldout_events``, ``users``, ``heldout_users``, ``domains``; ``models`` by name
        with ``parameters``, ``values``, ``loglik``, ``bic``, ``heldout`` (mean log p an event, nats)
        and ``against_delay`` (delay's mean minus this one's, with a 95 % interval over users);
        ``chosen`` by BIC among the first four, ``chosen_of_all``, ``best_heldout``;
        ``stay_beyond_interests``, log p an event of delay+mixture minus mixture, with its interval.
    """
    events, heldout = events.known, heldout.known
    n = len(events)
    found: dict[str, dict[str, Any]] = {}
    scores: dict[str, np.ndarray] = {}
    for name in MODELS:
        model = fit(name, events)
        scores[name] = model.score(heldout)
        found[name] = {
            "parameters": model.parameters,
            "values": dict(model.values),
            "loglik": model.loglik,
            "bic": model.parameters * float(np.log(n)) - 2 * model.loglik,
            "heldout": float(scores[name].mean()),
        }
    for name in MODELS:
        found[name]["against_delay"] = mean_by_user(heldout, scores["delay"] - scores[name])
    bic = {name: entry["bic"] for name, entry in found.items()}
    return {
        "events": n,
        "heldout_events": len(heldout),
        "users": int(events.first.sum()),
        "heldout_users": int(heldout.first.sum()),
        "domains": events.domains,
        "models": found,
        "chosen": min(MODELS[:4], key=bic.__getitem__),
        "chosen_of_all": min(MODELS, key=bic.__getitem__),
        "best_heldout": max(MODELS, key=lambda name: found[name]["heldout"]),
        "stay_beyond_interests": mean_by_user(heldout, scores["delay+mixture"] - scores["mixture"]),
    }


def mean_by_user(events: Sequences, values: np.ndarray) -> dict[str, float]:
    """Mean of ``values`` [n] with a 95 % interval that takes users as independent (ratio estimator)."""
    starts = np.flatnonzero(events.first)
    total = np.add.reduceat(values, starts)
    count = np.diff(np.append(starts, len(values)))
    mean = float(values.mean())
    users = len(starts)
    spread = np.sqrt(((total - mean * count) ** 2).sum() * users / max(users - 1, 1)) / len(values)
    return {"mean": mean, "low": mean - 1.96 * float(spread), "high": mean + 1.96 * float(spread)}


def same_as_last(events: Sequences) -> np.ndarray:
    """bool [n]: whether an event's domain is that of the event before it (False for a first one)."""
    same = np.zeros(len(events), dtype=bool)
    same[1:] = (events.domain[1:] == events.domain[:-1]) & ~events.first[1:]
    return same


def _independent(events: Sequences) -> Fitted:
    shares = events.shares

    def score(other: Sequences) -> np.ndarray:
        return np.log(shares[other.domain])

    base = float((shares**2).sum())
    loglik = float(score(events).sum())
    return Fitted("independent", events.domains - 1, {}, loglik, shares, score, lambda k: np.full(len(k), base))


def _delay(events: Sequences) -> Fitted:
    moves = ~events.first
    same = same_as_last(events)
    jumps = np.flatnonzero(moves & ~same)
    stay = np.clip(same.sum() / moves.sum(), 1e-9, 1 - 1e-9)
    # Where users jump to, by EM: a jump is a draw from pi repeated until it leaves the domain.
    reached = np.flatnonzero(events.first | ~same)
    drawn = np.bincount(events.domain[reached], minlength=events.domains) + _PSEUDO
    left = np.bincount(events.domain[jumps - 1], minlength=events.domains)
    shares = drawn / drawn.sum()
    for _ in range(200):
        count = drawn + left * shares / (1 - shares)
        new = count / count.sum()
        done = np.abs(new - shares).max() < 1e-10
        shares = new
        if done:
            break

    def score(other: Sequences) -> np.ndarray:
        last = np.roll(other.domain, 1)
        jump = np.log1p(-stay) + np.log(shares[other.domain]) - np.log1p(-shares[last])
        moved = np.where(same_as_last(other), np.log(stay), jump)
        return np.where(other.first, np.log(shares[other.domain]), moved)

    base = float((events.shares**2).sum())
    decay = 1 - (1 - stay) / (1 - base)
    return Fitted(
        "delay",
        events.domains,
        {"stay": float(stay), "dwell": float(1 / (1 - stay))},
        float(score(events).sum()),
        shares,
        score,
        lambda k: base + (1 - base) * np.power(decay, k) if decay > 0 else np.full(len(k), base),
    )


def _markov(events: Sequences) -> Fitted:
    size, shares = events.domains, events.shares
    after = np.flatnonzero(~events.first)
    pairs, count = np.unique(events.domain[after - 1] * np.int64(size) + events.domain[after], return_counts=True)
    source, target = pairs // size, pairs % size
    total = np.bincount(source, count, minlength=size)

    def left_out(log_mass: float) -> float:
        mass = np.exp(log_mass)
        p = (count - 1 + mass * shares[target]) / (total[source] - 1 + mass)
        return -float((count * np.log(p)).sum())

    mass = float(np.exp(optimize.minimize_scalar(left_out, bounds=(-5, 10), method="bounded").x))

    def score(other: Sequences) -> np.ndarray:
        last = np.roll(other.domain, 1)
        key = last * np.int64(size) + other.domain
        at = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
        seen = np.where(pairs[at] == key, count[at], 0)
        p = (seen + mass * shares[other.domain]) / (total[last] + mass)
        return np.log(np.where(other.first, shares[other.domain], p))

    loglik = float(np.log(shares[events.domain[events.first]]).sum())
    loglik += float((count * np.log(count / total[source])).sum())

    def share(k: np.ndarray) -> np.ndarray:
        step = mass * np.tile(shares, (size, 1))
        step[source, target] += count
        step /= (total + mass)[:, None]
        start, power, result = shares, np.eye(size), {}
        for lag in range(1, int(max(k)) + 1):
            power = power @ step
            result[lag] = float(start @ np.diag(power))
        return np.array([result[int(lag)] for lag in k])

    return Fitted("markov", size * size - 1, {"smoothing": mass}, loglik, shares, score, share if size <= 500 else None)


def _chances(other: Sequences, shares: np.ndarray, stay: float, mass: float) -> tuple[np.ndarray, np.ndarray]:
    """p of each event under stays on top of fixed interests, and the part of it drawn anew from ``shares``."""
    scale = np.where(other.first, 1.0, 1 - stay) / (other.place + mass)
    fresh = scale * mass * shares[other.domain]
    return stay * same_as_last(other) + scale * other.met + fresh, fresh


def _fit_interests(
    events: Sequences, fit_rest: Callable[[Callable[[float, float], float]], tuple[float, float]]
) -> tuple[float, float, np.ndarray, float]:
    """Stay, mass, shares and log-likelihood: shares by EM (an event is a stay, a return to an earlier
    domain, or a new draw, which alone counts), the rest by ``fit_rest`` of the mean loss, in turn."""
    shares, before = events.shares, -np.inf
    for _ in range(100):

        def lack(stay: float, mass: float, shares: np.ndarray = shares) -> float:
            return -float(np.log(_chances(events, shares, stay, mass)[0]).mean())

        stay, mass = fit_rest(lack)
        found = stay, mass, shares, -lack(stay, mass) * len(events)
        height = found[-1] + _PSEUDO * float(np.log(shares).sum())
        if height - before < 1e-7 * len(events):
            break
        before = height
        for _ in range(10):
            p, fresh = _chances(events, shares, stay, mass)
            drawn = np.bincount(events.domain, fresh / p, minlength=events.domains) + _PSEUDO
            shares = drawn / drawn.sum()
    return found


def _mixture(events: Sequences) -> Fitted:
    def fit_rest(lack: Callable[[float, float], float]) -> tuple[float, float]:
        best = optimize.minimize_scalar(lambda log_mass: lack(0.0, np.exp(log_mass)), bounds=(-6, 12), method="bounded")
        return 0.0, float(np.exp(best.x))

    _, mass, shares, loglik = _fit_interests(events, fit_rest)
    base = float((shares * (1 + mass * shares)).sum() / (1 + mass))
    return Fitted(
        "mixture",
        events.domains,
        {"mass": mass},
        loglik,
        shares,
        lambda other: np.log(_chances(other, shares, 0.0, mass)[0]),
        lambda k: np.full(len(k), base),
    )


def _both(events: Sequences) -> Fitted:
    starts = [np.array([-1.0, 1.0]), np.array([1.0, 6.0])]

    def natural(x: np.ndarray) -> tuple[float, float]:
        x = np.clip(x, (-12, -6), (12, 12))
        return float(special.expit(x[0])), float(np.exp(x[1]))

    def fit_rest(lack: Callable[[float, float], float]) -> tuple[float, float]:
        def of(x: np.ndarray) -> float:
            return lack(*natural(x))

        tried = [
            optimize.minimize(of, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-9})
            for start in starts
        ]
        best = min(tried, key=lambda found: float(found.fun))
        starts[:] = [best.x]  # later rounds go on from here
        return natural(best.x)

    stay, mass, shares, loglik = _fit_interests(events, fit_rest)
    return Fitted(
        "delay+mixture",
        events.domains + 1,
        {"stay": stay, "mass": mass},
        loglik,
        shares,
        lambda other: np.log(_chances(other, shares, stay, mass)[0]),
        None,
    )


_FIT: dict[str, Callable[[Sequences], Fitted]] = {
    "independent": _independent,
    "delay": _delay,
    "markov": _markov,
    "mixture": _mixture,
    "delay+mixture": _both,
}
