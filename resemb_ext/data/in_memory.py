"""Tables that are already in memory: DataFrames, Arrow tables, mappings of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def collected(source: Any) -> Any:
    """The source; one of polars as an Arrow table, a LazyFrame after it was run."""
    if type(source).__module__.partition(".")[0] != "polars":
        return source
    frame = source.collect() if type(source).__name__ == "LazyFrame" else source
    return frame.to_arrow() if hasattr(frame, "to_arrow") and hasattr(frame, "columns") else source


def columns_of(source: Any) -> list[str]:
    """Names of the columns.

    Raises:
        TypeError: the source is no table.
    """
    if isinstance(source, pa.Table):
        return list(source.column_names)
    if isinstance(source, Mapping):
        return list(source)
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return list(source.columns)
    raise TypeError(
        f"source must be a path, a DataFrame, a pyarrow Table or a mapping of arrays, got {type(source).__name__}"
    )
