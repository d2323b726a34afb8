"""Domain sequences drawn from each behaviour model, to see whether the right one is found."""

from __future__ import annotations

import numpy as np

from resemb_ext.study.methods.behaviour import MODELS, Sequences


def draw(
    model: str,
    *,
    users: int = 300,
    events: int = 12,
    domains: int = 8,
    stay: float = 0.6,
    mass: float = 2.0,
    seed: int = 0,
) -> Sequences:
    """Sequences of ``users`` with ``events`` each, by one of the first four models.

    Args:
        model: "independent", "delay", "markov" or "mixture".
        users, events, domains: sizes.
        stay: of the delay model.
        mass: of the Dirichlet distributions: that of users' interests, and that of a Markov chain's rows.
        seed: of all; shares of domains are drawn too, from a Dirichlet distribution of mass 5 a domain.

    Raises:
        ValueError: an unknown model.
    """
    if model not in MODELS[:4]:
        raise ValueError(f"model must be one of {', '.join(MODELS[:4])}; found {model!r}")
    rng = np.random.default_rng([21, seed])
    shares = rng.dirichlet(np.full(domains, 5.0))
    domain = np.empty((users, events), dtype=np.int64)
    if model == "mixture":
        cdf = np.cumsum(rng.dirichlet(mass * shares, users), axis=1)
        domain = _pick(cdf[:, None, :], rng.random((users, events)))
    else:
        step = np.tile(shares, (domains, 1))
        if model == "delay":
            np.fill_diagonal(step, 0)
            step *= (1 - stay) / step.sum(axis=1, keepdims=True)
            np.fill_diagonal(step, stay)
        elif model == "markov":
            step = rng.dirichlet(mass * shares, domains)
        cdf = np.cumsum(step, axis=1)
        domain[:, 0] = _pick(np.cumsum(shares)[None], rng.random(users))
        for t in range(1, events):
            domain[:, t] = _pick(cdf[domain[:, t - 1]], rng.random(users))
    return Sequences(np.repeat(np.arange(users), events), domain.ravel(), domains)


def draw_like(events: Sequences, *, stay: float, mass: float, shares: np.ndarray, seed: int) -> Sequences:
    """Sequences of as many users and events by the model delay+mixture: geometric stays on top of interests.

    With probability ``stay`` an event repeats the domain before it; else it is that of one of the user's
    earlier events, or, with a weight of ``mass`` to their number, drawn from ``shares``.

    Args:
        events: gives the users and how many events each has; those without a domain are left out.
        stay, mass, shares: as fitted; shares float64 [K].
        seed: of the draws.

    Returns:
        sequences with the users of ``events`` and drawn domains, without times.
    """
    events = events.known
    rng = np.random.default_rng([23, seed])
    starts = np.flatnonzero(events.first)
    lengths = np.diff(np.append(starts, len(events)))
    cdf = np.cumsum(shares)
    domain = np.empty(len(events), dtype=np.int64)
    for place in range(int(lengths.max())):
        at = starts[lengths > place] + place
        drawn = _pick(cdf[None], rng.random(len(at)))
        if place:
            taste = rng.random(len(at)) * (place + mass) < place
            earlier = at - 1 - rng.integers(0, place, len(at))
            drawn = np.where(taste, domain[earlier], drawn)
            drawn = np.where(rng.random(len(at)) < stay, domain[at - 1], drawn)
        domain[at] = drawn
    return Sequences(events.user, domain, events.domains)


def _pick(cdf: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The first entry of each distribution function [..., K] that is above ``uniform`` [...]."""
    return np.minimum((cdf <= uniform[..., None]).sum(axis=-1), cdf.shape[-1] - 1)
