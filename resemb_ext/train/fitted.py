"""What a training comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .evaluate import Metrics


class TrainingDiverged(RuntimeError):
    """The loss or a score became NaN or infinite; the message names epoch, step and the likely cause."""


@dataclass
class FitResult:
    """What training did.

    Attributes:
        epochs: passes made over the training samples.
        steps: optimizer steps made.
        best_epoch: the epoch (from 1) whose weights the model holds.
        stopped: "patience", "epochs", or "given up".
        valid: metrics of the best epoch on validation.
        test: metrics of the best epoch on test, or None where no test samples were given.
        test_scores: float32 logits of the test samples, or None.
        history: per epoch ``epoch``, ``loss`` (mean), ``valid`` metrics, ``train_s``, and
            ``seconds`` by part ("data", "forward", "backward", "optimizer", "evaluation"; the
            first four sum to ``train_s``). Steps made inside backward count as backward.
        samples_per_s: training samples over training time, evaluation left out.
        wall_s: seconds in all, evaluation included.
    """

    epochs: int = 0
    steps: int = 0
    best_epoch: int = 0
    stopped: str = "epochs"
    valid: Metrics = field(default_factory=dict)
    test: Metrics | None = None
    test_scores: np.ndarray | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    samples_per_s: float = 0.0
    wall_s: float = 0.0
