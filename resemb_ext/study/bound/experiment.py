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
