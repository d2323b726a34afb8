"""Study ``bound``: a generalisation bound in the radius, by algorithmic robustness. Ours.

The paper's own proof is not followed: the statement and the sketch on the page are ours, after
Xu & Mannor 2012 (Robustness and generalization, Machine Learning 86), Theorem 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import nn

from resemb_ext import data
from resemb_ext.models import DNN
from resemb_ext.study.harness.pieces import Piece, Source, simulated_source
from resemb_ext.study.harness.report import Figure, Page, Table, number
from resemb_ext.study.harness.results import Results
from resemb_ext.study.methods.heldout import hold_out_users, mean_over_users, row_losses
from resemb_ext.train import RunConfig, fit, predict
from resemb_ext.train.prepare import Prepared, build_model, graph_of, item_vectors, train_samples

DELTA = 0.05
CEILING = 5.0  # M, where the loss is cut off
EPOCHS = 10
LENGTHS = (1, 2, 5, 10, 20, 50)


def log_cells(domains: int, length: int) -> float:
    """ln of the number of cells: 2 labels, a target's domain, a multiset of at most ``length`` domains."""
    return float(np.log(2 * domains) + log_multisets(domains, length))


def log_multisets(domains: int, length: int) -> float:
    """ln C(domains + length, length)."""
    return float(special.gammaln(domains + length + 1) - special.gammaln(length + 1) - special.gammaln(domains + 1))


def cells_term(domains: int, length: int, rows: int, ceiling: float, delta: float) -> float:
    """M sqrt((2 N ln 2 + 2 ln(1 / delta)) / n); inf where N overflows."""
    cells = float(np.exp(min(log_cells(domains, length), 700.0)))
    return float(ceiling * np.sqrt((2 * cells * np.log(2) + 2 * np.log(1 / delta)) / rows))


def lipschitz(mlp: nn.Module) -> float:
    """Product of the layers' Lipschitz constants, by spectral norms; PReLU's is max(1, |slope|).

    Raises:
        TypeError: a layer whose constant is not known.
    """
    product = 1.0
    for layer in mlp.modules():
        if isinstance(layer, nn.Linear):
            product *= float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
        elif isinstance(layer, nn.PReLU):
            product *= max(1.0, float(layer.weight.detach().abs().max()))
        elif next(layer.children(), None) is None and not isinstance(layer, (nn.ReLU, nn.Dropout)):
            raise TypeError(f"mlp: no Lipschitz constant of {type(layer).__name__} is known")
    return product


