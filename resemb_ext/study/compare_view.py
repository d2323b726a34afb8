"""What kept pieces of study ``compare`` say, for its page and for docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resemb_ext.train import paired_difference

from .bench import SETTINGS
from .compare import contrast_key
from .frame import Results
from .inference import holm
from .report import listed, side
from .rows import MAIN, TABLES, Group, Row

#: The comparisons of the protocol, in its order: log, with category or not, table minus table.
REGISTERED: tuple[tuple[Row, Row], ...] = tuple(
    (Row(Group(log, "dnn", category), "res"), Row(Group(log, "dnn", category), other))
    for other, category in (("plain", True), ("res-entries", False), ("item2vec", False))
    for log in ("amazon-beauty", "amazon-toys")
)
METRICS = {"gauc": "gAUC", "auc": "AUC", "logloss": "logloss"}


@dataclass(frozen=True)
class Seen:
    """A row and what is kept of it.

    Attributes:
        row: the row.
        tune, seeds: results of its pieces, or None.
    """

    row: Row
    tune: dict[str, Any] | None
    seeds: dict[str, Any] | None

    def values(self, metric: str, part: str = "test") -> list[float]:
        """One value a seed; none where the row was not run."""
        return [] if self.seeds is None else [run[part][metric] for run in self.seeds["runs"]]

    def spread(self, metric: str, part: str = "test") -> str:
        """Mean and standard deviation over seeds, for a table."""
        values = self.values(metric, part)
        if not values:
            return "not run"
        text = f"{np.mean(values):.4f}"
        return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.4f}"

    def mean(self, name: str, form: str) -> str:
        """Mean over seeds of an entry of the runs, for a table."""
        if self.seeds is None:
            return ""
        return format(float(np.mean([run[name] for run in self.seeds["runs"]])), form)


def seen_rows(results: Results) -> list[Seen]:
    """All rows of the plan, by log, model, category and table."""
    order = list(TABLES)
    found = []
    for key in results.plan["pieces"]:
        if not key.startswith("tune-"):
            continue
        row = _row_of(key.removeprefix("tune-"), results)
        kept = [results.pieces.get(f"{kind}-{row.key}") for kind in ("tune", "seeds")]
        tune, seeds = (None if piece is None else piece["result"] for piece in kept)
        found.append(Seen(row, tune, seeds))
    logs = list(results.plan["data"])

    def place(seen: Seen) -> tuple[Any, ...]:
        group = seen.row.group
        models = ("dnn", "din")
        return (
            logs.index(group.log),
            models.index(group.model),
            not group.category,
            order.index(seen.row.table),
        )

    return sorted(found, key=place)


def _row_of(key: str, results: Results) -> Row:
    """The row of a key; names of logs may hold dashes."""
    for log in results.plan["data"]:
        for model in ("dnn", "din"):
            for category in (True, False):
                for table in TABLES:
                    row = Row(Group(log, model, category), table)
                    if row.key == key:
                        return row
    raise ValueError(f"out: no row is named {key}")


def contrast(results: Results, one: Row, other: Row) -> dict[str, Any] | None:
    """The kept difference of two rows, or None."""
    piece = results.pieces.get(contrast_key(one, other))
    return None if piece is None else piece["result"]


def minus_plain(results: Results, row: Row) -> dict[str, Any] | None:
    """The kept difference to plain of the same group, or None."""
    return contrast(results, row, Row(row.group, "plain"))


def signed(entry: dict[str, Any] | None, missing: str = "not run") -> str:
    """``value`` or ``mean`` and its interval, with signs."""
    if entry is None:
        return missing
    value = entry["value"] if "value" in entry else entry["mean"]
    if entry.get("low") is None:
        return f"{value:+.4f}"
    return f"{value:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"


@dataclass(frozen=True)
class Registered:
    """A comparison of the protocol: its rows, what was found, and p by itself and by Holm."""

    one: Row
    other: Row
    found: dict[str, Any] | None
    p: float
    holm: float

    @property
    def title(self) -> str:
        return f"{self.one.group.title}: {_short(self.one)} minus {_short(self.other)}"


def registered(results: Results) -> list[Registered]:
    """The protocol's comparisons, if any of them is in the plan; one not run counts as p = 1."""
    keys = [contrast_key(*pair) for pair in REGISTERED]
    if not any(key in results.plan["pieces"] for key in keys):
        return []
    found = [contrast(results, *pair) for pair in REGISTERED]
    values = [1.0 if entry is None else float(entry["gauc"]["p"]) for entry in found]
    return [
        Registered(one, other, entry, p, adjusted)
        for (one, other), entry, p, adjusted in zip(
            REGISTERED, found, values, holm(values), strict=True
        )
    ]


