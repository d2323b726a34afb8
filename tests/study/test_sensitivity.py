"""Scores by how the graph is drawn: each option has an effect, the table compares with the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resemb_ext.study.delay import sensitivity
from resemb_ext.study.harness.pieces import simulated_source

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_way_to_draw_the_graph_is_trained_and_compared() -> None:
    source = simulated_source("tiny", users=80, items=300, domains=4, seed=0)
    plan = sensitivity.pieces([source], quick=True)
    kept = {p.key: {"config": p.config, "result": p.work()} for p in plan}
    base, window, crossed = (kept[f"graph-tiny-{name}"]["result"] for name in ("base", "window1", "cross-fit5"))
    assert window["entries"] < base["entries"] == crossed["entries"]
    assert len({r["auc"][0] for r in (base, window, crossed)}) == 3
    table = sensitivity.table(kept)
    cells = {row[1]: row for row in table.rows}
    change = float(cells["window 1"][5])
    assert change == pytest.approx(window["auc"][0] - base["auc"][0], abs=6e-5)
    assert cells["base"][5] == "-"


def _kept(gauc: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {"config": {"log": "made", "variant": name}, "result": {"auc": v, "gauc": v, "entries": 9}}
        for name, v in gauc.items()
    }


def test_changes_and_seeds_that_did_not_train_stand_in_the_table() -> None:
    made = {"base": [0.70, 0.71, 0.72], "window 1": [0.69, 0.70, 0.711], "weighting ppmi": [0.70, 0.51, 0.72]}
    cells = {row[1]: row for row in sensitivity.table(_kept(made)).rows}
    assert cells["window 1"][7].startswith("-0.0097 [-") and cells["base"][6:8] == ("0.7100", "-")
    assert [row[8] for row in cells.values()] == ["0", "0", "1"]


def test_rarely_met_rows_are_not_pulled_to_zero() -> None:
    """L2 of the whole table where items are met often, of touched rows where they are not."""
    often, rarely = (simulated_source("tiny", users=80, items=items, domains=4, seed=0) for items in (100, 2000))
    for source, optimizer in ((often, "dense"), (rarely, "lazy")):
        per_item = len(source.log) / source.log.num_items
        assert (per_item >= sensitivity.RARE) == (source is often)
        plan = sensitivity.pieces([source], quick=True)
        assert {piece.config["table_optimizer"] for piece in plan} == {optimizer}


def test_long_logs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/study/delay.md").read_text()
    assert f"Logs of over {sensitivity.MOST_EVENTS:,} events are left out." in " ".join(page.split())
    source = simulated_source("tiny", users=80, items=300, domains=4, seed=0)
    monkeypatch.setattr(sensitivity, "MOST_EVENTS", 10)
    assert sensitivity.pieces([source], quick=True) == []