def diameter(vectors: np.ndarray, domain: np.ndarray) -> float:
    """Twice the largest distance of an item to its domain's mean: above any distance in a domain."""
    largest = 0.0
    for number_ in np.unique(domain[domain >= 0]):
        points = vectors[domain == number_].astype(np.float64)
        largest = max(largest, float(np.linalg.norm(points - points.mean(axis=0), axis=1).max()))
    return 2 * largest


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """Plain and Res-embedding on simulated logs; real ones have no known domains to count by.

    Once with histories of the log's own lengths, once cut to the newest event, where cells are few.
    """
    del sources
    plan = []
    for seed in range(1 if quick else 3):
        for users in (500,) if quick else (2000, 8000):
            options: dict[str, Any] = {"users": users, "items": users // 2, "domains": 10}
            source = simulated_source(f"sim-{users}users-seed{seed}", seed=seed, **options)
            for length in (50, 1):
                for arm in ("plain", "res"):
                    config = {
                        **options,
                        "arm": arm,
                        "epochs": EPOCHS,
                        "delta": DELTA,
                        "ceiling": CEILING,
                        "max_history": length,
                    }
                    key = f"{arm}-{source.name}" + ("-newest" if length == 1 else "")
                    work = partial(_terms, source, arm, seed, length)
                    plan.append(Piece(key, work, config, [seed], source))
    return plan


def _terms(source: Source, arm: str, seed: int, length: int = 50) -> dict[str, Any]:
    log, truth = source.log, source.truth
    assert truth is not None
    config = RunConfig(epochs=EPOCHS, patience=EPOCHS, embedding=arm, max_history=length)
    split = data.split(log)
    valid = data.make_eval_samples(split, "valid", max_history=length, negatives=1)
    rows, heldout = hold_out_users(train_samples(config, split, seed), share=0.2, seed=seed)
    kept = np.isin(split.train.user, np.unique(rows.user))
    graph = graph_of(config, split.train.subset(kept)) if arm == "res" else None
    prepared = Prepared(log, split, valid, valid, graph, truth, truth.domain, "simulated truth")
    model = build_model(config, prepared, arm, seed)
    fit(model, rows, valid, config=config.fit_config(), seed=seed, progress=False)
    assert isinstance(model, DNN)
    constant = lipschitz(model.mlp)
    wide = diameter(item_vectors(model.get_submodule("item_embedding")), truth.domain)
    users = len(np.unique(rows.user))
    domains = int(truth.domain.max()) + 1
    losses = [
        mean_over_users(part, np.minimum(row_losses(part, predict(model, part)), CEILING)) for part in (rows, heldout)
    ]
    radius_term = constant * np.sqrt(2.0) * wide
    cells = {
        str(length): {
            "log10_cells": log_cells(domains, length) / np.log(10),
            "term": cells_term(domains, length, users, CEILING, DELTA),
        }
        for length in LENGTHS
    }
    longest = int((rows.end - rows.start).max())
    own = cells_term(domains, longest, users, CEILING, DELTA)
    return {
        "arm": arm,
        "domains": domains,
        "rows": len(rows),
        "independent_rows": users,
        "longest_history": longest,
        "lipschitz": constant,
        "diameter": wide,
        "radius_term": radius_term,
        "cells": cells,
        "cells_term": own,
        "bound": radius_term + own,
        "ceiling": CEILING,
        "vacuous": bool(radius_term + own >= CEILING),
        "train_loss": losses[0],
        "better_than_a_coin": bool(losses[0] + radius_term + own < np.log(2)),
        "gap": losses[1] - losses[0],
    }


STATEMENT = r"""**The statement is ours, not the paper's**, after Xu & Mannor 2012, Theorem 3.

*Symbols.* $G$: number of domains. $L$: longest history. $D$: dimension. $E_i \in \mathbb{R}^D$: vector of item
$i$, $g(i)$ its domain. $\rho$: the largest distance of an item's vector to the mean of its domain's vectors.
$z = (h, c, y)$: a row, of a history $h$ of at most $L$ items, a target item $c$ and a label $y \in \{0, 1\}$.
$\bar E(h)$: mean of the vectors of $h$ (0 for none). $f(h, c) = F(\bar E(h), E_c)$: the logit, $F$ an MLP with Lipschitz
constant $\Lambda$ in the Euclidean norm (at most the product of its layers' spectral norms and its activations'
constants). $M$: ceiling of the loss. $\ell(z) = \min(M, \ln(1 + e^{-(2y - 1) f(h, c)}))$: the loss. $n$: number of
users, drawn independently from one law, which also gives each one's rows. $S$: $n$ rows, one of each user, picked at
random; a new $z$ is a random row of a new user. $\delta \in (0, 1)$: the chance of failing. $N$: number of cells.

*Assumptions.* Domains, and the law of drawn negatives, are fixed before $S$ is drawn. Every item that a row can hold
has a domain.

*Cells.* Two rows share a cell if they have the same label, the same domain of the target, and as many history items of
each domain. A history of at most $L$ items over $G$ domains is a multiset of at most $L$ of them, so there are
$N = 2 G \binom{G + L}{L}$ cells.

*Statement.* With chance at least $1 - \delta$ over $S$, for any $E$ and $F$, also those trained on all rows of the users of
$S$,

$$\left| \mathbb{E}\, \ell(z) - \frac{1}{n} \sum_{z \in S} \ell(z) \right| \le
2 \sqrt{2}\, \Lambda \rho + M \sqrt{\frac{2 N \ln 2 + 2 \ln(1 / \delta)}{n}} .$$

*Sketch.* In a cell, pair the items of two histories domain by domain. Two items of one domain are at most $2 \rho$
apart, so the means are at most $2 \rho$ apart, the targets too, and the inputs $(\bar E(h), E_c)$ of $F$ at most
$\sqrt{(2 \rho)^2 + (2 \rho)^2} = 2 \sqrt{2} \rho$. The logistic loss is 1-Lipschitz in the logit, and the ceiling keeps
that, so $\ell$ varies by at most $2 \sqrt{2} \Lambda \rho$ in a cell. Let $n_k$ be the rows of $S$ in cell $k$ and $\mu_k$
its chance. Replacing each loss by its cell's expected one costs at most $2 \sqrt{2} \Lambda \rho$; what is left is
at most $M \sum_k |n_k / n - \mu_k|$, since losses lie in $[0, M]$. The counts are multinomial, so that sum is at most
$\sqrt{(2 N \ln 2 + 2 \ln(1 / \delta)) / n}$ with chance $1 - \delta$ (Bretagnolle, Huber and Carol). This is the proof of
Theorem 3; it never asks how $E$ and $F$ were found, only that the cells came first, so rows beyond $S$ may train them.

*What it leaves out.* Domains read off $S$ (communities) are not covered, nor popularity counted on $S$ for the drawing of
negatives. $\Lambda$ grows when $\rho$ shrinks and the logits stay, so a small radius alone promises nothing: the product
counts, and scaling $E$ by $a$ and the first layer by $1 / a$ leaves it as it is. $\Lambda$ by spectral norms is an
upper bound; the least one may be much smaller. The gap measured below is between held-out users and training
users, each user's mean loss counting once. For training users' mean losses in place of one picked row of each the bound is
the same: a user's share of rows in a union of cells lies in $[0, 1]$, and Hoeffding's inequality over the $2^N$ unions
gives what the counts gave."""


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    kept = {key: piece["result"] for key, piece in results.pieces.items()}
    terms = Table(
        f"Terms on simulated logs (M = {CEILING:g}, delta = {DELTA:g}; loss in nats)",
        ("model, log", "n", "L", "Lambda", "2 rho", "radius term", "cells term", "vacuous", "training loss", "gap"),
        [
            (
                key,
                str(r["independent_rows"]),
                str(r["longest_history"]),
                number(r["lipschitz"], 2),
                number(r["diameter"], 2),
                number(r["radius_term"], 2),
                _large(r["cells_term"]),
                "yes" if r["vacuous"] else "no",
                number(r["train_loss"], 4),
                number(r["gap"], 4),
            )
            for key, r in kept.items()
        ],
    )
    first = next(iter(kept.values()), None)
    cells = Table(
        "Cells by longest history"
        + ("" if first is None else f", {first['domains']} domains, n = {first['independent_rows']}"),
        ("L", "log10 N", "cells term", "above M"),
        []
        if first is None
        else [
            (
                length,
                number(c["log10_cells"], 1),
                _large(c["term"]),
                "no" if c["term"] is not None and c["term"] < first["ceiling"] else "yes",
            )
            for length, c in first["cells"].items()
        ],
    )
    answers = []
    if kept:
        vacuous = [r for r in kept.values() if r["vacuous"]]
        coin = sum(r["better_than_a_coin"] for r in kept.values())
        radius_alone = sum(r["radius_term"] >= np.log(2) for r in kept.values())
        gaps = [r["gap"] for r in kept.values()]
        answers = [
            f"**The bound explains none of the gaps: it is vacuous (above the loss's ceiling) in {len(vacuous)} of "
            f"{len(kept)} trained models, and it promises a loss below a coin's in {coin}.**",
            f"The measured gaps are {min(gaps):.4f} to {max(gaps):.4f} nats; the radius term alone is above a "
            f"coin's loss, ln 2, in {radius_alone} of {len(kept)}, so that fewer cells would not save it there.",
        ]
        said = [r for r in kept.values() if not r["vacuous"]]
        if said:
            answers.append(
                f"Where it is not vacuous the history is cut to {max(r['longest_history'] for r in said)} event "
                f"and the training loss is at least {min(r['train_loss'] for r in said):.3f} (a coin's is 0.693): "
                "a model with little to say."
            )
    return Page(
        "A bound in the radius",
        "Does a small radius inside domains imply that a model generalises?",
        (STATEMENT,),
        answers or ["No piece is done."],
        [t for t in (terms, cells) if t.rows],
        "A bound whose cells are counted by what the log occupies rather than by all multisets, with terms "
        "below the ceiling on data of this size, in which the plain and the Res-embedding differ as their "
        "measured gaps do.",
        [
            Figure(
                "terms",
                "Measured gap and both terms of the bound, a mark a trained model; dashed: a coin's loss and the "
                "loss's ceiling",
                partial(_plot, kept),
                list(kept),
            )
        ]
        if kept
        else [],
    )


def _plot(kept: dict[str, dict[str, Any]], axes: Any) -> None:
    for arm, mark in (("plain", "o"), ("res", "x")):
        of_arm = [r for r in kept.values() if r["arm"] == arm and r["gap"] > 0]
        for name, color in (("radius_term", "C0"), ("cells_term", "C1")):
            axes.plot(
                [r["gap"] for r in of_arm],
                [r[name] for r in of_arm],
                mark,
                color=color,
                label=f"{name.replace('_', ' ')}, {arm}",
            )
    for level in (np.log(2), CEILING):
        axes.axhline(level, color="grey", linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="measured gap [nats]", ylabel="term [nats]")
    axes.legend()


def _large(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
