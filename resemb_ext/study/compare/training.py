"""The work of study ``compare``: searching a variant's options, training at the best, taking differences."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from resemb_ext import data, metrics
from resemb_ext.runtime.files import write_atomic
from resemb_ext.study.harness.checkpoint import Checkpoint
from resemb_ext.study.harness.inference import bootstrap_difference
from resemb_ext.study.harness.pieces import Context
from resemb_ext.study.harness.search import Factor, Search, cannot_reach, hill_climb
from resemb_ext.train import FitResult, RunConfig, TrainingDiverged, fit, paired_difference

from .dataset import Dataset
from .variants import PENALTY, TABLES, Variant

RESIDUAL = 10.0  # the residual's L2 over L2
L2_MODES = ("whole table", "touched rows")
FACTORS = (
    Factor("embedding_lr", 5e-3, ratio=3.0),
    Factor("embedding_l2", 3e-5, ratio=3.0),
    Factor("l2_of", L2_MODES[0], choices=L2_MODES),
    Factor("init_std", 0.05, ratio=2.0),
)
PENALTY_FACTOR = Factor(PENALTY, 3e-4, ratio=3.0)
ORDER_SEED = 7
TUNE_SEED = 0
#: Least training events of the positive item, of each bucket of test events.
BUCKETS = (0, 1, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
        trials: of each variant.
        seeds: of training at the best options.
        epochs: the most.
        tune_patience, patience: of trials and of the seeds.
        draws: of the bootstrap.
    """

    trials: int = 12
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    epochs: int = 30
    tune_patience: int = 2
    patience: int = 3
    draws: int = 10_000


def factors_of(table: str) -> tuple[Factor, ...]:
    """What is searched for an item table."""
    return (*FACTORS, PENALTY_FACTOR) if TABLES[table].penalty else FACTORS


def run_options(config: RunConfig, found: Mapping[str, Any]) -> RunConfig:
    """The options of a run with those of a point of the search."""
    lazy = found["l2_of"] == L2_MODES[1]
    return replace(
        config,
        embedding_lr=found["embedding_lr"],
        embedding_l2=found["embedding_l2"],
        residual_l2=RESIDUAL * found["embedding_l2"],
        init_std=found["init_std"],
        table_optimizer="lazy" if lazy else "dense",
        decay="touched" if lazy else None,
    )


def variant_options(variant: Variant, config: RunConfig, scale: Scale) -> RunConfig:
    """Options of a variant before it is tuned."""
    given: dict[str, Any] = dict(TABLES[variant.table].options)
    return replace(
        config,
        model=variant.group.model,
        category=variant.group.category,
        epochs=scale.epochs,
        patience=scale.patience,
        **given,
    )


def trials_file(variant: Variant) -> str:
    """Trials of a search under way."""
    return f"trials-{variant.key}.checkpoint.json"


class Named(Protocol):
    """What was trained, by the key of its pieces."""

    @property
    def key(self) -> str: ...


def users_file(variant: Named) -> str:
    """Each user's AUC under each seed, for contrasts."""
    return f"users-{variant.key}.npz"


Evaluate = Callable[[dict[str, Any], float], tuple[float, dict[str, Any]]]


def tune(variant: Variant, dataset: Dataset, scale: Scale, context: Context) -> dict[str, Any]:
    """The search; test is not there. Trials that an interrupted search left are not made again."""
    evaluate = trial_of(variant, dataset, scale, context)
    return search_result(hill_climb(evaluate, factors_of(variant.table), trials=scale.trials, seed=ORDER_SEED))


def trial_of(variant: Variant, dataset: Dataset, scale: Scale, context: Context) -> Evaluate:
    """What trains and validates a variant at a point of the search, and keeps it in the variant's checkpoint."""
    config = replace(variant_options(variant, dataset.config, scale), patience=scale.tune_patience)
    train = dataset.train(TUNE_SEED)
    checkpoint = Checkpoint(context.folder / trials_file(variant), context.made_for)

    def evaluate(found: dict[str, Any], best: float) -> tuple[float, dict[str, Any]]:
        return checkpoint.recall(found, lambda: attempt(found, best))

    def attempt(found: dict[str, Any], best: float) -> tuple[float, dict[str, Any]]:
        options = run_options(config, found)

        def give_up(history: Sequence[dict[str, Any]]) -> bool:
            values = [entry["valid"]["gauc"] for entry in history]
            return cannot_reach(values, best, cap=config.epochs)

        began = time.perf_counter()
        model = variant.build(dataset, options, TUNE_SEED, found.get(PENALTY))
        try:
            done = fit(
                model,
                train,
                dataset.valid,
                config=options.fit_config(),
                seed=TUNE_SEED,
                give_up=give_up if math.isfinite(best) else None,
                progress=False,
            )
        except TrainingDiverged as error:
            seconds = time.perf_counter() - began
            return -math.inf, {"diverged": str(error), "seconds": seconds}
        valid = {name: done.valid[name] for name in ("gauc", "auc", "logloss")}
        details = {
            "valid": valid,
            "epochs": done.epochs,
            "best_epoch": done.best_epoch,
            "stopped": done.stopped,
            "seconds": time.perf_counter() - began,
        }
        return done.valid["gauc"], details

    return evaluate


