"""By which id maps a graph's events were numbered, and whether a log is numbered by the same.

Meta data keep it as "ids": for "items" and "users" how many ids the map has, the first number and their
sha256, or None where that is not known; nothing at all where neither is.
"""

from typing import Any

import numpy as np

from .events import Events

Meta = dict[str, Any]


def of_maps(items: Any, users: Any, joins_users: bool) -> Meta:
    """Meta data of events numbered by these maps (``rx.data.IdMap``), or by None.

    Args:
        joins_users: whether ``update`` may go on with these users.
    """
    return _meta({"items": _record(items), "users": _record(users) if joins_users else None})


def _record(ids: Any) -> Meta | None:
    if not hasattr(ids, "fingerprint"):
        return None
    return {"count": len(ids), "first": int(ids.first), "sha256": ids.fingerprint()}


def _meta(records: dict[str, Meta | None]) -> Meta:
    return {"ids": records} if any(records.values()) else {}


def _known(meta: Meta, field: str) -> Meta | None:
    return meta.get("ids", {}).get(field)


def agrees(meta: Meta, field: str, ids: Any) -> bool | None:
    """Whether a map gives the ids of "items" or "users" their numbers, perhaps with more behind; None: not known."""
    kept = _known(meta, field)
    if kept is None or not hasattr(ids, "fingerprint"):
        return None
    return kept["count"] <= len(ids) and kept["sha256"] == ids.fingerprint(kept["count"])


def after_log(meta: Meta, log: Any) -> Meta:
    """Meta data after the events of a log, which must go on with the numbers of those before.

    Raises:
        ValueError: its maps give other numbers, or that cannot be known.
    """
    for field in ("items", "users"):
        same = agrees(meta, field, getattr(log, field, None))
        if same is None:
            raise ValueError(
                f"new_events is a log, but the graph does not know by which {field} its events were numbered: they"
                " came as arrays, as integers of a Parquet file or in an older graph file; if this log has those"
                " numbers, give the arrays (log.user, log.item, log.time) of log.interactions"
            )
        if not same:
            raise ValueError(
                f"new_events: this log numbers its {field} otherwise than the log of the graph; read it by the maps"
                " of that log: read_log(..., users=log.users, items=log.items)"
            )
    return of_maps(log.items, log.users, True)


def after_arrays(meta: Meta, events: Events) -> Meta:
    """Meta data after events whose numbers the caller answers for; a map that they go beyond is forgotten."""
    numbers = {"items": events.item, "users": events.user}
    return _meta({field: _within(_known(meta, field), numbers[field]) for field in numbers})


def _within(kept: Meta | None, numbers: np.ndarray) -> Meta | None:
    if kept is None or not len(numbers):
        return kept
    return kept if kept["first"] <= numbers.min() and numbers.max() < kept["first"] + kept["count"] else None
