"""Study ``delay``: do users' interests stay and jump, and can we tell?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from resemb_ext.data.splits import times_are_positions
from resemb_ext.study.harness.pieces import Piece, Source, simulated_source
from resemb_ext.study.methods.behaviour import MODELS, Sequences, fit, fit_all
from resemb_ext.study.methods.domains import communities_of, first_meetings, halves, permuted, sequences

from . import sensitivity
from .drawing import draw, draw_like
from .dwell import dwell_tail, estimate_dwell, share_by_gap

MAX_LAG = 20
DRAWS = 20  # of logs with geometric stays
INTERESTS = "fitted"  # how the mixtures' shares were found


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """The pieces: recovery on simulated logs, choice among models on drawn logs, then each log."""
    plan = []
    sizes, stays, seeds = ((1000,), (0.8,), 1) if quick else ((1000, 3000, 6000), (0.8, 0.95), 5)
    logs: list[tuple[Source, float | None, int]] = []
    for seed in range(seeds):
        for users in sizes:
            for stay in stays:
                name = f"sim-{users}users-stay{stay}-seed{seed}"
                options = {"users": users, "items": users // 2, "stay": stay, "seed": seed}
                logs.append((simulated_source(name, **options), stay, seed))
        null = f"null-{sizes[-1]}users-seed{seed}"
        options = {"users": sizes[-1], "items": sizes[-1] // 2, "null": True, "seed": seed}
        logs.append((simulated_source(null, **options), None, seed))
    for source, kept, seed in logs:
        config: dict[str, Any] = {"name": source.name, "stay": kept, "max_lag": 10}
        work = partial(_recover, source, kept)
        plan.append(Piece(f"recover-{source.name}", work, config, [seed], source))
    count = 20 if quick else 100
    for model in MODELS[:4]:
        config = {"law": model, "interests": INTERESTS, "logs": count, "users": 300, "events": 12, "domains": 8}
        seed_list = list(range(count))
        plan.append(Piece(f"choose-{model}", partial(choices, model, seed_list), config, seed_list))
    for source in sources:
        for kind in _kinds(source):
            shared = {"log": source.name, "domains": kind, "interests": INTERESTS}
            config = {**shared, "max_lag": MAX_LAG}
            plan.append(Piece(f"log-{source.name}-{kind}", partial(_of_log, source, kind), config, [0], source))
            config = {**shared, "draws": DRAWS}
            work = partial(_tail, source, kind)
            key = f"tail-{source.name}-{kind}"
            plan.append(Piece(key, work, config, list(range(DRAWS)), source))
    return plan + sensitivity.pieces(sources, quick=quick)


def _kinds(source: Source) -> list[str]:
    """Ways to give a log domains; returns to an item are left out once more where there are any."""
    log = source.log
    kinds = ["category"] if log.category_domain is not None else []
    repeats = len(first_meetings(log)) < len(log.interactions)
    kinds += ["category-first-meetings"] if kinds and repeats else []
    return [*kinds, "communities"]


def _recover(source: Source, stay: float | None) -> dict[str, Any]:
    """Dwell of a simulated log with its domains known, estimated, and shuffled."""
    log, truth = source.log, source.truth
    assert truth is not None
    first, second = halves(log)
    crossed = [sequences(second, communities_of(first)), sequences(first, communities_of(second))]
    kinds = {
        "known": [sequences(log, truth.domain)],
        "communities": crossed,
        "communities, circular": [sequences(log, communities_of(log))],
        "random": [sequences(log, permuted(truth.domain))],
    }
    return {
        "dwell": None if stay is None else 1 / (1 - stay),
        "users": log.num_users,
        "estimates": {kind: estimate_dwell(parts) for kind, parts in kinds.items()},
        "tail": dwell_tail(kinds["known"][0]),
    }


def choices(model: str, seeds: Sequence[int], *, users: int = 300, **sizes: Any) -> dict[str, Any]:
    """How often each model is chosen on logs drawn from ``model``, one a seed.

    Args:
        model: as in ``draw``.
        seeds: of the logs.
        users: of the fit; as many more are held out.
        **sizes: of ``draw``.
    """
    bic: Counter[str] = Counter()
    of_all: Counter[str] = Counter()
    heldout: Counter[str] = Counter()
    for seed in seeds:
        events = draw(model, users=2 * users, seed=seed, **sizes)
        found = fit_all(events.where(events.user < users), events.where(events.user >= users))
        bic[found["chosen"]] += 1
        of_all[found["chosen_of_all"]] += 1
        heldout[found["best_heldout"]] += 1
    return {
        "law": model,
        "logs": len(seeds),
        "right": bic[model],
        "chosen": dict(bic),
        "chosen_of_all": dict(of_all),
        "best_heldout": dict(heldout),
    }


def _split(source: Source, kind: str) -> tuple[list[Sequences], Sequences, Sequences]:
    """A log under one kind of domains: its parts, and the users to fit on and to hold out."""
    log = source.log
    timed = not times_are_positions(log)
    if kind == "category-first-meetings":
        log = first_meetings(log)
    first, second = halves(log)
    if kind != "communities":
        domain = log.category_domain
        assert domain is not None
        parts = [sequences(log, domain, with_time=timed)]
        train, heldout = sequences(first, domain), sequences(second, domain)
    else:
        # The graph's users are not those it is tried on, or co-occurrence would explain itself.
        of_first = communities_of(first)
        parts = [
            sequences(second, of_first, with_time=timed),
            sequences(first, communities_of(second), with_time=timed),
        ]
        fit_part, held_part = halves(second, seed=1)
        train, heldout = sequences(fit_part, of_first), sequences(held_part, of_first)
    return parts, train, heldout


def _tail(source: Source, kind: str) -> dict[str, Any]:
    """Shape of the stays of logs drawn with the fitted interests and geometric stays, as long as this one."""
    parts, train, _ = _split(source, kind)
    model = fit("delay+mixture", train)
    values = model.values
    drawn = [dwell_tail(draw_like(parts[0], **values, shares=model.shares, seed=seed)) for seed in range(DRAWS)]
    return {**values, "shapes": [found.get("shape") for found in drawn]}


def _of_log(source: Source, kind: str) -> dict[str, Any]:
    """Everything about one log under one kind of domains."""
    parts, train, heldout = _split(source, kind)
    timed = parts[0].time is not None
    lengths = np.bincount(np.cumsum(parts[0].first) - 1)
    lags = np.arange(1, MAX_LAG + 1)
    models = {name: fit(name, train) for name in MODELS}
    curves = {name: None if model.share is None else model.share(lags) for name, model in models.items()}
    return {
        "domains": kind,
        "median_history": float(np.median(lengths)),
        "estimate": estimate_dwell(parts, max_lag=MAX_LAG),
        "models": fit_all(train, heldout),
        "curves": curves,
        "tail": dwell_tail(parts[0]),
        "gaps": _gaps(parts[0], curves) if timed else None,
        "tied": tied_share(parts[0]) if timed else None,
    }


def tied_share(events: Sequences) -> float:
    """Share of neighbouring events of a user that have the same time."""
    assert events.time is not None
    after = np.flatnonzero(~events.first)
    return float((events.time[after] == events.time[after - 1]).mean()) if len(after) else 0.0


def _gaps(events: Sequences, curves: dict[str, Any]) -> dict[str, Any]:
    """Shares by seconds, beside what each model says of pairs as many events apart."""
    found = share_by_gap(events, MAX_LAG)
    weights = found.pop("lag_pairs")
    total = weights.sum(axis=1)
    expected = {
        name: np.where(total > 0, weights @ curve / np.maximum(total, 1), np.nan)
        for name, curve in curves.items()
        if curve is not None
    }
    return {**found, "expected": expected}
