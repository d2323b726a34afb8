"""Events out of padded histories: what each row of a CTR sample file tells again is counted once."""

from __future__ import annotations

import numpy as np

#: The item number that fills a history up.
PADDING = 0


def cut_end(history: np.ndarray) -> str:
    """Which events a full history has lost: "newest" where padding stands behind the events, else "oldest".

    Libraries cut a history on the side that they pad. Where no row shows padding, "newest" is taken, which
    adds no target to a full row.

    Args:
        history: int [N, L], 0 is padding.
    """
    real = history != PADDING
    partial = real.any(axis=1) & ~real.all(axis=1)
    if not partial.any():
        return "newest"
    behind = int((partial & ~real[:, -1]).sum())
    before = int((partial & ~real[:, 0]).sum())
    return "oldest" if before > behind else "newest"


def events(
    history: np.ndarray,
    target: np.ndarray | None = None,
    user: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The events that rows of padded histories tell of, in order, each once.

    Rows of one user repeat each other: the history of a row is that of an earlier row with some events more,
    and perhaps without its oldest ones. A row that is the beginning of another one tells nothing new. Of the
    others, only the events behind the longest overlap with the end of the user's row before are new.

    Args:
        history: int [N, L], oldest event first, 0 is padding on either side.
        target: int [N], the event right behind the row's history; 0: none.
        user: int [N], whose history it is; None: unknown, and every row that is left is a sequence of its own.
        order: [N], sorts a user's rows; None: shorter histories first, and rows as they stand.

    Returns:
        (sequence, item), int64 [n] each: which sequence of events, and which item.
    """
    rows = history.astype(np.int64, copy=False)
    length = (rows != PADDING).sum(axis=1)
    if target is not None:
        rows = np.concatenate([rows, target.astype(np.int64, copy=False)[:, None]], axis=1)
    rows = _aligned(rows, left=True)
    kept = _not_beginnings(rows, user)
    rows = rows[kept]
    if user is None:
        sequence, place = np.nonzero(rows != PADDING)
        return sequence, rows[sequence, place]
    keys = (length[kept], user[kept]) if order is None else (length[kept], order[kept], user[kept])
    sorting = np.lexsort(keys)  # stable: rows that tie stay as they stand
    return _joined(_aligned(rows[sorting], left=False), user[kept][sorting])


def apart(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sequences of several columns numbered apart: an event of one does not follow one of another."""
    return [
        (np.unique(sequence, return_inverse=True)[1] * len(parts) + n, items)
        for n, (sequence, items) in enumerate(parts)
    ]


def _aligned(rows: np.ndarray, left: bool) -> np.ndarray:
    """The rows with their events moved to one side, in order."""
    real = rows != PADDING
    return np.take_along_axis(rows, np.argsort(~real if left else real, axis=1, kind="stable"), axis=1)


def _not_beginnings(rows: np.ndarray, user: np.ndarray | None) -> np.ndarray:
    """Ascending numbers of the rows that are no beginning of another row of the same user; of equal rows one."""
    keys = rows.T[::-1]
    sorting = np.lexsort(keys if user is None else [*keys, user])
    ordered = rows[sorting]
    # In this order a beginning stands right before one of the rows that go on from it.
    beginning = ((ordered[:-1] == ordered[1:]) | (ordered[:-1] == PADDING)).all(axis=1)
    if user is not None:
        beginning &= user[sorting][:-1] == user[sorting][1:]
    return np.sort(sorting[~np.append(beginning, False)]) if len(rows) else sorting


def _joined(rows: np.ndarray, user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The new events of each row, behind what overlaps with the row before; rows end at the right side."""
    new = (rows != PADDING).sum(axis=1)
    width = rows.shape[1]
    open_rows = np.flatnonzero(user[1:] == user[:-1]) + 1
    for count in range(width + 1):  # new events of a row, fewest first
        if not len(open_rows):
            break
        earlier, before = rows[open_rows, : width - count], rows[open_rows - 1, count:]
        overlaps = ((earlier == before) | (earlier == PADDING)).all(axis=1)
        new[open_rows[overlaps]] = np.minimum(count, new[open_rows[overlaps]])
        open_rows = open_rows[~overlaps]
    row, place = np.nonzero(np.arange(width) >= width - new[:, None])
    return user[row], rows[row, place]
