"""Train, validation and test parts of a log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .log import Log, expect_log

HOWS = ("leave-last-out", "time")


@dataclass(frozen=True, eq=False)
class Split:
    """Which events of a log train, validate and test.

    Attributes:
        log: the full log; histories of all targets are cut from it.
        train: the training events that graphs and histories may be built from, as a log with the
            same id maps: those with label 1 where the log has labels, else all.
        train_index, valid, test: ascending positions of the target events in ``log``, int64.
            ``train_index`` holds label 0 too.
        how: "leave-last-out" or "time".
        fractions: shares asked for by the time split, else None.
        time_cut: training events have a time below it (time split), else None.
        valid_cut: validation events have a time below it (time split), else None.
    """

    log: Log
    train: Log
    train_index: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    how: str
    fractions: tuple[float, float, float] | None = None
    time_cut: float | int | None = None
    valid_cut: float | int | None = None

    @cached_property
    def item_counts(self) -> np.ndarray:
        """int64 [H]: training events (of any label) of each item."""
        return np.bincount(self.log.item[self.train_index], minlength=self.log.num_items)

    @cached_property
    def hash(self) -> str:
        """Hex sha256 over the log, the kind of split and its three parts."""
        digest = hashlib.sha256(self.log.content_hash.encode())
        digest.update(json.dumps([self.how, self.fractions]).encode())
        for index in (self.train_index, self.valid, self.test):
            digest.update(str(len(index)).encode())
            digest.update(index.tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Split({self.how!r} of {self.log.name!r}: {len(self.train_index)} train, "
            f"{len(self.valid)} valid, {len(self.test)} test events)"
        )

    def summary(self) -> dict[str, Any]:
        """Sizes, cuts, items with training events and hash, for reports."""
        return {
            "how": self.how,
            "train": len(self.train_index),
            "valid": len(self.valid),
            "test": len(self.test),
            "fractions": self.fractions,
            "time_cut": self.time_cut,
            "valid_cut": self.valid_cut,
            "items_in_training": int((self.item_counts > 0).sum()),
            "hash": self.hash,
        }


def usual_split(log: Log) -> str:
    """The split that ``resemb train`` takes where none is named: "time" for labels, else "leave-last-out".

    One event of a user has one label, so gAUC (``metrics.gauc``) of leave-last-out parts is undefined on a log
    with labels. Times that are positions are no clock to split by.
    """
    return "leave-last-out" if log.label is None or times_are_positions(log) else "time"


def has_both_classes(user: np.ndarray, label: np.ndarray) -> bool:
    """Whether some user has rows of label 0 and of label 1, so that gAUC is defined.

    Args:
        user: integers [N].
        label: 0 or 1 [N].
    """
    positive = label == 1
    return bool(np.isin(user[positive], user[~positive]).any())


def split(log: Log, how: str = "leave-last-out", *, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> Split:
    """Split a log into training, validation and test targets.

    "leave-last-out": the last event of each user is a test target, the one before it a validation
    target, the rest trains; users with fewer than 3 events only train. Other users' later events
    are then in training: use the time split where that matters.

    "time": events are cut by global time into the given shares of events. Events at the time of a
    cut all fall after it, so a training time is strictly below every validation time.

    Args:
        log: the log.
        how: "leave-last-out" or "time".
        fractions: shares of training, validation and test events for "time"; they sum to 1.

    Raises:
        ValueError: unknown ``how``, bad fractions, a part would be empty, or ("time") times that
            are positions within each user rather than one clock.
        TypeError: ``log`` is none.
    """
    expect_log(log)
    if how == "leave-last-out":
        return _leave_last_out(log)
    if how == "time":
        return _by_time(log, fractions)
    raise ValueError(f"how must be one of {', '.join(HOWS)}; got {how!r}")


def _leave_last_out(log: Log) -> Split:
    last = log.user_start[1:] - 1
    long_enough = np.diff(log.user_start) >= 3
    test = last[long_enough]
    if not len(test):
        raise ValueError(
            f"leave-last-out needs a user with at least 3 events; {log.name!r} has {len(log)} "
            f"events of {log.num_users} users and none"
        )
    valid = test - 1
    train = np.ones(len(log), dtype=bool)
    train[test] = train[valid] = False
    return _assemble(log, np.flatnonzero(train), valid, test, how="leave-last-out")


def _by_time(log: Log, fractions: Sequence[float]) -> Split:
    shares = tuple(float(f) for f in fractions)
    if len(shares) != 3 or not all(f > 0 for f in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"fractions must be three positive shares that sum to 1, got {fractions}")
    if times_are_positions(log):
        raise ValueError(
            f"times of {log.name!r} are positions within each user's history, not one clock; use "
            "how='leave-last-out', or name a timestamp column when reading"
        )
    n = len(log)
    ordered = np.sort(log.time)
    cuts = [ordered[min(n - 1, round(n * share))] for share in (shares[0], shares[0] + shares[1])]
    train = log.time < cuts[0]
    valid = ~train & (log.time < cuts[1])
    test = log.time >= cuts[1]
    for part, mask in (("training", train), ("validation", valid), ("test", test)):
        if not mask.any():
            raise ValueError(
                f"the time split leaves no {part} events: {n} events between times {ordered[0]} "
                f"and {ordered[-1]}, cuts at {cuts[0]} and {cuts[1]}; use how='leave-last-out'"
            )
    return _assemble(
        log,
        np.flatnonzero(train),
        np.flatnonzero(valid),
        np.flatnonzero(test),
        how="time",
        fractions=shares,
        time_cut=cuts[0].item(),
        valid_cut=cuts[1].item(),
    )


def _assemble(log: Log, train: np.ndarray, valid: np.ndarray, test: np.ndarray, how: str, **cuts: Any) -> Split:
    index = train if log.label is None else train[log.label[train] == 1]
    part = log.subset(index, name=f"{log.name} (train)")
    return Split(log, part, train, valid, test, how, **cuts)


def times_are_positions(log: Log) -> bool:
    """Whether every user's times just count 0, 1, 2, ... (or 1, 2, 3, ...), for several users."""
    if log.num_users < 2:
        return False
    position = np.arange(len(log)) - log.user_start[log.user]
    return bool(np.array_equal(log.time, position) or np.array_equal(log.time, position + 1))