def search_result(search: Search) -> dict[str, Any]:
    """A search for its JSON.

    Raises:
        RuntimeError: every trial diverged.
    """
    best = search.trials[search.best]
    if not math.isfinite(best.value):
        raise RuntimeError("every trial diverged")
    return {
        "trials": [{"steps": trial.point, "options": trial.options, **trial.details} for trial in search.trials],
        "best": search.best,
        "options": best.options,
        "valid_gauc": best.value,
        "closed": search.closed,
    }


def train_seeds(variant: Variant, dataset: Dataset, scale: Scale, context: Context) -> dict[str, Any]:
    """Trainings at the tuned options, with test metrics; each user's AUC goes into a file."""
    found = context.results[f"tune-{variant.key}"]["options"]
    config = run_options(variant_options(variant, dataset.config, scale), found)
    runs, aucs, rows = [], [], np.zeros(0)
    for seed in scale.seeds:
        model = variant.build(dataset, config, seed, found.get(PENALTY))
        done = fit(
            model,
            dataset.train(seed),
            dataset.valid,
            dataset.test,
            config=config.fit_config(),
            seed=seed,
            progress=False,
        )
        assert done.test_scores is not None
        runs.append(_run(model, done, seed, dataset))
        of_user, rows = metrics.user_aucs(dataset.test.label, done.test_scores, dataset.test.user)
        aucs.append(of_user)

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez_compressed(file, auc=np.stack(aucs), rows=rows)

    write_atomic(context.folder / users_file(variant), write)
    return {"options": found, "runs": runs}


def _run(model: nn.Module, done: FitResult, seed: int, dataset: Dataset) -> dict[str, Any]:
    assert done.test is not None and done.test_scores is not None
    names = ("auc", "gauc", "logloss")
    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "seed": seed,
        "valid": {name: done.valid[name] for name in names},
        "test": {name: done.test[name] for name in names},
        "test_seen": {name: done.test["seen"][name] for name in names},
        "by_frequency": by_frequency(dataset.test, done.test_scores, dataset.split.item_counts),
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "stopped": done.stopped,
        "parameters": sum(p.numel() for p in trained),
        "train_seconds": sum(entry["train_s"] for entry in done.history),
    }


def by_frequency(samples: data.Samples, scores: np.ndarray, counts: np.ndarray) -> list[dict[str, Any]]:
    """AUC of test events by how often their item was met in training.

    An event's negatives are counted with it, whatever their own frequency.

    Args:
        samples: evaluation samples with drawn negatives.
        scores: of all rows.
        counts: training events of each item.

    Returns:
        for each of ``BUCKETS``: ``least`` training events, ``events``, ``auc``, ``gauc``.
    """
    per_event = 1 + samples.negatives
    positive = np.repeat(counts[samples.target[samples.label == 1]], per_event)
    bucket = np.searchsorted(BUCKETS, positive, side="right") - 1
    found = []
    for number, least in enumerate(BUCKETS):
        rows = bucket == number
        part = samples.label[rows], scores[rows]
        found.append(
            {
                "least": least,
                "events": int(rows.sum()) // per_event,
                "auc": metrics.auc(*part),
                "gauc": metrics.gauc(*part, samples.user[rows]),
            }
        )
    return found


def take_contrast(one: Named, other: Named, scale: Scale, context: Context) -> dict[str, Any]:
    """The test gAUC of ``one`` minus that of ``other``, by the bootstrap; that and two other metrics over seeds."""
    of_one, of_other = (_user_aucs(context.folder, variant) for variant in (one, other))
    rows = of_one["rows"]
    if not np.array_equal(rows, of_other["rows"]):
        raise ValueError(f"{one.key} and {other.key} were scored on different test rows")
    gain = of_one["auc"] - of_other["auc"]
    both = ~np.isnan(gain).any(axis=0)
    found = bootstrap_difference(gain[:, both], rows[both], draws=scale.draws)
    runs = [context.results[f"seeds-{variant.key}"]["runs"] for variant in (other, one)]
    over_seeds = {}
    for metric in ("gauc", "auc", "logloss"):
        before, after = ([run["test"][metric] for run in of_variant] for of_variant in runs)
        over_seeds[metric] = paired_difference(before, after)
    return {"one": one.key, "other": other.key, "gauc": found, "over_seeds": over_seeds}


def _user_aucs(folder: Path, variant: Named) -> dict[str, np.ndarray]:
    with np.load(folder / users_file(variant)) as file:
        return {name: file[name] for name in ("auc", "rows")}
