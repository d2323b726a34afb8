"""What the best possible scorer of a simulated log reaches."""

from __future__ import annotations

from typing import Any

import numpy as np

from resemb_ext import metrics

from .prepare import Prepared


def best_possible(prepared: Prepared) -> dict[str, Any] | None:
    """AUC and gAUC of the best possible scorer on the same candidates, for a simulated log.

    ``exact`` says whether the negatives' distribution is modelled exactly (see ``bayes_scores``).
    """
    if prepared.truth is None:
        return None
    result: dict[str, Any] = {}
    for which, samples in (("valid", prepared.valid), ("test", prepared.test)):
        score = prepared.truth.bayes_scores(samples)
        seen = samples.target_seen
        result[which] = {
            **_ranking(samples.label, score, samples.user),
            "seen": _ranking(samples.label[seen], score[seen], samples.user[seen]),
            "exact": which == "test" and prepared.split.how == "leave-last-out",
        }
    return result


def _ranking(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> dict[str, float]:
    return {"auc": metrics.auc(labels, scores), "gauc": metrics.gauc(labels, scores, users)}
