"""The training loop: epochs, early stopping on validation, checkpoints, continuing from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext.data import Samples
from resemb_ext.distributed.whole import inner
from resemb_ext.models import TorchBatch
from resemb_ext.runtime.progress import Progress

from .batches import train_batches
from .clock import Laps
from .config import FitConfig
from .crossfit import FoldTables
from .diagnose import likely_cause
from .evaluate import Metrics, batch_of, check_metric, device_of, measure, predict
from .fitted import FitResult, TrainingDiverged
from .fresh import draw_anew, seed_of_epoch
from .interrupt import Interrupts, TrainingInterrupted
from .losses import check_shareable, training_loss
from .optimizer import build_optimizer
from .ranks import Ranks
from .saving import Saver
from .statistics import shown
from .swaps import Swaps


def fit(
    model: nn.Module,
    train: Samples,
    valid: Samples,
    test: Samples | None = None,
    *,
    config: FitConfig | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    resume: bool = False,
    folds: FoldTables | None = None,
    swaps: Swaps | None = None,
    redraw: Callable[[int], nn.Module] | None = None,
    made_for: Mapping[str, str] | None = None,
    give_up: Callable[[Sequence[dict[str, Any]]], bool] | None = None,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    progress: bool | Progress | None = None,
    name: str = "model",
    **options: Any,
) -> FitResult:
    """Trains a model and leaves it with the weights of its best validation epoch.

    Validation alone picks the epoch; test samples are scored once, at the end. On the CPU the
    same model, samples, options, seed and thread count give the same result, however often the
    training was stopped and continued on the way.

    Ctrl-C, SIGTERM and SIGHUP end the training after the step under way, which is saved; a second one
    ends it at once.

    Args:
        model: takes a batch to logits [B] (``rx.models.DNN``, ...), in place on its device. Where it
            has a method ``auxiliary_loss()``, what that gives after a forward pass (a scalar or
            None) is added to the loss. One that ``rx.distributed.shard`` gave is trained by all its ranks,
            which call this with the same arguments: each takes its share of every batch, results are the same
            on all, and rank 0 writes the checkpoints, which are those of one process.
        train, valid, test: ``rx.data.Samples``; test may be None.
        config: options; default ``FitConfig()``.
        seed: of the order of samples and of dropout.
        folder: where the checkpoints go: ``best.safetensors``, and ``last.safetensors`` at the
            start, every ``save_every`` seconds and after every epoch; None writes nothing.
        resume: continue from ``folder``'s last checkpoint where there is one, bit for bit on the
            CPU; else start anew, as with False.
        folds: for cross-fitting: batches of one fold of users each, looked up over its graph.
        swaps: ids of training batches are swapped by it; not with ``folds``.
        redraw: makes a new model from a seed; at the start of every epoch but the first its embedding tables
            replace the model's (``resemb_ext.train.fresh``). None keeps the tables.
        made_for: what the samples and ids are, by name, say hashes. Checkpoints keep it; continuing
            from one that was made for others is refused.
        give_up: asked after every epoch with the result's history; True ends training there.
        on_epoch: called after every epoch, once it is saved, with its entry of the result's history; of a
            training that is continued first with the entries of the epochs before.
        progress: False is silent; None shows a bar on a terminal and a line an epoch elsewhere.
        name: how the model is called in what is shown.
        **options: override single options of ``config``.

    Raises:
        TrainingDiverged: the loss or a score of a validation or test sample is no longer finite.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP.
        ValueError: the stopping metric is undefined on ``valid`` (say, one class only), there
            are no training samples, an embedding's gradients do not fit the table optimizer, too
            little disk is free, or the checkpoint is damaged or of another model or other options.
        OSError: a checkpoint cannot be written.
    """
    config = replace(config or FitConfig(), **options)
    if len(train) == 0 or len(valid) == 0:
        raise ValueError(f"training needs samples: found {len(train)} for training, {len(valid)} for validation")
    check_metric(valid, config.metric)
    if resume and folder is None:
        raise ValueError("resume: needs the folder that holds the last checkpoint")
    ranks = Ranks.of(model)
    show = progress if isinstance(progress, Progress) else Progress(progress if ranks.first else False)
    torch.manual_seed(ranks.seed(seed))
    optimizer = build_optimizer(inner(model), config, ranks.seed(seed))
    if swaps is not None and folds is not None:
        raise ValueError("swaps: go over one graph; leave out folds")
    made_for = {
        **(made_for or {}),
        "swaps": "none" if swaps is None else swaps.key,
        "embeddings": "kept" if redraw is None else "drawn anew each epoch",
    }
    if not ranks.alone:
        if folds is not None or redraw is not None:
            raise ValueError("folds and redraw work on whole tables, which a sharded model has not; leave them out")
        check_shareable(model)
    saver = None if folder is None else Saver(Path(folder), model, optimizer, config, seed, made_for)
    if folds is not None:
        folds.attach(optimizer)
    training = _Training(
        model, optimizer, train, valid, config, seed, folds, swaps, redraw, give_up, on_epoch, saver, show, name
    )
    if resume and saver is not None and ranks.first_does(lambda: saver.can_resume):
        training.take_up(saver.load_last())
    else:
        training.save()  # what cannot be written is found before an epoch is lost
    interrupts = Interrupts(once=not ranks.alone)
    with interrupts.noted():
        stop = training.run(interrupts)
    if stop is not None:
        training.interrupted(stop)
    training.give_best()
    result = training.result
    if test is not None:
        result.test_scores = training.scores(test)
        result.test = training.measured(test, result.test_scores)
    trained_s = sum(entry["train_s"] for entry in result.history)
    result.samples_per_s = len(train) * result.epochs / trained_s
    result.wall_s = training.wall_s
    return result


class _Training:
    """One training under way, with all that a checkpoint says of it beside the weights."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Samples,
        valid: Samples,
        config: FitConfig,
        seed: int,
        folds: FoldTables | None,
        swaps: Swaps | None,
        redraw: Callable[[int], nn.Module] | None,
        give_up: Callable[[Sequence[dict[str, Any]]], bool] | None,
        on_epoch: Callable[[dict[str, Any]], object] | None,
        saver: Saver | None,
        show: Progress,
        name: str,
    ) -> None:
        self.model, self.optimizer, self.ranks = model, optimizer, Ranks.of(model)
        self.train, self.valid = train, valid
        self.config, self.seed, self.folds = config, seed, folds
        self.swaps, self.redraw = swaps, redraw
        self.give_up, self.on_epoch, self.saver, self.show, self.name = give_up, on_epoch, saver, show, name
        self.result = FitResult()
        # Of the epoch under way: batches done, sum of their losses, time spent.
        self.batch, self.loss_sum, self.clock = 0, 0.0, Laps()
        self.finished = False
        self.best_state: dict[str, Any] | None = None
        self._losses: tuple[float, float] | None = None
        self._wall_before, self._started = 0.0, time.perf_counter()

    @property
    def wall_s(self) -> float:
        return self._wall_before + time.perf_counter() - self._started

    def save(self) -> None:
        """Saves where training stands, if anywhere."""
        if self.saver is None:
            return
        result = self.result
        self.saver.save_last(
            {
                "epochs": result.epochs,
                "batch": self.batch,
                "step": result.steps,
                "loss_sum": self.loss_sum,
                "seconds": dict(self.clock.seconds),
                "best_epoch": result.best_epoch,
                "valid": result.valid,
                "history": result.history,
                "stopped": result.stopped,
                "finished": self.finished,
                "wall_s": self.wall_s,
            }
        )
        self.clock.skip()

    def take_up(self, saved: dict[str, Any]) -> None:
        """Stands where ``save`` was called."""
        result = self.result
        result.epochs, result.steps = saved["epochs"], saved["step"]
        result.best_epoch, result.valid = saved["best_epoch"], saved["valid"]
        result.history, result.stopped = saved["history"], saved["stopped"]
        self.batch, self.loss_sum = saved["batch"], saved["loss_sum"]
        self.clock = Laps(saved["seconds"])
        self.finished = saved["finished"]
        self._wall_before = saved["wall_s"]
        if self.on_epoch is not None:
            for entry in result.history:
                self.on_epoch(entry)
        if not self.finished:
            self.show.say(f"{self.name}  continues in epoch {result.epochs + 1} after step {result.steps}")

    def run(self, interrupts: Interrupts) -> int | None:
        """Trains until patience or epochs run out, or a signal comes; its number."""
        while not self.finished:
            self._epoch(interrupts)
            self._end_epoch()
            stop = self.ranks.signal(interrupts.caught)
            if stop is not None:
                return stop
        return None

    def give_best(self) -> None:
        """Gives the model the weights of the best epoch."""
        if self.saver is not None:
            self.saver.load_best(self.result.best_epoch)
        else:
            assert self.best_state is not None  # the first epoch is always better than none
            self.model.load_state_dict(self.best_state)

    def _epoch(self, interrupts: Interrupts) -> None:
        """The rest of one pass over the training samples."""
        model, optimizer, clock = self.model, self.optimizer, self.clock
        config, epoch = self.config, self.result.epochs + 1
        model.train()
        if self.redraw is not None and epoch > 1 and self.batch == 0:
            draw_anew(model, optimizer, config, self.redraw, seed_of_epoch(self.seed, epoch))
        device = device_of(model)
        steps, batches = self._batches(epoch)
        ranks, size = self.ranks, config.batch_size
        clock.skip()
        with self.show.bar(steps, f"{self.name} epoch {epoch}/{config.epochs}", self.batch) as bar:
            for tables, batch in batches:
                batch = batch.to(device)
                clock.lap("data")
                with tables:
                    rows = len(batch) if ranks.alone else min(size, len(self.train) - self.batch * size)
                    loss, value = training_loss(model, batch, rows, ranks)
                value, stop, due = ranks.step(value, interrupts.caught, self.saver is not None and self.saver.due())
                clock.lap("forward")
                if not math.isfinite(value):
                    where = f"the loss is {value} at step {self.result.steps + 1} (epoch {epoch})"
                    raise self._diverged(where, batch)
                loss.backward()
                clock.lap("backward")
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                clock.lap("optimizer")
                self._losses = (self._losses[0] if self._losses else value, value)
                self.loss_sum += value * rows
                self.batch += 1
                self.result.steps += 1
                bar.step(value)
                stop = interrupts.caught if ranks.alone else stop
                if stop is not None:
                    self.save()
                    self.interrupted(stop)
                if self.batch < steps and due:
                    self.save()

    def _diverged(self, where: str, batch: TorchBatch) -> TrainingDiverged:
        """What says where a loss or score of ``batch`` is not finite, and why."""
        ranks = self.ranks
        cause = likely_cause(
            inner(self.model), batch if ranks.alone else None, self.config, self._losses, steps=self.result.steps
        )
        cause = ranks.first_text(cause)
        return TrainingDiverged(f"{self.name}: {where}: {cause}")

    def scores(self, samples: Samples) -> np.ndarray:
        """Logits of every sample.

        Raises:
            TrainingDiverged: one is not finite.
        """
        size = self.config.eval_batch_size
        scores = predict(self.model, samples, batch_size=size)
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            row, result = int(bad[0]), self.result
            which = {"valid": "validation"}.get(samples.which, samples.which)
            when = f"the best weights, of epoch {result.best_epoch}" if self.finished else f"epoch {result.epochs + 1}"
            self.model.eval()
            batch = batch_of(samples, row, size).to(device_of(self.model))
            raise self._diverged(
                f"the score of {which} sample {row} is {scores[row]} after step {result.steps} ({when})", batch
            )
        return scores

    def _batches(self, epoch: int) -> tuple[int, Iterable[tuple[AbstractContextManager[None], TorchBatch]]]:
        """Batches of an epoch, from ``batch`` on with the context of their lookups; how many
        the whole epoch has."""
        size, folds = self.config.batch_size, self.folds
        place = {"seed": self.seed, "epoch": epoch, "start": self.batch}
        if folds is None:
            batches = train_batches(self.train, size, **place, swaps=self.swaps, ranks=self.ranks)
            return self.train.num_batches(size), ((nullcontext(), b) for b in batches)
        of_folds = folds.batches(self.train, size, **place)
        number = folds.num_batches(self.train, size)
        return number, ((folds.using(fold), batch) for fold, batch in of_folds)

    def _end_epoch(self) -> None:
        """Validates, keeps the weights where they are better, and stops where it is time."""
        config, result, clock = self.config, self.result, self.clock
        seconds = clock.total
        metrics = self.measured(self.valid, self.scores(self.valid))
        clock.lap("evaluation")
        value = metrics[config.metric]
        loss = self.loss_sum / len(self.train)
        result.epochs += 1
        entry = {"epoch": result.epochs, "loss": loss, "train_s": seconds}
        result.history.append({**entry, "seconds": dict(clock.seconds), "valid": metrics})
        better = not result.best_epoch or value > result.valid[config.metric]
        if better:
            result.best_epoch, result.valid = result.epochs, metrics
            self._keep_best()
        self.batch, self.loss_sum, self.clock = 0, 0.0, Laps()
        if result.epochs - result.best_epoch >= config.patience:
            result.stopped, self.finished = "patience", True
        elif result.epochs == config.epochs:
            self.finished = True
        elif self.give_up is not None and self.ranks.first_does(partial(self.give_up, result.history)):
            result.stopped, self.finished = "given up", True
        self.save()
        self.show.say(
            f"{self.name}  epoch {result.epochs}/{config.epochs}  loss {loss:.4f}  valid gAUC "
            f"{shown(metrics['gauc'])}  AUC {shown(metrics['auc'])}  "
            f"{len(self.train) / seconds:,.0f} samples/s" + ("  *" if better else "")
        )
        if self.on_epoch is not None:
            self.on_epoch(result.history[-1])

    def measured(self, samples: Samples, scores: np.ndarray) -> Metrics:
        """Metrics of scores, which rank 0 measures: all stop at the same epoch."""
        return self.ranks.first_does(lambda: measure(samples, scores))

    def _keep_best(self) -> None:
        if self.saver is None:
            self.best_state = {k: _copy(v) for k, v in self.model.state_dict().items()}
            return
        result = self.result
        self.saver.save_best({"epoch": result.epochs, "step": result.steps, "metrics": result.valid})

    def interrupted(self, signum: int) -> None:
        """Raises what says where training stands; it is saved there."""
        where = f"{self.name}: stopped in epoch {self.result.epochs + 1} after step {self.result.steps}"
        if self.saver is None:
            raise TrainingInterrupted(f"{where}; no folder was given, so nothing is saved", signum)
        raise TrainingInterrupted(f"{where}, saved in {self.saver.folder}", signum)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
