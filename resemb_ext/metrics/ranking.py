"""AUC, grouped AUC and logloss, vectorised and exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np


@dataclass(frozen=True)
class GroupAUC:
    """gAUC and what it left out.

    Attributes:
        value: sum over groups with both classes of n_g AUC_g, over the sum of n_g; NaN if none.
        groups, rows: groups and rows that count.
        skipped_groups, skipped_rows: groups with one class only, and their rows.
    """

    value: float
    groups: int
    rows: int
    skipped_groups: int
    skipped_rows: int

    def __float__(self) -> float:
        return self.value


def _vector(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array


def _labels(values: Any) -> np.ndarray:
    array = _vector(values, "labels")
    if array.dtype == bool:
        return array.astype(np.int64)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"labels must be numbers or booleans, got dtype {array.dtype}")
    bad = np.flatnonzero((array != 0) & (array != 1))
    if len(bad):
        raise ValueError(f"labels must be 0 or 1, got {array[bad[0]]} at position {bad[0]}")
    return array.astype(np.int64)


def _scores(values: Any, rows: int, name: str = "scores") -> np.ndarray:
    array = _vector(values, name)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name} must be numbers, got dtype {array.dtype}")
    if len(array) != rows:
        raise ValueError(f"{name} has {len(array)} entries, labels has {rows}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"{name} is NaN at position {np.flatnonzero(np.isnan(array))[0]}")
    return array


def _groups(values: Any, rows: int) -> np.ndarray:
    group = _vector(values, "groups")
    if len(group) != rows:
        raise ValueError(f"groups has {len(group)} entries, labels has {rows}")
    if group.dtype.kind == "f" and np.isnan(group).any():
        raise ValueError(f"groups is NaN at position {np.flatnonzero(np.isnan(group))[0]}")
    return group


def _dense_ranks(values: np.ndarray) -> np.ndarray:
    """Each value's rank among the distinct values, from 0: int64 [n]."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low < 4 * len(values):
            # A compact integer range needs no sort.
            codes = values.astype(np.int64) - low
            present = np.bincount(codes, minlength=high - low + 1) > 0
            return (np.cumsum(present) - 1)[codes]
    order = np.argsort(values, kind="stable" if values.dtype.kind == "O" else None)
    ordered = values[order]
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.cumsum(np.concatenate(([0], ordered[1:] != ordered[:-1])))
    return ranks


def _group_auc(labels: np.ndarray, ranks: np.ndarray, groups: np.ndarray) -> Any:
    """Rows, positives and twice the Mann-Whitney count of each group (exact integers)."""
    levels = int(ranks.max()) + 1
    # One sort of plain integers: group, then score, then label in the last bit.
    key = (groups * np.int64(levels) + ranks) * 2 + labels
    key.sort()
    label, block = key & 1, key >> 1
    first = np.flatnonzero(np.concatenate(([True], block[1:] != block[:-1])))
    size = np.diff(np.append(first, len(key)))
    positive = np.add.reduceat(label, first)
    negative = size - positive
    group = block[first] // levels
    before = np.cumsum(negative) - negative
    head = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    before -= np.repeat(before[head], np.diff(np.append(head, len(group))))
    # A positive beats the negatives below it and half of those that tie with it.
    wins = np.add.reduceat(positive * (2 * before + negative), head)
    return np.add.reduceat(size, head), np.add.reduceat(positive, head), wins


def auc(labels: Any, scores: Any) -> float:
    """Area under the ROC curve (Mann-Whitney); ties count 1/2.

    Args:
        labels: 0/1 or booleans [n].
        scores: numbers [n]; infinities are allowed. Pass logits: sigmoids in float32 tie at 1.

    Returns:
        The AUC, or NaN unless both classes occur.

    Raises:
        ValueError: shapes differ, labels other than 0/1, NaN scores (the position is named).
        TypeError: not numbers.
    """
    return gauc(labels, scores, np.zeros(len(np.asarray(labels)), dtype=np.int64))


