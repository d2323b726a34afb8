"""The page of study ``quantised``: its table, from kept pieces alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Page, Table, number
from resemb_ext.study.harness.results import Results

from .protocol import DTYPES, MARGIN


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for piece in results.pieces.values():
        config = piece["config"]
        runs.setdefault((config["options"]["model"], config["log"]), []).append(piece["result"])
    return Page([table for table in (difference_table(runs), bytes_table(runs)) if table.rows])


def difference_table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> Table:
    """Test gAUC of each dtype minus float32, a row a model and log."""
    rows = []
    for (model, log), ran in runs.items():
        gains = {dtype: [run["gauc"][dtype] - run["gauc"]["float32"] for run in ran] for dtype in DTYPES}
        rows.append(
            (
                model,
                log,
                str(len(ran)),
                number(float(np.mean([run["gauc"]["float32"] for run in ran])), 4),
                *(f"{np.mean(gains[dtype]):+.5f}" for dtype in DTYPES),
                ", ".join(f"{gain:+.5f}" for gain in gains["int8"]),
                "yes" if abs(np.mean(gains["int8"])) <= MARGIN else "no",
            )
        )
    head = ("model", "log", "seeds", "float32", *DTYPES, "int8 by seed", f"int8 within ±{MARGIN}")
    return Table("Test gAUC of the item table in fewer bits, minus float32", head, rows)


def bytes_table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> Table:
    """Bytes of a row in every dtype."""
    sizes = next(iter(runs.values()))[0]["row_bytes"] if runs else {}
    rows = [(dtype, str(size), number(sizes["float32"] / size, 2)) for dtype, size in sizes.items()]
    return Table("Bytes of a row, D = 64", ("dtype", "bytes", "smaller by"), rows)
