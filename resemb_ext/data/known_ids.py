"""Logs read with the id maps of an earlier one: its numbers, and what becomes of ids that it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from .arrow import BadEntry
from .findings import NOTE, Finding
from .idmap import IdMap

_UNSEEN = ("append", "drop", "refuse")
_FIRST = {"user": 0, "item": 1}


def given_maps(users: Any, items: Any, unseen: str) -> dict[str, IdMap]:
    """The maps given to ``read_log``, by field.

    Raises:
        TypeError: something else than a map.
        ValueError: a map whose numbers begin elsewhere than a log's, an unknown ``unseen``, or one
            without maps.
    """
    maps = {field: ids for field, ids in (("user", users), ("item", items)) if ids is not None}
    for field, ids in maps.items():
        if not isinstance(ids, IdMap):
            raise TypeError(f"{field}s is a {type(ids).__name__}, expected an IdMap such as log.{field}s")
        if ids.first != _FIRST[field]:
            raise ValueError(
                f"{field}s: its numbers begin at {ids.first}, expected {_FIRST[field]}, as of log.{field}s"
            )
    if unseen not in _UNSEEN:
        raise ValueError(f"unseen is {unseen!r}, expected one of {', '.join(map(repr, _UNSEEN))}")
    if unseen != "append" and not maps:
        raise ValueError(f"unseen is {unseen!r} but neither users nor items are given, whose ids it is about")
    return maps


def numbered_by(
    known: IdMap, ids: pa.Array, column: str, field: str, unseen: str, findings: list[Finding]
) -> tuple[np.ndarray, IdMap]:
    """Numbers int64 [n] of ids, and the map that they are of: ``known``, or with "append" what extends it.

    ``findings`` gets a note of new ids.

    Raises:
        BadEntry: an id that ``known`` lacks, with "refuse".
        TypeError, ValueError: as ``IdMap.extended``.
    """
    ids_map = known.extended(ids, name=column) if unseen == "append" else known
    numbers, count = ids_map.encode(ids, name=column)
    if count and unseen == "refuse":
        row = int(np.argmax(numbers == known.oov))
        more = f", as in {count - 1} more rows" if count > 1 else ""
        fault = (
            f"{field} id {ids[row].as_py()!r:.80} is not in {field}s{more}; "
            'unseen="append" numbers such ids behind the known ones, "drop" leaves their events out'
        )
        raise BadEntry(row, column, fault)
    new = len(ids_map) - len(known)
    if new:
        found = f"{new:,} of {len(ids_map):,} {field}s are not in {field}s"
        findings.append(Finding(NOTE, f"new {field}s", found, "numbered behind the known ones"))
    return numbers, ids_map


def without_unseen(
    arrays: dict[str, Any], users: IdMap, items: IdMap, name: str, findings: list[Finding]
) -> dict[str, Any]:
    """The arrays [n] of a log without the events of ids that the maps lack; ``findings`` gets a note of them.

    Raises:
        ValueError: no event is left.
    """
    keep = (arrays["user"] != users.oov) & (arrays["item"] != items.oov)
    if not keep.any():
        raise ValueError(f"no event of {name!r} has a user and an item that users and items hold")
    left_out = int((~keep).sum())
    if left_out:
        found = f"{left_out:,} of {len(keep):,} events have a user or an item that users and items lack"
        findings.append(Finding(NOTE, "unseen ids", found, "left out"))
    return {field: None if values is None else values[keep] for field, values in arrays.items()}
