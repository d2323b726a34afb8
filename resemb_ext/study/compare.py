"""Study ``compare``: Res-embedding against plain tables and controls, every row tuned alike.

A row (item table, model, with or without category, log) has two pieces: ``tune-ROW`` searches its
options on validation, ``seeds-ROW`` trains at the best of them and scores test once a seed. A
contrast of two rows is a third, ``minus-ROW-TABLE``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from resemb_ext import data, metrics
from resemb_ext.train import FitResult, RunConfig, TrainingDiverged, fit, paired_difference
from resemb_ext.train.files import write_atomic

from .bench import SETTINGS, Bench, Setting
from .climb import Climb, Factor, climb, hopeless
from .frame import Desk, Piece, Source
from .inference import bootstrap_difference
from .rows import PENALTY, TABLES, Row, rows_of

#: Options of every row, whatever the defaults of training become.
OPTIONS: dict[str, Any] = {
    "batch_size": 1024,
    "lr": 3e-3,
    "l2": 0.0,
    "train_negatives": 1,
    "negative_power": 0.75,
    "window": 3,
    "top_k": 10,
    "dim": 32,
    "hidden": (64, 32),
    "attention_hidden": (36,),
    "activation": "prelu",
    "dropout": 0.0,
    "residual_scale": 0.1,
    "metric": "gauc",
    "threads": 1,
}
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
        trials: of each row.
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


FULL = Scale()
QUICK = Scale(trials=3, seeds=(1, 2), epochs=3, draws=500)


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


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """All pieces, the most important first."""
    scale = QUICK if quick else FULL
    benches: dict[str, Bench] = {}
    ranked: list[tuple[int, int, Row]] = []
    for place, source in enumerate(sources):
        setting = SETTINGS.get(source.name, Setting())
        benches[source.name] = bench_of(source, setting)
        own = rows_of(source.name, category=source.log.num_categories > 0, quick=quick)
        ranked += [(rank, place, row) for rank, row in own]
    ranked.sort(key=lambda entry: entry[:2])
    rows = [row for _, _, row in ranked]
    plan: list[Piece] = []
    for row in rows:
        plan += pieces_of_row(row, benches[row.group.log], scale)
        plan += [
            contrast_piece(one, other, benches[row.group.log], scale)
            for one, other in contrasts(rows)
            if row in (one, other) and _later(rows, one, other) == row
        ]
    return plan


def bench_of(source: Source, setting: Setting) -> Bench:
    """The bench of a log."""
    config = RunConfig(
        split=setting.split,
        max_history=setting.max_history,
        eval_negatives=setting.eval_negatives,
        **OPTIONS,
    )
    return Bench(source, config, setting.train_rows)


def contrasts(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs (one, other) whose difference is taken: each row minus plain, and res minus two controls."""
    have = set(rows)
    found = [(row, Row(row.group, "plain")) for row in rows if row.table != "plain"]
    found += [
        (row, Row(row.group, control))
        for row in rows
        if row.table == "res"
        for control in ("res-entries", "item2vec")
    ]
    return [(one, other) for one, other in found if other in have]


def _later(rows: Sequence[Row], one: Row, other: Row) -> Row:
    return rows[max(rows.index(one), rows.index(other))]


def pieces_of_row(row: Row, bench: Bench, scale: Scale) -> list[Piece]:
    """Tuning and seeds."""
    factors = factors_of(row.table)
    config = row_options(row, bench.config, scale)
    asked = {
        "row": {**asdict(row.group), "table": row.table},
        "options": {name: getattr(config, name) for name in (
            *OPTIONS, "split", "max_history", "eval_negatives", "eval_seed", "model", "category",
            "link", "hops", "epochs")},
        "train_rows": bench.train_rows,
        "residual_l2_over_l2": RESIDUAL,
    }  # fmt: skip
    search = {
        "trials": scale.trials,
        "patience": scale.tune_patience,
        "factors": [asdict(factor) for factor in factors],
        "order_seed": ORDER_SEED,
    }
    tune, seeds = f"tune-{row.key}", f"seeds-{row.key}"
    return [
        Piece(
            tune,
            partial(_tune, row, bench, scale),
            {**asked, "search": search},
            [TUNE_SEED],
            bench.source,
        ),
        Piece(
            seeds,
            partial(_seeds, row, bench, scale),
            {**asked, "patience": scale.patience, "buckets": BUCKETS},
            scale.seeds,
            bench.source,
            needs=[tune],
            aside=[_users_file(row)],
        ),
    ]


def contrast_piece(one: Row, other: Row, bench: Bench, scale: Scale) -> Piece:
    """The difference of test gAUC of two rows of a group."""
    config = {"one": one.key, "other": other.key, "draws": scale.draws}
    needs = [f"seeds-{one.key}", f"seeds-{other.key}"]
    return Piece(
        contrast_key(one, other),
        partial(_contrast, one, other, scale),
        config,
        scale.seeds,
        bench.source,
        needs=needs,
    )


def contrast_key(one: Row, other: Row) -> str:
    """The key of a contrast's piece."""
    return f"minus-{one.key}-{other.table}"


