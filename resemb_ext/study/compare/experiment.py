"""Study ``compare``: Res-embedding against plain tables and controls, every row tuned alike.

A row (item table, model, with or without category, log) has two pieces: ``tune-ROW`` searches its
options on validation, ``seeds-ROW`` trains at the best of them and scores test once a seed. A
contrast of two rows is a third, ``minus-ROW-TABLE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.study.compare.protocol import SETTINGS, Setting
from resemb_ext.study.compare.rows import TABLES, Row, rows_of
from resemb_ext.study.compare.work import (
    BUCKETS,
    ORDER_SEED,
    RESIDUAL,
    TUNE_SEED,
    Scale,
    factors_of,
    row_options,
    take_contrast,
    train_seeds,
    trials_file,
    tune,
    users_file,
)
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.study.methods import item2vec
from resemb_ext.study.methods.laplacian import PENALTY_ROWS
from resemb_ext.train import RunConfig

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
FULL = Scale()
QUICK = Scale(trials=3, seeds=(1, 2), epochs=3, draws=500)
QUICK_TABLES = ("plain", "res", "res-entries")


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """All pieces, the most important first."""
    scale = QUICK if quick else FULL
    datasets: dict[str, Dataset] = {}
    ranked: list[tuple[int, int, Row]] = []
    for place, source in enumerate(sources):
        setting = SETTINGS[source.setting or next(iter(SETTINGS))]
        datasets[source.name] = dataset_of(source, setting)
        tables = QUICK_TABLES if quick else setting.tables
        own = rows_of(source.name, category=source.log.num_categories > 0, tables=tables)
        ranked += [(rank, place, row) for rank, row in own]
    ranked.sort(key=lambda entry: entry[:2])
    rows = [row for _, _, row in ranked]
    plan: list[Piece] = []
    for row in rows:
        plan += pieces_of_row(row, datasets[row.group.log], scale)
        plan += [
            contrast_piece(one, other, datasets[row.group.log], scale)
            for one, other in contrasts(rows)
            if row in (one, other) and _later(rows, one, other) == row
        ]
    return plan


def dataset_of(source: Source, setting: Setting) -> Dataset:
    """A log set up for the comparison."""
    config = RunConfig(
        split=setting.split, max_history=setting.max_history, eval_negatives=setting.eval_negatives, **OPTIONS
    )
    return Dataset(source, config, setting.train_rows)


def contrasts(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs (one, other) whose difference is taken: each row minus plain, and res minus two controls."""
    have = set(rows)
    found = [(row, row.beside("plain")) for row in rows if row.table != "plain"]
    found += [
        (row, row.beside(control)) for row in rows if row.table == "res" for control in ("res-entries", "item2vec")
    ]
    return [(one, other) for one, other in found if other in have]


def _later(rows: Sequence[Row], one: Row, other: Row) -> Row:
    return rows[max(rows.index(one), rows.index(other))]


def pieces_of_row(row: Row, dataset: Dataset, scale: Scale) -> list[Piece]:
    """Tuning and seeds."""
    factors = factors_of(row.table)
    config = row_options(row, dataset.config, scale)
    asked: dict[str, Any] = {
        "row": {**asdict(row.group), "table": row.table},
        "options": {
            name: getattr(config, name)
            for name in (
                *OPTIONS,
                "split",
                "max_history",
                "eval_negatives",
                "eval_seed",
                "model",
                "category",
                "link",
                "hops",
                "epochs",
            )
        },
        "train_rows": dataset.train_rows,
        "residual_l2_over_l2": RESIDUAL,
    }
    search = {
        "trials": scale.trials,
        "patience": scale.tune_patience,
        "factors": [asdict(factor) for factor in factors],
        "order_seed": ORDER_SEED,
    }
    if row.table == "item2vec":
        asked["item2vec"] = item2vec.OPTIONS
    if TABLES[row.table].penalty:
        asked["penalty_rows"] = PENALTY_ROWS
    search_key, seeds_key = f"tune-{row.key}", f"seeds-{row.key}"
    return [
        Piece(
            search_key,
            partial(tune, row, dataset, scale),
            {**asked, "search": search},
            [TUNE_SEED],
            dataset.source,
            draft=trials_file(row),
        ),
        Piece(
            seeds_key,
            partial(train_seeds, row, dataset, scale),
            {**asked, "patience": scale.patience, "buckets": BUCKETS},
            scale.seeds,
            dataset.source,
            needs=[search_key],
            aside=[users_file(row)],
        ),
    ]


def contrast_piece(one: Row, other: Row, dataset: Dataset, scale: Scale) -> Piece:
    """The difference of test gAUC of two rows of a group."""
    config = {"one": one.key, "other": other.key, "draws": scale.draws}
    needs = [f"seeds-{one.key}", f"seeds-{other.key}"]
    return Piece(
        contrast_key(one, other),
        partial(take_contrast, one, other, scale),
        config,
        scale.seeds,
        dataset.source,
        needs=needs,
    )


def contrast_key(one: Row, other: Row) -> str:
    """The key of a contrast's piece."""
    return f"minus-{one.key}-{other.table}"
