"""How much the scores of Res-embedding hang on how its graph was drawn: one option changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare.bench import Setting
from resemb_ext.study.compare.rows import Group, Row
from resemb_ext.study.compare.work import FACTORS, L2_MODES, row_options, run_options
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.study.harness.report import Table, interval, number, side
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

    But for a log of under :data:`RARE` events an item.
    """
    row = Row(Group(source.name, "dnn", category=False), "res")
    bench = compare.bench_of(source, Setting())
    config = row_options(row, bench.config, compare.QUICK if quick else compare.FULL)
    start = {factor.name: factor.start for factor in FACTORS}
    if len(source.log) < RARE * source.log.num_items:
        start["l2_of"] = L2_MODES[1]
    return replace(run_options(config, start), embedding="res")


def _train(source: Source, config: RunConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Test AUC and gAUC of a DNN with Res-embedding, the epoch picked on validation."""
    bench = replace(compare.bench_of(source, Setting()), config=config)
    split, valid, test = bench.split, bench.valid, bench.test
    prepared = Prepared(source.log, split, valid, test, bench.graph, None, None, "")
    if config.cross_fit:
        build = partial(graph_of, config)
        prepared = replace(prepared, cross_fit=CrossFit.of(split, config.cross_fit, build))
    found: dict[str, list[float]] = {"auc": [], "gauc": []}
    for seed in seeds:
        model = build_model(config, prepared, "res", seed)
        result = fit(
            model,
            bench.train(seed),
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
    return {**found, "entries": bench.graph.num_edges}


def table(kept: dict[str, dict[str, Any]]) -> tuple[Table, list[str]]:
    """The table of kept pieces (whole, by key), and a sentence a log."""
    rows, answers = [], []
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
                )
            )
        if base is not None and len(variants) > 1:
            answers.append(_answer(log, base, variants))
    title = (
        "Res-embedding by how its graph is drawn: test scores of a DNN (20 negatives; base: window 3, "
        "top_k 10, counts, no cross-fit; options of training are the common start of the comparison's search, "
        f"with L2 of touched rows alone on logs of under {RARE:g} events an item; "
        "change with 95 % t over seeds)"
    )
    header = ("log", "graph", "seeds", "entries", "AUC", "change", "gAUC", "change")
    return Table(title, header, rows), answers


def _answer(log: str, base: dict[str, Any], variants: dict[str, dict[str, Any]]) -> str:
    """Changes of the graph that change test gAUC; cross-fitting always; seeds that did not train."""
    changes = {
        name: paired_difference(base["gauc"], result["gauc"]) for name, result in variants.items() if name != BASE
    }
    crossed = [name for name in changes if "cross_fit" in VARIANTS[name]]
    told = [
        f"{name} ({interval(change, 4)})"
        for name, change in changes.items()
        if name not in crossed and side(change) in ("below", "above")
    ]
    one = " (one seed says nothing of chance)" if len(base["gauc"]) == 1 else ""
    text = (
        f"{log}: of {len(changes) - len(crossed)} other ways to draw the graph, test gAUC (default "
        f"{_mean(base['gauc']):.4f}) differs with {'; '.join(told) or 'none'}{one}"
    )
    text += "".join(
        f". {name[0].upper()}{name[1:]}, which keeps an example's own event out of its graph, changes it by "
        f"{interval(changes[name], 4)}"
        for name in crossed
    )
    failed = {name: sum(value < UNTRAINED for value in result["gauc"]) for name, result in variants.items()}
    texts = [f"{name} ({n} of {len(variants[name]['gauc'])})" for name, n in failed.items() if n]
    if texts:
        text += (
            f". Seeds that hardly trained (gAUC under {UNTRAINED:g}), which says more of the training than of "
            f"the graph: {', '.join(texts)}"
        )
    return text + "."


def left_out(logs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """One sentence on logs that are too long to take part; ``logs`` as in a plan's ``data``."""
    names = [name for name, entry in logs.items() if entry["events"] > MOST_EVENTS]
    if not names:
        return None
    return (
        f"Left out of this for time, as of over {MOST_EVENTS:,} events: {', '.join(names)}. How scores hang on "
        "the graph is not known there."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
