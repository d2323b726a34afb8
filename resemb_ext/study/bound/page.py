"""Tables and figure of study ``bound``, from kept pieces alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Figure, Page, Panel, Table, number
from resemb_ext.study.harness.results import Results

from .experiment import CEILING, DELTA


def page(results: Results) -> Page:
    """Tables and figure of the study."""
    kept = {key: piece["result"] for key, piece in results.pieces.items()}
    terms = Table(
        f"Terms on simulated logs (M = {CEILING:g}, delta = {DELTA:g}; loss in nats)",
        ("model, log", "n", "L", "Lambda", "2 rho", "radius term", "cells term", "vacuous", "training loss", "gap"),
        [
            (
                key,
                str(r["independent_rows"]),
                str(r["longest_history"]),
                number(r["lipschitz"], 2),
                number(r["diameter"], 2),
                number(r["radius_term"], 2),
                _large(r["cells_term"]),
                "yes" if r["vacuous"] else "no",
                number(r["train_loss"], 4),
                number(r["gap"], 4),
            )
            for key, r in kept.items()
        ],
    )
    first = next(iter(kept.values()), None)
    cells = Table(
        "Cells by longest history"
        + ("" if first is None else f", {first['domains']} domains, n = {first['independent_rows']}"),
        ("L", "log10 N", "cells term", "above M"),
        []
        if first is None
        else [
            (
                length,
                number(c["log10_cells"], 1),
                _large(c["term"]),
                "no" if c["term"] is not None and c["term"] < first["ceiling"] else "yes",
            )
            for length, c in first["cells"].items()
        ],
    )
    caption = (
        "Measured gap and both terms of the bound, a mark for each trained model; dashed: ln 2, the loss of a constant "
        "guess, and the ceiling of the loss"
    )
    figures = [Figure("", caption, [Panel("", partial(_plot, kept))], list(kept))] if kept else []
    return Page([t for t in (_summary(list(kept.values())), _pairs(kept), terms, cells) if t.rows], figures)


def _summary(kept: list[dict[str, Any]]) -> Table:
    """Counts over all trained models, and over those with histories cut to the newest event."""
    rows = []
    for name, chosen in (("whole histories", False), ("newest event alone", True)):
        models = [r for r in kept if (r["longest_history"] == 1) == chosen]
        if models:
            gaps = [r["gap"] for r in models]
            rows.append(
                (
                    name,
                    str(len(models)),
                    str(sum(r["vacuous"] for r in models)),
                    str(sum(r["better_than_a_coin"] for r in models)),
                    str(sum(r["radius_term"] >= np.log(2) for r in models)),
                    f"{min(gaps):.4f} to {max(gaps):.4f}",
                )
            )
    header = (
        "histories",
        "models",
        "bound above the ceiling (vacuous)",
        "bound promises less than ln 2",
        "radius term alone above ln 2",
        "measured gap",
    )
    return Table("The bound on all trained models (ln 2: the loss of a constant guess)", header, rows)


def _pairs(kept: dict[str, dict[str, Any]]) -> Table:
    """Plain and Res-embedding on the same log."""
    pairs = [
        (r, kept[other])
        for key, r in kept.items()
        if (other := key.replace("plain-", "res-", 1)) != key and other in kept
    ]
    rows = [
        (text, f"{sum(res[name] < plain[name] for plain, res in pairs)} of {len(pairs)}")
        for text, name in (("radius term", "radius_term"), ("measured gap", "gap"))
    ]
    return Table(
        "Res-embedding and plain on the same log", ("value", "smaller with Res-embedding"), rows if pairs else []
    )


def _plot(kept: dict[str, dict[str, Any]], axes: Any) -> None:
    for arm, mark in (("plain", "o"), ("res", "x")):
        of_arm = [r for r in kept.values() if r["arm"] == arm and r["gap"] > 0]
        for name, color in (("radius_term", "C0"), ("cells_term", "C1")):
            axes.plot(
                [r["gap"] for r in of_arm],
                [r[name] for r in of_arm],
                mark,
                color=color,
                label=f"{name.replace('_', ' ')}, {arm}",
            )
    for level in (np.log(2), CEILING):
        axes.axhline(level, color="grey", linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="measured gap [nats]", ylabel="term [nats]")
    axes.legend()


def _large(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
