"""Study ``compare``: Res-embedding against plain tables and controls, every variant tuned alike.

A variant (item table, model, with or without category, log) has two pieces: ``tune-VARIANT`` searches its
options on validation, ``seeds-VARIANT`` trains at the best of them and scores test once a seed. A
contrast of two variants is a third, ``minus-VARIANT-TABLE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.study.methods import item2vec
from resemb_ext.study.methods.laplacian import PENALTY_ROWS
from resemb_ext.train import RunConfig

from .dataset import Dataset
from .protocol import SETTINGS, Setting
from .training import (
    BUCKETS,
    ORDER_SEED,
    RESIDUAL,
    TUNE_SEED,
    Scale,
    factors_of,
    take_contrast,
    train_seeds,
    trials_file,
    tune,
    users_file,
    variant_options,
)
from .variants import TABLES, Variant, variants_of

#: Options of every variant, whatever the defaults of training become.
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
    ranked: list[tuple[int, int, Variant]] = []
    for place, source in enumerate(sources):
        setting = SETTINGS[source.setting or next(iter(SETTINGS))]
        datasets[source.name] = dataset_of(source, setting)
        tables = QUICK_TABLES if quick else setting.tables
        own = variants_of(source.name, category=source.log.num_categories > 0, tables=tables)
        ranked += [(rank, place, variant) for rank, variant in own]
    ranked.sort(key=lambda entry: entry[:2])
    variants = [variant for _, _, variant in ranked]
    plan: list[Piece] = []
    for variant in variants:
        plan += pieces_of_variant(variant, datasets[variant.group.log], scale)
        plan += [
            contrast_piece(one, other, datasets[variant.group.log], scale)
            for one, other in contrasts(variants)
            if variant in (one, other) and _later(variants, one, other) == variant
        ]
    return plan


def dataset_of(source: Source, setting: Setting) -> Dataset:
    """A log set up for the comparison."""
    config = RunConfig(
        split=setting.split, max_history=setting.max_history, eval_negatives=setting.eval_negatives, **OPTIONS
    )
    return Dataset(source, config, setting.train_rows)


def contrasts(variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Pairs (one, other) whose difference is taken: each variant minus plain, and res minus two controls."""
    have = set(variants)
    found = [(variant, variant.beside("plain")) for variant in variants if variant.table != "plain"]
    found += [
        (variant, variant.beside(control))
        for variant in variants
        if variant.table == "res"
        for control in ("res-entries", "item2vec")
    ]
    return [(one, other) for one, other in found if other in have]


def _later(variants: Sequence[Variant], one: Variant, other: Variant) -> Variant:
    return variants[max(variants.index(one), variants.index(other))]


def pieces_of_variant(variant: Variant, dataset: Dataset, scale: Scale) -> list[Piece]:
    """Tuning and seeds."""
    factors = factors_of(variant.table)
    config = variant_options(variant, dataset.config, scale)
    asked: dict[str, Any] = {
        "row": {**asdict(variant.group), "table": variant.table},
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
    if variant.table == "item2vec":
        asked["item2vec"] = item2vec.OPTIONS
    if TABLES[variant.table].penalty:
        asked["penalty_rows"] = PENALTY_ROWS
    search_key, seeds_key = f"tune-{variant.key}", f"seeds-{variant.key}"
    return [
        Piece(
            search_key,
            partial(tune, variant, dataset, scale),
            {**asked, "search": search},
            [TUNE_SEED],
            dataset.source,
            checkpoint=trials_file(variant),
        ),
        Piece(
            seeds_key,
            partial(train_seeds, variant, dataset, scale),
            {**asked, "patience": scale.patience, "buckets": BUCKETS},
            scale.seeds,
            dataset.source,
            needs=[search_key],
            files=[users_file(variant)],
        ),
    ]


def contrast_piece(one: Variant, other: Variant, dataset: Dataset, scale: Scale) -> Piece:
    """The difference of test gAUC of two variants of a group."""
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


def contrast_key(one: Variant, other: Variant) -> str:
    """The key of a contrast's piece."""
    return f"minus-{one.key}-{other.table}"
