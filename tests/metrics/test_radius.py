"""The aggregation radius against its definition."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.metrics import aggregation_radius


def slow(table, domain, seen, min_items):
    members: dict[int, list[np.ndarray]] = {}
    for item, group in enumerate(domain):
        if group >= 0 and seen[item] > 0:
            members.setdefault(int(group), []).append(np.asarray(table[item], dtype=np.float64))
    members = {g: rows for g, rows in members.items() if len(rows) >= min_items}
    centres = [np.mean(rows, axis=0) for rows in members.values()]
    radii = [np.mean([np.linalg.norm(x - c) for x in rows]) for rows, c in zip(members.values(), centres, strict=True)]
    apart = [np.linalg.norm(a - b) for a, b in combinations(centres, 2)]
    return radii, float(np.mean(apart)) if apart else math.nan


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 40), st.integers(1, 4))
def test_equals_the_definition(seed, dim, items, min_items):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(items, dim)).astype(np.float32)
    domain = rng.integers(-1, 4, items)
    seen = rng.integers(0, 3, items)
    result = aggregation_radius(table, domain, seen=seen, min_items=min_items)
    radii, separation = slow(table, domain, seen, min_items)
    assert result.domains == len(radii)
    assert result.separation == pytest.approx(separation, nan_ok=True, rel=1e-6)
    if radii:
        assert result.mean == pytest.approx(np.mean(radii), rel=1e-6, abs=1e-9)
        assert result.p95 == pytest.approx(np.quantile(radii, 0.95), rel=1e-6, abs=1e-9)
        assert result.max == pytest.approx(np.max(radii), rel=1e-6, abs=1e-9)
    else:
        assert math.isnan(result.mean)
        assert math.isnan(result.normalised)
        assert result.items == 0


def test_hand_computed():
    # Two pairs of points at distance 2, their centres 10 apart.
    table = np.array([[9.0, 9.0], [0, 1], [0, -1], [10, 1], [10, -1], [99, 99]])
    domain = np.array([-1, 0, 0, 1, 1, 1])
    seen = np.array([5, 1, 1, 2, 1, 0])
    result = aggregation_radius(table, domain, seen=seen, min_items=2, domain_source="hand")
    assert (result.mean, result.p95, result.max) == (1.0, 1.0, 1.0)
    assert result.separation == pytest.approx(10)
    assert result.ratio == pytest.approx(0.1)
    assert (result.domains, result.items, result.domain_source) == (2, 4, "hand")
    # Of the three ways to pair four points, one puts both centres on one spot: no ratio there.
    assert math.isnan(result.normalised)
    assert result.to_dict()["domain_source"] == "hand"


def test_normalised_is_one_for_noise_and_small_for_clusters():
    rng = np.random.default_rng(0)
    domain = rng.integers(0, 20, 1000)
    noise = rng.normal(size=(1000, 16))
    assert aggregation_radius(noise, domain).normalised == pytest.approx(1, abs=0.05)
    clusters = noise * 0.1 + rng.normal(size=(20, 16))[domain]
    tight = aggregation_radius(clusters, domain)
    assert tight.normalised < 0.05
    # Neither scale nor a common shift matters, and the seed decides.
    moved = aggregation_radius(clusters * 7 + 1000, domain)
    assert moved.normalised == pytest.approx(tight.normalised, rel=1e-6)
    assert aggregation_radius(clusters, domain) == tight
    assert aggregation_radius(clusters, domain, seed=1) != tight


def test_one_domain_has_a_radius_but_no_ratio():
    result = aggregation_radius(np.eye(6), np.zeros(6, dtype=int))
    assert result.mean > 0
    assert result.domains == 1
    assert math.isnan(result.separation)
    assert math.isnan(result.ratio)


def test_default_needs_five_items():
    table, domain = np.random.default_rng(0).normal(size=(14, 3)), np.repeat([0, 1, 2], [5, 5, 4])
    assert aggregation_radius(table, domain).domains == 2
    seen = np.ones(14)
    seen[0] = 0
    assert aggregation_radius(table, domain, seen=seen).domains == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embeddings": np.zeros(6)}, ValueError, r"\[H, D\]"),
        ({"domain": np.zeros(5, int)}, ValueError, r"domain must have shape \(6,\), got \(5,\)"),
        ({"domain": np.zeros(6)}, TypeError, "integers"),
        ({"seen": np.zeros(5)}, ValueError, "seen must have shape"),
        ({"min_items": 0}, ValueError, "at least 1"),
        ({"permutations": 0}, ValueError, "at least 1"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"embeddings": np.eye(6), "domain": np.zeros(6, int), **change}
    with pytest.raises(error, match=message):
        aggregation_radius(**arguments)


def test_a_bad_embedding_is_named_if_it_counts():
    table, domain = np.eye(12), np.repeat([0, 1], 6)
    table[3, 2] = np.nan
    with pytest.raises(ValueError, match="item 3 is not finite"):
        aggregation_radius(table, domain)
    seen = np.ones(12)
    seen[3] = 0
    assert aggregation_radius(table, domain, seen=seen).items == 11
