"""The benchmark's own machinery, on tiny cells: distributions, equality checks, rounds of slow variants."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import benchmarks.__main__ as command
from benchmarks import lookup, machine, timing
from benchmarks.baselines import operator
from benchmarks.cells import BLOCK, DISTRIBUTIONS, Cell, make_case, suite
from benchmarks.lookup import check_equal, run_cell
from benchmarks.spread import run_spread
from benchmarks.suite_report import draw, faster_table, suite_table
from benchmarks.timing import SLOW_ROUNDS, interleave, summary

TINY = Cell(name="tiny", items=600, dim=8, neighbors=4, positions=300, batches=2)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    events = {
        "user": np.repeat(np.arange(40), 10),
        "item": rng.integers(0, 60, 400),
        "time": np.tile(np.arange(10), 40),
    }
    path = tmp_path / "log.parquet"
    pd.DataFrame(events).to_parquet(path)
    return path


def test_suite_is_bounded_and_named() -> None:
    cells = suite()
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) <= 40
    for field, values in {
        "items": {3_700, 63_000, 1_000_000, 10_000_000},
        "dim": {16, 18, 32, 64, 128},
        "positions": {20_000, 200_000, 800_000},
        "neighbors": {5, 10, 20, 50},
        "zipf": {0.0, 0.8, 1.05, 1.3},
        "distribution": set(DISTRIBUTIONS),
        "dtype": {"float32", "bfloat16"},
    }.items():
        assert {getattr(cell, field) for cell in cells} == values
    assert all(cell.batches >= 8 for cell in cells)


@pytest.mark.parametrize("distribution", [distribution for distribution in DISTRIBUTIONS if distribution != "real"])
def test_rows_are_distinct_ascending_and_of_their_distribution(distribution: str) -> None:
    case = make_case(replace(TINY, distribution=distribution))
    rows = case.neighbors
    assert bool((rows[:, 1:] > rows[:, :-1]).all())
    assert rows.min() >= 0
    assert rows.max() < TINY.items
    if distribution == "clustered":
        assert int((rows.max(1).values - rows.min(1).values).max()) < BLOCK
    torch.testing.assert_close(case.weights.sum(1), torch.ones(TINY.items))
    assert torch.equal(case.neighbors32, rows.reshape(-1).int())


def test_case_is_a_function_of_its_cell() -> None:
    first, second = make_case(TINY), make_case(TINY)
    assert torch.equal(first.central, second.central)
    assert torch.equal(first.neighbors, second.neighbors)
    assert all(torch.equal(a, b) for a, b in zip(first.batches, second.batches, strict=True))


def test_real_cell_takes_graph_and_ids_of_the_log(log: Path) -> None:
    cell = replace(TINY, distribution="real")
    case = make_case(cell, log)
    assert case.cell.items == case.indptr.numel() - 1
    assert case.fill <= 1
    assert len(case.batches) == cell.batches
    assert all(len(ids) == cell.positions for ids in case.batches)
    with pytest.raises(ValueError, match="needs a log"):
        make_case(cell)


@pytest.mark.full
@pytest.mark.parametrize(
    "cell",
    [
        TINY,
        replace(TINY, distribution="clustered", zipf=0.0),
        replace(TINY, dtype="bfloat16"),
        replace(TINY, distribution="real"),
    ],
    ids=lambda cell: f"{cell.distribution}-{cell.dtype}",
)
def test_cell_runs_and_reports(cell: Cell, log: Path, tmp_path: Path) -> None:
    cells = [run_cell(cell, rounds=2, warmup=1, log=log, slow=50.0)]
    result = {"cells": cells}
    assert suite_table(result).count("\n") == 2
    assert cells[0]["best_baseline_step"] in cells[0]["step"]
    draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0
    best = cells[0]["best_baseline_forward"]
    cells[0]["forward"][best]["ratio"] = 1.5
    assert f"| tiny | forward | {best} |" not in faster_table(result)
    cells[0]["forward"][best]["ratio"] = 0.5
    assert f"| tiny | forward | {best} | 0.50 [" in faster_table(result)


def test_wrong_numbers_are_not_timed() -> None:
    case = make_case(TINY)
    own = operator(case)
    check_equal(case, {"own": own, "same": own})
    with pytest.raises(AssertionError, match="off by a little"):
        check_equal(case, {"own": own, "off by a little": lambda ids: own(ids) * 1.01})


def test_variants_that_do_not_fit_or_are_refused_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1 << 16)

    def refuse(case: object) -> object:
        def look_up(ids: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no kernel for this\nmore")

        return look_up

    monkeypatch.setattr(
        lookup, "baselines_of", lambda case: {"gather": refuse, "unique + embedding_bag": refuse, "odd": refuse}
    )
    case = make_case(TINY)
    assert lookup.too_much(lookup.needs("gather", case))
    assert lookup.too_much(lookup.needs("odd", case)) is None
    assert check_equal(case, {"own": operator(case), "odd": refuse(case)}) == {  # type: ignore[dict-item]
        "odd": "no kernel for this"
    }


def test_slow_variants_sit_rounds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def take(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    seconds = interleave(
        {"own": lambda _: take(0.01), "slow": lambda _: take(0.15)},
        rounds=SLOW_ROUNDS + 3,
        warmup=1,
        label="test",
        slow=("own", 5.0),
    )
    result = summary(seconds, "own")
    assert result["own"]["rounds"] == SLOW_ROUNDS + 3
    assert result["slow"]["rounds"] == SLOW_ROUNDS
    assert result["slow"]["ratio"] == 15


def test_spread_touches_the_same_rows_in_both_sizes() -> None:
    found = run_spread(replace(TINY, dim=16), rounds=2, warmup=1)
    assert set(found["median_ms"]) == {"step, small", "step, large", "read, small", "read, large"}
    assert len(found["ratio"]) == 3


@pytest.mark.full
def test_every_cell_of_the_suite_has_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "suite.json"
    gone = replace(TINY, name="gone")
    monkeypatch.setattr(command, "suite", lambda: [gone, TINY])
    run = command._apart

    def apart(work: partial[dict[str, object]], threads: int) -> dict[str, object]:
        if work.args[0].name == "gone":
            return run(partial(os._exit, 9), threads)
        return run(work, threads)

    monkeypatch.setattr(command, "_apart", apart)
    arguments = ["benchmarks", "--full", "--rounds", "1", "--warmup", "0", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*arguments, "--only", "gone", "tiny"])
    command.main()
    result = json.loads(out.read_text())
    assert [cell["name"] for cell in result["cells"]] == ["tiny"]
    assert "out of memory" in result["not_run"]["gone"]
    assert "tiny" in capsys.readouterr().out


def test_results_are_never_written_over_the_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.read_bytes()
    monkeypatch.setattr("sys.argv", ["benchmarks", "--log", str(log), "--out", str(log)])
    with pytest.raises(ValueError, match="is the input"):
        command.main()
    assert log.read_bytes() == before
