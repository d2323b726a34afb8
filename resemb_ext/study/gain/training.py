"""The work of study ``gain``: searching an arm's options, choosing finalists, training them, smoothing by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from resemb_ext import metrics
from resemb_ext.nn import Smoothing
from resemb_ext.runtime.files import write_atomic
from resemb_ext.study.compare.training import (
    ORDER_SEED,
    TUNE_SEED,
    Evaluate,
    by_frequency,
    run_options,
    search_result,
    users_file,
)
from resemb_ext.study.compare.training import Scale as ComparedScale
from resemb_ext.study.harness.checkpoint import Checkpoint
from resemb_ext.study.harness.pieces import Context
from resemb_ext.study.harness.search import among_best, hill_climb
from resemb_ext.study.methods.laplacian import GraphPenalty
from resemb_ext.train import FitResult, RunConfig, TrainingDiverged, fit, measure, predict
from resemb_ext.train.config import SMOOTHING_STRENGTHS
from resemb_ext.train.smoothing import with_smoothed_items

from .arms import ARMS, Arm, Cell, Logs, candidates, penalty_of, swaps_of
from .protocol import COARSE, KEEP, MORE_TRIALS, RUNGS, TRIALS

METRICS = ("gauc", "auc", "logloss")


@dataclass(frozen=True)
class Scale(ComparedScale):
    """How much is done: as in study ``compare``, and the trials of a finalist in all."""

    trials: int = TRIALS
    more_trials: int = MORE_TRIALS


@dataclass(frozen=True)
class Served:
    """A trained model with the smoothing that validation picks; graph None and strength 0 where there is none."""

    model: nn.Module
    valid: dict[str, Any]
    graph: str | None
    strength: float


def smoothed(
    model: nn.Module, arm: Arm, logs: Logs, seed: int, valid: Mapping[str, Any], strengths: Sequence[float]
) -> Served:
    """The best smoothing by validation gAUC, of each graph's strengths in ascending order.

    Args:
        model: trained.
        arm: its graphs are tried.
        logs: the log.
        seed: of a permuted graph.
        valid: metrics of the model as it is.
        strengths: above 0, ascending.
    """
    dataset = logs.dataset
    inner = model.model if isinstance(model, GraphPenalty) else model
    best = Served(inner, dict(valid), None, 0.0)
    for name in arm.smooth_graphs(dataset.log.num_categories > 0):
        last, worse = valid["gauc"], 0
        for strength in strengths:
            smoothing = Smoothing(logs.graph(name, seed), dataset.split.item_counts, strength)
            candidate = with_smoothed_items(inner, smoothing)
            scores = predict(candidate, dataset.valid, batch_size=dataset.config.eval_batch_size)
            found = measure(dataset.valid, scores)
            if found["gauc"] > best.valid["gauc"]:
                best = Served(candidate, found, name, strength)
            worse = worse + 1 if found["gauc"] < last else 0
            last = found["gauc"]
            if worse == 2:
                break
    return best


def arm_options(cell: Cell, config: RunConfig, scale: Scale) -> RunConfig:
    """Options of an arm before it is tuned."""
    group = cell.group
    return replace(config, model=group.model, category=group.category, epochs=scale.epochs, patience=scale.patience)


def trials_file(cell: Cell) -> str:
    """Trials of a search under way."""
    return f"trials-{cell.key}.checkpoint.json"


def _trained(
    arm: Arm, logs: Logs, config: RunConfig, found: dict[str, Any], seed: int, **given: Any
) -> tuple[nn.Module, FitResult]:
    """A model of an arm trained at a point of the search."""
    build = partial(arm.build, logs, config, penalty=penalty_of(found))
    model = build(seed)
    done = fit(
        model,
        logs.dataset.train(seed),
        logs.dataset.valid,
        config=config.fit_config(),
        seed=seed,
        swaps=swaps_of(arm, logs, found),
        redraw=build if arm.fresh else None,
        progress=False,
        **given,
    )
    return model, done


def trial_of(
    cell: Cell, logs: Logs, scale: Scale, known: Sequence[Mapping[str, Any]], checkpoint: Checkpoint
) -> Evaluate:
    """What trains and validates an arm at a point of the search.

    Args:
        cell: of an arm.
        logs: its log.
        scale: epochs and patience.
        known: trials that were made before, in order; they are not made again.
        checkpoint: keeps the others.
    """
    arm = ARMS[cell.name]
    config = replace(arm_options(cell, logs.dataset.config, scale), patience=scale.tune_patience)
    curves: list[list[float]] = []
    before = list(known)

    def evaluate(found: dict[str, Any], best: float) -> tuple[float, dict[str, Any]]:
        del best
        if before and before[0]["options"] == found:
            trial = before.pop(0)
            details = {k: v for k, v in trial.items() if k not in ("steps", "options")}
            value = details["valid"]["gauc"] if "valid" in details else -math.inf
        else:
            value, details = checkpoint.recall(found, lambda: attempt(found))
        if "curve" in details:
            curves.append(details["curve"])
        return value, details

    def attempt(found: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        def give_up(history: Sequence[dict[str, Any]]) -> bool:
            own = [entry["valid"]["gauc"] for entry in history]
            return not among_best(own, curves, rungs=RUNGS, keep=KEEP)

        began = time.perf_counter()
        try:
            options = run_options(config, found)
            model, done = _trained(arm, logs, options, found, TUNE_SEED, give_up=give_up)
        except TrainingDiverged as error:
            return -math.inf, {"diverged": str(error), "seconds": time.perf_counter() - began}
        plain = Served(model, dict(done.valid), None, 0.0)
        given_up = done.stopped == "given up"
        served = plain if given_up else smoothed(model, arm, logs, TUNE_SEED, done.valid, COARSE)
        details = {
            "valid": {name: served.valid[name] for name in METRICS},
            "graph": served.graph,
            "strength": served.strength,
            "curve": [entry["valid"]["gauc"] for entry in done.history],
            "best_epoch": done.best_epoch,
            "stopped": done.stopped,
            "seconds": time.perf_counter() - began,
        }
        return served.valid["gauc"], details

    return evaluate


def tune(cell: Cell, logs: Logs, scale: Scale, context: Context) -> dict[str, Any]:
    """The common search of an arm; test is not there."""
    checkpoint = Checkpoint(context.folder / trials_file(cell), context.made_for)
    evaluate = trial_of(cell, logs, scale, (), checkpoint)
    search = hill_climb(evaluate, ARMS[cell.name].factors, trials=scale.trials, seed=ORDER_SEED)
    return {"arm": cell.name, **search_result(search)}


def finalist(cell: Cell, names: Sequence[str], logs: Logs, scale: Scale, context: Context) -> dict[str, Any]:
    """The arm of highest validation gAUC among those of a role, of equals the first, and its search gone on with.

    Args:
        cell: of a role of ``ROLES``.
        names: arms that were tuned.
        logs, scale: as of ``tune``.
        context: with the arms' searches.
    """
    tuned = {name: context.results[f"tune-{cell.beside(name).key}"] for name in candidates(cell.name, list(names))}
    arm = max(tuned, key=lambda name: tuned[name]["valid_gauc"])
    checkpoint = Checkpoint(context.folder / trials_file(cell), context.made_for)
    evaluate = trial_of(cell.beside(arm), logs, scale, tuned[arm]["trials"], checkpoint)
    search = hill_climb(evaluate, ARMS[arm].factors, trials=scale.more_trials, seed=ORDER_SEED)
    compared = {name: result["valid_gauc"] for name, result in tuned.items()}
    return {"arm": arm, "compared": compared, **search_result(search)}


def train_seeds(cell: Cell, searched: str, logs: Logs, scale: Scale, context: Context) -> dict[str, Any]:
    """Trainings at the best options, smoothed by validation, with test scored once each; users' AUC go into a file."""
    tuned, dataset = context.results[searched], logs.dataset
    arm, found = ARMS[tuned["arm"]], tuned["options"]
    config = run_options(arm_options(cell, dataset.config, scale), found)
    runs, aucs, rows = [], [], np.zeros(0)
    for seed in scale.seeds:
        model, done = _trained(arm, logs, config, found, seed)
        served = smoothed(model, arm, logs, seed, done.valid, SMOOTHING_STRENGTHS[1:])
        scores = predict(served.model, dataset.test, batch_size=config.eval_batch_size)
        test = measure(dataset.test, scores)
        runs.append(
            {
                "seed": seed,
                "valid": {name: served.valid[name] for name in METRICS},
                "test": {name: test[name] for name in METRICS},
                "graph": served.graph,
                "strength": served.strength,
                "by_frequency": by_frequency(dataset.test, scores, dataset.split.item_counts),
                "epochs": done.epochs,
                "best_epoch": done.best_epoch,
                "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "train_seconds": sum(entry["train_s"] for entry in done.history),
            }
        )
        of_user, rows = metrics.user_aucs(dataset.test.label, scores, dataset.test.user)
        aucs.append(of_user)

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez_compressed(file, auc=np.stack(aucs), rows=rows)

    write_atomic(context.folder / users_file(cell), write)
    return {"arm": tuned["arm"], "options": found, "runs": runs}
