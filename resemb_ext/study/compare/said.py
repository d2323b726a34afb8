"""Sentences on what kept pieces of study ``compare`` say, for its page and for docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from resemb_ext.study.compare.bench import SETTINGS
from resemb_ext.study.compare.rows import MAIN, TABLES, Group, Row
from resemb_ext.study.compare.view import REGISTERED, Seen, Twice, minus_plain, seen_rows, short, signed
from resemb_ext.study.compare.work import L2_MODES
from resemb_ext.study.harness.report import listed, side
from resemb_ext.study.harness.results import Results, hours
from resemb_ext.train import paired_difference


def said_twice(found: Sequence[Twice]) -> str | None:
    """One sentence on them, for a protocol that promised one score; None where there are none."""
    if not found:
        return None

    def named(chosen: Sequence[Twice]) -> str:
        texts = [f"{t.title}, {signed(t.first)} and then {signed(t.last)}" for t in chosen]
        return f"{len(chosen)} of them ({'; '.join(texts)})" if texts else "none"

    moved = max(abs(t.last["value"] - t.first["value"]) for t in found)
    return (
        "The protocol says scored once, but some rows were trained and scored a second time, with the same options and "
        "seeds; other bits came out, as another processor gives them. The later scores are shown, whatever they say. "
        f"Of {len(found)} differences of test gAUC that were taken twice, which moved by at most {moved:.4f}, the "
        f"second is outside the first's interval in {named([t for t in found if t.left])}; the verdict is another in "
        f"{named([t for t in found if t.turned])}."
    )


def not_run(rows: Sequence[Seen]) -> str | None:
    """One sentence that names rows without test metrics, by group; None where all are there."""
    groups: dict[Group, list[Seen]] = {}
    for seen in rows:
        groups.setdefault(seen.row.group, []).append(seen)
    texts = []
    for group, members in groups.items():
        missing = [
            TABLES[seen.row.table].title + (", searched further" if seen.row.further else "")
            for seen in members
            if seen.seeds is None
        ]
        if missing:
            whole = len(missing) == len(members)
            names = (
                (f"all {len(missing)} rows" if len(missing) > 1 else "the only row")
                if whole
                else ", ".join(f'"{n}"' for n in missing)
            )
            texts.append(f"{group.title}: {names}")
    return _sentence("Not run yet: ", texts)


def verdict(results: Results, rows: Sequence[Seen]) -> str:
    """One sentence: where res lies against plain in test gAUC, both tuned, with category first."""
    groups = sorted(
        {seen.row.group for seen in rows if seen.row.table == "res"}, key=lambda g: (not g.category, g.log, g.model)
    )
    sides: dict[str, list[str]] = {}
    for group in groups:
        found = minus_plain(results, Row(group, "res"))
        if found is not None:
            sample = SETTINGS[group.log].train_rows if group.log in SETTINGS else None
            sampled = "" if sample is None else f" from {sample:,} training rows"
            where = f"{group.title}{sampled} ({signed(found['gauc'])})"
            sides.setdefault(side(found["gauc"]), []).append(where)
    if not sides:
        return "No pair of a Res-embedding and a plain embedding is done yet."
    names = (("above", "better than"), ("below", "worse than"), ("undecided", "not told apart from"))
    texts = [f"{text} plain on {listed(sides[name])}" for name, text in names if name in sides]
    return (
        "In test gAUC, both tuned alike, Res-embedding (average) is "
        + "; ".join(texts)
        + ": difference and 95 % interval over users and seeds."
    )


def best_against_res(rows: Sequence[Seen]) -> str | None:
    """One sentence on tables that are at or above res (average) in mean test gAUC."""
    by_group: dict[Group, dict[str, float]] = {}
    for seen in rows:
        if seen.seeds is not None:
            value = float(np.mean(seen.values("gauc")))
            by_group.setdefault(seen.row.group, {})[seen.row.table] = value
    texts = []
    for group, values in by_group.items():
        if "res" in values:
            higher = [f"{TABLES[t].title} ({v:.4f})" for t, v in values.items() if t != "res" and v >= values["res"]]
            if higher:
                texts.append(f"{group.title}: {listed(higher)} against {values['res']:.4f}")
    return _sentence(
        "Where it does not favour res (average): tables with at least its mean test gAUC are, on ", texts, "; on "
    )


def _sentence(start: str, texts: Sequence[str], between: str = "; ") -> str | None:
    """``start`` and the texts; None where there are none."""
    return start + between.join(texts) + "." if texts else None


def said_by_residual(rows: Sequence[Seen]) -> str | None:
    """One sentence on res (average) minus the same with R held at 0; None where there is no pair."""
    seen = {one.row: one for one in rows if one.seeds is not None}
    texts = []
    for group in dict.fromkeys(row.group for row in seen):
        res, centre = (seen.get(Row(group, table)) for table in ("res", "centre"))
        if res is not None and centre is not None:
            change = paired_difference(centre.values("gauc"), res.values("gauc"))
            texts.append(f"{group.title} {signed(change)}")
    return _sentence(
        "What the residual adds, res (average) minus centre only in test gAUC, over seeds (exploratory, each tuned): ",
        texts,
    )


def not_above_plain(results: Results, rows: Sequence[Seen]) -> str | None:
    """One sentence on tables over the graph whose difference to plain is not above 0."""
    sides: dict[str, list[str]] = {}
    for seen in rows:
        found = minus_plain(results, seen.row)
        if found is not None and seen.row.table in MAIN:
            name = f"{seen.row.group.title}: {TABLES[seen.row.table].title}"
            sides.setdefault(side(found["gauc"]), []).append(f"{name} ({signed(found['gauc'])})")
    texts = [
        f"{text} plain: {'; '.join(sides[name])}"
        for name, text in (("below", "worse than"), ("undecided", "not told apart from"))
        if name in sides
    ]
    return _sentence("Tables over the graph ", texts, ". And ")


def open_searches(rows: Sequence[Seen]) -> str | None:
    """A few sentences on what searches leave open: those that ended before all neighbours of the best were tried,
    what they gained over the common start, and touched rows."""
    tuned = {seen.row: seen.tune for seen in rows if seen.tune is not None}
    if not tuned:
        return None
    left = [row for row, tune in tuned.items() if not tune["closed"]]
    said = f"Of {len(tuned)} searches {len(tuned) - len(left)} closed, all neighbours of their best point tried."
    texts = []
    for table in dict.fromkeys(row.table for pair in REGISTERED for row in pair):
        groups = [row.group.title for row in left if row.table == table]
        if groups:
            texts.append(f"{short(table)} on {'; '.join(groups)}")
    if left:
        among = f", among them {'. And '.join(texts)}" if texts else ""
        said += f" More trials might improve the rest{among}."
    gains = {
        t: [g for r, tune in tuned.items() if r.table == t and (g := _gain(tune)) is not None] for t in ("plain", "res")
    }
    if all(gains.values()):
        spans = {table: _span(values, ".4f") for table, values in gains.items()}
        said += (
            f" From the common start to the best trial validation gAUC rose by {spans['plain']} for plain and by "
            f"{spans['res']} for res"
        )
        nearer = np.median(gains["plain"]) > np.median(gains["res"])
        said += ": the start lies nearer to what suits res, and so few trials may favour it by that." if nearer else "."
    touched = [sum(trial["options"]["l2_of"] == L2_MODES[1] for trial in tune["trials"]) for tune in tuned.values()]
    won = sum(tune["options"]["l2_of"] == L2_MODES[1] for tune in tuned.values())
    return said + (
        f" Trials of L2 of touched rows, at strengths found for whole tables: {_span(touched, 'd')} a search; the best "
        f"trial was one in {won} of {len(tuned)} searches. A strength of its own might suit it."
    )


def _gain(tune: dict[str, Any]) -> float | None:
    """Validation gAUC of the best trial over that of the common start; None where that diverged."""
    start = tune["trials"][0].get("valid")
    return None if start is None else float(tune["valid_gauc"] - start["gauc"])


def _span(values: Sequence[float], form: str) -> str:
    ends = dict.fromkeys(format(value, form) for value in (min(values), max(values)))
    return " to ".join(ends)


def by_seeds(results: Results, rows: Sequence[Seen]) -> str | None:
    """One sentence on differences to plain whose t interval over seeds lies otherwise than the bootstrap's."""
    texts = []
    for seen in rows:
        found = minus_plain(results, seen.row)
        if found is None or found["over_seeds"]["gauc"]["low"] is None:
            continue
        over = found["over_seeds"]["gauc"]
        if side(found["gauc"]) != side(over):
            name = f"{seen.row.group.title}: {TABLES[seen.row.table].title}"
            texts.append(f"{name}, {signed(found['gauc'])} but {signed(over)} over seeds")
    return _sentence(
        "The bootstrap takes the seeds for all there are, which makes their part of its intervals too narrow, with five by "
        "about a third. By the t interval over seeds, which has that part alone, differences to plain lie otherwise: ",
        texts,
    )


