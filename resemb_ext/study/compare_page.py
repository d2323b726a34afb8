"""The page of study ``compare``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .frame import Results
from .report import Page, Table, interval, number
from .rows import TABLES


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    kept = results.pieces
    done = {key: piece for key, piece in kept.items() if key.startswith("seeds-")}
    rows = [_row(key, piece, kept) for key, piece in done.items()]
    table = Table(
        "Test metrics, mean over seeds",
        ("row", "gAUC", "AUC", "logloss", "minus plain, gAUC"),
        rows,
    )
    return Page(
        "Res-embedding against plain tables and controls",
        "Is a Res-embedding better than plain tables and controls, all tuned alike?",
        ("Every row is tuned on validation by the same search and trained with several seeds.",),
        [f"{len(rows)} rows are done."],
        [table] if rows else [],
        "Other logs, or a search of other options, in which the sign changes.",
    )


def _row(key: str, piece: dict[str, Any], kept: dict[str, Any]) -> tuple[str, ...]:
    name = key.removeprefix("seeds-")
    runs = piece["result"]["runs"]
    minus = kept.get(f"minus-{name}-plain")
    title = TABLES[piece["config"]["row"]["table"]].title
    return (
        f"{name} ({title})",
        *(number(float(np.mean([run["test"][metric] for run in runs])), 4)
          for metric in ("gauc", "auc", "logloss")),
        interval(None if minus is None else minus["result"]["gauc"], 4),
    )  # fmt: skip
