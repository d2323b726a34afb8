"""Sweeps of Res-embedding's residual: its scale at the start, and its decay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from resemb_ext import data, metrics
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.study.harness.report import Table, number
from resemb_ext.study.methods.heldout import held_out_events
from resemb_ext.study.methods.probe import HELD_OUT, PARTS, PROBED, parts_of, train_probed
from resemb_ext.train import RunConfig
from resemb_ext.train.prepare import Prepared, build_model, graph_of, item_vectors

SWEEPS: dict[str, tuple[float, ...]] = {
    "residual_scale": (0.0, 0.03, 0.1, 0.3, 1.0),
    "residual_l2": (0.0, 3e-5, 3e-4, 3e-3, 3e-2),
}


def pieces(source: Source, seeds: int, epochs: int, *, quick: bool) -> list[Piece]:
    """One piece a value and seed; the option that is not swept keeps its default."""
    plan = []
    for seed in range(seeds):
        for option, values in SWEEPS.items():
            for value in values[1::3] if quick else values:
                config = {
                    "log": source.name,
                    "sweep": option,
                    "value": value,
                    "epochs": epochs,
                    "held_out": HELD_OUT,
                    "probed": PROBED,
                }
                work = partial(_train, source, option, value, epochs, seed)
                key = f"{source.name}-{option}{value:g}-seed{seed}"
                plan.append(Piece(key, work, config, [seed], source))
    return plan


def _train(source: Source, option: str, value: float, epochs: int, seed: int) -> dict[str, Any]:
    log = source.log
    split = data.split(log)
    rows, parts = parts_of(split, seed)
    swept: dict[str, Any] = {option: value}
    config = RunConfig(embedding="res", epochs=epochs, patience=epochs, metric="auc", **swept)
    # The graph must not know the events that the gap is measured on.
    samples = data.make_train_samples(split, negatives=1, seed=seed)
    kept = ~held_out_events(samples, share=HELD_OUT, seed=seed)
    graph = graph_of(config, split.train.subset(kept))
    domain = log.category_domain if source.truth is None else source.truth.domain
    prepared = Prepared(log, split, parts["valid"], parts["test"], graph, None, None, "")
    model = build_model(config, prepared, "res", seed)
    table: Any = model.get_submodule("item_embedding")

    def read() -> np.ndarray:
        return np.concatenate([item_vectors(table), table.residual.detach().numpy()], axis=1)

    probe = train_probed(model, table.central, rows, parts, config.fit_config(), seed, read=read)
    vectors, residual = np.split(probe.vectors[probe.best], 2, axis=1)
    trained = split.item_counts > 0
    result = {"option": option, "value": value, **probe.outcome()}
    result["residual_share"] = float((residual[trained] ** 2).sum() / (vectors[trained] ** 2).sum())
    if domain is not None:
        found = metrics.aggregation_radius(
            vectors,
            domain,
            seen=split.item_counts,
            permutations=5,
            domain_source="category" if source.truth is None else "simulated truth",
        )
        result["radius"] = found.to_dict()
    return result


def table(kept: Sequence[dict[str, Any]]) -> Table:
    """The table of kept pieces (whole)."""
    cells: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for piece in kept:
        config = piece["config"]
        key = (config["log"], config["sweep"], config["value"])
        cells.setdefault(key, []).append(piece["result"])
    rows = []
    for (log, option, value), group in sorted(cells.items()):
        radius = [r["radius"]["normalised"] for r in group if "radius" in r]
        rows.append(
            (
                log,
                option,
                f"{value:g}",
                str(len(group)),
                number(float(np.mean(radius)) if radius else None),
                number(float(np.mean([r["residual_share"] for r in group]))),
                *(number(float(np.mean([r["losses"][part] for r in group])), 4) for part in PARTS),
                number(float(np.mean([r["gap"] for r in group])), 4),
            )
        )
    title = (
        "Res-embedding by the options of its residual, means over seeds at the best validation loss (radius: divided "
        "by that of permuted domains; residual: its share of the squared norm of the vectors; learning rates not tuned)"
    )
    header = ("log", "option", "value", "seeds", "radius", "residual", *PARTS, "gap")
    return Table(title, header, rows)
