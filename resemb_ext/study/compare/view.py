"""What kept pieces of study ``compare`` say, for its page and the README's picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from resemb_ext.study.harness.inference import holm
from resemb_ext.study.harness.report import side
from resemb_ext.study.harness.results import Results
from resemb_ext.train.statistics import shown_mean, shown_spread, spread

from .experiment import contrast_key
from .variants import TABLES, Group, Variant

#: The comparisons of the protocol, in its order: log, with category or not, table minus table.
REGISTERED: tuple[tuple[Variant, Variant], ...] = tuple(
    (Variant(Group(log, "dnn", category), "res"), Variant(Group(log, "dnn", category), other))
    for other, category in (("plain", True), ("res-entries", False), ("item2vec", False))
    for log in ("amazon-beauty", "amazon-toys")
)
#: Ends the keys of longer searches; their results are kept, no code makes more.
FURTHER = "-further"


@dataclass(frozen=True)
class Seen:
    """A variant and what is kept of it.

    Attributes:
        variant: the variant.
        tune, seeds: results of its pieces, or None.
    """

    variant: Variant
    tune: dict[str, Any] | None
    seeds: dict[str, Any] | None

    def values(self, metric: str, part: str = "test") -> list[float]:
        """One value a seed; none where the variant was not run."""
        return [] if self.seeds is None else [run[part][metric] for run in self.seeds["runs"]]

    def spread(self, metric: str, part: str = "test") -> str:
        """Mean and standard deviation over seeds, for a table."""
        values = self.values(metric, part)
        return shown_spread(spread(values)) if values else "not run"

    def mean(self, name: str, form: str) -> str:
        """Mean over seeds of an entry of the runs, for a table."""
        if self.seeds is None:
            return ""
        return shown_mean(self.seeds["runs"], name, form)


def seen_variants(results: Results) -> list[Seen]:
    """All variants of the plan by log, model, category and table."""
    order = list(TABLES)
    found = []
    for key in results.plan["pieces"]:
        if key.startswith("tune-") and not key.endswith(FURTHER):
            variant = _variant_of(key.removeprefix("tune-"), results)
            tune, seeds = (results.pieces.get(f"{kind}-{variant.key}") for kind in ("tune", "seeds"))
            found.append(Seen(variant, tune and tune["result"], seeds and seeds["result"]))
    logs = list(results.plan["data"])

    def place(seen: Seen) -> tuple[Any, ...]:
        group = seen.variant.group
        models = ("dnn", "din")
        return (logs.index(group.log), models.index(group.model), not group.category, order.index(seen.variant.table))

    return sorted(found, key=place)


def _variant_of(key: str, results: Results) -> Variant:
    """The variant of a key; names of logs may hold dashes."""
    logs = results.plan["data"]
    for log, model, category, table in product(logs, ("dnn", "din"), (True, False), TABLES):
        variant = Variant(Group(log, model, category), table)
        if variant.key == key:
            return variant
    raise ValueError(f"out: no variant is named {key}")


def contrast(results: Results, one: Variant, other: Variant) -> dict[str, Any] | None:
    """The kept difference of two variants, or None."""
    piece = results.pieces.get(contrast_key(one, other))
    return None if piece is None else piece["result"]


def minus_plain(results: Results, variant: Variant) -> dict[str, Any] | None:
    """The kept difference to plain of the same group, or None."""
    return contrast(results, variant, variant.beside("plain"))


@dataclass(frozen=True)
class Registered:
    """A comparison of the protocol: its variants, what was found, and p by itself and by Holm."""

    one: Variant
    other: Variant
    found: dict[str, Any] | None
    p: float
    holm: float

    @property
    def title(self) -> str:
        return difference_title(self.one, self.other)

    def shown(self, p: float) -> str:
        """``p`` or ``holm`` for a reader, with "at most" where every draw lay on one side of 0."""
        gauc = None if self.found is None else self.found["gauc"]
        least = gauc is not None and gauc["p"] <= 2 / (gauc["draws"] + 1)
        return ("at most " if least else "") + f"{p:.2g}"


def registered(results: Results) -> list[Registered]:
    """The protocol's comparisons, if any of them is in the plan; one not run counts as p = 1."""
    keys = [contrast_key(*pair) for pair in REGISTERED]
    if not any(key in results.plan["pieces"] for key in keys):
        return []
    found = [contrast(results, *pair) for pair in REGISTERED]
    values = [1.0 if entry is None else float(entry["gauc"]["p"]) for entry in found]
    return [
        Registered(one, other, entry, p, adjusted)
        for (one, other), entry, p, adjusted in zip(REGISTERED, found, values, holm(values), strict=True)
    ]


@dataclass(frozen=True)
class Twice:
    """A difference that was measured twice: of which variants, and what was found first and last."""

    one: Variant
    other: Variant
    first: dict[str, Any]
    last: dict[str, Any]

    @property
    def title(self) -> str:
        return difference_title(self.one, self.other)

    @property
    def left(self) -> bool:
        """Whether the last value is outside the first interval."""
        return not self.first["low"] <= self.last["value"] <= self.first["high"]

    @property
    def turned(self) -> bool:
        """Whether the intervals lie otherwise with regard to 0."""
        return side(self.first) != side(self.last)


def twice(results: Results) -> list[Twice]:
    """Differences of variants that were trained and scored again."""
    variants = [seen.variant for seen in seen_variants(results)]
    found = []
    for one in variants:
        for other in variants:
            key = contrast_key(one, other)
            if one.group == other.group and key in results.earlier and key in results.pieces:
                kept = (results.earlier[key], results.pieces[key])
                found.append(Twice(one, other, *(piece["result"]["gauc"] for piece in kept)))
    return found


def difference_title(one: Variant, other: Variant) -> str:
    """Of two variants of one group."""
    names = ("res" if variant.table == "res" else TABLES[variant.table].title for variant in (one, other))
    return f"{one.group.title}: {' minus '.join(names)}"