@dataclass(frozen=True)
class Twice:
    """A difference that was taken twice: of which rows, and what was found first and last."""

    one: Row
    other: Row
    first: dict[str, Any]
    last: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.one.group.title}: {_short(self.one)} minus {_short(self.other)}"

    @property
    def left(self) -> bool:
        """Whether the last value is outside the first interval."""
        return not self.first["low"] <= self.last["value"] <= self.first["high"]

    @property
    def turned(self) -> bool:
        """Whether the intervals lie otherwise with regard to 0."""
        return side(self.first) != side(self.last)


def twice(results: Results) -> list[Twice]:
    """Differences of rows that were trained and scored again."""
    rows = [seen.row for seen in seen_rows(results)]
    found = []
    for one in rows:
        for other in rows:
            key = contrast_key(one, other)
            if one.group == other.group and key in results.earlier and key in results.pieces:
                kept = (results.earlier[key], results.pieces[key])
                found.append(Twice(one, other, *(piece["result"]["gauc"] for piece in kept)))
    return found


def said_twice(found: Sequence[Twice]) -> str | None:
    """One sentence on them, for a protocol that promised one score; None where there are none."""
    if not found:
        return None

    def named(chosen: Sequence[Twice]) -> str:
        texts = [f"{t.title}, {signed(t.first)} and then {signed(t.last)}" for t in chosen]
        return f"{len(chosen)} of them ({'; '.join(texts)})" if texts else "none"

    moved = max(abs(t.last["value"] - t.first["value"]) for t in found)
    return (
        "The protocol says scored once, but some rows were trained and scored a second time: another processor "
        "or version gives other bits from the same seeds. The later scores are shown, whatever they say. "
        f"Of {len(found)} differences of test gAUC that were taken twice, which moved by at most {moved:.4f}, the "
        f"second is outside the first's interval in {named([t for t in found if t.left])}; the verdict is another in "
        f"{named([t for t in found if t.turned])}."
    )


def _short(row: Row) -> str:
    return "res" if row.table == "res" else TABLES[row.table].title


def not_run(rows: Sequence[Seen]) -> str | None:
    """One sentence that names rows without test metrics, by group; None where all are there."""
    groups: dict[Group, list[Seen]] = {}
    for seen in rows:
        groups.setdefault(seen.row.group, []).append(seen)
    texts = []
    for group, members in groups.items():
        missing = [TABLES[seen.row.table].title for seen in members if seen.seeds is None]
        if missing:
            whole = len(missing) == len(members)
            names = f"all {len(missing)} rows" if whole else ", ".join(f'"{n}"' for n in missing)
            texts.append(f"{group.title}: {names}")
    return _sentence("Not run yet: ", "; ", texts)


def verdict(results: Results, rows: Sequence[Seen]) -> str:
    """One sentence: where res lies against plain in test gAUC, both tuned, with category first."""
    groups = sorted({seen.row.group for seen in rows if seen.row.table == "res"},
                    key=lambda g: (not g.category, g.log, g.model))  # fmt: skip
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
    names = (
        ("above", "better than"),
        ("below", "worse than"),
        ("undecided", "not told apart from"),
    )
    texts = [f"{text} plain on {listed(sides[name])}" for name, text in names if name in sides]
    return (
        "In test gAUC, both tuned alike, Res-embedding (average) is "
        + "; ".join(texts)
        + ": difference and 95 % interval over users and seeds."
    )


