"""Searches of study ``compare`` carried on, to see whether their few trials decided a comparison."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from resemb_ext.runtime.files import plain
from resemb_ext.study.compare.bench import Bench
from resemb_ext.study.compare.rows import Row
from resemb_ext.study.compare.work import L2_MODES, ORDER_SEED, Scale, factors_of, search_result, trial_of
from resemb_ext.study.harness.climb import Factor, climb
from resemb_ext.study.harness.pieces import Desk

#: Where the search among touched rows starts: a row that is met once decays once, not in every step.
TOUCHED_L2 = 1e-3


def touched_factors(found: dict[str, Any]) -> tuple[Factor, ...]:
    """What is searched with L2 of touched rows alone, from the best options of the search before."""
    return (
        Factor("embedding_lr", found["embedding_lr"], ratio=3.0),
        Factor("embedding_l2", TOUCHED_L2, ratio=3.0),
        Factor("l2_of", L2_MODES[1], choices=(L2_MODES[1],)),
        Factor("init_std", found["init_std"], ratio=2.0),
    )


def tune_further(row: Row, bench: Bench, scale: Scale, desk: Desk) -> dict[str, Any]:
    """The row's search carried on until it closes, then one among touched rows alone.

    Returns:
        the search as :func:`~resemb_ext.study.compare.work.tune` gives it, with ``touched``, the other one's;
        ``options`` and ``valid_gauc`` are the best of both.

    Raises:
        RuntimeError: the kept trials are not the first of this search.
    """
    left = list(desk.results[f"tune-{replace(row, further=False).key}"]["trials"])
    attempt = trial_of(row, bench, scale, desk)

    def evaluate(found: dict[str, Any], best: float) -> tuple[float, dict[str, Any]]:
        if not left:
            return attempt(found, best)
        kept = left.pop(0)
        if kept["options"] != plain(found):
            raise RuntimeError(f"{row.key}: the kept trials are not the first of this search")
        # Its seconds were spent, and are counted, where it comes from.
        kept = {k: v for k, v in kept.items() if k not in ("steps", "options", "seconds")}
        return kept["valid"]["gauc"] if "valid" in kept else -math.inf, kept

    on = search_result(climb(evaluate, factors_of(row.table), trials=scale.further, seed=ORDER_SEED, least=len(left)))
    touched = search_result(climb(attempt, touched_factors(on["options"]), trials=scale.touched, seed=ORDER_SEED))
    best = max((on, touched), key=lambda search: search["valid_gauc"])
    return {**on, "touched": touched, "options": best["options"], "valid_gauc": best["valid_gauc"]}
