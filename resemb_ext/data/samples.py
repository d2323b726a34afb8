"""CTR samples: (user, history, target, label) rows that share one flat array of histories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .log import Log
from .negatives import draw_negatives, known_keys, negative_distribution
from .splits import Split

# Separate random streams of one seed.
_STREAM = {"train": 1, "valid": 2, "test": 3, "shuffle": 4}


class Batch(NamedTuple):
    """A batch of samples in jagged form; B rows, P history positions.

    Attributes:
        user: int64 [B].
        target: int64 [B].
        label: float32 [B].
        history: int64 [P], the rows' histories one after another, oldest event first.
        offsets: int64 [B], where each row's history starts in ``history`` (as in EmbeddingBag,
            without a last offset).
        target_category: int64 [B] or None.
        history_category: int64 [P] or None.
    """

    user: np.ndarray
    target: np.ndarray
    label: np.ndarray
    history: np.ndarray
    offsets: np.ndarray
    target_category: np.ndarray | None
    history_category: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows to train or evaluate on.

    Attributes:
        user: int64 [N].
        target: int64 [N], mapped item.
        label: int8 [N].
        start, end: int64 [N]; a row's history is ``history_items[start:end]``, oldest first.
        history_items: int64, interactions of the full log in (user, time) order; shared.
        which: "train", "valid" or "test".
        target_seen: bool [N], whether the item of the row's event has a training event. A drawn
            negative has the flag of its positive, so the flag keeps or drops candidates as a whole.
        num_items: H, the rows of an item table.
        max_history: events kept of a history.
        item_category: int64 [H] or None.
        negatives: negatives per positive; 0 where labels come from the log.
        power: exponent of popularity in the distribution of negatives.
        negative_distribution: float64 [H], the probabilities that negatives were drawn by before the
            user's known items were left out; None where labels come from the log.
        split_hash: hash of the split that the rows were made from.
    """

    user: np.ndarray
    target: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray
    history_items: np.ndarray
    which: str
    target_seen: np.ndarray
    num_items: int
    max_history: int
    item_category: np.ndarray | None
    negatives: int
    power: float
    negative_distribution: np.ndarray | None
    split_hash: str

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of version 0.1 name the distribution a law.
        self.__dict__.update({"negative_distribution" if k == "negative_law" else k: v for k, v in state.items()})

    def __len__(self) -> int:
        return len(self.target)

    def __repr__(self) -> str:
        return (
            f"Samples({self.which}: {len(self)} rows, {int(self.label.sum())} positive, history <= {self.max_history})"
        )

    @cached_property
    def candidate_hash(self) -> str:
        """Hex sha256 over (user, target, label) of all rows in order."""
        digest = hashlib.sha256()
        for array in (self.user, self.target, self.label):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def batch(self, index: np.ndarray | slice) -> Batch:
        """The rows at ``index`` as a jagged batch."""
        start, target = self.start[index], self.target[index]
        lengths = self.end[index] - start
        ends = np.cumsum(lengths)
        offsets = ends - lengths
        total = int(ends[-1]) if len(ends) else 0
        history = self.history_items[np.repeat(start - offsets, lengths) + np.arange(total)]
        categories = self.item_category
        return Batch(
            user=self.user[index],
            target=target,
            label=self.label[index].astype(np.float32),
            history=history,
            offsets=offsets,
            target_category=None if categories is None else categories[target],
            history_category=None if categories is None else categories[history],
        )

    def num_batches(self, batch_size: int) -> int:
        """Batches in one pass."""
        return -(-len(self) // batch_size)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """int64 [N]: the shuffled order of rows, a function of (seed, epoch) alone."""
        rng = np.random.default_rng([_STREAM["shuffle"], seed, epoch])
        return rng.permutation(len(self))

    def batches(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0, start: int = 0
    ) -> Iterator[Batch]:
        """Iterate over batches; the last one may be short.

        Args:
            batch_size: rows in a batch.
            shuffle: take rows in ``order`` of (seed, epoch); else in their own order.
            seed, epoch: see ``shuffle``.
            start: first batch to yield, so that a run resumes at (epoch, batch).

        Raises:
            ValueError: ``batch_size`` below 1 or a negative ``start``.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if start < 0:
            raise ValueError(f"start must be at least 0, got {start}")
        return self._iterate(batch_size, self.order(seed, epoch) if shuffle else None, start)

    def _iterate(self, size: int, order: np.ndarray | None, start: int) -> Iterator[Batch]:
        for low in range(start * size, len(self), size):
            rows = slice(low, low + size)
            yield self.batch(rows if order is None else order[rows])


def make_train_samples(
    split: Split, *, max_history: int = 50, negatives: int = 1, power: float = 0.75, seed: int = 0
) -> Samples:
    """Samples of the training events.

    With a label column every training event is a row; histories hold the label-1 events strictly
    before it. Without one, every training event is a positive, followed by ``negatives`` rows
    with items drawn (independently) by training popularity ** power among the items that the user
    has not met in training. Nothing after the cut is looked at.

    Args:
        split: the split.
        max_history: newest events kept of a history.
        negatives, power, seed: of the draw; without effect on a log with labels.

    Raises:
        ValueError: a bad number, or labels of one class.
        TypeError: ``split`` is none.
    """
    _check(max_history, negatives, split)
    events = split.train_index
    _two_classes(split.log, events, "training")
    return _make(split, "train", events, split.train_index, max_history, negatives, power, seed)


def make_eval_samples(
    split: Split,
    which: str = "valid",
    *,
    max_history: int = 50,
    negatives: int = 20,
    power: float = 0.75,
    seed: int = 0,
) -> Samples:
    """Samples of the validation or test targets: the same for every model and training seed.

    As ``make_train_samples``, but histories hold all events before the target in the full
    log, and negatives are drawn (independently, by training popularity ** power) among the items
    that the user meets nowhere in the full log. ``candidate_hash`` identifies the rows.

    Args:
        split: the split.
        which: "valid" or "test".
        max_history, negatives, power, seed: as in ``make_train_samples``.

    Raises:
        ValueError: a bad number, an unknown ``which``, or labels of one class in training or in
            these targets, of which no AUC could be taken.
        TypeError: ``split`` is none.
    """
    if which not in ("valid", "test"):
        raise ValueError(f"which must be 'valid' or 'test', got {which!r}")
    _check(max_history, negatives, split)
    check_labels(split, which)
    events = split.valid if which == "valid" else split.test
    return _make(split, which, events, None, max_history, negatives, power, seed)


def _check(max_history: int, negatives: int, split: Split) -> None:
    if not isinstance(split, Split):
        raise TypeError(f"split is a {type(split).__name__}, expected what rx.data.split(log) gives")
    if max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history}")
    if split.log.label is None and negatives < 1:
        raise ValueError(f"negatives must be at least 1 for a log without labels, got {negatives}")


def check_labels(split: Split, *parts: str) -> None:
    """Refuses a split of a log with labels, of whose training events or named parts all have one label.

    Args:
        split: of any log.
        parts: "valid" and "test".

    Raises:
        ValueError: no AUC could be taken of such a part.
    """
    _two_classes(split.log, split.train_index, "training")
    for part in parts:
        events, name = (split.valid, "validation") if part == "valid" else (split.test, "test")
        _two_classes(split.log, events, name)


def _two_classes(log: Log, events: np.ndarray, part: str) -> None:
    if log.label is None or not len(events):
        return
    label = log.label[events]
    if label.min() == label.max():
        raise ValueError(
            f"label column {log.columns.get('label', 'label')!r}: all {len(events)} {part} events "
            f"have label {label[0]}; leave the column out (label=False, --label-column -) to draw "
            "negatives instead"
        )


def _make(
    split: Split,
    which: str,
    events: np.ndarray,
    known: np.ndarray | None,
    max_history: int,
    negatives: int,
    power: float,
    seed: int,
) -> Samples:
    """Rows of ``events``; ``known``: events whose items are no negatives (None: all events)."""
    log = split.log
    user = log.user[events]
    start, end = _histories(log, events, max_history)
    if log.label is not None:
        target, label, distribution, negatives = log.item[events], log.label[events], None, 0
    else:
        per_event = 1 + negatives
        distribution = negative_distribution(split.item_counts, power)
        known_user, known_item = (log.user, log.item) if known is None else (log.user[known], log.item[known])
        keys = known_keys(known_user, known_item, log.num_items)
        rng = np.random.default_rng([_STREAM[which], seed])
        grid = np.empty((len(events), per_event), dtype=np.int64)
        grid[:, 0] = log.item[events]
        grid[:, 1:] = draw_negatives(np.repeat(user, negatives), distribution, keys, rng, log.users).reshape(
            len(events), negatives
        )
        target = grid.reshape(-1)
        label = np.zeros(grid.shape, dtype=np.int8)
        label[:, 0] = 1
        label = label.reshape(-1)
        user, start, end = (np.repeat(a, per_event) for a in (user, start, end))
    return Samples(
        user=user,
        target=target,
        label=label,
        start=start,
        end=end,
        history_items=log.interactions.item,
        which=which,
        target_seen=np.repeat(split.item_counts[log.item[events]] > 0, len(target) // len(events)),
        num_items=log.num_items,
        max_history=max_history,
        item_category=log.item_category,
        negatives=negatives,
        power=power,
        negative_distribution=distribution,
        split_hash=split.hash,
    )


def _histories(log: Log, events: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices of ``log.interactions.item`` that lie before each event, at most max_history long."""
    if log.interactions is log:
        end, first = events, log.user_start[log.user[events]]
    else:
        # Interactions before each position of the log.
        before = np.concatenate(([0], np.cumsum(log.label == 1)))
        end, first = before[events], before[log.user_start[log.user[events]]]
    return np.maximum(first, end - max_history), end
