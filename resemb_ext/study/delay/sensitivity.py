"""How much the scores of Res-embedding hang on how its graph was drawn: one option changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare.protocol import Setting
from resemb_ext.study.compare.training import FACTORS, L2_MODES, run_options, variant_options
from resemb_ext.study.compare.variants import Group, Variant
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.study.harness.report import Table, interval, number
from resemb_ext.train import RunConfig, fit, paired_difference
from resemb_ext.train.crossfit import CrossFit
from resemb_ext.train.prepare import Prepared, build_folds, build_model, graph_of

BASE = "base"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "window 1": {"window": 1},
    "window 10": {"window": 10},
    "top_k 5": {"top_k": 5},
    "top_k 20": {"top_k": 20},
    "weighting cosine": {"weighting": "cosine"},
    "weighting ppmi": {"weighting": "ppmi"},
    "cross-fit 5": {"cross_fit": 5},
}
QUICK = (BASE, "window 1", "cross-fit 5")
#: Longer logs are left out: a single fit would take minutes.
MOST_EVENTS = 300_000
#: Events an item, below which L2 is that of touched rows: dense Adam with L2 of the whole table would pull
#: rows that are hardly ever met to zero, and with them all of the model.
RARE = 5.0
#: gAUC under which a model counts as hardly trained; 0.5 is chance.
UNTRAINED = 0.56
#: What a kept piece tells of its options.
TOLD = (
    "window",
    "top_k",
    "weighting",
    "cross_fit",
    "epochs",
    "patience",
    "batch_size",
    "lr",
    "embedding_lr",
    "embedding_l2",
    "residual_l2",
    "init_std",
    "table_optimizer",
)


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """One piece a log and way to draw its graph, all seeds in it."""
    seeds = [0] if quick else [0, 1, 2]
    plan = []
    for source in sources:
        if len(source.log) > MOST_EVENTS:
            continue
        for name in QUICK if quick else VARIANTS:
            config = replace(_base(source, quick=quick), **VARIANTS[name])
            kept = {"log": source.name, "variant": name}
            kept |= {option: getattr(config, option) for option in TOLD}
            key = f"graph-{source.name}-{name.replace(' ', '')}"
            plan.append(Piece(key, partial(_train, source, config, seeds), kept, seeds, source))
    return plan


def _base(source: Source, *, quick: bool) -> RunConfig:
    """The common start of the comparison's search for a DNN with Res-embedding, no category.

    But for a log of under ``RARE`` events an item.
    """
    variant = Variant(Group(source.name, "dnn", category=False), "res")
    dataset = compare.dataset_of(source, Setting())
    config = variant_options(variant, dataset.config, compare.QUICK if quick else compare.FULL)
    start = {factor.name: factor.start for factor in FACTORS}
    if len(source.log) < RARE * source.log.num_items:
        start["l2_of"] = L2_MODES[1]
    return replace(run_options(config, start), embedding="res")


def _train(source: Source, config: RunConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Test AUC and gAUC of a DNN with Res-embedding, the epoch picked on validation."""
    dataset = replace(compare.dataset_of(source, Setting()), config=config)
    split, valid, test = dataset.split, dataset.valid, dataset.test
    prepared = Prepared(source.log, split, valid, test, dataset.graph, None, None, "")
    if config.cross_fit:
        build = partial(graph_of, config)
        prepared = replace(prepared, cross_fit=CrossFit.of(split, config.cross_fit, build))
    found: dict[str, list[float]] = {"auc": [], "gauc": []}
    for seed in seeds:
        model = build_model(config, prepared, "res", seed)
        result = fit(
            model,
            dataset.train(seed),
            valid,
            test,
            config=config.fit_config(),
            seed=seed,
            folds=build_folds(config, prepared, model, "res", seed),
            progress=False,
        )
        assert result.test is not None
        for metric, values in found.items():
            values.append(result.test[metric])
    return {**found, "entries": dataset.graph.num_edges}


def table(kept: dict[str, dict[str, Any]]) -> Table:
    """The table of kept pieces (whole, by key)."""
    rows = []
    of_log: dict[str, dict[str, dict[str, Any]]] = {}
    for piece in kept.values():
        of_log.setdefault(piece["config"]["log"], {})[piece["config"]["variant"]] = piece["result"]
    for log, variants in of_log.items():
        base = variants.get(BASE)
        for name, result in variants.items():
            change = (
                {m: paired_difference(base[m], result[m]) for m in ("auc", "gauc")}
                if base is not None and name != BASE
                else {"auc": None, "gauc": None}
            )
            rows.append(
                (
                    log,
                    name,
                    str(len(result["auc"])),
                    str(result["entries"]),
                    number(_mean(result["auc"]), 4),
                    interval(change["auc"], 4),
                    number(_mean(result["gauc"]), 4),
                    interval(change["gauc"], 4),
                    str(sum(value < UNTRAINED for value in result["gauc"])),
                )
            )
    title = (
        "Res-embedding by the options of its graph: test scores of a DNN, change from base with 95 % t over seeds "
        f"(hardly trained: seeds with a gAUC under {UNTRAINED:g})"
    )
    header = ("log", "graph", "seeds", "entries", "AUC", "change of AUC", "gAUC", "change of gAUC", "hardly trained")
    return Table(title, header, rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
