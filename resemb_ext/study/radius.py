"""Study ``radius``: does a smaller radius inside domains make a model generalise?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from resemb_ext import data, metrics
from resemb_ext.models import MODELS
from resemb_ext.train import FitConfig, fit, paired_difference, predict

from .domains import communities_of, permuted
from .frame import Piece, Results, Source
from .heldout import hold_out, row_losses, take
from .report import Figure, Page, Table, interval, number
from .squeeze import SqueezedEmbedding, after_each_step

DIM, START = 32, 0.05
HELD_OUT = 0.15
PROBED = 20000  # training rows whose loss is taken
PARTS = ("train", "heldout", "valid", "test")


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """One piece a log, domains, gamma and seed; each tunes its own learning rate."""
    gammas, rates, seeds, epochs = (
        ((0.25, 1.0, 2.0), (2e-3, 1e-2), 2, 4)
        if quick
        else ((0.1, 0.25, 0.5, 1.0, 2.0, 4.0), (1e-3, 3e-3, 1e-2, 3e-2), 5, 12)
    )
    plan = []
    for source in sources:
        kinds: tuple[str, ...] = ()
        if source.truth is not None:
            kinds = ("truth", "truth-random")
        elif source.log.category_domain is not None:
            kinds = ("category", "category-random")
        if not quick:
            kinds = (*kinds, "communities", "communities-random")
        for seed in range(seeds):
            for kind in kinds:
                for gamma in gammas:
                    config = {
                        "log": source.name, "domains": kind, "gamma": gamma, "rates": list(rates),
                        "epochs": epochs, "dim": DIM, "start": START, "held_out": HELD_OUT,
                        "probed": PROBED,
                    }  # fmt: skip
                    work = partial(_train, source, kind, gamma, rates, epochs, seed)
                    key = f"{source.name}-{kind}-gamma{gamma:g}-seed{seed}"
                    plan.append(Piece(key, work, config, [seed], source))
    if not plan:
        raise ValueError(
            "data: the radius study needs domains: a simulated log or a category column"
        )
    return plan


def domains_of(source: Source, split: data.Split, kind: str, seed: int) -> np.ndarray:
    """int64 [H] of a kind of domains; "-random" permutes its labels."""
    base, _, random = kind.partition("-")
    if base == "truth":
        assert source.truth is not None
        domain = source.truth.domain
    elif base == "category":
        category = source.log.category_domain
        assert category is not None
        domain = category
    else:
        domain = communities_of(split.train)
    # Only items that are trained: others would only spread the table.
    domain = np.where(split.item_counts > 0, domain, -1)
    return permuted(domain, seed=seed) if random else domain


def _train(
    source: Source, kind: str, gamma: float, rates: Sequence[float], epochs: int, seed: int
) -> dict[str, Any]:
    split = data.split(source.log)
    domain = domains_of(source, split, kind, seed)
    samples = data.make_train_samples(split, negatives=1, seed=seed)
    rows, heldout = hold_out(samples, share=HELD_OUT, seed=seed)
    rng = np.random.default_rng([26, seed])
    probed = np.sort(rng.permutation(len(rows))[:PROBED])
    parts = {"train": take(rows, probed), "heldout": heldout} | {
        part: data.make_eval_samples(split, part, negatives=1) for part in ("valid", "test")
    }
    runs: list[dict[str, Any]] = []
    for rate in rates:
        torch.manual_seed(seed)
        table = SqueezedEmbedding(START * torch.randn(source.log.num_items, DIM), domain, gamma)
        torch.manual_seed(seed)
        model = MODELS["dnn"](table)
        # The table's parameter is under "other" for the optimizer: one rate steps all of the model.
        config = FitConfig(epochs=epochs, patience=epochs, lr=rate, metric="auc")
        probe = _Probe(model, parts, every=max(1, rows.num_batches(config.batch_size) // 2))

        def after(table: SqueezedEmbedding = table, probe: _Probe = probe) -> None:
            table.restore()
            probe()

        with after_each_step(table.weight, after):
            fit(model, rows, parts["valid"], config=config, seed=seed, progress=False)
        best = int(np.argmin(probe.curves["valid"]))
        runs.append({"rate": rate, "best": best, **probe.curves})
        if probe.curves["valid"][best] == min(min(run["valid"]) for run in runs):
            vectors = probe.vectors[best]
    chosen = min(range(len(runs)), key=lambda i: runs[i]["valid"][runs[i]["best"]])
    run = runs[chosen]
    at = run["best"]
    radius = metrics.aggregation_radius(vectors, domain, domain_source=kind, permutations=5)
    return {
        "gamma": gamma,
        "domains": kind,
        "rate": run["rate"],
        "rate_at_limit": run["rate"] in (min(rates), max(rates)),
        "at": at,
        "gap": run["heldout"][at] - run["train"][at],
        "losses": {part: run[part][at] for part in PARTS},
        "curve": {part: run[part] for part in PARTS},
        "radius": radius.to_dict(),
        "runs": runs,
    }


class _Probe:
    """Losses of parts, and the table, at every ``every``-th step."""

    def __init__(self, model: Any, parts: dict[str, data.Samples], every: int) -> None:
        self.model, self.parts, self.every, self.steps = model, parts, every, 0
        self.curves: dict[str, list[float]] = {name: [] for name in parts}
        self.vectors: list[np.ndarray] = []

    def __call__(self) -> None:
        self.steps += 1
        if self.steps % self.every:
            return
        for name, samples in self.parts.items():
            losses = row_losses(samples, predict(self.model, samples))
            self.curves[name].append(float(losses.mean()))
        with torch.no_grad():
            self.vectors.append(self.model.item_embedding.table().numpy().copy())


def at_level(curve: dict[str, list[float]], level: float) -> float | None:
    """Test loss where the training loss first falls to ``level``, by straight lines; None if never."""
    train, test = curve["train"], curve["test"]
    for i, loss in enumerate(train):
        if loss <= level:
            if i == 0 or train[i - 1] == loss:
                return test[i]
            part = (train[i - 1] - level) / (train[i - 1] - loss)
            return test[i - 1] + part * (test[i] - test[i - 1])
    return None


def contrast(results: dict[str, dict[str, Any]], kind: str, extreme: Callable[..., float]) -> Any:
    """How much more a gamma changes the gap with domains than with random ones, paired over seeds.

    Args:
        results: results of one log by key, each with ``seed``.
        kind: of domains; the control is ``kind-random``.
        extreme: ``min`` or ``max``: which gamma is set against 1.

    Returns:
        ``gap`` and ``matched``: each (gamma minus 1 with domains) - (the same with random ones), as
        :func:`paired_difference` gives it; None where pieces are missing. ``level`` is the training
        loss at which test losses are compared, the lowest that all runs reach.
    """
    kinds = (kind, f"{kind}-random")
    used = [r for r in results.values() if r["domains"] in kinds]
    if not used:
        return None
    gamma = extreme(r["gamma"] for r in used)
    cells = {(r["domains"], r["gamma"], r["seed"]): r for r in used}
    seeds = sorted(
        seed
        for seed in {r["seed"] for r in used}
        if all((k, g, seed) in cells for k in kinds for g in (gamma, 1.0))
    )
    if gamma == 1.0 or not seeds:
        return None
    needed = [cells[k, g, s] for k in kinds for g in (gamma, 1.0) for s in seeds]
    level = max(min(r["curve"]["train"]) for r in needed)
    found: dict[str, Any] = {"gamma": gamma, "level": level}
    values: dict[str, Callable[[dict[str, Any]], Any]] = {
        "gap": lambda r: r["gap"],
        "matched": lambda r: at_level(r["curve"], level),
    }
    for name, value in values.items():
        change = [
            [value(cells[k, gamma, s]) - value(cells[k, 1.0, s]) for s in seeds]
            for k in (kinds[1], kinds[0])
        ]
        found[name] = paired_difference(change[0], change[1])
    return found


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    kept: dict[str, dict[str, dict[str, Any]]] = {}
    for key, piece in results.pieces.items():
        entry = {**piece["result"], "seed": piece["seeds"][0]}
        kept.setdefault(piece["config"]["log"], {})[key] = entry
    rows, contrasts, answers, figures = [], [], [], []
    for log, entries in kept.items():
        cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for r in entries.values():
            cells.setdefault((r["domains"], r["gamma"]), []).append(r)
        for (kind, gamma), group in cells.items():
            rows.append(
                (log, kind, f"{gamma:g}", str(len(group)),
                 number(_mean(r["radius"]["ratio"] for r in group)),
                 " ".join(f"{r['rate']:g}" for r in group),
                 *(number(_mean(r["losses"][part] for r in group), 4) for part in PARTS),
                 number(_mean(r["gap"] for r in group), 4))
            )  # fmt: skip
        for kind in dict.fromkeys(k for k, _ in cells if not k.endswith("-random")):
            for extreme in (min, max):
                found = contrast(entries, kind, extreme)
                if found is None:
                    continue
                contrasts.append(
                    (log, kind, f"{found['gamma']:g}", str(found["gap"]["n"]),
                     interval(found["gap"], 4), interval(found["matched"], 4))
                )  # fmt: skip
                if extreme is min:
                    answers.append(_answer(log, kind, found))
        figures.append(Figure(log, f"{log}: gap by gamma, mean over seeds", partial(_plot, cells)))
    return Page(
        "The aggregation radius",
        "Does a small radius inside interest domains, rather than shrinking as such, generalise better?",
        (
            "E_i = m_g + gamma (V_i - m_g) in a DNN; after each step V is scaled about its mean so that the "
            "total variance of E is that of the start. Random domains have the same sizes. "
            f"{100 * HELD_OUT:.0f} % of training events are held out of training with their negatives; "
            "all losses are over rows with one negative a positive, the training's own ratio.",
            "Optimizers can partly undo gamma through V: the ratio of mean radius to separation that "
            "came out is in the table. One learning rate steps the whole model; the table shows it.",
        ),
        answers or ["No contrast can be formed from the pieces that are done."],
        [
            t
            for t in (
                Table(
                    "Domains minus random domains, each gamma minus 1 (logloss; 95 % t over seeds)",
                    ("log", "domains", "gamma", "seeds", "gap", "test at matched training loss"),
                    contrasts,
                ),
                Table(
                    "Means over seeds, at the best validation loss",
                    (
                        "log",
                        "domains",
                        "gamma",
                        "seeds",
                        "radius / separation",
                        "rates",
                        *PARTS,
                        "gap",
                    ),
                    rows,
                ),
            )
            if t.rows
        ],
        "A contrast of the other sign on logs with domains that were not read off the same events, or one "
        "that vanishes when the radius that came out, not gamma, is held alike in both arms.",
        figures,
    )


def _answer(log: str, kind: str, found: dict[str, Any]) -> str:
    gap = found["gap"]
    low, high = gap["low"], gap["high"]
    if low is None:
        says = "one seed says nothing of chance"
    elif high < 0:
        says = "for the paper"
    elif low > 0:
        says = "against the paper"
    else:
        says = "no difference shown"
    circular = " (circular: communities of the training events)" if kind == "communities" else ""
    return (
        f"{log}, {kind}{circular}: gamma {found['gamma']:g} against 1 changes the gap by "
        f"{interval(gap, 4)} more than with random domains: {says}."
    )


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _plot(cells: dict[tuple[str, float], list[dict[str, Any]]], axes: Any) -> None:
    for kind in dict.fromkeys(k for k, _ in cells):
        gammas = sorted(g for k, g in cells if k == kind)
        means = [_mean(r["gap"] for r in cells[kind, g]) for g in gammas]
        axes.plot(gammas, means, "o-", label=kind)
    axes.set(xlabel="gamma", ylabel="held-out minus training logloss", xscale="log")
    axes.legend()
