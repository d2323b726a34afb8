"""The page of study ``coldstart``: its tables, from kept pieces alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Page, Table, number
from resemb_ext.study.harness.results import Results

from .methods import CANDIDATES
from .protocol import GIVEN, HALF, PRIMARY

_TITLES = {"held-out": "against other held-out items", "all": "against items of all kinds"}
RETRAINED = ("retrained plain", "retrained res")


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    by_log: dict[str, list[dict[str, Any]]] = {}
    for piece in results.pieces.values():
        by_log.setdefault(piece["config"]["log"], []).append(piece["result"])
    tables = [share_table(by_log, name) for name in CANDIDATES]
    tables += [gauc_table(by_log, name) for name in CANDIDATES]
    return Page([table for table in [*tables, size_table(by_log)] if table.rows])


def mean(runs: Sequence[dict[str, Any]], candidates: str, method: str) -> float:
    """gAUC of a method, mean over seeds."""
    return float(np.mean([run["gauc"][candidates][method] for run in runs]))


def share(runs: Sequence[dict[str, Any]], candidates: str, method: str) -> float:
    """The share of retraining's gain over the out-of-vocabulary row that a method reaches."""
    base = mean(runs, candidates, "oov")
    best = max(mean(runs, candidates, retrained) for retrained in RETRAINED)
    return (mean(runs, candidates, method) - base) / (best - base) if best > base else float("nan")


def share_table(by_log: dict[str, list[dict[str, Any]]], candidates: str) -> Table:
    """Shares of retraining's gain, by events given."""
    rows = []
    for log, runs in by_log.items():
        grown = {given: share(runs, candidates, f"grown {given}") for given in GIVEN}
        means = {given: share(runs, candidates, f"mean {given}") for given in GIVEN}
        seeds = ", ".join(number(share([run], candidates, f"grown {PRIMARY}"), 2) for run in runs)
        passed = "yes" if grown[PRIMARY] >= HALF else "no"
        rows.append((log, *(number(grown[k], 2) for k in GIVEN), passed, seeds, *(number(means[k], 2) for k in GIVEN)))
    head = (
        "log",
        *(f"grown, {given}" for given in GIVEN),
        f"at least {HALF} at {PRIMARY}",
        f"grown, {PRIMARY}, by seed",
        *(f"mean of neighbours, {given}" for given in GIVEN),
    )
    return Table(f"Share of retraining's gain over the out-of-vocabulary row, {_TITLES[candidates]}", head, rows)


def gauc_table(by_log: dict[str, list[dict[str, Any]]], candidates: str) -> Table:
    """gAUC of every method."""
    methods = {
        "oov": "oov, plain",
        "res oov": "oov, res",
        **{f"mean {given}": f"mean of neighbours, {given}" for given in GIVEN},
        **{f"grown {given}": f"grown, {given}" for given in GIVEN},
        "retrained plain": "retrained, plain",
        "retrained res": "retrained, res",
    }
    rows = [
        (log, str(len(runs)), *(number(mean(runs, candidates, method), 4) for method in methods))
        for log, runs in by_log.items()
    ]
    return Table(f"gAUC of held-out items, {_TITLES[candidates]}", ("log", "seeds", *methods.values()), rows)


def size_table(by_log: dict[str, list[dict[str, Any]]]) -> Table:
    """What was held out, and how often there was nothing to start from."""
    rows = []
    for log, runs in by_log.items():
        alone = [np.mean([run["without_neighbour"][str(given)] for run in runs]) for given in GIVEN]
        rows.append(
            (
                log,
                str(runs[0]["held_out_items"]),
                number(float(np.mean([run["test_events"] for run in runs])), 0),
                *(number(float(count), 1) for count in alone),
            )
        )
    head = ("log", "held-out items", "test events", *(f"without a warm neighbour, {given}" for given in GIVEN))
    return Table("Sizes, means over seeds", head, rows)
