"""Domain sequences drawn from each behaviour model, to see whether the right one is found."""

from __future__ import annotations

import numpy as np

from .behaviour import MODELS, Sequences


def draw(
    law: str,
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
        law: "independent", "delay", "markov" or "mixture".
        users, events, domains: sizes.
        stay: of the delay law.
        mass: of the Dirichlet laws: that of users' interests, and that of a Markov chain's rows.
        seed: of all; shares of domains are drawn too, from a Dirichlet law of mass 5 a domain.

    Raises:
        ValueError: an unknown law.
    """
    if law not in MODELS[:4]:
        raise ValueError(f"law must be one of {', '.join(MODELS[:4])}; found {law!r}")
    rng = np.random.default_rng([21, seed])
    shares = rng.dirichlet(np.full(domains, 5.0))
    domain = np.empty((users, events), dtype=np.int64)
    if law == "mixture":
        cdf = np.cumsum(rng.dirichlet(mass * shares, users), axis=1)
        domain = _pick(cdf[:, None, :], rng.random((users, events)))
    else:
        step = np.tile(shares, (domains, 1))
        if law == "delay":
            np.fill_diagonal(step, 0)
            step *= (1 - stay) / step.sum(axis=1, keepdims=True)
            np.fill_diagonal(step, stay)
        elif law == "markov":
            step = rng.dirichlet(mass * shares, domains)
        cdf = np.cumsum(step, axis=1)
        domain[:, 0] = _pick(np.cumsum(shares)[None], rng.random(users))
        for t in range(1, events):
            domain[:, t] = _pick(cdf[domain[:, t - 1]], rng.random(users))
    return Sequences(np.repeat(np.arange(users), events), domain.ravel(), domains)


def _pick(cdf: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The first entry of each distribution function [..., K] that is above ``uniform`` [...]."""
    return np.minimum((cdf <= uniform[..., None]).sum(axis=-1), cdf.shape[-1] - 1)
