"""The graph benchmark: every method keeps the same rows, and the report says what was measured."""

import importlib.util

import numpy as np
import pytest

from benchmarks.graph import METHODS, digest, rows_of, simulate
from benchmarks.graph_report import graph_table

MODULES = {"resemb_ext": "resemb_ext", "scipy.sparse": "scipy"}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "log.parquet"
    simulate(path, 60_000)  # 600 users: rows of all lengths, some beyond top_k
    return path


@pytest.fixture(scope="module")
def ours(log):
    return rows_of("resemb_ext", METHODS["resemb_ext"](log))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "resemb_ext"])
def test_every_method_keeps_the_same_rows(log, ours, method):
    if importlib.util.find_spec(MODULES.get(method, method)) is None:
        pytest.skip(f"no {method}: the bench extra has it")
    found = rows_of(method, METHODS[method](log))
    assert digest(found) == digest(ours)
    assert np.bincount(ours[0]).max() == 20 and ours[2].max() > 1


def runs(*seconds):
    return [{"seconds": s, "cpu_seconds": s, "peak_mib": 100} for s in seconds]


def test_the_report_pairs_rounds():
    failed = [{"failed": "more than 9 s"}] * 3
    small = {"events": 10, "runs": {"resemb_ext": runs(1, 2, 4), "a": runs(5, 8, 12), "b": runs(9, 9, 9)}}
    large = {"events": 99, "runs": {"resemb_ext": runs(1, 1, 1), "a": failed, "b": runs(8, 8, 8)}}
    result = {"cells": [small, large]}
    assert "| 10 | a | 3 | 8.00 | 8.00 | 100 | 4.00 [3.00, 5.00] |" in graph_table(result)
    assert "| 99 | a | | more than 9 s | | | |" in graph_table(result)
