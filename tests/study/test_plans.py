"""The plans of all studies, quick and full, and quick runs of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from resemb_ext import data
from resemb_ext.cli import main
from resemb_ext.runtime.files import plain
from resemb_ext.study import STUDIES
from resemb_ext.study.harness.pieces import Source
from resemb_ext.study.harness.results import load_results

pytestmark = pytest.mark.usefixtures("one_thread")


def _log() -> tuple[data.Log, None]:
    log, truth = data.simulate(users=100, items=100, domains=4)
    frame = pd.DataFrame(
        {"user_id": log.user, "item_id": log.item, "order": log.time, "category": truth.domain[log.item]}
    )
    return data.read_log(frame, label=False), None


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", STUDIES)
def test_plans_name_each_piece_once_with_all_that_it_depends_on(name: str, quick: bool) -> None:
    plan = STUDIES[name].pieces([Source("cats", _log)], quick=quick)
    keys = [piece.key for piece in plan]
    assert keys and len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for key in keys)
    assert all(callable(piece.work) and piece.seeds for piece in plan)
    # Two pieces of equal options, seeds and log would be one piece.
    told = [
        json.dumps([plain(dict(p.config)), list(p.seeds), p.source and p.source.name, p.key.split("-")[0]])
        for p in plan
    ]
    assert len(set(told)) == len(told)
    if name != "bound":  # which takes no log
        assert any(piece.source is not None and piece.source.name == "cats" for piece in plan)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("bound", "Terms on simulated logs"),
        ("coldstart", "Share of retraining's gain"),
        ("compact", "Test gAUC, form minus float32"),
        ("delay", "Behaviour models on logs"),
        pytest.param("gain", "The finalists: test gAUC", marks=pytest.mark.slow),
        ("quantised", "Test gAUC of the item table in fewer bits"),
        pytest.param("radius", "Value at gamma minus value at gamma 1", marks=pytest.mark.slow),
        ("untuned", "Test, res minus plain"),
    ],
)
def test_a_quick_study_by_the_command_line(
    name: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison's quick run is in tests/study/test_compare.py; small runs of the slow ones in test_gain and test_radius."""
    assert main(["study", name, "--quick", "--quiet", "--out", str(tmp_path)]) == 0
    assert not load_results(tmp_path, name).missing
    page = (tmp_path / "report" / f"{name}.md").read_text()
    assert "A quick run" in page and table in capsys.readouterr().out


@pytest.mark.slow
def test_all_quick_studies_by_the_command_line(tmp_path: Path) -> None:
    assert main(["study", "all", "--quick", "--quiet", "--jobs", "2", "--out", str(tmp_path)]) == 0
    for name in STUDIES:
        assert not load_results(tmp_path, name).missing
        assert "A quick run" in (tmp_path / "report" / f"{name}.md").read_text()