def said_further(results: Results) -> str | None:
    """One paragraph on searches of plain and res that were carried on; None where no pair of them is done."""
    seen = {one.row: one for one in seen_rows(results, further=True)}
    before = {one.row: one for one in seen_rows(results)}
    texts = []
    for row in seen:
        found = minus_plain(results, row)
        first = minus_plain(results, replace(row, further=False))
        if row.table != "res" or found is None or first is None:
            continue
        moved = []
        for one in (row, row.beside("plain")):
            tune, old = seen[one].tune, before[replace(one, further=False)].tune
            assert tune is not None and old is not None
            closed = "closed" if tune["closed"] else "still open"
            best = tune["options"]["l2_of"]
            moved.append(
                f"{short(one.table)} after {len(tune['trials'])} trials, {closed}, and {len(tune['touched']['trials'])} of "
                f"touched rows alone, at best with L2 of {best}: validation {old['valid_gauc']:.4f} and then "
                f"{tune['valid_gauc']:.4f}"
            )
        texts.append(
            f"{row.group.title}: {signed(found['gauc'])}, where it had been {signed(first['gauc'])} ({'; '.join(moved)})"
        )
    return _sentence(
        "With both searches carried on, until all neighbours of the best point or as many points as told were tried, and "
        "then among L2 of touched rows from a strength of its own (added after the results above; exploratory), res minus "
        "plain in test gAUC is, on ",
        texts,
        "; on ",
    )