def row_options(row: Row, config: RunConfig, scale: Scale) -> RunConfig:
    """Options of a row before it is tuned."""
    given: dict[str, Any] = dict(TABLES[row.table].options)
    return replace(
        config,
        model=row.group.model,
        category=row.group.category,
        epochs=scale.epochs,
        patience=scale.patience,
        **given,
    )


def _users_file(row: Row) -> str:
    return f"users-{row.key}.npz"


def _tune(row: Row, bench: Bench, scale: Scale) -> dict[str, Any]:
    """The search; test is not there."""
    config = replace(row_options(row, bench.config, scale), patience=scale.tune_patience)
    train = bench.train(TUNE_SEED)

    def evaluate(found: dict[str, Any], best: float) -> tuple[float, dict[str, Any]]:
        options = run_options(config, found)

        def give_up(history: Sequence[dict[str, Any]]) -> bool:
            values = [entry["valid"]["gauc"] for entry in history]
            return hopeless(values, best, cap=config.epochs)

        began = time.perf_counter()
        model = row.build(bench, options, TUNE_SEED, found.get(PENALTY))
        try:
            done = fit(
                model,
                train,
                bench.valid,
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

    search = climb(evaluate, factors_of(row.table), trials=scale.trials, seed=ORDER_SEED)
    return _search_result(search)


def _search_result(search: Climb) -> dict[str, Any]:
    best = search.trials[search.best]
    if not math.isfinite(best.value):
        raise RuntimeError("every trial diverged")
    return {
        "trials": [
            {"steps": trial.point, "options": trial.options, **trial.details}
            for trial in search.trials
        ],
        "best": search.best,
        "options": best.options,
        "valid_gauc": best.value,
        "closed": search.closed,
    }


def _seeds(row: Row, bench: Bench, scale: Scale, desk: Desk) -> dict[str, Any]:
    """Trainings at the tuned options, with test metrics; each user's AUC goes aside."""
    found = desk.results[f"tune-{row.key}"]["options"]
    config = run_options(row_options(row, bench.config, scale), found)
    runs, aucs, rows = [], [], np.zeros(0)
    for seed in scale.seeds:
        model = row.build(bench, config, seed, found.get(PENALTY))
        done = fit(
            model,
            bench.train(seed),
            bench.valid,
            bench.test,
            config=config.fit_config(),
            seed=seed,
            progress=False,
        )
        assert done.test_scores is not None
        runs.append(_run(model, done, seed, bench))
        of_user, rows = metrics.user_aucs(bench.test.label, done.test_scores, bench.test.user)
        aucs.append(of_user)

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez_compressed(file, auc=np.stack(aucs), rows=rows)

    write_atomic(desk.folder / _users_file(row), write)
    return {"options": found, "runs": runs}


def _run(model: nn.Module, done: FitResult, seed: int, bench: Bench) -> dict[str, Any]:
    assert done.test is not None and done.test_scores is not None
    names = ("auc", "gauc", "logloss")
    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "seed": seed,
        "valid": {name: done.valid[name] for name in names},
        "test": {name: done.test[name] for name in names},
        "test_seen": {name: done.test["seen"][name] for name in names},
        "by_frequency": by_frequency(bench.test, done.test_scores, bench.split.item_counts),
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "stopped": done.stopped,
        "parameters": sum(p.numel() for p in trained),
        "train_seconds": sum(entry["train_s"] for entry in done.history),
    }


def by_frequency(
    samples: data.Samples, scores: np.ndarray, counts: np.ndarray
) -> list[dict[str, Any]]:
    """AUC of test events by how often their item was met in training.

    An event's negatives are counted with it, whatever their own frequency.

    Args:
        samples: evaluation samples with drawn negatives.
        scores: of all rows.
        counts: training events of each item.

    Returns:
        for each of :data:`BUCKETS`: ``least`` training events, ``events``, ``auc``, ``gauc``.
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


def _contrast(one: Row, other: Row, scale: Scale, desk: Desk) -> dict[str, Any]:
    of_one, of_other = (_user_aucs(desk.folder, row) for row in (one, other))
    rows = of_one["rows"]
    if not np.array_equal(rows, of_other["rows"]):
        raise ValueError(f"{one.key} and {other.key} were scored on different test rows")
    gain = of_one["auc"] - of_other["auc"]
    both = ~np.isnan(gain).any(axis=0)
    found = bootstrap_difference(gain[:, both], rows[both], draws=scale.draws)
    values = {
        name: [[run["test"][metric] for run in desk.results[f"seeds-{row.key}"]["runs"]]
               for row in (other, one)]
        for name, metric in (("gauc", "gauc"), ("auc", "auc"), ("logloss", "logloss"))
    }  # fmt: skip
    return {
        "one": one.key,
        "other": other.key,
        "gauc": found,
        "over_seeds": {name: paired_difference(pair[0], pair[1]) for name, pair in values.items()},
    }


def _user_aucs(folder: Path, row: Row) -> dict[str, np.ndarray]:
    with np.load(folder / _users_file(row)) as file:
        return {name: file[name] for name in ("auc", "rows")}
