"""Scores and metrics of samples, in large batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext import metrics
from resemb_ext.data import Samples
from resemb_ext.data.splits import has_both_classes
from resemb_ext.models import TorchBatch

from .batches import shared_batches
from .ranks import ALONE, Ranks

Metrics = dict[str, Any]


def predict(model: nn.Module, samples: Samples, *, batch_size: int = 16384) -> np.ndarray:
    """Logits of every sample, in order.

    Consecutive samples with the same history (the candidates of one event) share its lookup and
    pooling. The model is in evaluation mode meanwhile and returns to the mode it was in.

    Args:
        model: takes a ``TorchBatch`` to logits. One that ``rx.distributed.shard`` gave scores a share of each batch on
            every rank, which all call this and get the scores of all.
        samples: ``rx.data.Samples``.
        batch_size: rows a batch.

    Returns:
        float32 [N].
    """
    ranks = Ranks.of(model)
    sizes = [min(batch_size, len(samples) - low) for low in range(0, len(samples), batch_size)]
    cuts = [ranks.cut(size) for size in sizes]
    scores = np.empty(sum(cut.stop - cut.start for cut in cuts), dtype=np.float32)
    training, device = model.training, device_of(model)
    model.eval()
    try:
        with torch.inference_mode():
            for start, batch in _eval_batches(samples, batch_size, ranks):
                logits = model(batch.to(device))
                scores[start : start + len(batch)] = logits.float().cpu().numpy()
    finally:
        model.train(training)
    return ranks.together(scores, sizes)


def _eval_batches(samples: Samples, batch_size: int, ranks: Ranks = ALONE) -> Iterator[tuple[int, TorchBatch]]:
    start = 0
    for batch in shared_batches(samples, batch_size, ranks):
        yield start, batch
        start += len(batch)


def batch_of(samples: Samples, row: int, batch_size: int) -> TorchBatch:
    """The batch of ``predict`` that scores a row."""
    return next(batch for start, batch in _eval_batches(samples, batch_size) if row < start + len(batch))


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def measure(samples: Samples, scores: np.ndarray) -> Metrics:
    """Metrics of logits over all rows, and under "seen" over targets met in training.

    Args:
        samples: N rows.
        scores: logits, float [N], in the order of the rows.

    Returns:
        ``auc``, ``gauc``, ``logloss``, ``rows``, ``gauc_users``, ``gauc_skipped_users``, and
        ``seen`` with the same. A metric that is undefined (one class only) is NaN.
    """
    result = _measure(samples.label, scores, samples.user)
    seen = samples.target_seen
    result["seen"] = _measure(samples.label[seen], scores[seen], samples.user[seen])
    return result


def _measure(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> Metrics:
    details = metrics.gauc(labels, scores, users, return_details=True)
    return {
        "auc": metrics.auc(labels, scores),
        "gauc": details.value,
        "logloss": metrics.logloss(labels, scores, from_logits=True),
        "rows": int(labels.size),
        "gauc_users": details.groups,
        "gauc_skipped_users": details.skipped_groups,
    }


def check_metric(samples: Samples, metric: str, instead: str = "take metric auc") -> None:
    """Refuses validation samples on which the metric that stops training is undefined.

    Args:
        samples: at least one.
        metric: "auc" needs both classes, "gauc" a user with both.
        instead: the way out where gAUC is undefined, for the message.

    Raises:
        ValueError: they are not there.
    """
    if metric == "gauc":
        if not has_both_classes(samples.user, samples.label):
            raise ValueError(f"gauc is undefined on the validation samples: no user has both classes; {instead}")
    elif samples.label.min() == samples.label.max():
        raise ValueError(f"{metric} is undefined on the validation samples: they have one class")


def evaluate(model: nn.Module, samples: Samples, *, batch_size: int = 16384) -> Metrics:
    """``measure`` of ``predict``.

    Args:
        model, samples, batch_size: as of ``predict``.

    Returns:
        as ``measure``.
    """
    return measure(samples, predict(model, samples, batch_size=batch_size))
