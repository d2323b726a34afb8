"""A log cut in two: warm items, which are trained on, and held-out ones, which come later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from resemb_ext.data import IdMap, Log, Samples, Split
from resemb_ext.data.negatives import draw_negatives, known_keys
from resemb_ext.graph import InterestGraph
from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.study.harness.pieces import Source
from resemb_ext.train import RunConfig
from resemb_ext.train.prepare import graph_of

from .protocol import GIVEN, NEGATIVES, SHARE

_LAST = max(GIVEN)


@dataclass(frozen=True, eq=False)
class Cut:
    """The log of a source under one seed.

    Attributes:
        source: of the whole log.
        config: options of split, samples and graph.
        train_rows: as of ``Dataset``.
        seed: of the held-out items and of the test events.
        test_events: the most of them.
    """

    source: Source
    config: RunConfig
    train_rows: int | None
    seed: int
    test_events: int

    @cached_property
    def held_out(self) -> np.ndarray:
        """int64: numbers of held-out items in the whole log, ascending.

        Raises:
            ValueError: fewer items have enough events.
        """
        log = self.source.log
        known = np.flatnonzero(np.bincount(log.item, minlength=log.num_items) > _LAST)
        count = round(SHARE * len(log.items))
        if not 0 < count < len(known):
            raise ValueError(f"{log.name!r} has {len(known)} items of more than {_LAST} events, expected over {count}")
        return np.sort(np.random.default_rng([41, self.seed]).choice(known, count, replace=False))

    @cached_property
    def log(self) -> Log:
        """The whole log, its held-out items numbered behind the others, as new ones are."""
        log = self.source.log
        cold = np.zeros(log.num_items, bool)
        cold[self.held_out] = True
        known = np.arange(log.items.first, log.items.oov)
        warm = IdMap.fit(log.items.decode(known[~cold[known]]))
        items = warm.extended(log.items.decode(self.held_out))
        number = np.zeros(log.num_items, np.int64)
        number[known] = items.encode(log.items.decode(known))[0]
        return Log(user=log.user, item=number[log.item], time=log.time, users=log.users, items=items, name=log.name)

    @cached_property
    def first_cold(self) -> int:
        """The number of the first held-out item; the others follow."""
        return self.log.items.oov - len(self.held_out)

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [n]: of each event of a held-out item which of the item's events it is, from 0 in time; else -1."""
        log = self.log
        cold = np.flatnonzero(log.item >= self.first_cold)
        sorted_ = cold[np.lexsort((cold, log.time[cold], log.item[cold]))]
        item = log.item[sorted_]
        order = np.full(len(log), -1)
        order[sorted_] = np.arange(len(item)) - np.searchsorted(item, item)
        return order

    @cached_property
    def warm(self) -> Dataset:
        """What is trained on: the events of warm items, in a table that knows no others."""
        log = self.log
        part = log.subset(self.order < 0)
        warm = IdMap.fit(log.items.decode(np.arange(1, self.first_cold)))
        return Dataset(
            Source(self.source.name, lambda: (replace(part, items=warm), None)), self.config, self.train_rows
        )

    def _training(self, given: int) -> np.ndarray:
        """Positions in the log of the warm training events and the first events of held-out items."""
        warm = np.flatnonzero(self.order < 0)[self.warm.split.train_index]
        cold = np.flatnonzero((self.order >= 0) & (self.order < given))
        return np.sort(np.concatenate([warm, cold]))

    def graph(self, given: int) -> InterestGraph:
        """The graph of the training events and the first ``given`` events of each held-out item."""
        return graph_of(self.config, self.log.subset(self._training(given)))

    @cached_property
    def everything(self) -> Dataset:
        """What is retrained on: also the first events of held-out items, and no event that is tested."""
        seen = np.flatnonzero(self.order < _LAST)
        log = self.log.subset(seen)
        place = np.full(len(self.log), -1)
        place[seen] = np.arange(len(seen))
        warm, of_warm = np.flatnonzero(self.order < 0), self.warm.split
        train = place[self._training(_LAST)]
        valid, test = (place[warm[part]] for part in (of_warm.valid, of_warm.test))
        dataset = Dataset(Source(self.source.name, lambda: (log, None)), self.config, self.train_rows)
        dataset.__dict__["split"] = Split(log, log.subset(train), train, valid, test, of_warm.how)
        return dataset

    @cached_property
    def tested(self) -> np.ndarray:
        """int64: positions of the test events, ascending."""
        events = np.flatnonzero(self.order >= _LAST)
        if len(events) > self.test_events:
            events = np.sort(np.random.default_rng([42, self.seed]).choice(events, self.test_events, replace=False))
        return events

    def samples(self, among_held_out: bool) -> Samples:
        """Test events, each followed by negatives that its user does not know.

        Args:
            among_held_out: negatives are held-out items alone; drawn by all events to a power, as elsewhere.
        """
        log, events = self.log, self.tested
        counts = np.bincount(log.item, minlength=log.num_items).astype(np.float64)
        if among_held_out:
            counts[: self.first_cold] = 0
        distribution = np.where(counts > 0, counts, 1) ** self.config.negative_power * (counts > 0)
        distribution /= distribution.sum()
        users, width = log.user[events], 1 + NEGATIVES
        keys = known_keys(log.user, log.item, log.num_items)
        rng = np.random.default_rng([43, self.seed, int(among_held_out)])
        drawn = draw_negatives(np.repeat(users, NEGATIVES), distribution, keys, rng, log.users)
        target = np.concatenate([log.item[events][:, None], drawn.reshape(len(events), NEGATIVES)], axis=1)
        label = np.zeros(target.shape, np.int8)
        label[:, 0] = 1
        start = np.maximum(log.user_start[users], events - self.config.max_history)
        return Samples(
            user=np.repeat(users, width),
            target=target.reshape(-1),
            label=label.reshape(-1),
            start=np.repeat(start, width),
            end=np.repeat(events, width),
            history_items=log.item,
            which="test",
            target_seen=np.zeros(target.size, bool),
            num_items=log.num_items,
            max_history=self.config.max_history,
            item_category=None,
            negatives=NEGATIVES,
            power=self.config.negative_power,
            negative_distribution=distribution,
            split_hash=self.warm.split.hash,
        )
