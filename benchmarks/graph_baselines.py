"""The graph of ``benchmarks.graph`` by scipy.sparse, polars and duckdb, each in its fastest form found.

A method reads the Parquet file and returns the kept rows in the form that comes natural to it; ``rows_of``
turns any of them into (row, neighbour, count) arrays, outside the timing. Keys hold an item in 20 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ITEMS, WINDOW, TOP_K = 1_000_000, 5, 20
BITS = 20
LAST = (1 << BITS) - 1  # >= ITEMS - 1


class Packed(NamedTuple):
    """Kept entries: the row, and count << BITS | LAST - neighbour, which orders as rows rank them."""

    row: np.ndarray
    key: np.ndarray


def rows_of(found: Packed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, neighbour and count of every kept entry."""
    key = found.key.astype(np.int64)
    return found.row.astype(np.int64), LAST - (key & LAST), key >> BITS


def scipy(path: Path) -> Packed:
    """Items x events times events x next items: a product of sparse matrices, without a list of pairs."""
    import pyarrow.parquet as pq
    from scipy.sparse import csr_array

    table = pq.read_table(path)
    user, item, stamp = (table[name].to_numpy() for name in ("user_id", "item_id", "timestamp"))
    del table
    size = len(user)
    place = np.arange(size, dtype=np.int32)
    if (stamp[1:] >= stamp[:-1]).all() and user.min() >= 0 and user.max() < size:
        # In time order: the counting sort that makes rows of a matrix sorts by user.
        order = csr_array((place, (user.astype(np.int32), place)), shape=(size, size)).data
    else:
        order = np.lexsort((stamp, user))
    user, item = user[order].astype(np.int32), item[order].astype(np.int32)
    del stamp, order
    after = np.empty((size, WINDOW), np.int32)
    near = np.zeros((size, WINDOW), bool)
    for gap in range(1, WINDOW + 1):
        after[:-gap, gap - 1] = item[gap:]
        near[:-gap, gap - 1] = (user[gap:] == user[:-gap]) & (item[gap:] != item[:-gap])
    starts = np.zeros(size + 1, np.int32)
    np.cumsum(near.sum(1, dtype=np.int32), out=starts[1:])
    after = after[near]
    ahead = csr_array((np.ones(len(after), np.int32), after, starts), shape=(size, ITEMS))
    events = csr_array((np.ones(size, np.int32), item, np.arange(size + 1, dtype=np.int32)), shape=(size, ITEMS))
    forward = events.T.tocsr() @ ahead
    del near, after, ahead, events
    # Transposing sorts the rows, and sorted rows add faster.
    back = forward.T.tocsr()
    counts = back.T.tocsr() + back
    return heaviest(counts.indptr, counts.indices, counts.data)


def heaviest(indptr: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> Packed:
    """The top_k of every CSR row: rows of like length side by side, partitioned."""
    kind: Any = np.uint32 if counts.max(initial=0) < 1 << (32 - BITS) else np.uint64
    key = counts.astype(kind) << kind(BITS) | (kind(LAST) - ids.astype(kind))
    length = np.diff(indptr)
    short = length <= TOP_K
    row = np.repeat(np.arange(len(length), dtype=np.int32), np.where(short, length, 0))
    rows, keys = [row], [key[np.repeat(short, length)]]
    order = np.flatnonzero(~short)
    order = order[np.argsort(length[order], kind="stable")]
    at = 0
    while at < len(order):
        most = int(length[order[at]] * 1.2) + 4
        end = int(np.searchsorted(length[order], most, side="right"))
        part = order[at : min(end, at + max(1, (1 << 21) // most))]
        wide = int(length[part[-1]])
        place = indptr[part][:, None] + np.arange(wide, dtype=indptr.dtype)
        block = key[np.minimum(place, len(key) - 1)]
        block[np.arange(wide) >= length[part][:, None]] = 0
        block = np.partition(block, wide - TOP_K, axis=1)[:, wide - TOP_K :]
        rows.append(np.repeat(part.astype(np.int32), TOP_K))
        keys.append(block.ravel())
        at += len(part)
    return Packed(np.concatenate(rows), np.concatenate(keys))


def polars(path: Path) -> Any:
    """Pairs as sorted integers and their run lengths, then one sort of packed (row, count, id)."""
    import polars as pl

    log = pl.read_parquet(path)
    log = log.sort("user_id", maintain_order=True) if log["timestamp"].is_sorted() else log.sort("user_id", "timestamp")
    events = log.lazy().select("user_id", pl.col("item_id").cast(pl.UInt64).alias("i"))
    del log
    same = [pl.col("user_id") == pl.col("user_id").shift(gap) for gap in range(1, WINDOW + 1)]
    pairs = []
    for gap in range(1, WINDOW + 1):
        other = pl.col("i").shift(gap)
        pair = pl.min_horizontal("i", other) * (LAST + 1) + pl.max_horizontal("i", other)
        pairs.append(
            events.select(pl.when(same[gap - 1] & (pl.col("i") != other)).then(pair).alias("pair")).drop_nulls()
        )
    runs = pl.concat(pairs).select(pl.col("pair").sort().rle()).unnest("pair").collect()
    low, high = pl.col("value") % (LAST + 1), pl.col("value") // (LAST + 1)
    count = pl.col("len").cast(pl.UInt64) * (LAST + 1) + LAST
    # Counts stay below 2^24.
    both = [
        runs.lazy().select((high * (1 << 44) + count - low).alias("key")),
        runs.lazy().select((low * (1 << 44) + count - high).alias("key")),
    ]
    ranked = pl.concat(both).select(pl.col("key").sort(descending=True)).collect()
    row = pl.col("key") // (1 << 44)
    first = pl.when(row != row.shift(1)).then(pl.col("at")).forward_fill().fill_null(0)
    return (
        ranked.with_row_index("at")
        .lazy()
        .filter(pl.col("at") - first < TOP_K)
        .select(row.alias("row"), (pl.col("key") % (1 << 44)).alias("key"))
        .collect()
    )


def duckdb(path: Path) -> dict[str, np.ndarray]:
    """Pairs in ascending order grouped once, mirrored, and aggregated by max(key, top_k)."""
    import duckdb as db

    gaps = range(1, WINDOW + 1)
    leads = ", ".join(f"lead(item, {gap}) over users as j{gap}" for gap in gaps)
    size = LAST + 1
    query = f"""
        with near as materialized (
            select item, {leads} from
            (select user_id, timestamp, item_id::integer as item from read_parquet('{path}'))
            window users as (partition by user_id order by timestamp)),
        half as materialized (
            select least(item, j)::bigint * {size} + greatest(item, j) as pair, count(*) as n
            from (select item, unnest([{", ".join(f"j{gap}" for gap in gaps)}]) as j from near)
            where j <> item group by pair),
        counts as (
            select (pair // {size})::integer as i, n * {size} + {LAST} - pair % {size} as key from half
            union all
            select (pair % {size})::integer as i, n * {size} + {LAST} - pair // {size} as key from half)
        select i as row, unnest(max(key, {TOP_K})) as key from counts group by i"""
    return db.connect(config={"threads": 2}).execute(query).fetchnumpy()
