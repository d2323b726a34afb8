"""What a step of dealt tables costs by the number of ranks: the fit, the rows that travel, and the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import distributed_model as model


def test_the_fit_finds_latency_and_bandwidth() -> None:
    sent = np.array([1e3, 1e5, 1e6, 3e7])
    latency, bandwidth = model.fitted(np.stack([sent, 2e-4 + sent / 3e9], axis=1).tolist())
    assert latency == pytest.approx(2e-4, rel=1e-6) and bandwidth == pytest.approx(3e9, rel=1e-6)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_rows_that_travel_are_counted(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    drawn: list[np.ndarray] = []
    popular = model.popular

    def kept(*args: object) -> np.ndarray:
        drawn.append(popular(*args))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(model, "popular", kept)
    found = model.counted(50, 40, 5, 1.2, ranks, seed=1)
    ids = sorted(set(drawn[0].tolist()))
    lists = drawn[1].reshape(len(ids), 5).tolist()
    assert found["unique"] == len(ids) and found["neighbors"] == len({n for row in lists for n in row})
    sums = sum(len({n % ranks for n in row}) for row in lists)
    assert found["pooled"] == pytest.approx((1 - 1 / ranks) * (len(ids) + sums))
    assert found["fetched"] == pytest.approx((1 - 1 / ranks) * (found["unique"] + found["neighbors"]))


def test_draws_follow_the_law() -> None:
    items = model.popular(np.random.default_rng(0), 1000, 100_000, 1.5)
    assert items.min() == 0 and items.max() < 1000
    # P(item 0) is the integral of x^-1.5 over [1, 2) by that over [1, 1001).
    assert (items == 0).mean() == pytest.approx((1 - 2**-0.5) / (1 - 1001**-0.5), abs=0.01)


@pytest.mark.full
def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "model.json"
    monkeypatch.setattr(model, "SIZES", (1 << 10, 1 << 14))
    words = ["model", "--processes", "2", "--ranks", "2", "8", "--items", "1000", "--positions", "100", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    model.main()
    found = json.loads(out.read_text())
    assert [fit["ranks"] for fit in found["fits"]] == [2] and found["fits"][0]["bandwidth"] > 0
    assert [row["ranks"] for row in found["ranks"]] == [2, 8]
    assert "| 1,000 | 8 |" in capsys.readouterr().out
