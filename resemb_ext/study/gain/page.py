"""Tables and the figure of study ``gain``, from kept pieces alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from resemb_ext.study.compare.variants import Group
from resemb_ext.study.harness.inference import holm
from resemb_ext.study.harness.report import Figure, Page, Panel, Table, side, signed
from resemb_ext.study.harness.results import Results
from resemb_ext.train.statistics import shown_mean, shown_spread, spread

from .arms import ARMS, ROLES, Cell
from .experiment import contrast_key
from .protocol import REGISTERED, SETTINGS

RARE = 5  # training events, below which an item is rare
PAIRS = (("best", "base"), ("best", "cheap"))


def page(results: Results) -> Page:
    """Tables and the figure of the study."""
    groups = groups_of(results)
    tables = [_registered(results), _finalists(results, groups), _rare(results, groups), *_arms(results, groups)]
    missing = [g.title for g in groups if any(_result(results, f"seeds-{Cell(g, r).key}") is None for r in ROLES)]
    return Page([table for table in tables if table.rows], _figure(results, groups), missing)


def groups_of(results: Results) -> list[Group]:
    """Logs with their split, and models, of the plan. Names of logs may hold dashes."""
    parts = dict.fromkeys(part.name for setting in SETTINGS.values() for part in setting)
    known = [
        Group(f"{log}-{part}", model, category)
        for log, part, model, category in product(results.plan["data"], parts, ("dnn", "din"), (True, False))
    ]
    return [group for group in known if f"finalist-{group.key}-base" in results.plan["pieces"]]


def _result(results: Results, key: str) -> dict[str, Any] | None:
    piece = results.pieces.get(key)
    return None if piece is None else piece["result"]


def _minus(results: Results, one: Cell, other: str) -> dict[str, Any] | None:
    return _result(results, contrast_key(one, other))


def _registered(results: Results) -> Table:
    """The protocol's comparisons, if any of them is in the plan; one not run counts as p = 1."""
    rows = []
    found: list[tuple[Cell, str, dict[str, Any] | None]] = []
    by_place = {(group.log, group.model): group for group in groups_of(results)}
    for log, model, one, other in REGISTERED:
        group = by_place.get((log, model), Group(log, model, True))
        found.append((Cell(group, one), other, _minus(results, Cell(group, one), other)))
    adjusted = holm([1.0 if entry is None else float(entry["gauc"]["p"]) for _, _, entry in found])
    for (cell, other, entry), p in zip(found, adjusted, strict=True):
        gauc = None if entry is None else entry["gauc"]
        over = None if entry is None else entry["over_seeds"]["gauc"]
        shown = ("-", "-") if gauc is None else (f"{gauc['p']:.2g}", f"{p:.2g}")
        rows.append((f"{cell.title} minus {other}", signed(gauc), signed(over), *shown))
    there = any((log, model) in by_place for log, model, _, _ in REGISTERED)
    header = ("comparison", "difference", "over seeds", "p", "p by Holm")
    return Table("The protocol's comparisons: test gAUC", header, rows if there else [])


