"""The bound: counts of cells by hand, constants that hold, a page with numbers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resemb_ext import data
from resemb_ext.models.layers import MLP
from resemb_ext.study import studies
from resemb_ext.study.bound import experiment as bound
from resemb_ext.study.harness.pieces import Piece, run_pieces, simulated_source
from resemb_ext.study.methods.heldout import hold_out_users, mean_over_users

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("domains", "length"), [(1, 1), (3, 2), (4, 5)])
def test_cells_are_counted_by_listing_them(domains: int, length: int) -> None:
    multisets = sum(
        1 for size in range(length + 1) for _ in itertools.combinations_with_replacement(range(domains), size)
    )
    cells = 2 * domains * multisets
    assert bound.log_cells(domains, length) == pytest.approx(math.log(cells))
    term = bound.cells_term(domains, length, 100, 5.0, 0.05)
    assert term == pytest.approx(5 * math.sqrt((2 * cells * math.log(2) + 2 * math.log(20)) / 100))


def test_lipschitz_constant_holds_and_unknown_layers_are_refused() -> None:
    torch.manual_seed(0)
    mlp = MLP(6, (8, 4), "prelu")
    constant = bound.lipschitz(mlp)
    a, b = torch.randn(2, 500, 6)
    slope = (mlp(a) - mlp(b)).detach().abs() / (a - b).norm(dim=1)
    assert 0 < float(slope.max()) <= constant
    with pytest.raises(TypeError, match="BatchNorm1d"):
        bound.lipschitz(nn.Sequential(nn.BatchNorm1d(3)))


def test_diameter_is_above_every_distance_in_a_domain() -> None:
    rng = np.random.default_rng(0)
    vectors, domain = rng.normal(size=(60, 3)), rng.integers(-1, 4, 60)
    wide = bound.diameter(vectors, domain)
    for number in range(4):
        points = vectors[domain == number]
        assert np.linalg.norm(points[:, None] - points[None], axis=2).max() <= wide


@pytest.mark.full
def test_page_with_terms_of_a_trained_model(tmp_path: Path) -> None:
    source = simulated_source("tiny", users=120, items=120, domains=4, seed=0)
    pieces = [
        Piece(f"{arm}-tiny", lambda arm=arm: bound._terms(source, arm, 0), {}, [0], source) for arm in ("plain", "res")
    ]
    protocol = studies.STUDIES["bound"].protocol
    run_pieces("bound", pieces, tmp_path, protocol=protocol, quick=True, progress=False)
    page = studies.write_report(tmp_path, names=["bound"])[0].read_text()
    assert "| whole histories | 2 | 2 | 0 |" in page and "\n| res-tiny | " in page and "of 1 |" in page


def test_held_out_users_share_none_with_training_and_count_once() -> None:
    log, _ = data.simulate(users=40, items=120, domains=4)
    samples = data.make_train_samples(data.split(log))
    rows, out = hold_out_users(samples, share=0.25, seed=1)
    assert len(np.unique(out.user)) == 10 and not set(rows.user) & set(out.user)
    assert len(rows) + len(out) == len(samples)
    values = (out.user == out.user[0]).astype(float)
    assert mean_over_users(out, values) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="share"):
        hold_out_users(samples, share=0.0, seed=0)


def test_bound_holds_on_a_model_with_one_cell_each_by_hand() -> None:
    """Losses of two rows of one cell differ by no more than the radius term."""
    torch.manual_seed(0)
    vectors, domain = torch.randn(12, 3).double(), np.repeat([0, 1, 2], 4)
    mlp = MLP(6, (8, 4), "prelu").double()
    limit = bound.lipschitz(mlp) * math.sqrt(2) * bound.diameter(vectors.numpy(), domain)
    rng = np.random.default_rng(0)

    def loss() -> float:
        history = [rng.choice(np.flatnonzero(domain == d)) for d in (0, 0, 2)]
        target = rng.choice(np.flatnonzero(domain == 1))
        row = torch.cat([vectors[history].mean(0), vectors[target]])
        return min(5.0, math.log1p(math.exp(-float(mlp(row[None]).detach()))))

    losses = [loss() for _ in range(300)]
    assert 0 < max(losses) - min(losses) <= limit
