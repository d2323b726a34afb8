"""The item table of a trained model smoothed over the graph, as far as validation says."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from resemb_ext.nn import Smoothing

from .config import RunConfig
from .evaluate import Metrics, measure, predict
from .prepare import Prepared


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A model whose item table is plain and smoothed.

    Attributes:
        model: the trained one where validation chose strength 0.
        valid, test, test_scores: as of ``FitResult``, of this model.
        about: JSON-able: "strength", in events, and "valid", the validation metric by strength.
    """

    model: nn.Module
    valid: Metrics
    test: Metrics
    test_scores: np.ndarray
    about: dict[str, Any]


def with_smoothed_items(model: nn.Module, smoothing: Smoothing) -> nn.Module:
    """A copy of a model with ``smoothing.embedding`` of its item embedding; all else is the model's own."""
    items = model.get_submodule("item_embedding")
    assert isinstance(items, nn.Embedding)
    # The copy shares every tensor: it is for scoring.
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo[id(items)] = smoothing.embedding(items)
    return copy.deepcopy(model, memo)


def smooth(model: nn.Module, prepared: Prepared, config: RunConfig) -> Smoothed:
    """Smooths a trained model by each strength of the options, and keeps what validation finds best.

    Args:
        model: trained; it stays as it is.
        prepared: of the run; test samples are scored once, by the strength that was chosen.
        config: the strengths and the metric that chooses; of equal ones the smallest strength is taken.
    """
    graph, size = prepared.graph, config.eval_batch_size
    assert graph is not None
    metrics: dict[float, Metrics] = {}
    best, best_model = -1.0, model
    for strength in sorted(config.smoothing_strengths):
        smoothing = Smoothing(graph, prepared.split.item_counts, strength)
        candidate = with_smoothed_items(model, smoothing) if strength else model
        metrics[strength] = measure(prepared.valid, predict(candidate, prepared.valid, batch_size=size))
        if best < 0 or metrics[strength][config.metric] > metrics[best][config.metric]:
            best, best_model = strength, candidate
    scores = predict(best_model, prepared.test, batch_size=size)
    about = {"strength": best, "valid": {f"{k:g}": found[config.metric] for k, found in metrics.items()}}
    return Smoothed(best_model, metrics[best], measure(prepared.test, scores), scores, about)
