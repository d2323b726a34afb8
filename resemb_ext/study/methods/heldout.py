"""Training rows held out of training: they tell the generalisation gap on the training distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resemb_ext.data import Samples

HELD_OUT = 0.15  # share of the training events that a gap is measured on


def take(samples: Samples, rows: np.ndarray) -> Samples:
    """The rows at ``rows`` (positions or a mask)."""
    names = ("user", "target", "label", "start", "end", "target_seen")
    fields = {name: getattr(samples, name)[rows] for name in names}
    return replace(samples, **fields)


def held_out_events(samples: Samples, *, share: float, seed: int) -> np.ndarray:
    """bool [events]: a random share of the training events, in the order of the samples.

    Raises:
        ValueError: a share that leaves either part empty.
    """
    events = len(samples) // (1 + samples.negatives)
    count = round(share * events)
    if not 0 < count < events:
        raise ValueError(f"share must leave events on both sides, found {share} of {events}")
    out = np.zeros(events, dtype=bool)
    out[np.random.default_rng([25, seed]).permutation(events)[:count]] = True
    return out


def hold_out(samples: Samples, *, share: float, seed: int) -> tuple[Samples, Samples]:
    """Training rows, and a random share of events held out with their negatives.

    A held-out event is no target in training, but stays in the histories of later ones.

    Raises:
        ValueError: a share that leaves either part empty.
    """
    mask = np.repeat(held_out_events(samples, share=share, seed=seed), 1 + samples.negatives)
    return take(samples, ~mask), take(samples, mask)


def some_events(samples: Samples, rows: int) -> Samples:
    """``rows`` rows of randomly chosen events, each with its negatives: the same events every time.

    Raises:
        ValueError: fewer rows are there, or less than one event is asked for.
    """
    per_event = 1 + samples.negatives
    events = len(samples) // per_event
    count = rows // per_event
    if not 0 < count <= events:
        raise ValueError(f"rows must be {per_event} to {len(samples)}, found {rows}")
    chosen = np.sort(np.random.default_rng([26]).permutation(events)[:count])
    return take(samples, (chosen[:, None] * per_event + np.arange(per_event)).reshape(-1))


def hold_out_users(samples: Samples, *, share: float, seed: int) -> tuple[Samples, Samples]:
    """Training rows, and all rows of a random share of users.

    Raises:
        ValueError: a share that leaves no users on one side.
    """
    users = np.unique(samples.user)
    count = round(share * len(users))
    if not 0 < count < len(users):
        raise ValueError(f"share must leave users on both sides, found {share} of {len(users)}")
    out = np.random.default_rng([28, seed]).permutation(users)[:count]
    mask = np.isin(samples.user, out)
    return take(samples, ~mask), take(samples, mask)


def mean_over_users(samples: Samples, values: np.ndarray) -> float:
    """Mean over users of each one's mean of ``values`` [N]."""
    _, code, count = np.unique(samples.user, return_inverse=True, return_counts=True)
    return float((np.bincount(code, values) / count).mean())


def row_losses(samples: Samples, logits: np.ndarray) -> np.ndarray:
    """Logistic loss of every row, float64 [N], in nats."""
    sign = 1.0 - 2.0 * samples.label
    return np.logaddexp(0.0, sign * logits.astype(np.float64))