@overload
def gauc(labels: Any, scores: Any, groups: Any, *, return_details: Literal[False] = False) -> float: ...
@overload
def gauc(labels: Any, scores: Any, groups: Any, *, return_details: Literal[True]) -> GroupAUC: ...
def gauc(labels: Any, scores: Any, groups: Any, *, return_details: bool = False) -> float | GroupAUC:
    """AUC within groups (users), averaged by their number of rows (Zhou et al. 2018, DIN).

    Sum over groups with both classes of n_g AUC_g, over the sum of n_g, where n_g counts rows.
    Ties count 1/2.

    Args:
        labels: 0/1 or booleans [n].
        scores: numbers [n].
        groups: the group of each row [n], any sortable type.
        return_details: return a ``GroupAUC`` with the skipped groups and rows.

    Returns:
        gAUC, NaN if no group has both classes.

    Raises:
        ValueError, TypeError: as ``auc``.
    """
    label = _labels(labels)
    score = _scores(scores, len(label))
    group = _groups(groups, len(label))
    if not len(label):
        result = GroupAUC(float("nan"), 0, 0, 0, 0)
        return result if return_details else result.value
    codes = _dense_ranks(group)
    ranks = _dense_ranks(score)
    rows, positives, wins = _group_auc(label, ranks, codes)
    pairs = positives * (rows - positives)
    both = pairs > 0
    used = int(rows[both].sum())
    value = float("nan")
    if used:
        value = float((rows[both] * (wins[both] / (2.0 * pairs[both]))).sum() / used)
    result = GroupAUC(value, int(both.sum()), used, int((~both).sum()), int(rows.sum()) - used)
    return result if return_details else result.value


def user_aucs(labels: Any, scores: Any, users: Any) -> tuple[np.ndarray, np.ndarray]:
    """Each user's AUC and number of rows, what ``gauc`` averages; ties count 1/2.

    Args:
        labels, scores, users: as in ``gauc``.

    Returns:
        float64 [U] and int64 [U], users ascending; the AUC is NaN where one class is missing.

    Raises:
        ValueError, TypeError: as ``gauc``.
    """
    label = _labels(labels)
    score = _scores(scores, len(label))
    codes = _dense_ranks(_groups(users, len(label)))
    if not len(label):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    ranks = _dense_ranks(score)
    rows, positives, wins = _group_auc(label, ranks, codes)
    pairs = positives * (rows - positives)
    value = np.full(len(rows), np.nan)
    np.divide(wins, 2.0 * pairs, out=value, where=pairs > 0)
    return value, rows


def logloss(labels: Any, scores: Any, *, from_logits: bool = False) -> float:
    """Mean negative log likelihood of 0/1 labels, in nats.

    Args:
        labels: 0/1 or booleans [n].
        scores: probabilities [n], or logits with ``from_logits``. Probabilities are clipped to
            [1e-15, 1 - 1e-15]; logits are not clipped.
        from_logits: scores are logits (exact for large ones, where sigmoids saturate).

    Returns:
        The loss, NaN for no rows.

    Raises:
        ValueError: as ``auc``, or a probability outside [0, 1].
    """
    label = _labels(labels).astype(np.float64)
    score = _scores(scores, len(label)).astype(np.float64)
    if not len(label):
        return float("nan")
    if from_logits:
        sign = np.where(label == 1, -score, score)
        return float(np.logaddexp(0.0, sign).mean())
    bad = np.flatnonzero((score < 0) | (score > 1))
    if len(bad):
        raise ValueError(
            f"scores must be probabilities, got {score[bad[0]]} at position {bad[0]} (pass from_logits=True for logits)"
        )
    p = np.clip(score, 1e-15, 1 - 1e-15)
    return float(-np.where(label == 1, np.log(p), np.log1p(-p)).mean())
