"""AUC, gAUC and logloss against slow references."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import mannwhitneyu, rankdata

from resemb_ext.metrics import auc, gauc, logloss, user_aucs


def slow_auc(labels, scores) -> float:
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, y in zip(scores, labels, strict=True)
        if y
        for n, z in zip(scores, labels, strict=True)
        if not z
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def slow_gauc(labels, scores, groups):
    total = weight = skipped = 0
    for group in set(groups):
        rows = [i for i, g in enumerate(groups) if g == group]
        value = slow_auc([labels[i] for i in rows], [scores[i] for i in rows])
        if math.isnan(value):
            skipped += 1
        else:
            total += len(rows) * value
            weight += len(rows)
    return (total / weight if weight else math.nan), skipped, len(groups) - weight


# Few distinct values, so that ties are common; infinities order like any number.
row = st.tuples(
    st.booleans(), st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 1e-300, 0.25, 3.0, math.inf]), st.integers(-3, 3)
)


@given(st.lists(row, max_size=40))
def test_gauc_and_auc_equal_the_slow_reference(rows):
    labels, scores, groups = ([r[i] for r in rows] for i in range(3))
    result = gauc(np.array(labels, bool), np.array(scores, float), groups, return_details=True)
    value, skipped, skipped_rows = slow_gauc(labels, scores, groups)
    assert result.value == pytest.approx(value, nan_ok=True, abs=1e-12)
    assert (result.skipped_groups, result.skipped_rows) == (skipped, skipped_rows)
    assert result.groups + skipped == len(set(groups))
    assert result.rows + skipped_rows == len(rows)
    whole = auc(np.array(labels, bool), np.array(scores, float))
    assert whole == pytest.approx(slow_auc(labels, scores), nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8])
def test_auc_with_ties_is_mann_whitney(dtype):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    scores = rng.integers(-20, 20, 3000).astype(dtype)
    positive = labels == 1
    u = mannwhitneyu(scores[positive], scores[~positive]).statistic
    ranks = rankdata(scores)
    p, n = positive.sum(), (~positive).sum()
    assert auc(labels, scores) == pytest.approx(u / (p * n), abs=1e-12)
    assert auc(labels, scores) == pytest.approx((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def test_hand_computed_gauc():
    labels = [1, 0, 0, 1, 1, 0, 1]
    scores = [0.9, 0.1, 0.9, 0.3, 0.2, 0.2, 0.7]
    groups = ["a", "a", "a", "b", "c", "c", "b"]
    # a: (1 + 1/2) / 2 of 3 rows; b: positives only; c: a tie, 2 rows.
    result = gauc(labels, scores, groups, return_details=True)
    assert result.value == pytest.approx((3 * 0.75 + 2 * 0.5) / 5)
    assert (result.groups, result.rows) == (2, 5)
    assert (result.skipped_groups, result.skipped_rows) == (1, 2)
    assert gauc(labels, scores, groups) == result.value == float(result)


def test_group_values_may_be_huge_and_sparse():
    groups = np.array([2**62, -(2**62), 2**62, -(2**62)])
    assert gauc([1, 1, 0, 0], [2.0, 1.0, 1.0, 2.0], groups) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.booleans(), st.floats(-3, 3)), min_size=2, max_size=30))
def test_auc_depends_on_the_order_of_scores_only(rows):
    labels = np.array([y for y, _ in rows])
    scores = np.array([x for _, x in rows])
    _, order = np.unique(scores, return_inverse=True)
    assert auc(labels, scores) == pytest.approx(auc(labels, order), nan_ok=True)
    assert auc(labels, scores) == pytest.approx(1 - auc(labels, -scores), nan_ok=True)
    assert auc(labels, scores) == pytest.approx(1 - auc(~labels, scores), nan_ok=True)


def test_undefined_is_nan():
    assert math.isnan(auc([1, 1], [0.1, 0.2]))
    assert math.isnan(auc([], []))
    assert math.isnan(gauc([1, 0], [0.1, 0.2], [0, 1]))
    assert math.isnan(gauc([], [], []))
    assert math.isnan(logloss([], []))


def test_logloss():
    labels, p = np.array([1, 0, 1]), np.array([0.9, 0.2, 0.5])
    want = -(np.log(0.9) + np.log(0.8) + np.log(0.5)) / 3
    assert logloss(labels, p) == pytest.approx(want)
    assert logloss(labels, np.log(p / (1 - p)), from_logits=True) == pytest.approx(want)
    assert logloss([0], [1.0]) == pytest.approx(-math.log(1e-15), rel=1e-2)
    # Where a sigmoid saturates, logits are still exact.
    assert expit(1000.0) == 1.0
    assert logloss([0, 1], [1000.0, 1000.0], from_logits=True) == pytest.approx(500.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 2], [0.1, 0.2], [0, 0]), ValueError, r"labels must be 0 or 1, got 2 at position 1"),
        (([1, 0], [0.1, math.nan], [0, 0]), ValueError, r"scores is NaN at position 1"),
        (([1, 0], [0.1], [0, 0]), ValueError, r"scores has 1 entries, labels has 2"),
        (([1, 0], [0.1, 0.2], [0]), ValueError, r"groups has 1 entries, labels has 2"),
        (([[1, 0]], [0.1, 0.2], [0, 0]), ValueError, r"labels must be one-dimensional"),
        (([1, 0], ["a", "b"], [0, 0]), TypeError, r"scores must be numbers"),
        ((["a", "b"], [0.1, 0.2], [0, 0]), TypeError, r"labels must be numbers"),
        (([1, 0], [0.1, 0.2], [0.0, math.nan]), ValueError, r"groups is NaN at position 1"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        gauc(*arguments)


def test_logloss_refuses_logits_as_probabilities():
    with pytest.raises(ValueError, match=r"probabilities, got 1.5 at position 1"):
        logloss([0, 1], [0.5, 1.5])


def test_user_aucs_agree_with_gauc():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 40, 900)
    labels = rng.random(900) < 0.2
    scores = rng.integers(0, 12, 900) / 4  # many ties
    found, rows = user_aucs(labels, scores, users)
    both = ~np.isnan(found)
    mean = (found[both] * rows[both]).sum() / rows[both].sum()
    details = gauc(labels, scores, users, return_details=True)
    assert mean == pytest.approx(details.value, abs=1e-12)
    assert both.sum() == details.groups and rows.sum() == 900
    one = users == 7
    assert found[7] == pytest.approx(auc(labels[one], scores[one]))


def test_user_aucs_of_nothing_and_of_bad_users():
    value, rows = user_aucs([], [], [])
    assert len(value) == len(rows) == 0
    with pytest.raises(ValueError, match="groups has 1 entries, labels has 2"):
        user_aucs([0, 1], [0.1, 0.2], [3])


@pytest.mark.slow
def test_a_million_rows_take_seconds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 10**6)
    scores = rng.normal(size=10**6).astype(np.float32)
    groups = rng.integers(0, 10**5, 10**6)
    began = time.process_time()
    value = gauc(labels, scores, groups)
    assert time.process_time() - began < 3
    assert value == pytest.approx(0.5, abs=0.01)
