"""Local search on an unbounded geometric grid: the same procedure and trials for whatever is tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Point = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """One option of the search.

    Attributes:
        name: of the option.
        start: its value at the common start.
        ratio: each step multiplies or divides by it; None where ``choices`` are given.
        choices: named alternatives, the first at the start; a step takes the next.
    """

    name: str
    start: Any
    ratio: float | None = None
    choices: tuple[Any, ...] = ()

    def value(self, step: int) -> Any:
        """The option after ``step`` steps from the start."""
        if self.choices:
            return self.choices[step % len(self.choices)]
        assert self.ratio is not None
        return float(f"{self.start * self.ratio**step:.6g}")

    def moves(self) -> list[int]:
        """Steps to a neighbour."""
        return list(range(1, len(self.choices))) if self.choices else [1, -1]

    def step(self, at: int, by: int) -> int:
        """``at`` moved ``by``."""
        return (at + by) % len(self.choices) if self.choices else at + by


@dataclass(frozen=True)
class Trial:
    """A point of the grid (steps of each factor), its options and what it was worth."""

    point: Point
    options: dict[str, Any]
    value: float
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """A search that is done.

    Attributes:
        trials: in order.
        best: the position of the best one; the first of equals.
        closed: whether every neighbour of the best was tried, so that it is a local optimum.
    """

    trials: list[Trial]
    best: int
    closed: bool


def hill_climb(
    evaluate: Callable[[dict[str, Any], float], tuple[float, Mapping[str, Any]]],
    factors: Sequence[Factor],
    *,
    trials: int,
    seed: int = 0,
) -> Search:
    """Searches for the largest value, one untried neighbour of the best point after the other.

    Neighbours are tried in one order of moves, drawn by the seed over all factors' names, so that it is
    the same wherever the factors are. The first better neighbour becomes the best point, and the move
    that led to it is tried again first. Where all neighbours of the best point are tried, those of the
    next best are, so that every search makes as many trials. The grid has no edge.

    Args:
        evaluate: value and details of options; gets the best value so far, -inf at first, too. NaN
            counts as -inf.
        factors: what is searched.
        trials: how many, at least 1.
        seed: of the order of moves.

    Raises:
        ValueError: ``trials`` is below 1, or there are no factors.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, found {trials}")
    if not factors:
        raise ValueError("factors must name at least one, found none")
    moves = _moves(factors, seed)
    done: dict[Point, Trial] = {}
    cursor, best = 0, (0,) * len(factors)

    def neighbours(point: Point) -> list[tuple[int, Point]]:
        found = []
        for k in range(len(moves)):
            place = (cursor + k) % len(moves)
            which, by = moves[place]
            found.append((place, _moved(point, which, factors[which].step(point[which], by))))
        return [(place, other) for place, other in found if other not in done]

    def attempt(point: Point) -> bool:
        options = {f.name: f.value(step) for f, step in zip(factors, point, strict=True)}
        before = done[best].value if done else -math.inf
        value, details = evaluate(options, before)
        done[point] = Trial(point, options, -math.inf if math.isnan(value) else value, details)
        return done[point].value > before

    attempt(best)
    while len(done) < trials:
        # Sorting is stable: of equals the earlier one comes first.
        ranked = sorted(done, key=lambda point: -done[point].value)
        place, point = next(found[0] for found in map(neighbours, ranked) if found)
        if attempt(point):
            best, cursor = point, place
        else:
            cursor = (place + 1) % len(moves)
    order = list(done)
    return Search(list(done.values()), order.index(best), not neighbours(best))


def _moves(factors: Sequence[Factor], seed: int) -> list[tuple[int, int]]:
    """All moves (factor, step), in the order of a random key of the factor's name and step."""
    moves = [(which, by) for which, factor in enumerate(factors) for by in factor.moves()]

    def key(move: tuple[int, int]) -> float:
        which, by = move
        name = int.from_bytes(factors[which].name.encode(), "big")
        return float(np.random.default_rng([seed, name, by % 997]).random())

    return sorted(moves, key=key)


def _moved(point: Point, which: int, step: int) -> Point:
    return (*point[:which], step, *point[which + 1 :])


def among_best(
    values: Sequence[float], others: Sequence[Sequence[float]], *, rungs: Sequence[int], keep: int = 3, least: int = 2
) -> bool:
    """Whether a training goes on, by successive halving that stops trials on the way (Li et al. 2020, ASHA).

    At an epoch of ``rungs`` a training goes on where fewer than 1 / ``keep`` of all trainings there, itself among
    them and rounded up, were better at that epoch or before.

    Args:
        values: validation metric after each epoch.
        others: those of earlier trainings; one that ended before an epoch does not count there.
        rungs: epochs at which it is decided.
        keep: one of so many goes on.
        least: other trainings at an epoch, below which the answer is True.
    """
    epochs = len(values)
    there = [max(other[:epochs]) for other in others if len(other) >= epochs]
    if epochs not in rungs or len(there) < least:
        return True
    better = sum(other > max(values) for other in there)
    return better < math.ceil((len(there) + 1) / keep)


def cannot_reach(values: Sequence[float], target: float, *, cap: int, first: int = 6, span: int = 3) -> bool:
    """Whether a training cannot reach ``target`` even if it went on gaining as fast as lately.

    Learning curves flatten, so the line through the last ``span`` epochs' gain is above what comes.

    Args:
        values: validation metric after each epoch.
        target: the value to reach.
        cap: the most epochs.
        first: epochs before which the answer is False.
        span: epochs that the gain is taken over.
    """
    epochs = len(values)
    if epochs < max(first, span + 1):
        return False
    now, before = max(values), max(values[:-span])
    return now + (now - before) / span * (cap - epochs) < target
