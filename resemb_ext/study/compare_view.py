"""What kept pieces of study ``compare`` say, for its page and for docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .compare import contrast_key
from .frame import Results
from .inference import holm
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


def side(entry: dict[str, Any]) -> str:
    """ "above", "below" or "undecided": where an interval lies with regard to 0."""
    return "above" if entry["low"] > 0 else "below" if entry["high"] < 0 else "undecided"


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


def _short(row: Row) -> str:
    return "res" if row.table == "res" else TABLES[row.table].title


def listed(texts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]


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
    return "Not run yet: " + "; ".join(texts) + "." if texts else None


def verdict(results: Results, rows: Sequence[Seen]) -> str:
    """One sentence: where res lies against plain in test gAUC, both tuned, with category first."""
    groups = sorted({seen.row.group for seen in rows if seen.row.table == "res"},
                    key=lambda g: (not g.category, g.log, g.model))  # fmt: skip
    sides: dict[str, list[str]] = {}
    for group in groups:
        found = minus_plain(results, Row(group, "res"))
        if found is not None:
            where = f"{group.title} ({signed(found['gauc'])})"
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
    if not texts:
        return None
    return (
        "Where it does not favour res (average): tables with at least its mean test gAUC are, on "
        + "; on ".join(texts)
        + "."
    )


def main_rows(rows: Sequence[Seen]) -> list[Seen]:
    """Rows of the tuned table: the tables of the issue, on logs split by leave-last-out."""
    return [s for s in rows if s.row.table in MAIN and s.row.group.log != "ml-1m"]
