"""Draw negative items by popularity, never an item that the user knows."""

from __future__ import annotations

import numpy as np

from .idmap import IdMap

# Rejection almost always ends within a few rounds; users who know nearly all the popular items
# are finished exactly instead.
_ROUNDS = 24


def negative_distribution(item_counts: np.ndarray, power: float) -> np.ndarray:
    """float64 [H]: probability of each item as a negative, proportional to ``count ** power``.

    Items without events have probability 0, whatever the power.

    Raises:
        ValueError: a power that is negative or not finite, or no item with events.
    """
    if not (np.isfinite(power) and power >= 0):
        raise ValueError(f"power must be a finite number >= 0, got {power}")
    seen = item_counts > 0
    if not seen.any():
        raise ValueError("no item has a training event, so no negatives can be drawn")
    distribution = np.zeros(len(item_counts), dtype=np.float64)
    distribution[seen] = item_counts[seen].astype(np.float64) ** power
    return distribution / distribution.sum()


def known_keys(user: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """Sorted unique ``user * num_items + item`` of the given events."""
    keys = user * np.int64(num_items) + item
    keys.sort()
    return keys[np.r_[True, keys[1:] != keys[:-1]]] if len(keys) else keys


def _contains(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, queries)
    at[at == len(keys)] = 0
    return keys[at] == queries if len(keys) else np.zeros(len(queries), dtype=bool)


def draw_negatives(
    users: np.ndarray, distribution: np.ndarray, known: np.ndarray, rng: np.random.Generator, raw_ids: IdMap
) -> np.ndarray:
    """One negative per entry of ``users``, independently: the distribution restricted to unknown items.

    Args:
        users: int64 [n].
        distribution: float64 [H], see ``negative_distribution``.
        known: sorted keys of what each user knows, see ``known_keys``.
        rng: source of randomness; the result is a function of its state and the arguments.
        raw_ids: of the users, for messages.

    Raises:
        ValueError: a user knows every item that could be drawn.
    """
    num_items = np.int64(len(distribution))
    support = np.flatnonzero(distribution)
    cdf = np.cumsum(distribution[support])
    cdf /= cdf[-1]
    drawn = np.empty(len(users), dtype=np.int64)
    pending = np.arange(len(users))
    for _ in range(_ROUNDS):
        if not len(pending):
            return drawn
        choice = support[np.searchsorted(cdf, rng.random(len(pending)), side="right")]
        drawn[pending] = choice
        pending = pending[_contains(known, users[pending] * num_items + choice)]
    for user in np.unique(users[pending]):
        rows = pending[users[pending] == user]
        low, high = np.searchsorted(known, [user * num_items, (user + 1) * num_items])
        rest = distribution.copy()
        rest[known[low:high] - user * num_items] = 0
        total = rest.sum()
        if not total:
            raise ValueError(
                f"user {raw_ids.decode([user])[0]} knows every item with training events, so no "
                "negative can be drawn; the log has too few items for sampled negatives"
            )
        drawn[rows] = rng.choice(len(distribution), size=len(rows), p=rest / total)
    return drawn
