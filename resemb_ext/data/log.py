"""The behaviour log: events as sorted, mapped arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .columns import describe_columns
from .findings import Finding
from .idmap import IdMap


@dataclass(frozen=True, eq=False)
class Log:
    """Events of users with items, sorted stably by (user, time).

    Events of one user at the same time keep the order of the source. Ids are numbered by the id
    maps: items and categories 1..n with 0 for padding (no category) and n + 1 for ids that the
    map has not seen; users 0..m-1.

    Attributes:
        user: int64 [n], ascending.
        item: int64 [n].
        time: int64 or float64 [n], ascending within a user.
        category: int64 [n] or None, as recorded with each event.
        label: int8 [n] of 0/1, or None where every event is an interaction.
        session: int64 [n], number of the event's session, no two users sharing one; or None.
        users, items, categories: id maps (categories: None without a category column).
        name: where the log came from, for reports.
        was_sorted: whether each user's events already came in time order.
        columns: which source column fed which field.
        guessed: fields whose column was guessed by its name.
        remarks: of a field what people should know of how its column was read.
        ticks_per_second: of ``exact_time`` where the source had dates with parts of seconds, else 0.
        findings: what reading found odd; ``validate`` reports them with its own.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    users: IdMap
    items: IdMap
    category: np.ndarray | None = None
    label: np.ndarray | None = None
    session: np.ndarray | None = None
    categories: IdMap | None = None
    name: str = "log"
    was_sorted: bool = True
    columns: Mapping[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    ticks_per_second: int = 0
    _exact_time: np.ndarray | None = field(default=None, repr=False)
    # Category of each item over the whole source: a part of a log keeps its parent's.
    _item_category: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def from_arrays(
        cls,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray,
        *,
        category: np.ndarray | None = None,
        label: np.ndarray | None = None,
        session: np.ndarray | None = None,
        exact_time: np.ndarray | None = None,
        **fields: Any,
    ) -> Log:
        """Sort mapped arrays stably by (user, time) and wrap them.

        Args:
            user, item, time, category, label, session: [n] each, as in the class but in any order.
            exact_time: int64 [n], the times' order where float64 rounds some of them to one number.
            fields: the other attributes of the class.
        """
        order = np.lexsort((time if exact_time is None else exact_time, user))
        # Sorted by user alone, stably: does that already leave every user's times ascending?
        by_user = np.argsort(user, kind="stable")
        was_sorted = bool(np.array_equal(order, by_user))

        def arrange(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else np.ascontiguousarray(values[order])

        return cls(
            user=user[order],
            item=item[order],
            time=time[order],
            category=arrange(category),
            label=arrange(label),
            session=arrange(session),
            was_sorted=was_sorted,
            _exact_time=arrange(exact_time),
            **fields,
        )

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"Log({self.name!r}: {len(self)} events, {len(self.users)} users, {len(self.items)} items)"

    @property
    def columns_line(self) -> str:
        """The columns in one line for people, those that were guessed marked, with remarks."""
        return describe_columns(self.columns, self.guessed, self.remarks)

    @property
    def exact_time(self) -> np.ndarray:
        """int64 or float64 [n]: numbers that are equal, and in order, as the times in the source were."""
        return self.time if self._exact_time is None else self._exact_time

    @property
    def num_sessions(self) -> int:
        """Number of sessions; 0 where the log has none."""
        return 0 if self.session is None else int(np.unique(self.session).size)

    @property
    def num_items(self) -> int:
        """Rows of an item table, H: padding, known items and the out-of-vocabulary row."""
        return self.items.size

    @property
    def num_users(self) -> int:
        """Number of known users."""
        return len(self.users)

    @property
    def num_categories(self) -> int:
        """Rows of a category table: none/padding, known categories and OOV; 0 without any."""
        return 0 if self.categories is None else self.categories.size

    @cached_property
    def item_category(self) -> np.ndarray | None:
        """int64 [H]: each item's first recorded category (events in user, time order).

        0 for padding and for items without one; the out-of-vocabulary item has the
        out-of-vocabulary category.
        """
        if self._item_category is not None or self.category is None or self.categories is None:
            return self._item_category
        table = np.zeros(self.num_items, dtype=np.int64)
        known = np.flatnonzero(self.category > 0)
        items, first = np.unique(self.item[known], return_index=True)
        table[items] = self.category[known[first]]
        table[self.items.oov] = self.categories.oov
        return table

    @property
    def category_domain(self) -> np.ndarray | None:
        """int64 [H]: item categories as domains for the aggregation radius; -1 where none."""
        table = self.item_category
        if table is None or self.categories is None:
            return None
        return np.where((table > 0) & (table < self.categories.oov), table, -1)

    @cached_property
    def user_start(self) -> np.ndarray:
        """int64 [num_users + 1]: events of user u are ``user_start[u]:user_start[u + 1]``."""
        return np.searchsorted(self.user, np.arange(self.num_users + 1))

    @cached_property
    def content_hash(self) -> str:
        """Hex sha256 over the events and the id maps (not over the name)."""
        digest = hashlib.sha256()
        for array in (self.user, self.item, self.time, self.category, self.label):
            digest.update(b"-" if array is None else str(array.dtype).encode())
            if array is not None:
                digest.update(array.tobytes())
        for ids in (self.users, self.items, self.categories):
            digest.update(b"-" if ids is None else ids.digest())
        if self.session is not None:
            digest.update(b"sessions" + self.session.tobytes())
        return digest.hexdigest()

    def subset(self, index: np.ndarray, *, name: str | None = None) -> Log:
        """Some of the events, with the same id maps.

        Args:
            index: ascending positions, int64, or a mask, bool [n].
            name: of the new log; None takes this one's.
        """
        return Log(
            user=self.user[index],
            item=self.item[index],
            time=self.time[index],
            category=None if self.category is None else self.category[index],
            label=None if self.label is None else self.label[index],
            session=None if self.session is None else self.session[index],
            users=self.users,
            items=self.items,
            categories=self.categories,
            name=name or self.name,
            was_sorted=self.was_sorted,
            columns=self.columns,
            guessed=self.guessed,
            remarks=self.remarks,
            findings=self.findings,
            ticks_per_second=self.ticks_per_second,
            _exact_time=None if self._exact_time is None else self._exact_time[index],
            _item_category=self.item_category,
        )

    @cached_property
    def interactions(self) -> Log:
        """The events that histories and graphs may use: those with label 1, or all."""
        if self.label is None or bool(self.label.all()):
            return self
        return self.subset(self.label == 1)

    def summary(self) -> dict[str, Any]:
        """Figures of the log for reports: sizes, label share, time range, order, columns, hash."""
        return {
            "name": self.name,
            "events": len(self),
            "users": self.num_users,
            "items": len(self.items),
            "categories": None if self.categories is None else len(self.categories),
            "sessions": None if self.session is None else self.num_sessions,
            "positive_share": None if self.label is None else float(self.label.mean()),
            "time": [self.time.min().item(), self.time.max().item()] if len(self) else None,
            "was_sorted": self.was_sorted,
            "columns": dict(self.columns),
            "guessed": list(self.guessed),
            "hash": self.content_hash,
        }


def expect_log(log: Any) -> None:
    """TypeError where ``log`` is none, such as a split in the place of one of its logs."""
    if not isinstance(log, Log):
        way = "give split.log or split.train" if hasattr(log, "train") else "read_log gives one"
        raise TypeError(f"log is a {type(log).__name__}, expected a Log: {way}")
