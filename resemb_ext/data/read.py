"""Read a behaviour log from files, a DataFrame or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from .arrow import BadEntry, as_arrow, canonical_ids, canonical_labels, canonical_times
from .columns import Columns, list_names, resolve_columns
from .conditions import rows_where
from .files import Source, name_of, open_source
from .findings import Finding, warn
from .idmap import IdMap
from .known_ids import given_maps, numbered_by, without_unseen
from .log import Log
from .sessions import number_sessions, sessions_by_gap

_AS_TEXT = ("user", "item", "category", "session")


def read_log(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    category: str | Literal[False] | None = None,
    label: str | Literal[False] | None = None,
    session: str | Literal[False] | None = None,
    session_gap: float | None = None,
    header: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    users: IdMap | None = None,
    items: IdMap | None = None,
    unseen: Literal["append", "drop", "refuse"] = "append",
    name: str | None = None,
) -> Log:
    """Read a log, map its ids, and sort it stably by (user, time).

    Args:
        source: path of a ``.parquet``, ``.csv``, ``.tsv``, RecBole ``.inter``, MovieLens ``.dat``
            (``user::item::rating::time``) or ``.json``/``.jsonl`` file (an object a line), all but
            Parquet also compressed (``.gz``, ``.bz2``, ``.zst``); a pandas DataFrame, a pyarrow
            Table, or a mapping of column names to arrays.
        user, item, time: column names; guessed from common names (``GUESSES``) where None.
        category, label, session: likewise, but the column may be missing; False leaves it out.
        session_gap: instead of a session column: a session ends where the user's next event is
            more than this later, in the times' unit (seconds for dates and timestamps).
        header: column names of a text file without a header line.
        where: column to value or values: keep only the rows that have them, e.g.
            ``{"behavior": "pv"}``. Numbers compare as numbers (4 is 4.0), times as times (without a
            zone: UTC), booleans as booleans; text that spells one of these throughout a column is one.
        users, items: the id maps of an earlier log (``log.users``, ``log.items``), so that known ids
            keep their numbers there, as ``InterestGraph.update`` needs. Text ids of a file are then
            read as these maps have them, as text or integers.
        unseen: of ids that the given maps lack: "append" numbers them behind the known ones,
            "drop" leaves their events out, "refuse" raises.
        name: name for reports (default: the file's name).

    Returns:
        The log. ``log.columns`` says which column was read as what, ``log.guessed`` which of them
        were guessed, ``log.was_sorted`` whether each user's events already came in time order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: missing column (the columns found are listed), no rows, damaged file, or a
            null, fractional or otherwise bad entry (its line, or its row counted from 0, is named).
        TypeError: a column whose type cannot be what it is read as, ids of another type than those
            of a given map, or a map that is none.

    Warns:
        DataWarning: a value of ``where`` that no row has (an error where none of them occurs).
    """
    maps = given_maps(users, items, unseen)
    if session_gap is not None:
        if isinstance(session, str):
            raise ValueError("session and session_gap exclude each other; give one")
        if not (np.isfinite(session_gap) and session_gap >= 0):
            raise ValueError(f"session_gap must be a finite number >= 0, got {session_gap}")
        session = False
    wanted = {"user": user, "item": item, "time": time, "category": category, "label": label, "session": session}
    file: Source | None = None
    extra = list(where or ())
    if isinstance(source, str | Path):
        file = open_source(Path(source), header)
        name = name or name_of(file.path)
        columns = resolve_columns(file.names, wanted, file.path.name, hint=file.hint)
        _need(extra, file.names, file.path.name)
        names = dict.fromkeys((*columns.by_field.values(), *extra))
        text = [c for f, c in columns.by_field.items() if f in _AS_TEXT]
        table = file.read(list(names), list({*text, *extra}))
        fields = {f: table[c] for f, c in columns.by_field.items()}
        filters = {c: table[c] for c in extra}
    else:
        if header is not None:
            raise ValueError("header is for text files; rename the columns of the data instead")
        name = name or "log"
        available = _columns_of(source)
        columns = resolve_columns(available, wanted, "the data")
        _need(extra, available, "the data")
        fields = {f: source[c] for f, c in columns.by_field.items()}
        filters = {c: source[c] for c in extra}

    lengths = {field: len(values) for field, values in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of {name!r} differ in length: {lengths}")
    rows: np.ndarray | None = None
    findings: tuple[Finding, ...] = ()
    if where:
        rows, findings = rows_where(filters, where, name)
        fields = {f: as_arrow(v, columns.by_field[f]).take(rows) for f, v in fields.items()}
    if not len(fields["user"]):
        raise ValueError(f"{name!r} has no rows; a log needs at least one event")
    try:
        log = _make(fields, columns, name, maps, unseen, parse=file is not None and file.text)
    except BadEntry as bad:
        row = bad.row if rows is None else int(rows[bad.row])
        if file is None or file.line is None:
            raise bad.at(row) from None
        raise ValueError(f"{file.path.name}, line {file.line(row)}, {bad.what}") from None
    if session_gap is not None:
        log = replace(log, session=sessions_by_gap(log.user, log.time, session_gap))
    warn(name, findings)
    return replace(log, findings=findings)


def _need(names: Sequence[str], available: Sequence[str], source: str) -> None:
    for column in names:
        if column not in available:
            raise ValueError(
                f"no column {column!r} (given in where); {source} has the columns: {list_names(available)}"
            )


def _make(
    fields: Mapping[str, Any], columns: Columns, name: str, maps: Mapping[str, IdMap], unseen: str, parse: bool
) -> Log:
    names = columns.by_field

    def mapped(field: str, first: int) -> tuple[np.ndarray, IdMap]:
        known = maps.get(field)
        as_text = known is not None and known.kind == "text"
        ids = canonical_ids(fields[field], names[field], f"{field} id", parse=parse and not as_text)
        if known is not None:
            return numbered_by(known, ids, names[field], field, unseen)
        ids_map = IdMap.fit(ids, first=first)
        return ids_map.encode(ids)[0], ids_map

    users, user_map = mapped("user", 0)
    items, item_map = mapped("item", 1)
    times = canonical_times(fields["time"], names["time"])
    cats, cat_map = None, None
    if "category" in fields:
        cats, cat_map = _categories(fields["category"], names["category"], parse)
    labels = canonical_labels(fields["label"], names["label"]) if "label" in fields else None
    session = mapped("session", 0)[0] if "session" in fields else None
    arrays: dict[str, Any] = {
        "user": users,
        "item": items,
        "time": times,
        "category": cats,
        "label": labels,
        "session": session,
    }
    if maps and unseen == "drop":
        arrays = without_unseen(arrays, user_map, item_map, name)
    log = Log.from_arrays(
        **arrays, users=user_map, items=item_map, categories=cat_map, name=name, columns=names, guessed=columns.guessed
    )
    if session is None:
        return log
    assert log.session is not None
    return replace(log, session=number_sessions(log.user, log.session))


def _categories(values: Any, column: str, parse: bool) -> tuple[np.ndarray, IdMap]:
    """Category numbers with 0 for nulls, and their map."""
    ids = canonical_ids(values, column, "category", nulls=True, parse=parse)
    valid = ids.is_valid().to_numpy(zero_copy_only=False)
    known = ids.drop_null()
    cat_map = IdMap.fit(known)
    numbers = np.zeros(len(ids), dtype=np.int64)
    numbers[valid] = cat_map.encode(known)[0]
    return numbers, cat_map


def _columns_of(source: Any) -> list[str]:
    if isinstance(source, pa.Table):
        return list(source.column_names)
    if isinstance(source, Mapping):
        return list(source)
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return list(source.columns)
    raise TypeError(
        f"source must be a path, a DataFrame, a pyarrow Table or a mapping of arrays, got {type(source).__name__}"
    )
