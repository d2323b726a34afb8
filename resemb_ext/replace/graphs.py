"""The graph of a table: as given, or built of the events given."""

from __future__ import annotations

from typing import Any

from resemb_ext.graph import InterestGraph
from resemb_ext.graph.events import check_log
from resemb_ext.runtime.frames import EXPECTED, is_frame, open_frame

_COLUMNS = (("user", "item", "time"), ("user_id", "item_id", "timestamp"))


def graph_of(value: Any, rows: int, padding_idx: int | None, name: str) -> InterestGraph:
    """The graph over a table's rows.

    Args:
        value: an InterestGraph; or events in row numbers: a table of any library that
            ``InterestGraph.from_dataframe`` takes, with columns user, item and perhaps time (or user_id, item_id,
            timestamp); a tuple (users, items[, times]); or a log.
        rows: of the table.
        padding_idx: its padding row, which no event may have.
        name: of the table, for messages.

    Raises:
        TypeError, ValueError, IndexError: a value of another kind, a graph over another number of rows, events that
            ``InterestGraph.from_events`` refuses; the message starts with the table's name.
    """
    if isinstance(value, InterestGraph):
        graph = value
    else:
        try:
            graph = _built(value, rows, padding_idx)
        except (TypeError, ValueError, IndexError) as error:
            raise named(error, name) from error
    if graph.num_items != rows:
        raise ValueError(
            f"{name}: the graph has {graph.num_items} items; expected {rows}, the table's rows (padding and "
            "out-of-vocabulary rows count). For items that start at a row of their own, graph.shift(offset, rows)"
        )
    return graph


def named(error: TypeError | ValueError | IndexError, name: str) -> Exception:
    """An error of the same kind that names the table."""
    kind = next(kind for kind in (TypeError, IndexError, ValueError) if isinstance(error, kind))
    return kind(f"{name}: {error}")


def _built(value: Any, rows: int, padding_idx: int | None) -> InterestGraph:
    if isinstance(value, tuple):
        if len(value) not in (2, 3):
            raise ValueError(f"events: found a tuple of {len(value)}; expected (users, items) or (users, items, times)")
        return InterestGraph.from_events(*value, num_items=rows, padding_idx=padding_idx)
    if check_log(value, "events"):
        return InterestGraph.from_log(value, padding_idx=padding_idx)
    if not is_frame(value):
        raise TypeError(
            f"graph: found {type(value).__name__}; expected an InterestGraph; a log; a tuple (users, items[, times]); or "
            f"events with columns user, item and perhaps time: {EXPECTED}"
        )
    names = open_frame(value, "events").names
    for user, item, time in _COLUMNS:
        if user in names and item in names:
            return InterestGraph.from_dataframe(
                value,
                user=user,
                item=item,
                time=time if time in names else None,
                num_items=rows,
                padding_idx=padding_idx,
            )
    raise ValueError(f"events: found the columns {', '.join(map(str, names))}; expected user, item and perhaps time")
