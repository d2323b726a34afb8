"""Intervals over seeds."""

import math

import pytest
from scipy import stats

from resemb_ext.train import paired_difference


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
