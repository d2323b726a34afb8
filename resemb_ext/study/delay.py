"""Study ``delay``: do users' interests stay and jump, and can we tell?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from resemb_ext.data.splits import times_are_positions

from .behaviour import MODELS, Sequences, fit, fit_all
from .domains import communities_of, halves, permuted, sequences
from .dwell import dwell_tail, estimate_dwell, share_by_gap
from .frame import Piece, Results, Source, simulated_source
from .laws import draw
from .report import Figure, Page, Table, interval, number

MAX_LAG = 20


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """The pieces: recovery on simulated logs, choice among drawn laws, then each log."""
    plan = []
    sizes, stays, seeds = ((1000,), (0.8,), 1) if quick else ((1000, 3000, 6000), (0.8, 0.95), 5)
    logs: list[tuple[Source, float | None]] = []
    for seed in range(seeds):
        for users in sizes:
            for stay in stays:
                name = f"sim-{users}users-stay{stay}-seed{seed}"
                options = {"users": users, "items": users // 2, "stay": stay, "seed": seed}
                logs.append((simulated_source(name, **options), stay))
        null = f"null-{sizes[-1]}users-seed{seed}"
        options = {"users": sizes[-1], "items": sizes[-1] // 2, "null": True, "seed": seed}
        logs.append((simulated_source(null, **options), None))
    for source, kept in logs:
        config: dict[str, Any] = {"name": source.name, "stay": kept, "max_lag": 10}
        plan.append(
            Piece(f"recover-{source.name}", partial(_recover, source, kept), config, [0], source)
        )
    count = 20 if quick else 100
    for law in MODELS[:4]:
        config = {"law": law, "logs": count, "users": 300, "events": 12, "domains": 8}
        seed_list = list(range(count))
        plan.append(Piece(f"choose-{law}", partial(choices, law, seed_list), config, seed_list))
    for source in sources:
        for kind in ("category", "communities"):
            if kind == "category" and source.log.category_domain is None:
                continue
            config = {"log": source.name, "domains": kind, "max_lag": MAX_LAG}
            plan.append(
                Piece(
                    f"log-{source.name}-{kind}", partial(_of_log, source, kind), config, [0], source
                )
            )
    return plan


def _recover(source: Source, stay: float | None) -> dict[str, Any]:
    """Dwell of a simulated log with its domains known, estimated, and shuffled."""
    log, truth = source.log, source.truth
    assert truth is not None
    first, second = halves(log)
    crossed = [
        sequences(second, communities_of(first)),
        sequences(first, communities_of(second)),
    ]
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


def choices(law: str, seeds: Sequence[int], *, users: int = 300, **sizes: Any) -> dict[str, Any]:
    """How often each model is chosen on logs drawn from ``law``, one a seed.

    Args:
        law: as in :func:`draw`.
        seeds: of the logs.
        users: of the fit; as many more are held out.
        **sizes: of :func:`draw`.
    """
    bic: Counter[str] = Counter()
    of_all: Counter[str] = Counter()
    heldout: Counter[str] = Counter()
    for seed in seeds:
        events = draw(law, users=2 * users, seed=seed, **sizes)
        found = fit_all(events.where(events.user < users), events.where(events.user >= users))
        bic[found["chosen"]] += 1
        of_all[found["chosen_of_all"]] += 1
        heldout[found["best_heldout"]] += 1
    return {
        "law": law,
        "logs": len(seeds),
        "right": bic[law],
        "chosen": dict(bic),
        "chosen_of_all": dict(of_all),
        "best_heldout": dict(heldout),
    }


def _of_log(source: Source, kind: str) -> dict[str, Any]:
    """Everything about one log under one kind of domains."""
    log = source.log
    timed = not times_are_positions(log)
    first, second = halves(log)
    if kind == "category":
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
    lengths = np.bincount(np.cumsum(parts[0].first) - 1)
    lags = np.arange(1, MAX_LAG + 1)
    models = {name: fit(name, train) for name in MODELS}
    curves = {
        name: None if model.share is None else model.share(lags) for name, model in models.items()
    }
    return {
        "domains": kind,
        "median_history": float(np.median(lengths)),
        "estimate": estimate_dwell(parts, max_lag=MAX_LAG),
        "models": fit_all(train, heldout),
        "curves": curves,
        "tail": dwell_tail(parts[0]),
        "gaps": _gaps(parts[0], curves) if timed else None,
    }


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


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    of = {
        prefix: {k: p["result"] for k, p in results.pieces.items() if k.startswith(prefix)}
        for prefix in ("recover-", "choose-", "log-")
    }
    answers, figures = [], []
    recovered = [
        (key.removeprefix("recover-"), kind, r["dwell"], entry)
        for key, r in of["recover-"].items()
        for kind, entry in r["estimates"].items()
    ]
    recovery = Table(
        "Dwell on simulated logs, in events (95 % over users)",
        ("log", "domains", "true dwell", "by stays", "by decay", "excess over chance"),
        [
            (log, kind, number(true, 1), interval(e["by_stays"], 2), interval(e["by_decay"], 2),
             interval(e["excess"], 4))
            for log, kind, true, e in recovered
        ],
    )  # fmt: skip
    for kind in ("known", "communities"):
        off = [
            abs(entry["by_stays"]["value"] / true - 1)
            for _, k, true, entry in recovered
            if k == kind and true is not None
        ]
        if off:
            answers.append(
                f"With {kind} domains the dwell of {len(off)} simulated logs was recovered within "
                f"{100 * max(off):.1f} % at worst."
            )
    chosen = Table(
        "Models chosen by BIC on drawn logs (300 users, 12 events each, 8 domains)",
        ("law", "logs", "right", "chosen", "best held out"),
        [
            (r["law"], str(r["logs"]), str(r["right"]), _counts(r["chosen"]),
             _counts(r["best_heldout"]))
            for r in of["choose-"].values()
        ],
    )  # fmt: skip
    rows = []
    for key, r in of["log-"].items():
        name = key.removeprefix("log-")
        for model, entry in r["models"]["models"].items():
            rows.append(
                (name, model, str(entry["parameters"]), f"{entry['bic']:.0f}",
                 number(entry["heldout"], 4), interval(entry["against_delay"], 4))
            )  # fmt: skip
        models = r["models"]
        answers.append(
            f"{name}: {models['chosen']} has the lowest BIC of the four, {models['chosen_of_all']} of "
            f"all five, {models['best_heldout']} predicts held-out users best; a stay beyond fixed interests "
            f"is worth {interval(models['stay_beyond_interests'], 4)} nats an event; neighbouring events share "
            f"a domain {interval(r['estimate']['excess'])} more often than chance; the tail of stays: "
            f"{r['tail']['verdict']} (median history {r['median_history']:.0f} events)."
        )
        figures.append(Figure(name, f"{name}: chance of one domain by lag", _lag_plot(r)))
    fits = Table(
        "Behaviour models on logs (log-likelihood an event in nats; delay minus model, 95 % over users)",
        ("log", "model", "parameters", "BIC", "held out", "delay minus it"),
        rows,
    )
    gaps = Table(
        "Chance that two events share a domain, by seconds between them",
        ("log", "gap [s]", "pairs", "share", "delay model by lag", "mean lag"),
        [
            (key.removeprefix("log-"), f"{low:.0f} to {'-' if high is None else f'{high:.0f}'}",
             str(pairs), number(share), number(expected), number(lag, 1))
            for key, r in of["log-"].items()
            if r["gaps"] is not None
            for low, high, pairs, share, expected, lag in zip(
                r["gaps"]["low"], r["gaps"]["high"], r["gaps"]["pairs"], r["gaps"]["share"],
                r["gaps"]["expected"]["delay"], r["gaps"]["mean_lag"], strict=True)
        ],
    )  # fmt: skip
    return Page(
        "The interest delay model",
        "Do users' interests stay put for a while, then jump, and better so than rival accounts?",
        (
            "Models are fitted on half of the users and scored on the others. Communities are Louvain's "
            "(networkx) on the interest graph of users who are not scored. Events whose item has no "
            "domain are left out of the models and of pairs; lags count them.",
            "The simulated null log draws items without replacement, which puts its excess just below 0.",
        ),
        answers or ["No piece is done."],
        [t for t in (recovery, chosen, fits, gaps) if t.rows],
        "That a stay is a habit of the page rather than of the user (lists shown by genre), or that users "
        "differ in how long they stay: then a mixture over users would beat delay+mixture. Times of real "
        "clocks in more logs would tell the first.",
        figures,
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))


def _lag_plot(result: dict[str, Any]) -> Any:
    def plot(axes: Any) -> None:
        estimate = result["estimate"]
        lags = estimate["lags"]
        keep = [i for i, share in enumerate(estimate["share"]) if share is not None]
        at = [lags[i] for i in keep]
        share = np.array([estimate["share"][i] for i in keep])
        low = np.array([estimate["share_low"][i] for i in keep])
        high = np.array([estimate["share_high"][i] for i in keep])
        axes.errorbar(
            at,
            share,
            yerr=np.maximum([share - low, high - share], 0),
            fmt="ko",
            label="log",
        )
        for name, curve in result["curves"].items():
            if curve is not None:
                axes.plot(lags, curve, label=name)
        axes.set(xlabel="events apart", ylabel="chance of one domain", ylim=(0, None))
        axes.legend()

    return plot
