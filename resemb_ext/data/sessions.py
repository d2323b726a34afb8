"""Sessions: stretches of a user's events, by a column or by gaps in time."""

from __future__ import annotations

import numpy as np


def number_sessions(user: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Numbers of (user, key) pairs in order of their first event.

    Args:
        user: int64 [n], ascending.
        key: int64 [n], a session's id; the same id with another user is another session.

    Returns:
        int64 [n], 0..sessions-1. Sessions of one user may interleave.
    """
    if not len(user):
        return np.zeros(0, dtype=np.int64)
    pairs = user * (np.int64(key.max()) + 1) + key
    _, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def sessions_by_gap(user: np.ndarray, time: np.ndarray, gap: float) -> np.ndarray:
    """Numbers of sessions that end where a user's next event is more than ``gap`` later.

    Args:
        user: int64 [n], ascending.
        time: int64 or float64 [n], ascending within a user.
        gap: in the times' unit (seconds for dates and timestamps).

    Returns:
        int64 [n], ascending, 0..sessions-1.
    """
    starts = np.ones(len(user), dtype=bool)
    starts[1:] = (user[1:] != user[:-1]) | (time[1:] - time[:-1] > gap)
    return np.cumsum(starts) - 1