def best_against_res(results: Results, rows: Sequence[Seen]) -> str | None:
    """One sentence on tables that are at or above res (average) in mean test gAUC."""
    by_group: dict[Group, dict[str, float]] = {}
    for seen in rows:
        if seen.seeds is not None:
            value = float(np.mean(seen.values("gauc")))
            by_group.setdefault(seen.row.group, {})[seen.row.table] = value
    texts = []
    for group, values in by_group.items():
        if "res" in values:
            higher = [f"{TABLES[t].title} ({v:.4f})" for t, v in values.items()
                      if t != "res" and v >= values["res"]]  # fmt: skip
            if higher:
                texts.append(f"{group.title}: {listed(higher)} against {values['res']:.4f}")
    return _sentence(
        "Where it does not favour res (average): tables with at least its mean test gAUC are, on ",
        "; on ",
        texts,
    )


def _sentence(start: str, between: str, texts: Sequence[str]) -> str | None:
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
        "; ",
        texts,
    )


def open_searches(rows: Sequence[Seen]) -> str | None:
    """One sentence on searches whose trials ended before all neighbours of the best were tried."""
    closed = {seen.row: bool(seen.tune["closed"]) for seen in rows if seen.tune is not None}
    if not closed:
        return None
    texts = []
    for table in ("plain", "res"):
        left = [row.group.title for row, done in closed.items() if row.table == table and not done]
        if left:
            texts.append(f"{table} on {'; '.join(left)}")
    return (
        f"Of {len(closed)} searches {sum(closed.values())} closed, all neighbours of their best point tried. More "
        "trials might improve the rest" + (f": {'. And '.join(texts)}." if texts else ".")
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
        "Ended by the limit of epochs before patience ran out, so that more epochs might improve them: ",
        "; ",
        texts,
    )


def said_hours(results: Results, rows: Sequence[Seen]) -> str | None:
    """One paragraph on the wall clock of rows, searches and seeds together; None where no row is whole."""
    spent: dict[Row, float] = {}
    for seen in rows:
        kept = [results.pieces.get(f"{kind}-{seen.row.key}") for kind in ("tune", "seeds")]
        whole = [piece["seconds"] for piece in kept if piece is not None]
        if len(whole) == len(kept):
            spent[seen.row] = sum(whole) / 3600
    if not spent:
        return None
    again = sum(piece["seconds"] for piece in results.earlier.values()) / 3600
    extra = sum(hours for row, hours in spent.items() if row.for_table_alone)
    texts, slow = [], 0
    for model in dict.fromkeys(row.group.model for row in spent):
        hours = [spent[row] for row in spent if row.group.model == model]
        middle = float(np.median(hours))
        slow += sum(value > 3 * middle for value in hours)
        texts.append(f"{60 * middle:.0f} minutes with {model.upper()}")
    return (
        f"Of {sum(spent.values()) + again:.1f} hours, {sum(spent.values()) - extra:.1f} went into rows of the question "
        f"above, {extra:.1f} into rows that only the tuned table of docs/results.md asks for (gcn, attention, DIN "
        f"without category), and {again:.1f} into scores that were taken again. A row, its search and its seeds, takes "
        f"by the median {listed(texts)}; {slow} of {len(spent)} took over three times that."
    )


def main_rows(rows: Sequence[Seen]) -> list[Seen]:
    """Rows of the tuned table of docs/results.md: :data:`~.rows.MAIN`, on logs split by leave-last-out."""
    return [s for s in rows if s.row.table in MAIN and s.row.group.log != "ml-1m"]
