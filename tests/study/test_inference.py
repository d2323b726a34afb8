"""Bootstrap and Holm against cases worked out by hand, and coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from resemb_ext import metrics
from resemb_ext.study.harness.inference import bootstrap_difference, holm, user_interval


def test_holm_by_hand() -> None:
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06 and 0.04 * 1, raised to what came before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_value_is_the_difference_of_gauc_and_no_spread_gives_no_interval() -> None:
    gain = np.array([[0.1, 0.4], [0.1, 0.4]])
    found = bootstrap_difference(gain, np.array([3, 1]), draws=50)
    assert found["value"] == pytest.approx((3 * 0.1 + 0.4) / 4)
    assert found["by_seed"] == pytest.approx([0.175, 0.175])
    assert found["low"] >= 0.1 - 1e-12 and found["high"] <= 0.4 + 1e-12
    equal = bootstrap_difference(np.full((3, 20), 0.02), np.full(20, 21), draws=99)
    assert equal["low"] == pytest.approx(0.02) and equal["high"] == pytest.approx(0.02)
    assert equal["p"] == pytest.approx(2 / 100)  # no draw at or below 0


def test_draws_have_the_variance_that_users_and_seeds_give() -> None:
    """Var of the mean = users' part + seeds' part, both of drawing with replacement."""
    rng = np.random.default_rng(0)
    users, seeds = 400, 5
    gain = rng.normal(0.01, 0.2, users) + rng.normal(0, 0.01, (seeds, 1))
    found = bootstrap_difference(gain, np.full(users, 21), draws=4000)
    of_users, of_seeds = gain.mean(axis=0).var() / users, gain.mean(axis=1).var() / seeds
    expected = 2 * 1.96 * np.sqrt(of_users + of_seeds)
    assert found["high"] - found["low"] == pytest.approx(expected, rel=0.06)


@pytest.mark.full
@pytest.mark.parametrize(("seeds", "least"), [(0.005, 0.88), (0.05, 0.82)])
def test_no_difference_is_found_about_as_often_as_it_says(seeds: float, least: float) -> None:
    """Seeds that vary as much as users, 0.022 in the mean: intervals are too narrow, and only somewhat."""
    rng = np.random.default_rng(1)
    inside, rounds = 0, 200
    for number in range(rounds):
        gain = rng.normal(0, 0.2, 80) + rng.normal(0, seeds, (5, 1)) + rng.normal(0, 0.005, (5, 80))
        found = bootstrap_difference(gain, np.full(80, 21), draws=400, seed=number)
        inside += found["low"] <= 0 <= found["high"]
        assert (found["p"] < 0.05) == (not found["low"] <= 0 <= found["high"]) or (0.03 < found["p"] < 0.07)
    assert least <= inside / rounds <= 0.99


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"found \(2, 3\) and \(2,\)"):
        bootstrap_difference(np.zeros((2, 3)), np.ones(2))


def test_the_interval_over_users_covers() -> None:
    """Scores of one quality for both arms: the interval holds 0 about as often as it says."""
    rng = np.random.default_rng(1)
    hits, rounds = 0, 300
    for _ in range(rounds):
        users = np.repeat(np.arange(60), 8)
        labels = np.tile([1, 0, 0, 0, 1, 0, 0, 0], 60)
        a, b = (labels + rng.normal(size=480) for _ in range(2))
        found = user_interval(labels, [a], [b], users)
        gain = metrics.gauc(labels, b, users) - metrics.gauc(labels, a, users)
        assert found["mean"] == pytest.approx(gain, abs=1e-12) and found["n"] == 60
        hits += found["low"] <= 0 <= found["high"]
    assert 0.90 <= hits / rounds <= 0.99


def test_an_interval_without_users() -> None:
    assert user_interval([1, 1], [[0.1, 0.2]], [[0.3, 0.4]], [0, 0])["mean"] is None
    single = user_interval([1, 0], [[0.1, 0.2]], [[0.3, 0.1]], [0, 0])
    assert single["mean"] == 1 and single["low"] is None
