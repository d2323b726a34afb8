"""Intervals over seeds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resemb_ext.testing.strategies import examples
from resemb_ext.train import paired_difference
from resemb_ext.train.statistics import UNDEFINED, shown, shown_interval, shown_spread, spread


def test_interval_agrees_with_scipy():
    plain_arm, res_arm = [0.61, 0.63, 0.60, 0.64], [0.64, 0.65, 0.66, 0.65]
    got = paired_difference(plain_arm, res_arm)
    test = stats.ttest_rel(res_arm, plain_arm)
    low, high = test.confidence_interval(0.95)
    assert math.isclose(got["mean"], 0.03) and got["n"] == 4
    assert math.isclose(got["low"], low, rel_tol=1e-9)
    assert math.isclose(got["high"], high, rel_tol=1e-9)


def test_one_seed_has_no_interval():
    got = paired_difference([0.5], [0.75])
    assert (got["mean"], got["low"], got["high"], got["n"]) == (0.25, None, None, 1)


@pytest.mark.parametrize(("first", "second"), [([1.0], []), ([], []), ([1.0, 2.0], [1.0])])
def test_pairs_must_match(first, second):
    with pytest.raises(ValueError, match="paired values"):
        paired_difference(first, second)


VALUES = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.floats(-1e6, 1e6))


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
@examples(100)
def test_what_is_computed_from_an_undefined_value_is_undefined(pairs):
    first, second = zip(*pairs, strict=True)
    got, one = paired_difference(first, second), spread(first)
    whole = all(value is not None and math.isfinite(value) for value in (*first, *second))
    assert got["n"] == len(pairs) and (got["mean"] is None) == (not whole)
    assert (got["low"] is None) == (got["high"] is None) == (not whole or len(pairs) == 1)
    if all(value is not None and math.isfinite(value) for value in first):
        assert math.isclose(one["mean"], sum(first) / len(first), rel_tol=1e-9, abs_tol=1e-6)
    else:
        assert one == {"mean": None, "std": None}
    for text in (shown_spread(one), shown_interval(got), shown(first[0])):
        assert not any(word in text for word in ("nan", "None", "inf"))
    assert (shown_spread(one) == UNDEFINED) == (one["mean"] is None)
    assert (shown_interval(got) == UNDEFINED) == (got["mean"] is None)
