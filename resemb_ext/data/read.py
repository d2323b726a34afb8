"""Read a behaviour log from files, a DataFrame or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from resemb_ext.runtime.frames import Frame, open_frame

from .arrow import BadEntry, as_arrow, canonical_ids, canonical_labels, missing
from .clocks import look_at
from .columns import Columns, guesses_among, list_names, resolve_columns
from .conditions import rows_where
from .faults import NullEntry
from .files import open_source
from .findings import WARNING, Finding, left_out, warn
from .idmap import IdMap
from .kinds import name_of
from .known_ids import given_maps, numbered_by, without_unseen
from .log import Log
from .sessions import number_sessions, sessions_by_gap
from .source import Source
from .times import canonical_times


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
    delimiter: str | None = None,
    drop_null: bool = False,
    where: Mapping[str, Any] | None = None,
    users: IdMap | None = None,
    items: IdMap | None = None,
    unseen: Literal["append", "drop", "refuse"] = "append",
    name: str | None = None,
) -> Log:
    """Read a log, map its ids, and sort it stably by (user, time).

    Args:
        source: path of a ``.parquet``, ``.csv``, ``.tsv``, ``.txt``, RecBole ``.inter``, MovieLens ``.dat``
            (``user::item::rating::time``) or ``.json``/``.jsonl`` file (an object a line), all but
            Parquet also compressed (``.gz``, ``.bz2``, ``.zst``); of a folder of such files, the parts of
            one log. Or data in memory or of a query: a mapping of column names to arrays; a DataFrame of
            pandas, polars (also lazy) or Spark; a DuckDB relation; a pyarrow Table, Dataset or
            RecordBatchReader; another object with ``__arrow_c_stream__``. Only the columns that are needed
            are computed, once.
        user, item, time: column names; guessed from common names (``GUESSES``) where None.
        category, label, session: likewise, but the column may be missing; False leaves it out. A guessed
            category that cannot be read is left out with a warning.
        session_gap: instead of a session column: a session ends where the user's next event is
            more than this later, in the times' unit (seconds for dates and timestamps).
        header: column names of a text file without a header line.
        delimiter: what parts a text file's values: one character, or twice the same. Without it that of the
            suffix, or another of ``,``, ``;``, ``|``, ``::``, tab and blank where the first lines leave no doubt.
        drop_null: leave out rows without a user, item, time, label or session: null, NaN or empty text.
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
        DataWarning: a value of ``where`` that no row has (an error where none of them occurs). Rows that
            ``drop_null`` leaves out. Quoted values that hold line ends. Ids with blanks around them, or
            words for nulls among numbers. Times that mix units, are 0 among Unix times, are dates
            written as digits (20220430), seem to be of a day, or are floats too large for single units.
            Files of a folder that are no parts.
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
    frame: Frame | None = None
    extra = list(where or ())
    if isinstance(source, str | Path):
        file = open_source(Path(source), header, delimiter)
        name, available = name or name_of(file.path), file.names
        columns = resolve_columns(available, wanted, file.path.name, hint=file.hint)
        _need(extra, available, file.path.name)
        columns, table, findings = _read_file(file, columns, extra)
    else:
        if header is not None:
            raise ValueError("header is for text files; rename the columns of the data instead")
        if delimiter is not None:
            raise ValueError("delimiter is for text files, found data in memory")
        frame = open_frame(source, "source", "a path, ")
        name, available, findings = name or "log", frame.names, []
        columns = resolve_columns(available, wanted, "the data")
        _need(extra, available, "the data")
        used = list(dict.fromkeys((*columns.by_field.values(), *extra)))
        frame.check(used)
        table = frame.columns(used)
    columns, fields = _arrays(table, columns, findings)
    filters = {c: table[c] for c in extra}
    lengths = {field: len(values) for field, values in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of {name!r} differ in length: {lengths}")
    rows: np.ndarray | None = None
    if where:
        rows, found = rows_where(filters, where, name)
        findings += found
        fields = {field: array.take(rows) for field, array in fields.items()}
    if drop_null:
        fields, kept, found = _without_nulls(fields, columns.by_field)
        rows = kept if rows is None else rows[kept]
        findings += found
    if not len(fields["user"]):
        spent = "" if frame is None or not frame.once else "; a RecordBatchReader gives its rows once"
        raise ValueError(f"{name!r} has no rows; a log needs at least one event{spent}")
    try:
        log = _make(fields, columns, name, maps, unseen, findings, session_gap, file is not None and file.text)
    except BadEntry as bad:
        if isinstance(bad, NullEntry):
            bad.fault += f"; {file.lacking[bad.column]}" if file is not None and bad.column in file.lacking else ""
            bad.fault += "; drop_null=True (--drop-null) leaves such rows out"
        elif bad.column == columns.by_field["time"] and "time" in columns.guessed:
            bad.fault += "; the column was guessed: time= or --time-column names another"
        bad.fault += _way_out(bad.column, columns)
        row = bad.row if rows is None else int(rows[bad.row])
        if file is None or file.place is None:
            raise bad.at(row) from None
        raise ValueError(f"{file.place(row)}, {bad.what}") from None
    clock = columns.by_field["time"]
    remark, of_times = look_at(log.time, clock, [c for c in guesses_among(available, "time") if c != clock])
    # A file that is read twice says twice what it found.
    findings = list(dict.fromkeys([*(() if file is None else file.findings), *findings, *of_times]))
    warn(name, findings)
    return replace(log, findings=tuple(findings), remarks={} if remark is None else {"time": remark})


def _way_out(column: str, columns: Columns) -> str:
    """What to do about an optional column that cannot be what it was taken for."""
    field = next((f for f in ("label", "session", "category") if columns.by_field.get(f) == column), None)
    if field is None:
        return ""
    guessed = "the column was guessed: " if field in columns.guessed else ""
    return f"; {guessed}{field}=False (--{field}-column -) leaves it out, --{field}-column names another"


def _read_file(file: Source, columns: Columns, extra: Sequence[str]) -> tuple[Columns, pa.Table, list[Finding]]:
    """The columns of a file, without a guessed category that cannot be read."""
    try:
        return columns, file.read(list(dict.fromkeys((*columns.by_field.values(), *extra)))), []
    except ValueError as error:
        if "category" not in columns.guessed or columns.by_field["category"] in extra:
            raise
        columns, guess = columns.without("category"), left_out(error)
        return columns, file.read(list(dict.fromkeys((*columns.by_field.values(), *extra)))), [guess]


def _arrays(table: Any, columns: Columns, findings: list[Finding]) -> tuple[Columns, dict[str, pa.Array]]:
    """The fields as Arrow arrays, without a guessed category that is of no one type."""
    arrays = {}
    for field, column in columns.by_field.items():
        try:
            arrays[field] = as_arrow(table[column], column)
        except (ValueError, TypeError) as error:
            if field != "category" or field not in columns.guessed:
                raise type(error)(f"{error}{_way_out(column, columns)}") from None
            findings.append(left_out(error))
            columns = columns.without(field)
    return columns, arrays


def _need(names: Sequence[str], available: Sequence[str], source: str) -> None:
    for column in names:
        if column not in available:
            raise ValueError(
                f"no column {column!r} (given in where); {source} has the columns: {list_names(available)}"
            )


def _without_nulls(
    arrays: Mapping[str, pa.Array], names: Mapping[str, str]
) -> tuple[dict[str, pa.Array], np.ndarray, tuple[Finding, ...]]:
    """The fields' rows that lack nothing but perhaps a category, their positions, and what was left out."""
    # A word for null may be an id, but no time and no label.
    lacking = {f: missing(array, f in ("time", "label")) for f, array in arrays.items() if f != "category"}
    bad = np.logical_or.reduce(list(lacking.values()))
    kept = np.flatnonzero(~bad)
    if not bad.any():
        return dict(arrays), kept, ()
    parts = ", ".join(
        f"{mask.sum():,} without {field} ({names[field]!r})" for field, mask in lacking.items() if mask.any()
    )
    found = Finding(WARNING, "null rows", f"{bad.sum():,} of {len(bad):,} rows are not whole: {parts}", "left out")
    return {field: array.take(kept) for field, array in arrays.items()}, kept, (found,)


def _make(
    fields: Mapping[str, Any],
    columns: Columns,
    name: str,
    maps: Mapping[str, IdMap],
    unseen: str,
    findings: list[Finding],
    session_gap: float | None,
    parse: bool,
) -> Log:
    names = columns.by_field

    def mapped(field: str, first: int) -> tuple[np.ndarray, IdMap]:
        known = maps.get(field)
        as_text = known is not None and known.kind == "text"
        ids = canonical_ids(fields[field], names[field], f"{field} id", parse=parse and not as_text, findings=findings)
        if known is not None:
            return numbered_by(known, ids, names[field], field, unseen, findings)
        ids_map = IdMap.fit(ids, first=first)
        return ids_map.encode(ids)[0], ids_map

    users, user_map = mapped("user", 0)
    items, item_map = mapped("item", 1)
    times = canonical_times(fields["time"], names["time"], findings)
    cats, cat_map = None, None
    if "category" in fields:
        try:
            cats, cat_map = _categories(fields["category"], names["category"], parse, findings)
        except (ValueError, TypeError) as error:
            if "category" not in columns.guessed:
                raise
            findings.append(left_out(error))
            columns = columns.without("category")
            names = columns.by_field
    labels = None
    if "label" in fields:
        try:
            labels = canonical_labels(fields["label"], names["label"])
        except TypeError as error:
            raise TypeError(f"{error}{_way_out(names['label'], columns)}") from None
    session = mapped("session", 0)[0] if "session" in fields else None
    arrays: dict[str, Any] = {
        "user": users,
        "item": items,
        "time": times.values,
        "exact_time": times.exact,
        "category": cats,
        "label": labels,
        "session": session,
    }
    if maps and unseen == "drop":
        arrays = without_unseen(arrays, user_map, item_map, name, findings)
    log = Log.from_arrays(
        **arrays,
        users=user_map,
        items=item_map,
        categories=cat_map,
        name=name,
        columns=names,
        guessed=columns.guessed,
        ticks_per_second=times.per_second,
    )
    if session_gap is not None:
        # Whole ticks: seconds with a fraction are rounded, and so are their differences.
        ticks, scale = (log.exact_time, log.ticks_per_second) if log.ticks_per_second else (log.time, 1)
        return replace(log, session=sessions_by_gap(log.user, ticks, session_gap * scale))
    if session is None:
        return log
    assert log.session is not None
    return replace(log, session=number_sessions(log.user, log.session))


def _categories(values: Any, column: str, parse: bool, findings: list[Finding]) -> tuple[np.ndarray, IdMap]:
    """Category numbers with 0 for nulls, and their map."""
    ids = canonical_ids(values, column, "category", nulls=True, parse=parse, findings=findings)
    valid = ids.is_valid().to_numpy(zero_copy_only=False)
    known = ids.drop_null()
    if not len(known):
        fault = f"column {column!r} is empty"
        findings.append(Finding(WARNING, "category", fault, "every item has none; name another with --category-column"))
    cat_map = IdMap.fit(known)
    numbers = np.zeros(len(ids), dtype=np.int64)
    numbers[valid] = cat_map.encode(known)[0]
    return numbers, cat_map