def at_the_cap(rows: Sequence[Seen]) -> str | None:
    """One sentence on runs that the limit of epochs ended, not patience; None where there are none."""
    texts = []
    for seen in rows:
        runs = [] if seen.seeds is None else seen.seeds["runs"]
        cut = sum(run["stopped"] == "epochs" for run in runs)
        if cut:
            title = TABLES[seen.row.table].title
            texts.append(f"{seen.row.group.title}, {title} ({cut} of {len(runs)} seeds)")
    return _sentence(
        "Ended by the limit of epochs before patience ran out, so that more epochs might improve them: ", texts
    )


def said_hours(results: Results, rows: Sequence[Seen]) -> str | None:
    """One paragraph on the wall clock of rows, searches and seeds together; None where no row is whole."""
    spent: dict[Row, float] = {}
    for seen in rows:
        kept = [results.pieces.get(f"{kind}-{seen.row.key}") for kind in ("tune", "seeds")]
        if None not in kept:
            spent[seen.row] = hours(filter(None, kept))
    if not spent:
        return None
    again = hours(results.earlier.values())
    on = hours(piece for key, piece in results.pieces.items() if "-further" in key)
    extra = sum(value for row, value in spent.items() if row.for_table_alone)
    texts, slow = [], 0
    for model in dict.fromkeys(row.group.model for row in spent):
        each = [spent[row] for row in spent if row.group.model == model]
        middle = float(np.median(each))
        slow += sum(value > 3 * middle for value in each)
        texts.append(f"{60 * middle:.0f} minutes with {model.upper()}")
    return (
        f"Of {sum(spent.values()) + again + on:.1f} hours, {sum(spent.values()) - extra:.1f} went into rows of the question "
        f"above, {extra:.1f} into rows that only the tuned table of docs/results.md asks for (gcn, attention, DIN "
        f"without category), {again:.1f} into scores that were taken again, and {on:.1f} into searches carried on. A row, "
        f"its search and its seeds, takes by the median {listed(texts)}; {slow} of {len(spent)} took over three times that."
    )
