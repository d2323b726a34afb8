"""Counts of pairs kept beside a graph, for ``InterestGraph.update``."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import checks


@dataclass(frozen=True, eq=False, repr=False)
class KeptCounts:
    """What new events need of old ones. P is the number of counted pairs, T of kept events.

    Attributes:
        indptr: int64 [H + 1]; neighbors: int32 [P]; masses: int64 [P] > 0, rows of all pairs before
            weighting and pruning, without own entries, in the options' units.
        occurrences: int64 [H], events of each item.
        tail_user, tail_item: int64 [T]; tail_time: int64 or float64 [T] or None: the last ``window``
            events of every user, users ascending.
        category: int64 [H] or None.
    """

    indptr: np.ndarray
    neighbors: np.ndarray
    masses: np.ndarray
    occurrences: np.ndarray
    tail_user: np.ndarray
    tail_item: np.ndarray
    tail_time: np.ndarray | None = None
    category: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def verify(self, num_items: int, options: dict[str, Any]) -> None:
        """ValueError or IndexError where loaded arrays break what the class promises."""
        checks.check_indptr(self.indptr, len(self.neighbors))
        if len(self.indptr) != num_items + 1 or len(self.occurrences) != num_items:
            raise ValueError("kept counts have another number of items than the graph")
        checks.check_neighbors(self.indptr, self.neighbors, num_items)
        if checks.unsorted_at(self.indptr, self.neighbors) is not None:
            raise ValueError("kept counts: rows are not ascending")
        if (self.neighbors == checks.row_ids(self.indptr)).any():
            raise ValueError("kept counts: a row counts its own item")
        if len(self.masses) != len(self.neighbors) or (self.masses <= 0).any():
            raise ValueError("kept counts: masses do not fit, expected one > 0 for every pair")
        if (self.occurrences < 0).any():
            raise ValueError("kept counts: occurrences are negative")
        tails = len(self.tail_user)
        if len(self.tail_item) != tails or (self.tail_time is not None and len(self.tail_time) != tails):
            raise ValueError("kept counts: the last events differ in length")
        item = self.tail_item
        if tails and (item.min() < 0 or item.max() >= num_items):
            raise ValueError("kept counts: a last event's item is out of range")
        if (self.tail_user[1:] < self.tail_user[:-1]).any():
            raise ValueError("kept counts: users of the last events do not ascend")
        if self.tail_time is not None and not np.isfinite(self.tail_time).all():
            raise ValueError("kept counts: a last event's time is not finite")
        if self.category is not None and len(self.category) != num_items:
            raise ValueError("kept counts: category has the wrong length")
        if bool(options.get("category_edges")) and self.category is None:
            raise ValueError("kept counts: category is missing")