def _finalists(results: Results, groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        chosen = [_result(results, f"finalist-{Cell(group, role).key}") for role in ROLES]
        seeds = [_result(results, f"seeds-{Cell(group, role).key}") for role in ROLES]
        if all(entry is None for entry in chosen):
            continue
        cells = [_finalist(search, runs) for search, runs in zip(chosen, seeds, strict=True)]
        gains = [_minus(results, Cell(group, one), other) for one, other in PAIRS]
        shown = [signed(None if gain is None else gain["gauc"]) for gain in gains]
        rows.append((group.title, *cells, *shown))
    header = ("log, split, model", "plain", "best cheap alternative", "best form", "best - plain", "best - cheap")
    return Table("The finalists: test gAUC, mean ± standard deviation over seeds", header, rows)


def _finalist(search: dict[str, Any] | None, runs: dict[str, Any] | None) -> str:
    """The arm, its test gAUC, and whether all neighbours of its options were tried."""
    if search is None:
        return "not run"
    found = ARMS[search["arm"]].title + ("" if runs is None else f": {_gauc(runs)}")
    return found + ("" if search["closed"] else ", search not closed")


def _gauc(runs: dict[str, Any], part: str = "test") -> str:
    return shown_spread(spread([run[part]["gauc"] for run in runs["runs"]]))


def _rare(results: Results, groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        values = {}
        for role in ROLES:
            runs = _result(results, f"seeds-{Cell(group, role).key}")
            if runs is not None:
                values[role] = [_auc(run["by_frequency"], rare) for run in runs["runs"] for rare in (True, False)]
        if set(values) == set(ROLES):
            for rare in (True, False):
                means = [float(np.mean(values[role][0 if rare else 1 :: 2])) for role in ROLES]
                if np.isnan(means).any():  # no such test events
                    continue
                what = f"fewer than {RARE}" if rare else f"{RARE} or more"
                gain = [f"{mean:.4f}" for mean in means] + [f"{means[-1] - means[0]:+.4f}"]
                rows.append((group.title, what, *gain))
    header = ("log, split, model", "training events of the item", *ROLES, "best - base")
    return Table("Test AUC by frequency, mean over buckets by their events, and over seeds", header, rows)


def _auc(buckets: Sequence[dict[str, Any]], rare: bool) -> float:
    """Mean AUC of the buckets below ``RARE`` events, or of the others, by their test events."""
    chosen = [b for b in buckets if (b["least"] < RARE) == rare and b["events"] and b["auc"] is not None]
    if not chosen:
        return float("nan")
    return float(np.average([b["auc"] for b in chosen], weights=[b["events"] for b in chosen]))


def _arms(results: Results, groups: Sequence[Group]) -> list[Table]:
    header = (
        *("arm", "valid gAUC of the search", "trials (given up)", "smoothed by", "test gAUC", "minus plain"),
        *("parameters", "training, s"),
    )
    tables = []
    for group in groups:
        rows = []
        for name, arm in ARMS.items():
            cell = Cell(group, name)
            search, runs = _result(results, f"tune-{cell.key}"), _result(results, f"seeds-{cell.key}")
            if search is None:
                continue
            best, minus = search["trials"][search["best"]], _minus(results, cell, "plain")
            stopped = sum(trial.get("stopped") == "given up" for trial in search["trials"])
            rows.append(
                (
                    arm.title,
                    f"{search['valid_gauc']:.4f}",
                    f"{len(search['trials'])} ({stopped})",
                    f"{best['strength']:g}, {best['graph']}" if best["strength"] else "-",
                    "not run" if runs is None else _gauc(runs),
                    "" if name == "plain" else signed(None if minus is None else minus["gauc"]),
                    "" if runs is None else shown_mean(runs["runs"], "parameters", ",.0f"),
                    "" if runs is None else shown_mean(runs["runs"], "train_seconds", ".0f"),
                )
            )
        tables.append(Table(f"{group.title}: all arms after the common search", header, rows))
    return tables


def _figure(results: Results, groups: Sequence[Group]) -> list[Figure]:
    """The best form's gain over plain and over the best cheap alternative, with intervals."""
    lines: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    keys = []
    for group in groups:
        for one, other in PAIRS:
            found = _minus(results, Cell(group, one), other)
            if found is not None:
                lines.setdefault(f"best form minus {other}", []).append((group.title, found["gauc"]))
                keys.append(contrast_key(Cell(group, one), other))
    if not lines:
        return []
    panels = [Panel(title, partial(_draw, entries)) for title, entries in lines.items()]
    caption = "Test gAUC of the best form minus plain and minus the best cheap alternative, 95 % interval over users and seeds"
    return [Figure("", caption, panels, keys, len(panels), (5.0, 0.9 + 0.2 * max(map(len, lines.values()))))]


def _draw(entries: Sequence[tuple[str, dict[str, Any]]], axes: Any) -> None:
    for place, (_, entry) in enumerate(entries):
        color = {"above": "C0", "below": "C3", "undecided": "grey"}[side(entry)]
        axes.plot([entry["low"], entry["high"]], [place, place], color=color)
        axes.plot(entry["value"], place, "o", color=color, markersize=3)
    axes.axvline(0, color="grey", linestyle="--")
    axes.set_yticks(range(len(entries)), [title for title, _ in entries])
    axes.invert_yaxis()
    axes.set(xlabel="difference of test gAUC")
