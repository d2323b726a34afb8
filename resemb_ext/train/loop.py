"""The training loop: epochs, early stopping on validation, checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resemb_ext.data import Samples

from .batches import train_batches
from .checkpoint import load_checkpoint, save_checkpoint
from .clock import Laps
from .config import FitConfig
from .evaluate import Metrics, device_of, evaluate, measure, predict
from .optimizer import build_optimizer
from .progress import Progress


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the likely cause."""


@dataclass
class FitResult:
    """What training did.

    Attributes:
        epochs: passes made over the training samples.
        steps: optimizer steps made.
        best_epoch: the epoch (from 1) whose weights the model holds.
        stopped: "patience" or "epochs".
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


def fit(
    model: nn.Module,
    train: Samples,
    valid: Samples,
    test: Samples | None = None,
    *,
    config: FitConfig | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool | Progress | None = None,
    name: str = "model",
    **options: Any,
) -> FitResult:
    """Trains a model and leaves it with the weights of its best validation epoch.

    Validation alone picks the epoch; test samples are scored once, at the end. On the CPU the
    same model, samples, options, seed and thread count give the same result.

    Args:
        model: takes a batch to logits [B] (``rx.models.DNN``, ...), in place on its device.
        train, valid, test: ``rx.data.Samples``; test may be None.
        config: options; default ``FitConfig()``.
        seed: of the order of samples and of dropout.
        folder: where ``best.pt`` and ``last.pt`` go, after every epoch; None writes nothing.
        progress: False is silent; None shows a bar on a terminal and a line an epoch elsewhere.
        name: how the model is called in what is shown.
        **options: override single options of ``config``.

    Raises:
        TrainingDiverged: the loss is no longer finite.
        ValueError: the stopping metric is undefined on ``valid`` (say, one class only), there
            are no training samples, or an embedding's gradients do not fit the table optimizer.
    """
    config = replace(config or FitConfig(), **options)
    if len(train) == 0 or len(valid) == 0:
        raise ValueError(
            f"training needs samples: found {len(train)} for training, {len(valid)} for validation"
        )
    place = None if folder is None else Path(folder)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    show = progress if isinstance(progress, Progress) else Progress(progress)

    torch.manual_seed(seed)
    optimizer = build_optimizer(model, config)
    result = FitResult()
    best_value, best_state = -math.inf, None
    trained_s, started = 0.0, time.perf_counter()

    for epoch in range(1, config.epochs + 1):
        clock = Laps()
        loss = _epoch(model, train, optimizer, config, seed, epoch, result, show, name, clock)
        seconds = clock.total
        trained_s += seconds
        metrics = evaluate(model, valid, batch_size=config.eval_batch_size)
        clock.lap("evaluation")
        value = metrics[config.metric]
        if math.isnan(value):
            raise ValueError(
                f"{config.metric} is undefined on the validation samples: no "
                + (
                    "user has"
                    if config.metric == "gauc"
                    else "sample of one class is there; it has"
                )
                + " both classes; choose another metric or a split with both"
            )
        result.epochs = epoch
        result.history.append(
            {
                "epoch": epoch,
                "loss": loss,
                "train_s": seconds,
                "seconds": dict(clock.seconds),
                "valid": metrics,
            }
        )
        better = value > best_value
        if better:
            best_value, result.best_epoch, result.valid = value, epoch, metrics
            if place is None:
                best_state = {k: _copy(v) for k, v in model.state_dict().items()}
        if place is not None:
            _save(place, model, optimizer, config, seed, result, best=better)
        show.say(
            f"{name}  epoch {epoch}/{config.epochs}  loss {loss:.4f}  valid gAUC "
            f"{metrics['gauc']:.4f}  AUC {metrics['auc']:.4f}  "
            f"{len(train) / seconds:,.0f} samples/s" + ("  *" if better else "")
        )
        if epoch - result.best_epoch >= config.patience:
            result.stopped = "patience"
            break

    if place is not None:
        best_state = load_checkpoint(place / "best.pt")["model"]
    assert best_state is not None  # the first epoch is always better than none
    model.load_state_dict(best_state)
    if test is not None:
        result.test_scores = predict(model, test, batch_size=config.eval_batch_size)
        result.test = measure(test, result.test_scores)
    result.samples_per_s = len(train) * result.epochs / trained_s
    result.wall_s = time.perf_counter() - started
    return result


def _epoch(
    model: nn.Module,
    train: Samples,
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    seed: int,
    epoch: int,
    result: FitResult,
    show: Progress,
    name: str,
    clock: Laps,
) -> float:
    """One pass; returns the mean loss."""
    model.train()
    device = device_of(model)
    steps = -(-len(train) // config.batch_size)
    total = 0.0
    with show.bar(steps, f"{name} epoch {epoch}/{config.epochs}") as bar:
        for batch in train_batches(train, config.batch_size, seed=seed, epoch=epoch):
            batch = batch.to(device)
            assert batch.label is not None
            clock.lap("data")
            loss = F.binary_cross_entropy_with_logits(model(batch), batch.label)
            value = loss.item()
            clock.lap("forward")
            result.steps += 1
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"{name}: the loss is {value} at step {result.steps} (epoch {epoch}); the "
                    f"likely cause is a learning rate that is too high (lr {config.lr:g}, "
                    f"embedding_lr {config.embedding_lr:g}): lower it"
                )
            loss.backward()
            clock.lap("backward")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            clock.lap("optimizer")
            total += value * len(batch)
            bar.step(value)
    return total / len(train)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _save(
    place: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    seed: int,
    result: FitResult,
    *,
    best: bool,
) -> None:
    state = {
        "model": model.state_dict(),
        "epoch": result.epochs,
        "step": result.steps,
        "seed": seed,
        "config": config.to_dict(),
        "metrics": result.history[-1]["valid"],
    }
    if best:
        save_checkpoint(place / "best.pt", state)
    # With the optimizer, the generator and the epoch (which fixes the order of the samples),
    # last.pt holds all that continuing needs.
    save_checkpoint(
        place / "last.pt",
        {
            **state,
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "best_epoch": result.best_epoch,
            "history": result.history,
        },
    )
