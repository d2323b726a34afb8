"""Study ``radius``: does a smaller radius inside domains make a model generalise?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from resemb_ext import data, metrics
from resemb_ext.models import MODELS
from resemb_ext.study.harness.pieces import Context, Piece, Source, simulated_source
from resemb_ext.study.methods.domains import clusters, communities_of, permuted
from resemb_ext.study.methods.heldout import HELD_OUT, held_out_events
from resemb_ext.study.methods.item2vec import item_vectors
from resemb_ext.study.methods.probe import PROBED, parts_of, train_probed
from resemb_ext.study.methods.squeeze import SqueezedEmbedding
from resemb_ext.train import FitConfig

from . import sweep

DIM, START = 32, 0.05
#: Domains that are read off the training events themselves: an effect may explain itself.
CIRCULAR = ("communities", "item2vec")
CONTROL = "-random"
#: Of trainings with further learning rates: in their configuration, and before their keys.
WIDER = "wider"
#: Rates that a grid is extended to, one after the other, where its end is the best, and how often.
LADDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = 2


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """One piece a log, domains, gamma and seed, each tunes its own learning rate; then the sweeps.

    Two simulated logs, one of them without domains, always take part. The domains that are the
    claim come before the circular ones.
    """
    rates, epochs = ((2e-3, 1e-2), 4) if quick else ((1e-3, 3e-3, 1e-2), 10)
    size = {"users": 600, "items": 400, "domains": 8} if quick else {"users": 2000, "items": 1200}
    simulated = [source for source in sources if source.truth is not None] or [
        simulated_source("simulated", **size),
        simulated_source("simulated-null", null=True, **size),
    ]
    logs = [source for source in sources if source.truth is None]
    main: list[Piece] = []
    late: list[Piece] = []
    last: list[Piece] = []
    for source in (*simulated, *logs):
        truth = source.truth
        if truth is None and source.log.category_domain is None:
            raise ValueError(f"data: the radius study needs domains, {source.name} has no category column")
        own = "category" if truth is None else "truth"
        seeds = 2 if quick else 3 if truth is None else 5
        gammas = (0.1, 1.0, 3.0) if quick or truth is None else (0.1, 0.3, 1.0, 3.0)

        def plan(kind: str, seeds: int, source: Source = source, gammas: tuple[float, ...] = gammas) -> list[Piece]:
            return [
                _piece(source, k, gamma, rates, epochs, seed)
                for seed in range(seeds)
                for k in (kind, kind + CONTROL)
                for gamma in gammas
            ]

        main += plan(own, seeds)
        if not quick:
            last += [
                _wider_piece(source, k, gamma, epochs, seed)
                for seed in range(seeds)
                for k in (own, own + CONTROL)
                for gamma in gammas
            ]
        if truth is not None and truth.null:
            continue
        main += sweep.pieces(source, 1 if quick else 3, epochs, quick=quick)
        if quick:
            continue
        for kind in ("random", *CIRCULAR):  # no evidence: as few trainings as have an interval
            late += plan(kind, 3, gammas=(0.1, 1.0))
    return main + late + last


def _piece(source: Source, kind: str, gamma: float, rates: tuple[float, ...], epochs: int, seed: int) -> Piece:
    config = {
        "log": source.name,
        "domains": kind,
        "gamma": gamma,
        "rates": list(rates),
        "epochs": epochs,
        "dim": DIM,
        "start": START,
        "held_out": HELD_OUT,
        "probed": PROBED,
    }

    key = _key(source, kind, gamma, seed)
    if gamma == 1 and kind.endswith(CONTROL):
        same = _key(source, kind.removesuffix(CONTROL), gamma, seed)
        copied = partial(_same_training, kind, same, None)
        return Piece(key, copied, config, [seed], source, needs=[same])
    work = partial(_train, source, kind, gamma, rates, epochs, seed)
    return Piece(key, work, config, [seed], source)


def _wider_piece(source: Source, kind: str, gamma: float, epochs: int, seed: int) -> Piece:
    """The training with further rates; where the best rate of its grid is an inner one, the same."""
    config = {
        "log": source.name,
        "domains": kind,
        "gamma": gamma,
        "epochs": epochs,
        WIDER: list(LADDER),
        "steps": STEPS,
    }
    key = _key(source, kind, gamma, seed)
    if gamma == 1 and kind.endswith(CONTROL):
        same = f"{WIDER}-{_key(source, kind.removesuffix(CONTROL), gamma, seed)}"
        copied = partial(_same_training, kind, same, key)
        return Piece(f"{WIDER}-{key}", copied, config, [seed], source, needs=[same, key])
    work = partial(_train_further, source, kind, gamma, epochs, seed, key)
    return Piece(f"{WIDER}-{key}", work, config, [seed], source, needs=[key])


def _key(source: Source, kind: str, gamma: float, seed: int) -> str:
    return f"{source.name}-{kind}-gamma{gamma:g}-seed{seed}"


def _train_further(
    source: Source, kind: str, gamma: float, epochs: int, seed: int, key: str, context: Context
) -> dict[str, Any]:
    """Goes on from the kept training ``key``, a rate of the ladder at a time, while the end is the best."""
    best = context.results[key]
    runs = list(best["runs"])
    for _ in range(STEPS):
        tried = [run["rate"] for run in runs]
        if min(tried) < best["rate"] < max(tried):
            break
        place = LADDER.index(best["rate"]) + (-1 if best["rate"] == min(tried) else 1)
        if not 0 <= place < len(LADDER):
            break
        further = _train(source, kind, gamma, LADDER[place : place + 1], epochs, seed)
        runs += further["runs"]
        if further["losses"]["valid"] < best["losses"]["valid"]:
            best = further
    tried = [run["rate"] for run in runs]
    at_limit = best["rate"] in (min(tried), max(tried))
    return {**best, "rate_at_limit": at_limit, "runs": runs}


def _same_training(kind: str, same: str, kept: str | None, context: Context) -> dict[str, Any]:
    """At gamma 1 no domain enters: the control's training is that of its kind.

    Args:
        kept: key of a result that has the control's radius, for a training ``same`` without it.
    """
    found = dict(context.results[same])
    radius = found.pop("control_radius", None)
    if radius is None and kept is not None:
        radius = context.results[kept]["radius"]
    return {**found, "domains": kind, "radius": radius}


@lru_cache(maxsize=2)
def domains_of(source: Source, kind: str, seed: int) -> np.ndarray:
    """int64 [H] of a kind of domains, for items with a training event.

    Kinds: "truth", "category", "communities" (Louvain), "item2vec" (as many clusters as truth or
    categories have), "random" (truth or categories dealt to other items). With "-random" behind it:
    the same sizes, labels permuted. Events that the gap is measured on are out of the circular ones.
    """
    base, _, control = kind.partition("-")
    split = data.split(source.log)
    given = source.log.category_domain if source.truth is None else source.truth.domain
    if base in CIRCULAR:
        samples = data.make_train_samples(split, negatives=1, seed=seed)
        kept = split.train.subset(~held_out_events(samples, share=HELD_OUT, seed=seed))
        if base == "communities":
            domain = communities_of(kept)
        else:
            number = 50 if given is None else len(np.unique(given[given >= 0]))
            domain = clusters(item_vectors(kept, DIM, seed), number, seed=seed)
    else:
        assert given is not None
        domain = permuted(given, seed=1000 + seed) if base == "random" else given
    # Only items that are trained: others would only spread the table.
    domain = np.where(split.item_counts > 0, domain, -1)
    return permuted(domain, seed=seed) if control else domain


def _train(source: Source, kind: str, gamma: float, rates: Sequence[float], epochs: int, seed: int) -> dict[str, Any]:
    domain = domains_of(source, kind, seed)
    rows, parts = parts_of(data.split(source.log), seed)
    best: dict[str, Any] = {}
    runs = []
    for rate in rates:
        torch.manual_seed(seed)
        table = SqueezedEmbedding(START * torch.randn(source.log.num_items, DIM), domain, gamma)
        torch.manual_seed(seed)
        model = MODELS["dnn"](table)

        def read(table: SqueezedEmbedding = table) -> np.ndarray:
            with torch.no_grad():
                return table.table().numpy().copy()

        # The table's parameter is under "other" for the optimizer: one rate steps all of the model.
        config = FitConfig(epochs=epochs, patience=epochs, lr=rate, metric="auc")
        probe = train_probed(model, table.weight, rows, parts, config, seed, read=read, before=table.restore)
        found = probe.outcome()
        runs.append({"rate": rate, "at": found["at"], "losses": found["losses"]})
        if not best or found["losses"]["valid"] < best["losses"]["valid"]:
            vectors = probe.vectors[probe.best]
            best = {"rate": rate, **found, "radius": _radius(vectors, domain, kind)}
            if gamma == 1:
                control = kind + CONTROL
                dealt = domains_of(source, control, seed)
                best["control_radius"] = _radius(vectors, dealt, control)
    at_limit = best["rate"] in (min(rates), max(rates))
    return {"gamma": gamma, "domains": kind, **best, "rate_at_limit": at_limit, "runs": runs}


def _radius(vectors: np.ndarray, domain: np.ndarray, kind: str) -> dict[str, Any]:
    found = metrics.aggregation_radius(vectors, domain, domain_source=kind, permutations=5)
    return found.to_dict()
