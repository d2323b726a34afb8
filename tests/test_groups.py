"""The quick group holds every operator, optimizer, reader and model against a reference.

Asked of the tests that were collected; the operators that a test claims are checked when it runs (conftest.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resemb_ext import optim
from resemb_ext.data.kinds import COMPRESSED, SUFFIXES
from resemb_ext.models import MODELS
from tests.conftest import FOLDERS

TESTS = Path(__file__).parent


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> list[pytest.Function]:
    """Tests of the quick group, where all tests were collected."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    if folders - request.config.stash[FOLDERS]:
        pytest.skip("needs a run of all tests")
    return [item for item in items if not any(item.get_closest_marker(name) for name in ("full", "slow"))]


def of(items: list[pytest.Function], file: str, *tests: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(name, parameters, module) of a file's tests, or of those named; a test that is gone is an error."""
    found = [item for item in items if item.path == TESTS / file and (not tests or item.originalname in tests)]
    assert {item.originalname for item in found} >= set(tests), f"{file}: quick group lacks one of {tests}"
    for item in found:
        callspec = getattr(item, "callspec", None)
        yield item.originalname, callspec.params if callspec else {}, item.module


def test_every_operator(quick: list[pytest.Function]) -> None:
    schema = (TESTS.parent / "csrc/schema.cpp").read_text()
    operators = set(re.findall(r'm\.def\(\s*"(\w+)\(', schema))
    assert len(operators) == schema.count("m.def(")
    claims = {name: item for item in quick for marker in item.iter_markers("operators") for name in marker.args}
    assert claims.keys() == operators
    for name in operators:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"resemb_ext::{name}", "CPU"), name
    assert not [name for name, item in claims.items() if item.get_closest_marker("cuda")]


def test_every_optimizer(quick: list[pytest.Function]) -> None:
    """Against torch.optim, or against the formulas in float64."""
    tests = ("test_formulas", "test_with_all_rows_touched_it_is_the_dense_algorithm")
    found = {
        parameters["own"] if "own" in parameters else module.OPTIMIZERS[parameters["kind"]][0]
        for _, parameters, module in of(quick, "optim/test_rules.py", *tests)
    }
    public = {getattr(optim, name) for name in optim.__all__}
    assert found == {o for o in public if isinstance(o, type) and issubclass(o, torch.optim.Optimizer)} - {
        optim.RowSparseOptimizer
    }


def test_every_reader(quick: list[pytest.Function]) -> None:
    found = {p["source"] for _, p, _ in of(quick, "data/test_read.py", "test_every_source_gives_the_same_log")}
    assert list(of(quick, "data/test_read.py", "test_movielens"))
    assert found >= {"DataFrame", "Table", "mapping"}
    # .jsonl is the same as .json.
    assert found | {".dat"} >= {*SUFFIXES, *COMPRESSED} - {".json"}
    ready = {p["kind"] for _, p, _ in of(quick, "data/test_ready.py", "test_every_row_comes_back")}
    assert ready == {"csv", "parquet"}


def test_every_model(quick: list[pytest.Function]) -> None:
    """Against another implementation, each by a test of its name."""
    assert {name for name, _, _ in of(quick, "models/test_parity.py")} >= {f"test_{name}" for name in MODELS}
