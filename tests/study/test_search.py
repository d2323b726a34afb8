"""The search: it finds known optima in the trials it is given, on a grid without an edge."""

from __future__ import annotations

import math

import pytest

from resemb_ext.study.harness.search import Factor, cannot_reach, hill_climb

FACTORS = (Factor("rate", 1.0, ratio=3.0), Factor("decay", 0.5, ratio=2.0), Factor("kind", "a", choices=("a", "b")))


def _bowl(rate: float, decay: float, kind: str):
    """Worth 0 at the optimum, and less the further away; separable, so no local optimum but it."""

    def evaluate(options, best):
        del best
        value = -abs(math.log(options["rate"] / rate, 3)) - abs(math.log2(options["decay"] / decay))
        return value - (options["kind"] != kind), {}

    return evaluate


@pytest.mark.parametrize(("rate", "decay", "kind"), [(1, 0.5, "a"), (27, 0.125, "b"), (1 / 81, 2, "b")])
def test_optimum_of_a_known_function_is_found_and_closed(rate, decay, kind) -> None:
    found = hill_climb(_bowl(rate, decay, kind), FACTORS, trials=30)
    best = found.trials[found.best]
    assert best.options == {"rate": pytest.approx(rate, rel=1e-5), "decay": decay, "kind": kind}
    assert best.value == pytest.approx(0, abs=1e-5) and found.closed
    assert len(found.trials) == 30
    points = [trial.point for trial in found.trials]
    assert len(set(points)) == 30 and points[0] == (0, 0, 0)


@pytest.mark.parametrize("trials", [1, 2, 5, 12])
def test_number_of_trials_is_what_was_asked(trials) -> None:
    calls = []

    def evaluate(options, best):
        calls.append((options["rate"], best))
        return -len(calls), {"call": len(calls)}

    found = hill_climb(evaluate, FACTORS, trials=trials)
    assert len(calls) == len(found.trials) == trials
    assert found.best == 0 and found.closed == (trials > 5)  # five neighbours
    assert calls[0] == (1.0, -math.inf)
    assert all(best == -1 for _, best in calls[1:])  # told the best value so far
    assert [trial.details["call"] for trial in found.trials] == list(range(1, trials + 1))


def test_a_trial_is_a_neighbour_of_the_best_while_it_has_untried_ones() -> None:
    found = hill_climb(_bowl(27, 0.125, "b"), FACTORS, trials=14)
    for number in range(1, 14):
        before = found.trials[:number]
        best = max(before, key=lambda trial: trial.value).point
        untried = _neighbours(best) - {trial.point for trial in before}
        assert not untried or found.trials[number].point in untried


def _neighbours(point):
    rate, decay, kind = point
    steps = {(rate + by, decay, kind) for by in (-1, 1)} | {(rate, decay + by, kind) for by in (-1, 1)}
    return steps | {(rate, decay, 1 - kind)}


def test_the_order_of_moves_is_the_same_with_another_factor_added() -> None:
    def worse(options, best):
        return (0.0, {}) if math.isinf(best) else (-1.0, {})

    few = [t.point for t in hill_climb(worse, FACTORS, trials=6).trials]
    more = (*FACTORS, Factor("extra", 1.0, ratio=2.0))
    many = [t.point for t in hill_climb(worse, more, trials=8).trials]
    assert [point[:3] for point in many if point[3] == 0] == few


def test_nan_and_divergence_are_never_best() -> None:
    values = iter([0.5, math.nan, -math.inf, 0.6])
    found = hill_climb(lambda options, best: (next(values), {}), FACTORS, trials=4)
    assert found.best == 3


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        hill_climb(_bowl(1, 1, "a"), FACTORS, trials=0)
    with pytest.raises(ValueError, match="factors"):
        hill_climb(_bowl(1, 1, "a"), (), trials=1)


def test_hopeless_only_below_the_line_of_the_last_gain() -> None:
    curve = [0.60, 0.64, 0.66, 0.67, 0.675, 0.678]  # last gain 0.018 in 3 epochs
    reach = 0.678 + 0.006 * (30 - 6)
    assert cannot_reach(curve, reach + 1e-6, cap=30)
    assert not cannot_reach(curve, reach - 1e-6, cap=30)
    assert not cannot_reach(curve[:5], 1.0, cap=30)  # too early to tell
    assert cannot_reach([0.6] * 6, 0.61, cap=30) and not cannot_reach([0.6] * 6, 0.6, cap=30)
