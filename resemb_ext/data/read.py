"""Read a behaviour log from Parquet, CSV, a DataFrame or arrays."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ._arrow import canonical_ids, canonical_labels, canonical_times
from .idmap import IdMap
from .log import Log

# Names that a field's column often bears, in order of preference; case and "-" do not matter.
GUESSES: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "user", "userid", "uid", "user_idx", "reviewerid", "visitorid"),
    "item": ("item_id", "item", "itemid", "iid", "item_idx", "movie_id", "movieid", "product_id",
             "asin", "sid"),
    "time": ("timestamp", "time", "ts", "datetime", "event_time", "time_stamp", "unixreviewtime",
             "date", "order"),
    "category": ("category", "category_id", "cat_id", "cate_id", "cate", "categoryid"),
    "label": ("label", "click", "clicked", "is_click", "clk"),
}  # fmt: skip
_REQUIRED = ("user", "item", "time")


def read_log(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    category: str | Literal[False] | None = None,
    label: str | Literal[False] | None = None,
    name: str | None = None,
) -> Log:
    """Read a log, map its ids, and sort it stably by (user, time).

    Args:
        source: path of a ``.parquet`` or ``.csv`` file, a pandas DataFrame, a pyarrow Table, or a
            mapping of column names to arrays.
        user, item, time: column names; guessed from common names (``GUESSES``) where None.
        category, label: likewise, but the column may be missing; False leaves it out.
        name: name for reports (default: the file's name).

    Returns:
        The log. ``log.columns`` says which column was read as what, ``log.was_sorted`` whether
        each user's events already came in time order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: missing column (the columns found are listed), no rows, damaged file, or a
            null, fractional or otherwise bad entry (its row is named).
        TypeError: a column whose type cannot be what it is read as.
    """
    wanted = {"user": user, "item": item, "time": time, "category": category, "label": label}
    if isinstance(source, str | Path):
        path = Path(source)
        name = name or path.stem
        table, columns, parse = _read_file(path, wanted)
    else:
        name = name or "log"
        table, columns = _from_memory(source, wanted)
        parse = False

    lengths = {field: len(table[field]) for field in columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of {name!r} differ in length: {lengths}")
    if not lengths["user"]:
        raise ValueError(f"{name!r} has no rows; a log needs at least one event")

    def mapped(field: str, first: int) -> tuple[np.ndarray, IdMap]:
        ids = canonical_ids(table[field], columns[field], f"{field} id", parse=parse)
        ids_map = IdMap.fit(ids, first=first)
        return ids_map.encode(ids)[0], ids_map

    users, user_map = mapped("user", 0)
    items, item_map = mapped("item", 1)
    times = canonical_times(table["time"], columns["time"])
    cats, cat_map = None, None
    if "category" in columns:
        cats, cat_map = _categories(table["category"], columns["category"], parse)
    labels = canonical_labels(table["label"], columns["label"]) if "label" in columns else None
    return Log.from_arrays(
        users,
        items,
        times,
        category=cats,
        label=labels,
        users=user_map,
        items=item_map,
        categories=cat_map,
        name=name,
        columns=columns,
    )


def _categories(values: Any, column: str, parse: bool) -> tuple[np.ndarray, IdMap]:
    """Category numbers with 0 for nulls, and their map."""
    ids = canonical_ids(values, column, "category", nulls=True, parse=parse)
    valid = ids.is_valid().to_numpy(zero_copy_only=False)
    known = ids.drop_null()
    cat_map = IdMap.fit(known)
    numbers = np.zeros(len(ids), dtype=np.int64)
    numbers[valid] = cat_map.encode(known)[0]
    return numbers, cat_map


def resolve_columns(
    available: list[str], wanted: Mapping[str, str | Literal[False] | None], source: str
) -> dict[str, str]:
    """Which source column feeds which field.

    Raises:
        ValueError: a named column is missing, a required one cannot be guessed, or one column
            would feed two fields; the message lists the columns found.
    """
    listing = f"{source} has the columns: {', '.join(map(str, available)) or '(none)'}"
    plain = {}
    for column in reversed(available):
        plain[str(column).lower().replace("-", "_")] = column
    chosen: dict[str, str] = {}
    for field, given in wanted.items():
        if given is False:
            continue
        if given is not None:
            if given not in available:
                raise ValueError(f"no column {given!r} (given as {field}=); {listing}")
            chosen[field] = given
            continue
        guess = next((plain[g] for g in GUESSES[field] if g in plain), None)
        if guess is not None and guess not in wanted.values():
            chosen[field] = guess
        elif field in _REQUIRED:
            raise ValueError(
                f"cannot guess the {field} column: pass {field}=<column name> "
                f"(known names: {', '.join(GUESSES[field])}); {listing}"
            )
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"one column cannot feed two fields: {chosen}; {listing}")
    doubled = sorted({c for c in chosen.values() if available.count(c) > 1})
    if doubled:
        raise ValueError(f"column name {doubled[0]!r} occurs more than once; {listing}")
    return chosen


def _from_memory(source: Any, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    if isinstance(source, pa.Table):
        available = list(source.column_names)
    elif isinstance(source, Mapping):
        available = list(source)
    elif hasattr(source, "columns") and hasattr(source, "__getitem__"):
        available = list(source.columns)
    else:
        raise TypeError(
            "source must be a path, a DataFrame, a pyarrow Table or a mapping of arrays, got "
            f"{type(source).__name__}"
        )
    columns = resolve_columns(available, wanted, "the data")
    return {field: source[column] for field, column in columns.items()}, columns


def _read_file(
    path: Path, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str], bool]:
    """Columns by field, their names, and whether text may spell integers (CSV)."""
    if not path.exists():
        raise FileNotFoundError(f"no log at {str(path)!r}")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".pq", ".csv"):
        raise ValueError(f"cannot read {str(path)!r}: expected a .parquet or .csv file")
    if not path.is_file():
        raise ValueError(f"cannot read {str(path)!r}: it is not a file")
    try:
        if suffix == ".csv":
            columns, table = _read_csv(path, wanted)
        else:
            with pa.parquet.ParquetFile(path) as file:
                columns = resolve_columns(file.schema_arrow.names, wanted, path.name)
                table = file.read(columns=list(columns.values()))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {str(path)!r}: {_one_line(error)}") from None
    return {f: table[c] for f, c in columns.items()}, columns, suffix == ".csv"


def _read_csv(path: Path, wanted: Mapping[str, Any]) -> tuple[dict[str, str], pa.Table]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        header = next(csv.reader(file), [])
    columns = resolve_columns(header, wanted, path.name)
    # Ids are read as text first: type inference would turn "007" into 7 and ids beyond int64 into
    # floats that collide.
    text = {columns[f]: pa.string() for f in ("user", "item", "category") if f in columns}
    options = pa.csv.ConvertOptions(
        include_columns=list(columns.values()), column_types=text, strings_can_be_null=True
    )
    # One thread, because only then does a parse error know its row.
    return columns, pa.csv.read_csv(
        path, pa.csv.ReadOptions(use_threads=False), convert_options=options
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
