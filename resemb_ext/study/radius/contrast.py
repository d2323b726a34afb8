"""How much more a gamma changes an outcome with domains than with random ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resemb_ext.study.methods.probe import PER_EPOCH
from resemb_ext.train import paired_difference

from .experiment import CONTROL

COIN = float(np.log(2))
#: Training loss below a coin's from which on a gap at that level tells something.
LEARNED = 0.02
#: Outcomes of a contrast; "gap" alone is confounded by how far a model fits.
OUTCOMES = ("matched_gap", "matched_test", "gap", "heldout")


def at_level(curve: dict[str, list[float]], level: float, part: str) -> float:
    """Loss of ``part`` where the training loss first falls to ``level``, by straight lines.

    The first line begins at a coin's loss, which is about that of a model before its first step on
    every part.

    Raises:
        ValueError: it never does.
    """
    place, share = _reached(curve["train"], level)
    before, after = ([COIN, *curve[part]][i] for i in (place - 1, place))
    return before + share * (after - before)


def epochs_to(curve: dict[str, list[float]], level: float) -> float:
    """Passes over the training rows until the training loss first falls to ``level``."""
    place, share = _reached(curve["train"], level)
    return (place - 1 + share) / PER_EPOCH


def _reached(losses: list[float], level: float) -> tuple[int, float]:
    """The line, counted from 1, on which the loss first falls to ``level``, and the share of it until then."""
    train = [COIN, *losses]
    for i, loss in enumerate(train[1:], 1):
        if loss <= level:  # a level above a coin's loss is met at the first probe
            return i, 1.0 if train[i - 1] <= level else (train[i - 1] - level) / (train[i - 1] - loss)
    raise ValueError(f"level: the training loss never falls to {level}, its lowest is {min(train)}")


def contrast(results: dict[str, dict[str, Any]], kind: str, extreme: Callable[..., float]) -> Any:
    """How much more a gamma changes an outcome with domains than with random ones, paired over seeds.

    Args:
        results: results of one log by key, each with ``seed``.
        kind: of domains; the control is ``kind-random``.
        extreme: ``min`` or ``max``: which gamma is set against 1.

    Returns:
        each of ``OUTCOMES`` with ``domains`` and ``random`` (gamma minus 1) and ``difference`` of the
        two, as ``paired_difference`` gives them; ``gamma``; ``level``, the mean over seeds of
        the training loss at which they are matched, the lowest that all four runs of a seed reach; and
        ``epochs`` until then, means over seeds of ``domains`` and ``random`` at this gamma and of ``one`` at
        gamma 1. None where pieces are missing.
    """
    kinds = (kind, kind + CONTROL)
    cells = {(r["domains"], r["gamma"], r["seed"]): r for r in results.values()}
    gammas = [g for k, g, _ in cells if k in kinds]
    if not gammas:
        return None
    gamma = extreme(gammas)
    seeds = sorted(
        seed
        for seed in {seed for _, _, seed in cells}
        if all((k, g, seed) in cells for k in kinds for g in (gamma, 1.0))
    )
    if gamma == 1.0 or not seeds:
        return None
    levels = {s: max(min(cells[k, g, s]["curve"]["train"]) for k in kinds for g in (gamma, 1.0)) for s in seeds}
    values: dict[str, Callable[[dict[str, Any], int], float]] = {
        "matched_gap": lambda r, s: at_level(r["curve"], levels[s], "heldout") - levels[s],
        "matched_test": lambda r, s: at_level(r["curve"], levels[s], "test"),
        "gap": lambda r, s: r["gap"],
        "heldout": lambda r, s: r["losses"]["heldout"],
    }
    arms = {"domains": (kinds[0], gamma), "random": (kinds[1], gamma), "one": (kinds[0], 1.0)}
    found: dict[str, Any] = {
        "gamma": gamma,
        "level": float(np.mean(list(levels.values()))),
        "epochs": {
            name: float(np.mean([epochs_to(cells[(*arm, s)]["curve"], levels[s]) for s in seeds]))
            for name, arm in arms.items()
        },
    }
    for name, value in values.items():
        change = {k: [value(cells[k, gamma, s], s) - value(cells[k, 1.0, s], s) for s in seeds] for k in kinds}
        zero = [0.0] * len(seeds)
        found[name] = {
            "domains": paired_difference(zero, change[kinds[0]]),
            "random": paired_difference(zero, change[kinds[1]]),
            "difference": paired_difference(change[kinds[1]], change[kinds[0]]),
        }
    return found
