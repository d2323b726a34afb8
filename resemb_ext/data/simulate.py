"""A simulated log of the interest delay model, with its truth.

A user's latent interest is one of ``domains``. After every event it stays with probability
``stay`` and otherwise jumps to another domain, each equally likely. The next item comes from the
current domain, by a Zipf distribution among the domain's items that the user has not met yet. So the domain
of an item is the domain of the user's interest when she met it, and

    p(next = c | history) = T[domain of the last item, domain of c] * w_c / (1 - met mass there)

where w are the Zipf probabilities within a domain. The null log draws from the same popularity
w_c / domains over all items that the user has not met, without domains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .idmap import IdMap
from .log import Log
from .samples import Samples

_BLOCK = 4_000_000  # entries of a dense work array


@dataclass(frozen=True, eq=False)
class SimulationTruth:
    """What the simulated log was drawn from.

    Attributes:
        domain: int64 [H], domain of each mapped item (-1 for padding and OOV). In the null log the
            domains exist as labels but steer nothing.
        weight: float64 [H], probability of each item within the set it is drawn from: its domain,
            or (null) all items.
        null: whether the log has no domains.
        stay: probability that the interest stays.
        parameters: all arguments of ``simulate``.
        log: the simulated log.
    """

    domain: np.ndarray
    weight: np.ndarray
    null: bool
    stay: float
    parameters: dict[str, Any]
    log: Log = field(repr=False)

    def _next_item(self, users: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distribution of the next item and a mask of the items met, both [n, H].

        Row i is the distribution of the item that user ``users[i]`` meets after her events before position
        ``ends[i]`` of the log. Dense: pass a few hundred rows at a time.
        """
        begins = self.log.user_start[users]
        lengths = ends - begins
        rows = np.repeat(np.arange(len(users)), lengths)
        shift = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
        items = self.log.item[shift + np.arange(len(rows))]
        met = np.zeros((len(users), len(self.domain)), dtype=bool)
        met[rows, items] = True

        # One set for all items in the null log, else a set per domain.
        group = np.where(self.domain < 0, 0, 0 if self.null else self.domain)
        groups = int(group.max()) + 1
        left = np.ones((len(users), groups))
        np.subtract.at(left, (rows, group[items]), self.weight[items])
        jump = np.full((len(users), groups), 1.0 / groups)
        if groups > 1:
            some = np.flatnonzero(lengths)
            jump[some] = (1 - self.stay) / (groups - 1)
            jump[some, group[self.log.item[ends[some] - 1]]] = self.stay
        p = (jump / left)[:, group] * self.weight
        p[met] = 0
        return p, met

    def bayes_scores(self, samples: Samples) -> np.ndarray:
        """The exact log likelihood ratio of every row: no scorer has a higher expected AUC.

        For a row with history h and candidate c it is log p(c | h, positive) - log p(c | h,
        negative) under the known parameters. A negative is drawn by the distribution q of
        ``samples.negative_distribution`` among the items outside the history h and the positive t, and t is
        unknown, so with Z = 1 - q(h):

            p(c | h, negative) = q_c * sum over t != c of p(t | h) / (Z - q_t)

        The scores see whole histories, not the ``max_history`` newest events. They are exact for
        the test part of the leave-last-out split, whose negatives avoid just the history and the
        positive. Where users have events after the target (validation, time split), negatives
        avoid those too, and the scores ignore that: a difference of a few percent in a ratio.

        Args:
            samples: evaluation samples of ``self.log``.

        Returns:
            float64 [N]; +inf for a candidate that can never be a negative (no training event).

        Raises:
            ValueError: samples of another log, or training samples, whose negatives may be items
                that the user meets later.
        """
        if samples.which == "train" or samples.negative_distribution is None:
            raise ValueError("samples must be evaluation samples with drawn negatives")
        if not np.array_equal(samples.history_items, self.log.item):
            raise ValueError("samples must come from the simulated log itself")
        q = samples.negative_distribution
        key = samples.user * np.int64(len(self.log) + 1) + samples.end
        _, first, context = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(context, kind="stable")
        bounds = np.searchsorted(context[order], np.arange(len(first) + 1))
        scores = np.empty(len(samples), dtype=np.float64)
        step = max(1, _BLOCK // len(q))
        for low in range(0, len(first), step):
            high = min(low + step, len(first))
            rows = order[bounds[low] : bounds[high]]
            heads = first[low:high]
            p, met = self._next_item(samples.user[heads], samples.end[heads])
            rest = 1 - np.where(met, q, 0).sum(axis=1)
            over = np.divide(p, rest[:, None] - q, out=np.zeros_like(p), where=p > 0)
            total = over.sum(axis=1)
            at, candidate = context[rows] - low, samples.target[rows]
            with np.errstate(divide="ignore"):
                others = np.maximum(total[at] - over[at, candidate], 0)
                negative = np.log(q[candidate]) + np.log(others)
                scores[rows] = np.log(p[at, candidate]) - negative
        return scores


def simulate(
    *,
    users: int = 6000,
    items: int = 5000,
    domains: int = 20,
    events_per_user: int | tuple[int, int] = (10, 22),
    stay: float = 0.95,
    zipf: float = 0.5,
    null: bool = False,
    seed: int = 0,
) -> tuple[Log, SimulationTruth]:
    """Simulate a log of the interest delay model (or its null variant).

    Args:
        users, items, domains: how many; items are dealt evenly to domains, at random.
        events_per_user: events of every user, or the (lowest, highest) of a uniform draw.
        stay: probability that the interest stays for the next event; a stay then lasts
            1 / (1 - stay) events on average.
        zipf: the item of rank r in its domain has popularity proportional to r ** -zipf.
        null: the same popularity and no domains: items are drawn from all items.
        seed: everything is a function of the arguments.

    The defaults give about 17 training events an item: a plain embedding learns but is short of
    data. The Zipf exponent is small so that popularity alone, which the popularity ** 0.75 of
    negatives leaves visible, tells little: what the null log can teach is close to nothing.

    Returns:
        The log (no categories, no labels, times in seconds) and the truth. A user meets an item
        at most once. Item number i is raw id i; items that nobody met are in the map too.

    Raises:
        ValueError: an argument out of range, or domains smaller than a user's number of events.
    """
    low, high = (
        (events_per_user, events_per_user) if isinstance(events_per_user, int | np.integer) else tuple(events_per_user)
    )
    parameters = {
        "users": users,
        "items": items,
        "domains": domains,
        "events_per_user": [low, high],
        "stay": stay,
        "zipf": zipf,
        "null": null,
        "seed": seed,
    }
    if min(users, items, domains, low) < 1 or high < low:
        raise ValueError(f"sizes must be at least 1 and events_per_user ascending: {parameters}")
    if not 0 <= stay <= 1 or not (np.isfinite(zipf) and zipf >= 0):
        raise ValueError(f"stay must lie in [0, 1] and zipf be finite and >= 0: {parameters}")
    if items // domains < high:
        raise ValueError(
            f"a domain has {items // domains} items, fewer than the {high} events of a user: "
            "raise items, or lower domains or events_per_user"
        )
    rng = np.random.default_rng([5, seed])
    domain = np.full(items + 2, -1, dtype=np.int64)
    place = rng.permutation(items)
    domain[1 + place] = np.arange(items) % domains
    weight = np.zeros(items + 2)
    weight[1 + place] = (1.0 + np.arange(items) // domains) ** -zipf
    weight[1:-1] /= np.bincount(domain[1:-1], weight[1:-1])[domain[1:-1]]
    if null:
        weight /= domains

    counts = rng.integers(low, high + 1, users)
    user = np.repeat(np.arange(users), counts)
    start = np.cumsum(counts) - counts
    position = np.arange(len(user)) - start[user]
    interest = np.zeros(len(user), dtype=np.int64)
    if domains > 1 and not null:
        interest = _interests(rng, user, position, domains, stay)
    item = _items_in_turn(rng, user, interest, weight, np.zeros_like(domain) if null else domain)

    gaps = rng.exponential(3600.0, len(user))
    gaps[position == 0] = 0
    elapsed = np.cumsum(gaps)
    elapsed -= elapsed[start][user]
    time = (rng.uniform(0, 30 * 86400, users)[user] + elapsed).astype(np.int64)
    log = Log(
        user=user,
        item=item,
        time=time,
        users=IdMap.fit(np.arange(users), first=0),
        items=IdMap.fit(np.arange(1, items + 1)),
        name="simulated-null" if null else "simulated",
        columns={"user": "user_id", "item": "item_id", "time": "timestamp"},
    )
    return log, SimulationTruth(domain, weight, null, stay, parameters, log)


def _interests(
    rng: np.random.Generator, user: np.ndarray, position: np.ndarray, domains: int, stay: float
) -> np.ndarray:
    """Latent domain of each event: a walk on a ring whose jumps reach every other domain alike."""
    moves = np.where(rng.random(len(user)) < stay, 0, rng.integers(1, domains, len(user)))
    first = position == 0
    moves[first] = rng.integers(0, domains, int(first.sum()))
    walk = np.cumsum(moves)
    before_user = (walk - moves)[first]
    return (walk - before_user[user]) % domains


def _items_in_turn(
    rng: np.random.Generator, user: np.ndarray, interest: np.ndarray, weight: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """Item of each event: drawn by weight in its interest's group, among items not yet met.

    Successive draws without replacement are distributed as in an exponential race: give each item the
    arrival time Exp(1) / weight and take them in order of arrival. One race per (user, group).
    """
    members = np.argsort(group[1:-1], kind="stable") + 1
    sizes = np.bincount(group[1:-1])
    table = np.zeros((len(sizes), sizes.max()), dtype=np.int64)
    column = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table[np.repeat(np.arange(len(sizes)), sizes), column] = members
    rate = weight[table]  # 0 where the table is filled up with the padding item

    pairs, pair = np.unique(user * np.int64(len(sizes)) + interest, return_inverse=True)
    by_pair = np.argsort(pair, kind="stable")
    bounds = np.searchsorted(pair[by_pair], np.arange(len(pairs) + 1))
    turn = np.arange(len(user)) - bounds[pair[by_pair]]
    item = np.empty(len(user), dtype=np.int64)
    step = max(1, _BLOCK // table.shape[1])
    for low in range(0, len(pairs), step):
        high = min(low + step, len(pairs))
        groups = pairs[low:high] % len(sizes)
        events = slice(bounds[low], bounds[high])
        most = int(turn[events].max()) + 1
        with np.errstate(divide="ignore"):
            arrival = rng.standard_exponential((high - low, table.shape[1])) / rate[groups]
        # argpartition first: a null log races thousands of items for the first few places.
        early = np.argpartition(arrival, most - 1, axis=1)[:, :most]
        early = np.take_along_axis(early, np.argsort(np.take_along_axis(arrival, early, axis=1), axis=1), axis=1)
        local = pair[by_pair[events]] - low
        item[by_pair[events]] = table[groups[local], early[local, turn[events]]]
    return item
